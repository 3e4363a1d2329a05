"""Damage every kind of file of a finished sample, and see that nothing wrong is taken for right.

    python benchmarks/damage.py [--damages 60] [--mutations 60] [--full] [--seed 1]
        [--sample FOLDER] [--json]

A virtual slide of three fields is scanned, segmented, classified and reported (or ``--sample`` is
copied). Then, one at a time, a file is damaged: a bit is flipped, a run of bytes is zeroed, the
file is cut short, emptied or deleted, or replaced by that of a neighbouring field. After each,
`status` and `verify` run, and `segment`, `classify` and `report` in this process, as the commands
do. A damage is *healed* if the results are those of the undamaged sample, *noticed* if a message
names the file, *silent* if the results differ and nothing says so, a *defect* if an error has no
type.

Each small file is also mutated (bits, bytes, insertions, deletions, swapped runs, nesting, types)
and read as the commands read it: the content is the same, or the file is refused with its name.
``--full``: 250 damages, and 1,200 mutations of each small file. The ratio is the share of the
damages that `verify` finds.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from classify import cpu_name, versions
from wbcpipe.classify import stage as classify_stage
from wbcpipe.classify.inference import select_engine as selection
from wbcpipe.classify.models.bundle import load_bundle
from wbcpipe.errors import WbcpipeError
from wbcpipe.report.document import read_document
from wbcpipe.report.stage import write_report
from wbcpipe.report.status import list_samples
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.field_status import read_missing, read_skipped, write_missing, write_skipped
from wbcpipe.samples.light_record import read_exposures
from wbcpipe.samples.records import FieldPredictions, FocusRecord, StainingRecord
from wbcpipe.samples.sample import Sample
from wbcpipe.samples.scan_outcome import load_scan_outcome
from wbcpipe.samples.staining_record import read_staining, write_staining
from wbcpipe.samples.truth import read_truth
from wbcpipe.segment.run import segment_sample
from wbcpipe.verify.check_sample import verify_sample

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = ("bit", "zeros", "truncated", "emptied", "deleted", "neighbour", "foreign")
#: Results do not depend on these; only `verify` reads them.
JOURNALS = ("log.jsonl",)
UNCHECKED = (
    ".sample.lock",
    ".sample.holder",
    ".acquire.lock",
    ".acquire.holder",
    ".run.lock",
    ".run.holder",
)


def make_sample(root: Path, fields: int, seed: int = 7) -> None:
    command = [
        "run",
        "--sample",
        "demo",
        "--fields",
        str(fields),
        "--specimen-seed",
        str(seed),
        "--data",
        str(root),
    ]
    subprocess.run([sys.executable, "-m", "wbcpipe", *command], check=True, capture_output=True)


def files_of(sample: Path) -> dict[str, list[Path]]:
    """Every file of a sample by its kind: a kind of many files is damaged no more often than one of
    a single file.
    """
    kinds: dict[str, list[Path]] = {}
    for path in sorted(sample.rglob("*")):
        if path.is_file() and path.name not in UNCHECKED and not path.name.startswith("."):
            inside = path.relative_to(sample)
            kind = "/".join(part if "field_" not in part else "field" for part in inside.parts)
            if inside.parts[0] == "cells.zarr" and path.name != "zarr.json":
                kind = f"cells.zarr/{inside.parts[1]}/chunk"
            kinds.setdefault(kind, []).append(path)
    return kinds


def damage(path: Path, kind: str, rng: random.Random, foreign: Path) -> str:
    """Damage a file; return what was done. ``foreign`` is the same file of another sample."""
    content = bytearray(path.read_bytes())
    if kind == "foreign":
        # Nothing says of which sample the events of a run are: no result depends on them.
        usable = foreign.is_file() and path.name not in JOURNALS and "cells.zarr" not in path.parts
        if usable and foreign.read_bytes() != content:
            shutil.copyfile(foreign, path)
            return "copied from another sample"
        kind = "bit"
    if kind == "neighbour":
        others = [
            other
            for other in path.parent.iterdir()
            if other.is_file() and other.name[:6] == path.name[:6]
        ]
        others = [other for other in others if other != path]
        if not others or "field_" not in path.name:
            kind = "bit"
        else:
            other = rng.choice(sorted(others))
            shutil.copyfile(other, path)
            return f"copied from {other.name}"
    if kind == "deleted":
        path.unlink()
        return kind
    at = rng.randrange(max(1, len(content)))
    if kind == "bit" and content:
        content[at] ^= 1 << rng.randrange(8)
    elif kind == "zeros" and content:
        run = min(len(content) - at, rng.choice((1, 16, 512, 4096)))
        if not any(content[at : at + run]):
            content[at] ^= 255
        else:
            content[at : at + run] = bytes(run)
    elif kind == "truncated":
        del content[at:]
    else:
        content = bytearray()
    path.write_bytes(bytes(content))
    return f"{kind} at {at}"


def results(sample: Sample) -> dict[str, Any]:
    """What people and machines take from a sample."""
    store = CellStore(sample.cells_path)
    found: dict[str, Any] = {name: store.column(name) for name in store.names}
    document = read_document(sample).content()
    document.pop("created")
    return {**found, "differential": document, "csv": (sample.path / "cells.csv").read_bytes()}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(one[name], other[name], equal_nan=one[name].dtype.kind == "f")
        if isinstance(one[name], np.ndarray)
        else one[name] == other[name]
        for name in one
    )


def commands(sample: Sample, bundle: Any) -> str:
    """Run the later stages as the commands do; return what they say, warnings included."""
    said = io.StringIO()
    shown = logging.StreamHandler(said)
    shown.setLevel(logging.WARNING)
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stderr(said))
        logging.getLogger("wbcpipe").addHandler(shown)
        stack.callback(logging.getLogger("wbcpipe").removeHandler, shown)
        steps: tuple[Callable[[], object], ...] = (
            lambda: segment_sample(sample, pixel_um=bundle.info.pixel_um, jobs=1),
            lambda: classify_stage.classify_sample(sample, bundle),
            lambda: write_report(sample),
        )
        for step in steps:
            try:
                step()
            except WbcpipeError as error:
                said.write(f"{error}\n")
    return said.getvalue()


def damaged_once(
    pristine: Path, work: Path, path: Path, kind: str, context: dict[str, Any]
) -> dict[str, Any]:
    """Damage a file of a copy, run everything, and judge; the copy is pristine again afterwards."""
    sample = Sample.open(work.parent, work.name)
    inside = path.relative_to(pristine)
    row: dict[str, Any] = {"file": inside.as_posix(), "kind": kind}
    target = work / inside
    row["what"] = damage(target, kind, context["rng"], context["other"] / inside)
    quick_names = [target.name, target.parent.name, inside.as_posix()]
    try:
        check = verify_sample(sample)
        row["verify"] = any(
            one.file in inside.as_posix() or inside.as_posix() in one.file for one in check.damages
        )
        if inside.name == "sample.json" and row["kind"] == "foreign":
            row["verify"] = bool(
                check.damages
            )  # the other files say that they are of another sample
        status = next((one for one in list_samples(work.parent) if one.name == work.name), None)
        said = commands(sample, context["bundle"]) + (status.problem if status else "")
        if inside.name in JOURNALS:
            row["outcome"] = "healed"
        else:
            try:
                healed = same(results(sample), context["results"])
            except WbcpipeError as error:
                healed, said = False, said + str(error)
            named = any(name in said for name in quick_names) or f"field {_index(target)} " in said
            row["outcome"] = (
                "healed" if healed else "noticed" if named or "damaged" in said else "silent"
            )
        row["said"] = said.strip().splitlines()[:1]
    except Exception as error:  # noqa: BLE001 - a defect is what this script looks for
        row |= {"outcome": "defect", "said": [f"{type(error).__name__}: {error}"]}
    restore(pristine, work, inside)
    return row


def _index(path: Path) -> int:
    digits = "".join(letter for letter in path.name if letter.isdigit())
    return int(digits) if digits else -1


def restore(pristine: Path, work: Path, damaged: Path) -> None:
    for folder in work.iterdir():
        if folder.name == "raw":
            continue
        shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    for entry in pristine.iterdir():
        if entry.name != "raw":
            (shutil.copytree if entry.is_dir() else shutil.copy)(entry, work / entry.name)
    if damaged.parts[0] == "raw":
        shutil.copy(pristine / damaged, work / damaged)


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Return a mutation of a small file."""
    at, end = rng.randrange(len(content)), rng.randrange(1, 40)
    value = bytes([rng.randrange(256)])
    choices: tuple[Callable[[], bytes], ...] = (
        lambda: content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :],
        lambda: content[:at] + value + content[at + 1 :],
        lambda: content[:at] + value + content[at:],
        lambda: content[:at] + content[at + 1 :],
        lambda: content[:at] + content[at + end :],
        lambda: content[:at] + content[at : at + end] + content[at:],
        lambda: content[:at] + bytes(end) + content[at + end :],
        lambda: content[:at],
        lambda: content.replace(b"0", b"1", 1),
        lambda: (
            content[:at]
            + rng.choice((b"NaN", b"1e999", b"null", b'"text"', b"[]", b"{}", b"\xff\xfe"))
            + content[at:]
        ),
        lambda: b"[" * 100_000 + content,
        lambda: rng.choice(
            (
                b"[]",
                b"null",
                b"7",
                b'"text"',
                b"{}",
                b'{"format_version": 1}',
                b"[" * 2000 + b"]" * 2000,
            )
        ),
    )
    return rng.choice(choices)()


