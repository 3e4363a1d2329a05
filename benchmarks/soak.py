"""Take fields while everything breaks, and compare each with a run in which nothing did.

    python benchmarks/soak.py [--fields 600] [--seed 1] [--side 128] [--sequencing auto]
        [--folder DIR] [--json]

The real core and the demo devices drive a virtual slide through a small sensor. Faults of every
kind are planted at random fields (see ``acquire/faulty.py``), the driving process and its parent
are killed with ``kill -9``, Ctrl-C is pressed, and the disk, a small tmpfs, is filled up. The same
command is given again until it ends well, and once more for the fields recorded missing. The dye of
this slide does not bleach, in either run: so a field that is taken again, after light that was lost
to a fault, can be compared to the last bit.

Without arguments it takes 600 fields, in a few minutes; `--fields 2000` is the soak whose result is
kept.

The ratio is the broken run's whole time over the unbroken one's.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np

from wbcpipe import __version__
from wbcpipe.acquire.capture.field_accounting import check_all_fields_accounted
from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.request import AcquisitionRequest
from wbcpipe.acquire.simulation.faults import KINDS, Fault, FaultyOpener, read_strikes
from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
from wbcpipe.acquire.supervise.messages import FieldMissing, FieldTaken
from wbcpipe.acquire.supervise.worker import AcquisitionWorker
from wbcpipe.errors import WbcpipeError
from wbcpipe.samples.field_status import read_missing
from wbcpipe.samples.fields import MODALITIES, fields_on_disk, read_field
from wbcpipe.samples.records import FocusRecord
from wbcpipe.samples.sample import Sample

CONFIGS: Final = Path(__file__).parents[1] / "hardware_configs"
PIXEL_UM: Final = 0.2
#: Fields wanted at a time: the focus is measured for each lot, so that it has many chances to fail.
LOT: Final = 100
#: Faults of a kind in 2,000 fields; those that take the process down cost seconds each.
_DEADLY: Final = ("driver crash", "driver hangs", "core lost")
FAULTS: Final = {kind: 5 if kind in _DEADLY else 10 for kind in KINDS if kind != "autofocus hangs"}
#: Of focusing: its points lie in rows, each of which is measured before the first field that needs
#: it.
FOCUS_FAULTS: Final = (100, 200)
ACTIONS: Final = {"kill -9 child": 6, "kill -9 parent": 6, "Ctrl-C": 4, "disk full": 4}
#: No fault lies so many fields behind a blow from outside, so that each is recorded before the
#: next.
CLEAR: Final = 14
MAX_STARTS: Final = 200


def write_scope(folder: Path, side_px: int, n_fields: int, sequencing: str) -> None:
    """The demo scope with a small sensor of larger pixels, so that a field is a field and still
    quick.
    """
    toml = (CONFIGS / "demo.toml").read_text(encoding="utf-8")
    cfg = (CONFIGS / "demo.cfg").read_text(encoding="utf-8")
    half_um = 0.5 * side_px * PIXEL_UM * (np.sqrt(n_fields) + 3)
    for old, new in (
        ("[2048, 2048]", f"[{side_px}, {side_px}]"),
        ("Size,2048", f"Size,{side_px}"),
        ("pixel_um = 0.1 ", f"pixel_um = {PIXEL_UM} "),
        ("[-2500.0, 2500.0]", f"[{-half_um:.1f}, {half_um:.1f}]"),
        ('config = "demo.cfg"', 'config = "soak.cfg"'),
        (
            "exposure_ms = 5.0",
            "exposure_ms = 1.25",
        ),  # a pixel of twice the side has four times the light
        ("exposure_ms = 20.0", "exposure_ms = 5.0"),
        ("spacing_um = 500.0", "spacing_um = 40.0"),
        ("range_um = 30.0", "range_um = 12.0"),
        ("window_px = 384", f"window_px = {side_px * 7 // 8}"),
        ("move_timeout_s = 30.0", "move_timeout_s = 0.5"),
        ("camera_timeout_s = 10.0", "camera_timeout_s = 0.2"),
        ("retry_wait_s = 0.5", "retry_wait_s = 0.0"),
        ("skip_empty = true", "skip_empty = false"),  # in so small a field often nothing lies
        *(
            [('sequencing = "auto"', f'sequencing = "{sequencing}"')]
            if sequencing != "auto"
            else []
        ),
    ):
        assert old in toml + cfg, old
        toml, cfg = toml.replace(old, new), cfg.replace(old, new)
    (folder / "soak.toml").write_text(toml, encoding="utf-8")
    (folder / "soak.cfg").write_text(cfg, encoding="utf-8")


def draw(n_fields: int, seed: int) -> tuple[list[Fault], list[tuple[int, str]]]:
    """Faults by field, and blows from outside by the field that has just been written."""
    rng = random.Random(seed)
    share = n_fields / 2000
    names = [name for name, count in ACTIONS.items() for _ in range(max(1, round(count * share)))]
    rng.shuffle(names)
    step = (n_fields - 40) / len(names)
    actions = [
        (20 + int(step * (number + 0.8 * rng.random())), name) for number, name in enumerate(names)
    ]
    shut = {field for at, _ in actions for field in range(at - 1, at + CLEAR)}
    # Some way in, a lamp that fails can be told from one that is weak: three fields must have been
    # seen.
    room = [field for field in range(8, n_fields, 2) if field not in shut]
    rng.shuffle(room)
    rows = range(FOCUS_FAULTS[0], n_fields - 60, FOCUS_FAULTS[1])
    faults = [Fault("autofocus hangs", row, rng.randint(1, 2)) for row in rows]
    for kind, count in FAULTS.items():
        for _ in range(max(1, round(count * share))):
            most = 2 if kind in _DEADLY else 3
            faults.append(Fault(kind, room.pop(), rng.randint(1, most), rng.choice(MODALITIES[:3])))
    return sorted(faults, key=lambda fault: fault.field), actions


def drive(folder: Path, data: Path, n_fields: int, name: str) -> int:
    """The command that is given again and again: take the fields.

    Its exit code is that of ``wbcpipe acquire``.
    """
    # Begun in the background of a shell, a process ignores Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    scope = load_scope(folder / "soak.toml")
    plan = AcquisitionPlan.from_scope(scope, "A")
    plot = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    opener = FaultyOpener(
        plan, tuple(Fault(**fault) for fault in plot), folder / f"{name}.strikes", bleaching=False
    )
    sample = Sample.open(data, name)
    request = AcquisitionRequest(sample, scope, plan, SpecimenPlan(7), microscope=opener)
    told = (folder / f"{name}.told").open("a", encoding="utf-8")
    try:
        with (
            told,
            sample.lock("soak"),
            sample.log_failure("soak"),
            AcquisitionWorker(request) as worker,
        ):
            for wanted in [*range(LOT, n_fields, LOT), n_fields]:
                worker.request_fields(wanted)
                for event in worker.events():
                    if isinstance(event, FieldMissing) or (
                        isinstance(event, FieldTaken) and not event.resumed
                    ):
                        told.write(f"{type(event).__name__} {event.index}\n")
                        told.flush()
        check_all_fields_accounted(sample.raw_path(), range(n_fields))
    except WbcpipeError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def child_of(pid: int) -> int | None:
    """The acquisition process below a parent."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == pid and "spawn_main" in (entry / "cmdline").read_text():
                return int(entry.name)
    return None


