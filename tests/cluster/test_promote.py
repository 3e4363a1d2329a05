"""Further results: listed, compared, promoted; never in the place of a signed one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from wbcpipe.cli.commands import cli
from wbcpipe.cluster.records import StageRecord
from wbcpipe.errors import SampleStateError
from wbcpipe.report.status import sample_status
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.results import completed_results

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.cluster.records import SampleTask
    from wbcpipe.samples.sample import Sample


@pytest.fixture
def sample(
    tmp_path: Path,
    plant: Callable[[Path, str], Sample],
    fake_task: Callable[..., SampleTask],
    run_all: Callable[[SampleTask], str],
    fake_classify: None,  # noqa: ARG001 - it replaces the network
) -> Sample:
    """A sample with its first result and one of a second bundle."""
    sample = plant(tmp_path, "S1")
    for letter, result in (("c", "current"), ("d", None)):
        record = StageRecord.model_validate_json(run_all(fake_task(sample, letter)))
        assert record.state == "done", record.reason
        assert result in (None, record.result)
    return sample


def call(sample: Sample, *words: str) -> Any:
    """The answer of a command with ``--json``; its error is raised."""
    data = ["--sample", sample.name, "--data", str(sample.path.parent), "--json"]
    found = CliRunner().invoke(cli, ["results", *words, *data], standalone_mode=False)
    if found.exception is not None:
        raise found.exception
    return json.loads(found.stdout)


def test_promote_exchanges_the_results_and_keeps_both(sample: Sample) -> None:
    (further,) = completed_results(sample)
    before = (sample.path / "cells.csv").read_bytes()
    wanted = (sample.path / "results" / further.result_id / "cells.csv").read_bytes()
    assert wanted != before
    status = sample_status(sample)
    assert (status.bundle, status.further_results) == ("fake-c", 1)

    listed = call(sample, "list")
    assert listed["current"]["bundle"] == "fake-c"
    assert [one["result_id"] for one in listed["results"]] == [further.result_id]
    compared = call(sample, "compare", "--result", further.result_id)
    assert (compared["earlier"], compared["later"]) == (["fake-c"], ["fake-d"])
    assert compared["cells_changed"] == 5

    answer = call(sample, "promote", "--result", further.result_id)
    assert (sample.path / "cells.csv").read_bytes() == wanted
    status = sample_status(sample)
    assert (status.state, status.bundle, status.further_results) == ("reported", "fake-d", 2)
    kept = sample.path / "results" / answer["kept"]
    assert (kept / "cells.csv").read_bytes() == before

    back = call(sample, "promote", "--result", answer["kept"])
    assert back["kept"] == further.result_id
    assert (sample.path / "cells.csv").read_bytes() == before
    assert len(completed_results(sample)) == 2


def test_a_signed_sample_is_never_displaced(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wbcpipe.cluster import promote

    def signed(_cells: Path) -> None:
        raise SampleStateError("not changed: Ada signed sample 'S1'")

    monkeypatch.setattr(promote, "refuse_if_signed", signed)
    (further,) = completed_results(sample)
    before = (sample.path / "differential.json").read_bytes()
    with pytest.raises(SampleStateError, match="Ada signed"):
        call(sample, "promote", "--result", further.result_id)
    assert (sample.path / "differential.json").read_bytes() == before
    assert len(completed_results(sample)) == 1


def test_a_damaged_result_is_refused(sample: Sample) -> None:
    (further,) = completed_results(sample)
    damaged = sample.path / "results" / further.result_id / "cells.csv"
    damaged.write_bytes(damaged.read_bytes() + b"\n")
    with pytest.raises(SampleStateError, match=r"cells\.csv: the file was changed"):
        call(sample, "promote", "--result", further.result_id)
    assert CellStore(sample.cells_path).classification().bundle == "fake-c"


@pytest.mark.parametrize("words", [("promote",), ("compare",)])
def test_an_unknown_result_is_named(sample: Sample, words: tuple[str, ...]) -> None:
    with pytest.raises(SampleStateError, match="has no result 0123456789abcdef"):
        call(sample, *words, "--result", "0123456789abcdef")