def small_files(sample: Sample) -> dict[str, tuple[Path, Callable[[], object]]]:
    """The small files and how the commands read them."""
    raw = sample.raw_path()
    predictions = next(iter(sorted((sample.work_path / "predictions").glob("*.json"))), None)
    found: dict[str, tuple[Path, Callable[[], object]]] = {
        "sample.json": (sample.info_path, sample.record),
        "scan.json": (sample.path / "scan.json", lambda: load_scan_outcome(sample)),
        "missing.json": (raw / "missing.json", lambda: read_missing(raw)),
        "skipped_fields.json": (raw / "skipped_fields.json", lambda: read_skipped(raw)),
        "focus.json": (raw / "focus.json", lambda: FocusRecord.read(raw / "focus.json")),
        "staining.json": (sample.path / "raw" / "staining.json", lambda: read_staining(sample)),
        "light.jsonl": (raw / "light.jsonl", lambda: read_exposures(raw)),
        "truth.csv": (sample.truth_path, lambda: read_truth(sample.truth_path)),
        "cells.zarr/zarr.json": (
            sample.cells_path / "zarr.json",
            lambda: CellStore(sample.cells_path).attributes,
        ),
        "cells.zarr/y_um/zarr.json": (
            sample.cells_path / "y_um" / "zarr.json",
            lambda: CellStore(sample.cells_path).column("y_um").tolist(),
        ),
        "differential.json": (sample.path / "differential.json", lambda: read_document(sample)),
    }
    if predictions is not None:
        found["predictions"] = (predictions, lambda: FieldPredictions.read(predictions))
    return found


