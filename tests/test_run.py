"""The whole path on a small virtual scope.

One command, killed and repeated, and what is refused. What is killed, or must start as a user
starts it, is a process of its own; the others run in this one, which has loaded torch already.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from wbcpipe import pipeline
from wbcpipe.classify.inference import select_engine as selection
from wbcpipe.scan.request import STATISTICS_FIELDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from wbcpipe.classify.inference.engine import Engine
    from wbcpipe.classify.models.bundle import Bundle

    Done = subprocess.CompletedProcess[str]
    Here = Callable[[list[str]], Done]

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "hardware_configs"
SIDE_PX = 1024
FIELDS = 18


def small_scope(folder: Path, *changes: tuple[str, str]) -> Path:
    """A demo scope with a quarter of the sensor and a small scan area."""
    toml = (SHIPPED / "demo.toml").read_text(encoding="utf-8")
    cfg = (SHIPPED / "demo.cfg").read_text(encoding="utf-8")
    for old, new in (
        ("[2048, 2048]", f"[{SIDE_PX}, {SIDE_PX}]"),
        ("Size,2048", f"Size,{SIDE_PX}"),
        ("[-2500.0, 2500.0]", "[-300.0, 300.0]"),
        ('config = "demo.cfg"', 'config = "small.cfg"'),
        *changes,
    ):
        assert old in toml + cfg, old
        toml, cfg = toml.replace(old, new), cfg.replace(old, new)
    folder.mkdir(exist_ok=True)
    (folder / "small.toml").write_text(toml, encoding="utf-8")
    (folder / "small.cfg").write_text(cfg, encoding="utf-8")
    return folder / "small.toml"


def command(data: Path, scope: Path, *more: str, name: str = "demo") -> list[str]:
    words = [
        sys.executable,
        "-m",
        "wbcpipe",
        "run",
        "--sample",
        name,
        "--scope",
        str(scope),
        "--data",
        str(data),
    ]
    return [*words, *(more or ("--fields", str(FIELDS)))]


def call(words: list[str], **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, capture_output=True, text=True, timeout=600, check=False, cwd=ROOT.parent, **more
    )


@pytest.fixture(scope="module")
def _one_engine() -> Iterator[None]:
    """Compile the network once for the commands of this process."""
    engines: dict[tuple[str, ...], Engine] = {}
    select = selection.select_engine

    def select_once(bundle: Bundle, *how: Any) -> Engine:
        key = (bundle.info.sha256, *how)
        return engines.get(key) or engines.setdefault(key, select(bundle, *how))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "select_engine", select_once)
        yield


@pytest.fixture
def here(
    _one_engine: None,
    stop_handlers: None,  # noqa: ARG001 - removes what `main` installs
    capfd: pytest.CaptureFixture[str],
) -> Here:
    """Runs a command of `command` in this process."""

    def run(words: list[str]) -> Done:
        assert words[:3] == [sys.executable, "-m", "wbcpipe"]
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            pipeline.main(words[3:])
        code = ended.value.code
        assert isinstance(code, int)
        return subprocess.CompletedProcess(words, code, *capfd.readouterr())

    return run


def load_comparison() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "kill_and_resume", ROOT / "benchmarks" / "kill_and_resume.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def scope(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_scope(tmp_path_factory.mktemp("scope"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, scope: Path) -> Path:
    """The data root of a run that was never broken."""
    data = tmp_path_factory.mktemp("whole")
    done = call(command(data, scope))
    assert done.returncode == 0, done.stderr
    assert "NEU" in done.stdout
    assert "not for diagnostic use" in done.stdout.lower()
    return data


def test_one_command_gives_the_differential(whole: Path) -> None:
    sample = whole / "demo"
    document = json.loads((sample / "differential.json").read_text(encoding="utf-8"))
    assert document["cells"]["counted"] > 5
    assert len(list((sample / "raw" / "single").glob("field_*.ome.tif"))) == FIELDS
    for name in ("report.html", "cells.csv", "truth.csv", "sample.json"):
        assert (sample / name).stat().st_size > 100, name


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    kept = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in kept
        if path.suffix != ".jsonl"
    }


def test_run_again_it_repeats_nothing(whole: Path, scope: Path, here: Here) -> None:
    before = stamps(whole)
    done = here(command(whole, scope))
    assert done.returncode == 0, done.stderr
    assert stamps(whole) == before


@pytest.mark.parametrize("asked", [("--fields", "2"), ("--cells", "1")], ids=" ".join)
def test_a_scan_of_fewer_fields_counts_all_that_are_on_disk(
    whole: Path, scope: Path, tmp_path: Path, here: Here, asked: tuple[str, str]
) -> None:
    sample = tmp_path / "demo"
    shutil.copytree(whole / "demo", sample)
    before = json.loads((sample / "differential.json").read_text(encoding="utf-8"))
    done = here(command(tmp_path, scope, *asked))
    assert done.returncode == 0, done.stderr
    after = json.loads((sample / "differential.json").read_text(encoding="utf-8"))
    assert after["cells"] == before["cells"]
    assert after["fields"] == before["fields"]
    assert after["scan"]["fields_done"] == FIELDS
    if asked[0] == "--fields":
        assert after["scan"]["text"] == f"{FIELDS} fields, more than the 2 asked for"


def test_killed_at_three_moments_it_ends_in_the_same_result(
    whole: Path, scope: Path, tmp_path: Path, here: Here
) -> None:
    def until(done: Any) -> None:
        with subprocess.Popen(
            command(tmp_path, scope), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        ) as run:
            deadline = time.monotonic() + 120
            while not done() and run.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            run.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGKILL)

    sample = tmp_path / "demo"
    until(lambda: (sample / "sample.json").exists())
    until(lambda: len(list(sample.glob("raw/single/field_*"))) >= 5)
    until(lambda: len(list(sample.glob("work/fields/field_*"))) >= 3)
    done = here(command(tmp_path, scope))
    assert done.returncode == 0, done.stderr
    assert load_comparison().differences(whole / "demo", sample) == []


def test_counting_until_a_share_is_precise_whatever_was_there_before(
    whole: Path, scope: Path, tmp_path: Path, here: Here
) -> None:
    # One sample goes on from a complete run, the other from one that lost fields, cells and results
    # on the way.
    first, second = tmp_path / "a" / "demo", tmp_path / "b" / "demo"
    for sample in (first, second):
        shutil.copytree(whole / "demo", sample)
    for path in (
        *second.glob("raw/single/field_0001[3-7]*"),
        *second.glob("work/fields/field_0000[4-9]*"),
    ):
        path.unlink()
    shutil.rmtree(second / "cells.zarr")
    done = [
        here(command(sample.parent, scope, "--precision", "NEU:22%")) for sample in (first, second)
    ]
    assert [run.returncode for run in done] == [0, 0], done[0].stderr + done[1].stderr
    assert load_comparison().differences(first, second) == []
    document = json.loads((first / "differential.json").read_text(encoding="utf-8"))
    (reached,) = document["scan"]["precision"]
    low, high = next(entry for entry in document["classes"] if entry["name"] == "NEU")[
        "interval_percent"
    ]
    assert (high - low) / 2 == pytest.approx(reached["half_width_percent"], abs=1e-3)
    assert reached["half_width_percent"] <= 22
    assert document["scan"]["cells"] == document["cells"]["counted"]
    assert document["scan"]["reason"] == "precision"
    assert "precision reached after" in done[0].stdout.replace("\n", " ")
    assert "precision reached after" in (first / "report.html").read_text(encoding="utf-8")
    looked_at, fields = document["scan"]["fields_done"], document["fields"]
    assert (
        fields["taken"] + len(fields["missing"]) + len(fields["empty"])
        >= looked_at
        > STATISTICS_FIELDS
    )
    assert looked_at < fields["planned"]
    before = stamps(first)
    assert here(command(first.parent, scope, "--precision", "NEU:22%")).returncode == 0
    assert stamps(first) == before


def test_two_passes_with_a_stain_between_them(scope: Path, tmp_path: Path, here: Here) -> None:
    fields = 8
    done = here(
        command(tmp_path, scope, "--protocol", "two-pass", "--fields", str(fields), "--json")
    )
    assert done.returncode == 0, done.stderr
    sample = tmp_path / "demo"
    document = json.loads(done.stdout)
    assert sum(entry["count"] for entry in document["classes"]) > 0
    assert {
        name: len(list((sample / "raw" / name).glob("*.tif")))
        for name in ("brightfield", "fluorescence")
    } == {
        "brightfield": fields,
        "fluorescence": fields,
    }
    evaluated = here(
        [
            sys.executable,
            "-m",
            "wbcpipe",
            "evaluate",
            "--sample",
            "demo",
            "--data",
            str(tmp_path),
            "--json",
        ]
    )
    detection = json.loads(evaluated.stdout)["detection"]
    assert detection["recall"] >= 0.95
    stained = (sample / "raw" / "staining.json").read_bytes()
    again = here(
        command(tmp_path, scope, "--fields", str(fields), "--json")
    )  # as it was begun, in two passes
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["classes"] == document["classes"]
    assert (sample / "raw" / "staining.json").read_bytes() == stained
    words = [
        sys.executable,
        "-m",
        "wbcpipe",
        "acquire",
        "--slide",
        "demo",
        "--scope",
        str(scope),
        "--data",
        str(tmp_path),
    ]
    refused = here([*words, "--pass", "brightfield", "--fields", str(fields + 1)])
    assert refused.returncode == 11
    assert "the slide is stained" in refused.stderr


def test_the_deadline_ends_a_run_with_what_is_there(
    whole: Path, scope: Path, tmp_path: Path, here: Here
) -> None:
    shutil.copytree(
        whole / "demo", tmp_path / "demo", ignore=shutil.ignore_patterns("work", "cells.zarr")
    )
    for index in range(9, FIELDS):
        (tmp_path / "demo" / "raw" / "single" / f"field_{index:05d}.ome.tif").unlink()
    ended = here(command(tmp_path, scope, "--fields", str(FIELDS), "--deadline", "1s"))
    assert ended.returncode == 0, ended.stderr
    said = f"STOPPED BY THE DEADLINE after 9 of {FIELDS} fields"
    assert said in ended.stdout
    assert said in ended.stderr
    events = [
        json.loads(line)
        for line in (tmp_path / "demo" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    ends = [event for event in events if event["event"] == "scan_ended"]
    assert (ends[-1]["reason"], ends[-1]["fields_done"], ends[-1]["fields_wanted"]) == (
        "deadline",
        9,
        FIELDS,
    )
    document = json.loads((tmp_path / "demo" / "differential.json").read_text(encoding="utf-8"))
    assert document["scan"]["text"] == said
    assert not document["scan"]["met"]
    assert document["fields"]["taken"] == 9
    # Without the deadline the same command goes on, to the cells of a run that never had one.
    assert here(command(tmp_path, scope)).returncode == 0
    assert load_comparison().differences(whole / "demo", tmp_path / "demo") == []


def test_a_truncated_field_is_put_aside_and_taken_again(
    whole: Path, scope: Path, tmp_path: Path, here: Here
) -> None:
    shutil.copytree(whole / "demo", tmp_path / "demo")
    sample = tmp_path / "demo"
    victim = sample / "raw" / "single" / "field_00004.ome.tif"
    victim.write_bytes(victim.read_bytes()[:100_000])
    done = here(command(tmp_path, scope))
    assert done.returncode == 0, done.stderr
    assert victim.stat().st_size > 1_000_000
    assert len(list((sample / "raw" / "quarantine").rglob("field_00004*"))) == 1


def assert_one_line(done: subprocess.CompletedProcess[str]) -> None:
    """See that standard error is one line, after those that a slow machine's waiting gives."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("still running: ")]
    assert len(lines) == 1, done.stderr


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        (("--scope", "nowhere"), 20, "demo"),
        (("--sample", "../x"), 10, "refused"),
        (("--bundle", "no-such-model"), 40, "virtual-shufflenet"),
        (("--slot", "Q"), 21, "A"),
        (("--precision", "NUE:5%"), 21, "NEU, LYM, EOS, MO, BAS"),
        (("--precision", "NEU:5%", "--fields", "3"), 21, "not both"),
    ],
    ids=[
        "unknown scope",
        "path trick",
        "unknown bundle",
        "unknown slot",
        "unknown class",
        "two targets",
    ],
)
def test_bad_input_is_one_line_with_its_code_and_writes_nothing(
    more: tuple[str, ...], code: int, says: str, scope: Path, tmp_path: Path, here: Here
) -> None:
    done = here(command(tmp_path / "data", scope, *more))
    assert done.returncode == code, done.stderr
    assert_one_line(done)
    assert says in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (("expected_cells_per_field", "expected_cels_per_field"), 21, "expected_cells_per_field"),
        (("x_um = [-60000.0, 60000.0]", "x_um = [-100.0, 100.0]"), 22, "slot 'A'"),
    ],
    ids=["misspelt key", "scan area out of the stage's limits"],
)
def test_a_bad_scope_file_is_refused_and_writes_nothing(
    change: tuple[str, str], code: int, says: str, tmp_path: Path, here: Here
) -> None:
    done = here(command(tmp_path / "data", small_scope(tmp_path / "scope", change)))
    assert done.returncode == code, done.stderr
    assert_one_line(done)
    assert says in done.stderr
    assert not (tmp_path / "data").exists()


