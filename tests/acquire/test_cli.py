"""The commands of stage 1, as a user calls them."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

import wbcpipe
from wbcpipe.acquire.calibration.cli import calibrate
from wbcpipe.acquire.cli import acquire, doctor, scopes
from wbcpipe.acquire.doctor import check_live
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
from wbcpipe.errors import (
    AcquisitionError,
    ConfigError,
    CoreLostError,
    DiskFullError,
    HardwareError,
    SampleNameError,
    ScopeNotFoundError,
    WbcpipeError,
)
from wbcpipe.samples.fields import fields_on_disk
from wbcpipe.samples.sample import Sample
from wbcpipe.samples.scan_outcome import load_scan_outcome
from wbcpipe.scan.request import ScanRequest, check_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.acquire.config.scope import Scope


def test_acquire_resumes_and_takes_more(tmp_path: Path, small_scope: Scope) -> None:
    arguments = [
        "--slide",
        "S1",
        "--scope",
        str(small_scope.path),
        "--data",
        str(tmp_path / "data"),
        "--json",
    ]
    for n_fields in (1, 2):
        result = CliRunner().invoke(
            acquire, [*arguments, "--fields", str(n_fields)], catch_exceptions=False
        )
        outcome = json.loads(result.stdout)
        assert outcome["fields_taken"] == outcome["fields_wanted"] == n_fields
    sample = Sample.open(tmp_path / "data", "S1")
    assert list(fields_on_disk(sample.raw_path())) == [0, 1]
    assert sample.record().slide == "S1"
    CliRunner().invoke(acquire, [*arguments, "--fields", "1"], catch_exceptions=False)
    outcome = load_scan_outcome(sample)
    assert outcome is not None
    assert (outcome.fields_done, outcome.fields_wanted) == (2, 1)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyboardInterrupt(), "stopped by the operator"),
        (DiskFullError("no space left on the disk."), "no space left on the disk."),
        (CoreLostError("the core was lost too often."), "the core was lost too often."),
        (
            AcquisitionError("the slide of the bright-field pass is not found."),
            "the slide of the bright-field pass",
        ),
        (ZeroDivisionError("a defect"), "a defect"),
    ],
)
@pytest.mark.parametrize("full", [False, True], ids=["room for a line", "no room for a line"])
def test_what_ends_a_run_stands_in_the_log(
    tmp_path: Path,
    small_scope: Scope,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    reason: str,
    full: bool,
) -> None:
    def ends(*_: object) -> None:
        if full:
            monkeypatch.setattr(Path, "open", no_room)
        raise error

    def no_room(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr("wbcpipe.acquire.passes.take_pass", ends)
    arguments = [
        "--slide",
        "S1",
        "--scope",
        str(small_scope.path),
        "--data",
        str(tmp_path / "data"),
        "--fields",
        "1",
    ]
    ran = CliRunner().invoke(acquire, arguments, standalone_mode=False)
    monkeypatch.undo()
    # What ended the run is what the operator is told, also where the log could not be written.
    assert isinstance(
        ran.exception, click.Abort if isinstance(error, KeyboardInterrupt) else type(error)
    )
    log = tmp_path / "data" / "S1" / "log.jsonl"
    told = (
        [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        if log.is_file()
        else []
    )
    ended = [event for event in told if event["event"] == "run_ended"]
    assert len(ended) == (0 if full else 1)
    for event in ended:
        assert (event["command"], event["error"]) == ("acquire", type(error).__name__)
        assert event["reason"].startswith(reason)


def test_acquire_stops_at_the_deadline_and_says_so(
    tmp_path: Path, make_scope: Callable[..., Scope]
) -> None:
    arguments = ["--slide", "S1", "--data", str(tmp_path / "data"), "--fields", "3"]
    # 6 ms after the start on a slide: before the microscope can even be opened.
    scope = make_scope(("slide_time_limit_s = 0 ", "slide_time_limit_s = 0.006 "))
    with pytest.raises(AcquisitionError, match="the deadline passed before any field was taken"):
        CliRunner().invoke(
            acquire, [*arguments, "--scope", str(scope.path)], catch_exceptions=False
        )
    sample = Sample.open(tmp_path / "data", "S1")
    assert fields_on_disk(sample.raw_path()) == {}
    end = load_scan_outcome(sample)
    assert end is not None
    assert (end.reason, end.fields_done, end.fields_wanted) == ("deadline", 0, 3)
    assert '"event": "scan_ended"' in (sample.path / "log.jsonl").read_text(encoding="utf-8")
    result = CliRunner().invoke(acquire, [*arguments, "--deadline", "soon"])
    assert result.exit_code == 2
    assert "such as 90m, 2h or 1h30m, or a time of day such as 06:30" in " ".join(
        result.stderr.split()
    )


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["--slide", "../S"], SampleNameError, "is refused"),
        (["--slide", "S", "--scope", "nowhere"], ScopeNotFoundError, "known scopes: .*demo"),
        (["--slide", "S", "--slot", "Q"], ConfigError, "has no slot 'Q'"),
        (["--slide", "S", "--fields", "100000"], ConfigError, "has room for 1 to 729"),
        (["--slide", "S", "--fields", "3", "--cells", "9"], ConfigError, "not both"),
        (["--slide", "S", "--overlap", "0.9"], ConfigError, "give 0 to 0.5"),
        (
            ["--slide", "S", "--protocol", "one-pass", "--pass", "brightfield"],
            ConfigError,
            "--pass brightfield is not a pass of --protocol one-pass, which has single",
        ),
        (
            ["--slide", "S", "--protocol", "two-pass", "--pass", "single"],
            ConfigError,
            "brightfield and fluorescence",
        ),
    ],
    ids=lambda part: " ".join(part[2:]) if isinstance(part, list) else None,
)
def test_what_is_refused_leaves_nothing_on_the_disk(
    tmp_path: Path, arguments: list[str], error: type[WbcpipeError], words: str
) -> None:
    data = tmp_path / "data"
    with pytest.raises(error, match=words):
        CliRunner().invoke(acquire, [*arguments, "--data", str(data)], catch_exceptions=False)
    assert not data.exists()


def test_a_scope_that_does_not_hold_is_refused_before_the_sample_is_begun(
    tmp_path: Path, make_scope: Callable[..., Scope]
) -> None:
    scope = make_scope(("color2,LED,Label,550nm", "color2,LED,Label,385nm"))
    arguments = ["--scope", str(scope.path), "--data", str(tmp_path / "data")]
    with pytest.raises(
        ConfigError, match=r"modalities\.color2 is lit exactly as modalities\.color1"
    ):
        CliRunner().invoke(
            acquire, ["--slide", "S", "--fields", "2", *arguments], catch_exceptions=False
        )
    request = ScanRequest(scope, AcquisitionPlan.from_scope(scope, "A"), SpecimenPlan(7))
    with pytest.raises(
        ConfigError, match=r"modalities\.color2 is lit exactly as modalities\.color1"
    ):
        check_request(Sample.open(tmp_path / "data", "S"), request)
    with pytest.raises(
        ConfigError, match=r"modalities\.color2 is lit exactly as modalities\.color1"
    ):
        CliRunner().invoke(calibrate, arguments, catch_exceptions=False)
    assert not (tmp_path / "data").exists()


def test_too_small_a_disk_leaves_nothing_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 10_000_000})
    monkeypatch.setattr("wbcpipe.acquire.capture.sample_record.shutil.disk_usage", lambda _: usage)
    with pytest.raises(DiskFullError, match=r"58 fields need 2\.01 GB"):
        CliRunner().invoke(
            acquire, ["--slide", "S", "--data", str(tmp_path / "data")], catch_exceptions=False
        )
    assert not (tmp_path / "data").exists()


def _leave_free(monkeypatch: pytest.MonkeyPatch, n_bytes: float) -> None:
    monkeypatch.setattr(
        "wbcpipe.acquire.doctor.shutil.disk_usage", lambda _: SimpleNamespace(free=n_bytes)
    )


def test_doctor_finds_the_virtual_scope_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _leave_free(monkeypatch, 1e12)
    result = CliRunner().invoke(doctor, ["--json", "--data", str(tmp_path)], catch_exceptions=False)
    outcome = json.loads(result.stdout)
    assert outcome["ok"], outcome
    names = [check["name"] for check in outcome["checks"]]
    for name in (
        "scan area",
        "disk",
        "device interface",
        "light fluorescence",
        "staining",
        "dark exposure",
    ):
        assert name in names
    environment = outcome["environment"]
    assert environment["wbcpipe"] == wbcpipe.__version__
    assert environment["packages"]["pymmcore"] == version("pymmcore")
    assert {"python", "platform", "machine"} <= set(environment)


def test_doctor_names_no_user_in_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    (tmp_path / "a.toml").write_text("unknown = 1\n", encoding="utf-8")
    result = CliRunner().invoke(
        doctor,
        ["--json", "--offline", "--data", str(tmp_path / "data"), "--scope", f"{tmp_path}/a.toml"],
    )
    outcome = json.loads(result.stdout)
    assert outcome["scope"] == "~/a.toml"
    assert str(tmp_path) not in result.stdout
    assert outcome["checks"][0]["status"] == "fail"


@pytest.mark.parametrize(
    ("free", "status", "words"),
    [(1e12, "ok", "2.0 GB for a slide"), (4e9, "warn", "tight"), (1e9, "fail", "--data")],
)
def test_doctor_looks_whether_a_slide_fits_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, status: str, words: str
) -> None:
    _leave_free(monkeypatch, free)
    result = CliRunner().invoke(doctor, ["--json", "--offline", "--data", str(tmp_path / "new")])
    (disk,) = [check for check in json.loads(result.stdout)["checks"] if check["name"] == "disk"]
    assert disk["status"] == status
    assert words in disk["detail"]
    assert isinstance(result.exception, ConfigError) == (status == "fail")


def test_doctor_names_what_is_wrong_in_the_files(
    tmp_path: Path, make_scope: Callable[..., Scope], monkeypatch: pytest.MonkeyPatch
) -> None:
    _leave_free(monkeypatch, 1e12)
    scope = make_scope(('preset = "color3"', 'preset = "colour3"'))
    result = CliRunner().invoke(doctor, ["--scope", str(scope.path), "--data", str(tmp_path)])
    assert isinstance(result.exception, ConfigError)
    assert re.search(
        r"1 of \d+ checks failed: .cfg file", str(result.exception)
    )  # some are of the computer
    assert "did you mean 'color3'?" in " ".join(result.stdout.split())


def test_doctor_names_what_is_wrong_in_the_hardware(
    tmp_path: Path, make_scope: Callable[..., Scope]
) -> None:
    scope = make_scope(
        ("color3,LED,Label,635nm", "color3,LED,State,12"),
        ("exposure_ms = 20.0", "exposure_ms = 2e4"),
    )
    result = CliRunner().invoke(
        doctor, ["--scope", str(scope.path), "--data", str(tmp_path), "--json"]
    )
    assert isinstance(result.exception, HardwareError)
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert 'Cannot set property "State" to "12"' in checks["light color3"]["detail"]
    assert "modalities.fluorescence.exposure_ms = 20000" in checks["exposures"]["detail"]
    assert checks["light color1"]["status"] == "ok"


def test_doctor_looks_whether_the_focusing_device_is_one(make_scope: Callable[..., Scope]) -> None:
    hardware = ('method = "fixed"', 'method = "hardware"\nhardware_device = "LED"')
    (check,) = [
        check for check in check_live(make_scope(hardware)) if check.name == "focusing device"
    ]
    assert check.status == "fail"
    assert "'focus.hardware_device'" in check.detail


def test_doctor_survives_a_crashing_driver(make_scope: Callable[..., Scope]) -> None:
    line = "ConfigGroup,Illumination,color3,LED,Label,635nm\n"
    crash = "ConfigGroup,Illumination,color3,Camera,SimulateCrash,Dereference Null Pointer\n"
    checks = check_live(make_scope((line, line + crash)))
    assert checks[-1].status == "fail"
    assert "SIGSEGV" in checks[-1].detail


@pytest.mark.parametrize("encoding", ["ascii", "cp437", "cp1252"])
def test_an_output_that_cannot_show_a_folder_changes_no_exit_code(
    tmp_path: Path, make_scope: Callable[..., Scope], encoding: str
) -> None:
    scope = make_scope()
    folder = tmp_path / "Łódź 顕微鏡"
    folder.mkdir()
    for file in (scope.path, scope.config_path):
        (folder / file.name).write_bytes(file.read_bytes())
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "wbcpipe",
            "doctor",
            "--offline",
            "--scope",
            str(folder / scope.path.name),
        ],
        capture_output=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert b"\\u9855" in done.stdout


def test_scopes_are_listed() -> None:
    listed = json.loads(CliRunner().invoke(scopes, ["--json"], catch_exceptions=False).stdout)[
        "scopes"
    ]
    assert {"name": "demo", "virtual": True, "slots": ["A", "B"]}.items() <= next(
        entry for entry in listed if entry["name"] == "demo"
    ).items()


def test_help_loads_no_core() -> None:
    program = (
        "import sys\nfrom wbcpipe.acquire import cli\n"
        "try:\n    cli.acquire.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'pycromanager', 'pymmcore', 'torch', 'scipy'} & set(sys.modules)\nassert not "
        "heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