def mutations(sample: Sample, count: int, rng: random.Random) -> list[dict[str, Any]]:
    write_missing(sample.raw_path(), {7: "the stage did not move"})
    write_skipped(sample.raw_path(), {8: 12.5})
    write_staining(sample, StainingRecord(method="operator", done="2026-11-29T20:00:00+00:00"))
    rows = []
    for name, (path, read) in small_files(sample).items():
        content, right = path.read_bytes(), read()
        outcomes: Counter[str] = Counter()
        example = ""
        for _ in range(count):
            changed = mutate(content, rng)
            path.write_bytes(changed)
            outcome = judged(path, read, right)
            if outcome in ("silent", "defect") and changed == content:
                outcome = "same"
            if outcome in ("silent", "defect", "unnamed") and not example:
                example = repr(changed[:80])
            outcomes[outcome] += 1
        path.write_bytes(content)
        rows.append({"file": name, "mutations": count, **outcomes, "example": example})
    return rows


def judged(path: Path, read: Callable[[], object], right: object) -> str:
    try:
        found = read()
    except WbcpipeError as error:
        return "noticed" if path.name in str(error) and "\n" not in str(error) else "unnamed"
    except Exception:  # noqa: BLE001 - a defect is what this script looks for
        return "defect"
    if found == right:
        return "same"
    # Of a journal, lines that are damaged are left out, and the fields' own files count.
    if isinstance(found, list) and isinstance(right, list) and path.suffix == ".jsonl":
        return "left out" if all(line in right for line in found) else "silent"
    return "silent"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--damages", type=int, default=60)
    parser.add_argument("--mutations", type=int, default=100, help="of each small file")
    parser.add_argument(
        "--full", action="store_true", help="250 damages, 1,200 mutations of each small file"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--sample", type=Path, help="folder of a finished sample of one pass; it is copied"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    options = parser.parse_args()
    if options.full:
        options.damages, options.mutations = 250, 1200
    rng, start_s = random.Random(options.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        pristine = Path(folder, "pristine", "demo")
        if options.sample:
            shutil.copytree(options.sample, pristine)
        else:
            make_sample(pristine.parent, 3)
        make_sample(Path(folder, "other"), 3, seed=8)
        work = Path(folder, "work", "demo")
        shutil.copytree(pristine, work)
        rows, changed = run(pristine, work, options, rng)
    found = sum(bool(row.get("verify")) for row in rows)
    outcomes = Counter(row["outcome"] for row in rows)
    result = {
        "name": "damage",
        "ratio": found / len(rows),
        "outcomes": outcomes,
        "rows": rows,
        "mutations": changed,
        "seconds": round(time.monotonic() - start_s, 1),
        "versions": versions(),
        "cpu": cpu_name(),
    }
    print(json.dumps(result) if options.json else table(result))
    wrong = (
        outcomes["silent"]
        + outcomes["defect"]
        + sum(row.get("silent", 0) + row.get("defect", 0) for row in changed)
    )
    return int(bool(wrong) or found < len(rows))


def run(
    pristine: Path, work: Path, options: argparse.Namespace, rng: random.Random
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    sample = Sample.open(work.parent, work.name)
    bundle = load_bundle("virtual-shufflenet")
    engine = selection.select_engine(bundle)
    setattr(selection, "select_engine", lambda *_, **__: engine)  # noqa: B010 - compiled once
    commands(sample, bundle)
    shutil.rmtree(pristine)
    shutil.copytree(work, pristine)
    other = pristine.parents[1] / "other" / "demo"
    context = {"rng": rng, "bundle": bundle, "results": results(sample), "other": other}
    kinds = files_of(pristine)
    rows = []
    for number in range(options.damages):
        names = sorted(kinds)
        path = rng.choice(
            kinds[names[number % len(names)] if number < len(names) else rng.choice(names)]
        )
        rows.append(damaged_once(pristine, work, path, rng.choice(KINDS), context))
    return rows, mutations(sample, options.mutations, rng)


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{len(result['rows'])} single damages: {dict(result['outcomes'])}; verify finds "
        f"{100 * result['ratio']:.1f} %"
    ]
    lines += [
        f"  {row['file']}, {row['what']}: {row['outcome']}, verify {row.get('verify')}, "
        f"said {row['said']}"
        for row in result["rows"]
        if row["outcome"] in ("silent", "defect") or not row.get("verify")
    ]
    lines += [
        "  " + ", ".join(f"{name} {value}" for name, value in row.items() if value != "")
        for row in result["mutations"]
    ]
    return "\n".join([*lines, f"{result['seconds']} s, {result['cpu']}"])


if __name__ == "__main__":
    sys.exit(main())
