"""The commands ``report``, ``evaluate`` and ``status``."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from wbcpipe.errors import SampleBusyError, SampleStateError
from wbcpipe.report.cli import evaluate, report, status
from wbcpipe.samples.records import PlanRecord, SampleRecord, StainingRecord
from wbcpipe.samples.sample import Sample
from wbcpipe.samples.staining_record import write_staining

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import click

    Create = Callable[..., Sample]


#: Nine fields.
PLAN = PlanRecord(
    slot="A",
    field_width_um=100,
    field_height_um=100,
    overlap=0,
    x_um=(0.0, 300.0),
    y_um=(0.0, 300.0),
)


def run(command: click.Command, *words: str) -> str:
    result = CliRunner().invoke(command, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_report_prints_the_differential_and_its_paths(
    create_sample: Create, tmp_path: Path
) -> None:
    sample = create_sample(["NEU"] * 90 + ["LYM"] * 30)
    text = run(report, "--sample", "S1", "--data", str(tmp_path / "data"), "--wbc", "6.2")
    assert "S1: 120 white cells counted" in text
    assert str(sample.path / "report.html") in text
    assert text.endswith("Not for diagnostic use.\n")


def test_report_json_is_the_document(create_sample: Create, tmp_path: Path) -> None:
    sample = create_sample(["NEU"] * 3)
    text = run(report, "--sample", "S1", "--data", str(tmp_path / "data"), "--json")
    written = json.loads((sample.path / "differential.json").read_text(encoding="utf-8"))
    assert len(written.pop("sha256")) == 64
    assert json.loads(text) == written


def test_report_of_no_sample_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(SampleStateError, match="no sample 'S9'"):
        run(report, "--sample", "S9", "--data", str(tmp_path))
    assert not (tmp_path / "S9").exists()


def test_report_is_refused_while_another_works(create_sample: Create, tmp_path: Path) -> None:
    sample = create_sample(["NEU"])
    hold = (
        "import sys; from pathlib import Path; from wbcpipe.samples.sample import Sample\n"
        "with Sample.open(Path(sys.argv[1]), 'S1').lock('classify'):\n    print('held', "
        "flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(sample.path.parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(SampleBusyError, match="classify"):
            run(report, "--sample", "S1", "--data", str(tmp_path / "data"))
        other.communicate("")


def test_evaluate(create_sample: Create, write_truth: Callable[..., None], tmp_path: Path) -> None:
    sample = create_sample(["NEU", "LYM"], x_um=[0.0, 100.0])
    write_truth(sample, [(0.0, 0, "NEU", "cell"), (100.0, 0, "NEU", "cell")])
    words = ("--sample", "S1", "--data", str(tmp_path / "data"))
    content = json.loads(run(evaluate, *words, "--json"))
    assert content["detection"]["recall"] == 1.0
    assert content["predictions"]["scores"]["confusion"][0] == [1, 1, 0, 0, 0, 0]
    text = run(evaluate, *words)
    assert "Detection: recall 1.0000, precision 1.0000" in text
    assert "weighted F1 0.6667 on 2 cells" in text


def test_status_follows_a_sample(
    create_sample: Create, mark_fields: Callable[..., None], tmp_path: Path
) -> None:
    data = ("--data", str(tmp_path / "data"))

    def seen() -> dict[str, Any]:
        samples = json.loads(run(status, *data, "--json"))["samples"]
        return {sample["name"]: sample for sample in samples}

    assert seen() == {}
    assert "no samples" in run(status, *data)
    begun = Sample.open(tmp_path / "data", "S0")
    begun.write(SampleRecord(sample="S0", plan=PLAN))
    assert (seen()["S0"]["state"], seen()["S0"]["fields_planned"]) == ("created", 9)
    mark_fields(begun, [0, 1], {"2": "camera"})
    assert (
        seen()["S0"]["state"],
        seen()["S0"]["fields_taken"],
        seen()["S0"]["fields_missing"],
    ) == ("acquiring", 2, 1)
    create_sample(["NEU"], name="S1", classify=False)
    create_sample(["NEU"] * 120, name="S2")
    assert (seen()["S1"]["state"], seen()["S1"]["cells"]) == ("segmented", 1)
    assert (seen()["S2"]["state"], seen()["S2"]["bundle"]) == ("classified", "test-bundle")
    run(report, "--sample", "S2", *data)
    assert (seen()["S2"]["state"], seen()["S2"]["counted"], seen()["S2"]["passed"]) == (
        "reported",
        120,
        True,
    )
    create_sample(["LYM"] * 120, name="S2")
    assert seen()["S2"]["state"] == "classified"
    assert "older than the predicted classes" in seen()["S2"]["problem"]
    (tmp_path / "data" / "S1" / "sample.json").write_text("{")
    assert seen()["S1"]["state"] == "damaged"
    table = run(status, *data)
    assert "S1: " in table
    assert "2 of 9" in table


def test_status_tells_both_passes(tmp_path: Path) -> None:
    data = ("--data", str(tmp_path / "data"))
    sample = Sample.open(tmp_path / "data", "S0")
    sample.write(SampleRecord(sample="S0", protocol="two-pass", plan=PLAN))

    def take(name: str, number: int) -> tuple[Any, ...]:
        sample.raw_path(name).mkdir(parents=True, exist_ok=True)
        for index in range(number):
            (sample.raw_path(name) / f"field_{index:05d}.ome.tif").touch()
        (seen,) = json.loads(run(status, *data, "--json"))["samples"]
        return seen["state"], seen["fields_taken"], tuple(seen["passes"].values()), seen["staining"]

    assert take("brightfield", 0) == ("created", 0, (0, 0), "")
    assert take("brightfield", 5) == ("acquiring", 0, (5, 0), "")
    table = run(status, *data)
    assert "5 of 9 bright" in table
    assert "0 of 9 fluor." in table
    write_staining(sample, StainingRecord(method="devices", started="now"))
    assert take("fluorescence", 0)[-1] == "started"
    assert "the staining did not finish: inspect the slide" in " ".join(run(status, *data).split())
    write_staining(sample, StainingRecord(method="devices", applied="now", done="now"))
    assert take("fluorescence", 3) == ("acquiring", 3, (5, 3), "stained")
    assert take("fluorescence", 5) == ("acquiring", 5, (5, 5), "stained")
    assert "5 of 9" in run(status, *data)


@pytest.mark.parametrize("command", [report, evaluate, status])
def test_help_has_examples(command: click.Command) -> None:
    assert f"wbcpipe {command.name} --" in run(command, "--help")