def test_a_bundle_with_a_wrong_hash_is_refused(scope: Path, tmp_path: Path, here: Here) -> None:
    shipped = Path(str(files("wbcpipe").joinpath("classify", "bundles", "virtual-shufflenet")))
    bundle = shutil.copytree(shipped, tmp_path / "mine")
    weights = bundle / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    done = here(command(tmp_path / "data", scope, "--bundle", str(bundle)))
    assert done.returncode == 40, done.stderr
    assert_one_line(done)
    assert "hash" in done.stderr.lower() or "sha" in done.stderr.lower()
    assert not (tmp_path / "data").exists()


def test_a_full_disk_is_one_clear_error(scope: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        done = call(command(disk / "data", scope))
        left = [
            path for path in disk.rglob("*") if path.is_file() and not path.name.startswith(".")
        ]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert done.returncode == 13, done.stderr
    assert_one_line(done)
    assert left == []


def test_a_batch_killed_and_repeated_ends_in_the_results_of_single_runs(
    whole: Path, scope: Path, tmp_path: Path, here: Here
) -> None:
    single, fields = tmp_path / "single" / "demo", 6
    shutil.copytree(
        whole / "demo", single, ignore=shutil.ignore_patterns("work", "*.zarr", "truth.csv")
    )
    for index in range(fields, FIELDS):
        (single / "raw" / "single" / f"field_{index:05d}.ome.tif").unlink()
    done = here(command(single.parent, scope, "--fields", str(fields)))
    assert done.returncode == 0, done.stderr
    steps = (
        (SHIPPED / "demo.toml")
        .read_text(encoding="utf-8")
        .partition("[staining]")[2]
        .partition("\nincubate_s")[0]
    )
    prompt = '\nmethod = "prompt"\nmessage = "Stain the slides."'
    by_hand = small_scope(tmp_path / "by-hand", (steps, prompt))
    worklist = tmp_path / "night.csv"
    lines = [f"demo;A;{fields};;{scope}", f"other;B;2;two-pass-list;{by_hand}"]
    worklist.write_text(
        "\n".join(["sample;slot;fields;protocol;scope", *lines, ""]), encoding="utf-8"
    )
    data = tmp_path / "data"
    program = [sys.executable, "-m", "wbcpipe", "batch"]
    words = [*program, "run", str(worklist), "--no-check", "--data", str(data)]
    quiet = {"stderr": subprocess.DEVNULL, "cwd": ROOT.parent, "text": True}
    night = data / "batches" / "night"
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, **quiet) as run:  # type: ignore[call-overload]
        wait_for(run, lambda: len(list(data.glob("demo/raw/single/field_*"))) >= 2)
        run.kill()
    with subprocess.Popen([*words, "--json"], stdout=subprocess.PIPE, **quiet) as run:  # type: ignore[call-overload]
        wait_for(run, lambda: b'"waiting"' in (night / "heartbeat.json").read_bytes())
        confirmed = call([*program, "confirm", "--data", str(data)])
        assert confirmed.returncode == 0, confirmed.stderr
        printed, _ = run.communicate(timeout=400)
    assert [(row["sample"], row["state"]) for row in json.loads(printed)["rows"]] == [
        ("demo", "finished"),
        ("other", "finished"),
    ]
    assert load_comparison().differences(single, data / "demo") == []
    journal = [
        json.loads(line)
        for line in (night / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    events = {
        name: [one["event"] for one in journal if one.get("sample") == name]
        for name in ("demo", "other")
    }
    scan = ["scan_started", "scan_finished"]
    after = ["processing_started", "finished"]
    assert events["demo"] == ["scan_started", "interrupted", *scan, *after]
    assert events["other"] == [*scan, "stain_started", "stain_finished", *scan, *after]
    assert "Stain the slides." in next(
        one["reason"] for one in journal if one["event"] == "stain_started"
    )
    assert (night / "morning.html").stat().st_size > 1000


def wait_for(run: subprocess.Popen[str], done: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 400
    while not done():
        assert run.poll() is None
        assert time.monotonic() < until_s, "the batch does not get there"
        time.sleep(0.05)