def rss_mb(pid: int) -> float | None:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024
    return None


@dataclasses.dataclass
class Soak:
    """One sample being taken, however often that takes.

    Attributes:
        memory: (pid, last field, resident MB) of the child over time.
    """

    folder: Path
    data: Path
    options: argparse.Namespace
    name: str
    actions: list[tuple[int, str]]
    exits: Counter[str] = dataclasses.field(default_factory=Counter)
    done: Counter[str] = dataclasses.field(default_factory=Counter)
    memory: list[tuple[int, int, float]] = dataclasses.field(default_factory=list)

    @property
    def raw(self) -> Path:
        return Sample.open(self.data, self.name).raw_path()

    def last(self) -> int:
        return max((int(path.name[6:11]) for path in self.raw.glob("field_*.ome.tif")), default=-1)

    def run(self) -> int:
        """Give the command until it ends well; gives back how often it was given."""
        words = [
            sys.executable,
            __file__,
            "--drive",
            str(self.folder),
            "--data",
            str(self.data),
            "--name",
            self.name,
        ]
        words += ["--fields", str(self.options.fields)]
        for start in range(1, MAX_STARTS):
            with subprocess.Popen(
                words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            ) as process:
                due = self._watch(process)
                errors = process.stderr.read() if process.stderr else ""
            (self.folder / "ballast").unlink(missing_ok=True)
            (self.data / "ballast").unlink(missing_ok=True)
            self.exits[str(process.returncode)] += 1
            if process.returncode == 0 and not self.actions:
                return start
            if process.returncode not in (0, 13, 130, -9) or not due:
                print(
                    f"{self.name}: start {start} ended with {process.returncode}: {errors[-300:]}",
                    file=sys.stderr,
                )
        raise SystemExit(f"{self.name}: not done after {MAX_STARTS} starts.")

    def _watch(self, process: subprocess.Popen[str]) -> bool:
        """Strike when it is time; true if a blow from outside explains the end."""
        struck = process.poll() is not None
        while process.poll() is None:
            time.sleep(0.05)
            last, child = self.last(), child_of(process.pid)
            used = rss_mb(child) if child else None
            if child and used:
                self.memory.append((child, last, used))
            if not self.actions or last < self.actions[0][0] or child is None:
                continue
            _, what = self.actions.pop(0)
            self.done[what] += 1
            if what == "kill -9 child":
                os.kill(child, signal.SIGKILL)
                continue
            struck = True
            if what == "kill -9 parent":
                process.kill()
            elif what == "Ctrl-C":
                process.send_signal(signal.SIGINT)
            else:
                fill(self.data / "ballast")
            process.wait(60)
        return struck


def fill(path: Path) -> None:
    """Write until nothing more goes onto the disk."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as handle:
        block = bytes(2**20)
        while True:
            handle.write(block)


def mounted(folder: Path, n_bytes: int) -> bool:
    """Put a small file system of its own at ``folder``; false where that is not allowed."""
    words = ["mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "none", str(folder)]
    return (
        shutil.which("mount") is not None
        and subprocess.run(words, capture_output=True, check=False).returncode == 0
    )


def pixel_hashes(raw: Path) -> dict[int, str]:
    """Field to the hash of its pixels and of what is written with them, the time aside."""
    found = {}
    for index, path in fields_on_disk(raw).items():
        images, info = read_field(path)
        frames = tuple(dataclasses.replace(frame, time_s=0.0) for frame in info.frames)
        # Light that was lost to a fault is noted with the field it fell on, and belongs there.
        kept = dataclasses.replace(
            info, acquired="", frames=frames, dose_ms=0.0, faded=None, digest="", belongs_to=""
        )
        text = repr(kept).encode()
        found[index] = hashlib.sha256(images.tobytes() + text).hexdigest()
    return found


def recorded(sample: Sample, strikes: list[Fault]) -> tuple[list[dict[str, Any]], list[Fault]]:
    """Per kind of fault what the log says of it; and the faults of which it says nothing."""
    events = [
        json.loads(line)
        for line in (sample.path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    by_field: dict[int, Counter[str]] = {}
    focus: Counter[str] = Counter()
    for event in events:
        if event.get("doing") == "focus":
            focus[event["event"]] += 1
        elif event.get("field") is not None:
            by_field.setdefault(event["field"], Counter())[event["event"]] += 1
    rows, silent = [], []
    for kind in KINDS:
        struck = [fault for fault in strikes if fault.kind == kind]
        log: Counter[str] = Counter()
        for fault in dict.fromkeys(struck):
            said = focus if kind == "autofocus hangs" else by_field.get(fault.field, Counter())
            if not said:
                silent.append(fault)
            if kind != "autofocus hangs":
                log += said
        log += focus if kind == "autofocus hangs" else Counter()
        names = ("retry", "reinitialised", "restarted", "field_missing")
        rows.append(
            {
                "kind": kind,
                "faults": len(set(struck)),
                "strikes": len(struck),
                **{name: log[name] for name in names},
            }
        )
    return rows, silent


def in_the_log(events: list[dict[str, Any]]) -> dict[str, int]:
    """What the log says of the blows from outside.

    A parent that is killed can say nothing, nor a disk without room.
    """
    ended = Counter(event["error"] for event in events if event["event"] == "run_ended")
    killed = sum(event["event"] == "restarted" and "SIGKILL" in event["reason"] for event in events)
    return {
        "kill -9 child": killed,
        "Ctrl-C": ended["KeyboardInterrupt"],
        "disk full": ended["DiskFullError"],
    }


def slope_mb(memory: list[tuple[int, int, float]]) -> float:
    """Growth of the longest-lived child in its second half, MB per 1,000 fields."""
    pid = Counter(pid for pid, _, _ in memory).most_common(1)[0][0]
    points = np.array([(field, used) for which, field, used in memory if which == pid])  # (S, 2)
    points = points[len(points) // 2 :]
    return float(1000 * np.polyfit(points[:, 0], points[:, 1], 1)[0])


def soak(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    write_scope(folder, options.side, options.fields, options.sequencing)
    faults, actions = draw(options.fields, options.seed)
    data = folder / "data"
    data.mkdir()
    file_bytes = 4 * 2 * options.side**2 + 16_384
    small = mounted(data, 2 * options.fields * file_bytes + 96 * 2**20)
    if not small:
        actions = [action for action in actions if action[1] != "disk full"]
    try:
        (folder / "whole.json").write_text("[]")
        (folder / "broken.json").write_text(
            json.dumps([dataclasses.asdict(fault) for fault in faults])
        )
        whole = Soak(folder, data, options, "whole", [])
        began = time.monotonic()
        whole.run()
        whole_s = time.monotonic() - began
        broken = Soak(folder, data, options, "broken", actions)
        began = time.monotonic()
        broken.run()
        first_missing = read_missing(broken.raw)
        strikes = read_strikes(folder / "broken.strikes")
        broken.run()
        broken_s = time.monotonic() - began
        shutil.copy(broken.data / "broken" / "log.jsonl", folder)
        for which in (whole, broken):
            shutil.copy(which.raw / "focus.json", folder / f"{which.name}-focus.json")
        ran = Ran(whole, broken, strikes, first_missing, (whole_s, broken_s))
        return report(folder, options, ran, small)
    finally:
        if small:
            subprocess.run(["umount", "-l", str(data)], check=False)


def surface_of(focus: dict[str, Any]) -> dict[str, Any]:
    """What decides about Z: the points, and the shift in force from a field on.

    The checks of the drift themselves are no part of it: one that a fault spoilt is noted as such,
    and shifts nothing.
    """
    shifts = [(check["field"], check["shift_um"]) for check in focus["drift"]]
    moves = [
        after
        for before, after in zip([(0, 0.0), *shifts], shifts, strict=False)
        if before[1] != after[1]
    ]
    return {"coarse": focus["coarse"], "fine": focus["fine"], "shifts": moves}


@dataclasses.dataclass(frozen=True)
class Ran:
    """The two runs: what struck the broken one, and the seconds of each."""

    whole: Soak
    broken: Soak
    strikes: list[Fault]
    first_missing: dict[int, str]
    times_s: tuple[float, float]


def report(folder: Path, options: argparse.Namespace, ran: Ran, small: bool) -> dict[str, Any]:
    whole, broken, strikes = ran.whole, ran.broken, ran.strikes
    expected, found = pixel_hashes(whole.raw), pixel_hashes(broken.raw)
    rows, silent = recorded(Sample.open(broken.data, "broken"), strikes)
    told = Counter((folder / "broken.told").read_text(encoding="utf-8").splitlines())
    events = [
        json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    noted = {event["field"] for event in events if event["event"] == "field_missing"}
    focus = [FocusRecord.read(which.raw / "focus.json").content() for which in (whole, broken)]
    planted = json.loads((folder / "broken.json").read_text())
    check_all_fields_accounted(broken.raw, range(options.fields))
    return {
        "name": "soak",
        "ratio": round(ran.times_s[1] / ran.times_s[0], 2),
        "fields": options.fields,
        "seed": options.seed,
        "sensor_px": options.side,
        "unbroken_s": round(ran.times_s[0], 1),
        "broken_s": round(ran.times_s[1], 1),
        "rows": rows,
        "outside": dict(broken.done),
        "outside_in_the_log": in_the_log(events),
        "exit_codes": dict(broken.exits),
        "disk_full_shown": small,
        "faults_planted": len(planted),
        "faults_that_never_struck": len(planted) - len(set(strikes)),
        "faults_without_a_record": len(silent),
        "fields_recorded_missing": len(noted),
        "missing_before_the_last_run": len(ran.first_missing),
        "missing_at_the_end": len(read_missing(broken.raw)),
        "fields_lost": len(set(range(options.fields)) - set(found)),
        "fields_told_taken_twice": sum(
            count > 1 and line.startswith("FieldTaken") for line, count in told.items()
        ),
        "fields_that_differ": [
            index for index, digest in found.items() if expected.get(index) != digest
        ],
        "focus_equal": surface_of(focus[0]) == surface_of(focus[1]),
        "drift_checks_that_failed": sum(
            check["measured_um"] is None for check in focus[1]["drift"]
        ),
        "child_mb": {
            "unbroken_slope_per_1000_fields": round(slope_mb(whole.memory), 2),
            "unbroken_most": round(max(used for _, _, used in whole.memory), 1),
            "broken_most": round(max(used for _, _, used in broken.memory), 1),
        },
        "versions": {
            "wbcpipe": __version__,
            "python": platform.python_version(),
            **{
                name: importlib.metadata.version(name)
                for name in ("pycromanager", "pymmcore", "mm-test-adapters")
            },
        },
        "cpu": platform.processor() or platform.machine(),
    }


def show(result: dict[str, Any]) -> None:
    print(
        f"{result['fields']} fields of {result['sensor_px']} px; unbroken {result['unbroken_s']} "
        f"s, broken"
    )
    print(f"{result['broken_s']} s (x {result['ratio']}); exit codes {result['exit_codes']}\n")
    columns = ("faults", "strikes", "retry", "reinitialised", "restarted", "field_missing")
    print(f"{'fault':<18}" + "".join(f"{name:>15}" for name in columns))
    for row in result["rows"]:
        print(f"{row['kind']:<18}" + "".join(f"{row[name]:>15}" for name in columns))
    for what, count in result["outside"].items():
        print(f"{what:<18}{count:>15}   in the log {result['outside_in_the_log'].get(what, '-')}")
    print()
    skipped = (
        "name",
        "ratio",
        "fields",
        "sensor_px",
        "unbroken_s",
        "broken_s",
        "rows",
        "outside",
        "outside_in_the_log",
        "exit_codes",
    )
    for key, value in result.items():
        if key not in skipped:
            print(f"{key.replace('_', ' '):<28} {value}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fields", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--side", type=int, default=128, help="pixels of the sensor's side")
    parser.add_argument("--sequencing", choices=["auto", "on", "off"], default="auto")
    parser.add_argument(
        "--folder", type=Path, help="keep the log and the list of faults in this new folder"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--name", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        return drive(options.drive, options.data, options.fields, options.name)
    if options.folder:
        options.folder.mkdir(parents=True)
        result = soak(options.folder, options)
    else:
        with tempfile.TemporaryDirectory() as folder:
            result = soak(Path(folder), options)
    if options.json:
        print(json.dumps(result))
    else:
        show(result)
    bad = (
        "faults_without_a_record",
        "missing_at_the_end",
        "fields_lost",
        "fields_told_taken_twice",
    )
    return int(
        any(result[key] for key in (*bad, "fields_that_differ")) or not result["focus_equal"]
    )


if __name__ == "__main__":
    sys.exit(main())
