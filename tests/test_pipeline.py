"""What `run` is asked for reaches the stages."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from wbcpipe import pipeline
from wbcpipe.errors import MissingPackageError
from wbcpipe.pipeline import ModelChoice
from wbcpipe.samples.records import SampleRecord
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.classify.stage import ClassifyOptions
    from wbcpipe.scan.live_count import CountingModel
    from wbcpipe.system.compute import EngineName


def imported(root: Path) -> Sample:
    """A sample of imported images, without any."""
    sample = Sample.open(root, "s1")
    sample.write(SampleRecord(sample="s1", kind="stained-rgb"))
    return sample


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """(stage, device, engine) of every stage that calls cells; stages do nothing else."""
    found: list[tuple[str, str, str]] = []

    def scan(_: Any, __: Any, model: CountingModel, **___: Any) -> None:
        found.append(("scan", model.device, model.engine))

    def classify(_: Any, __: Any, options: ClassifyOptions, **___: Any) -> None:
        found.append(("classify", options.device, options.engine))

    monkeypatch.setattr("wbcpipe.scan.loop.acquire_and_segment", scan)
    monkeypatch.setattr("wbcpipe.classify.stage.classify_cells", classify)
    monkeypatch.setattr("wbcpipe.report.stage.write_documents", lambda _sample: None)
    return found


def test_the_engine_reaches_every_stage_that_calls_cells(
    tmp_path: Path, asked: list[tuple[str, str, str]]
) -> None:
    pipeline.run(imported(tmp_path), model=ModelChoice(device="cpu", engine="torch"))
    assert asked == [("scan", "cpu", "torch"), ("classify", "cpu", "torch")]


def test_an_engine_that_is_not_here_is_refused_before_the_scan(
    tmp_path: Path, asked: list[tuple[str, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    sample = imported(tmp_path)
    before = list(sample.path.iterdir())
    with pytest.raises(MissingPackageError, match="engine 'openvino' is not installed"):
        pipeline.run(sample, model=ModelChoice(engine="openvino"))
    assert asked == []
    assert list(sample.path.iterdir()) == before


@pytest.mark.parametrize(("words", "engine"), [((), "auto"), (("--engine", "torch"), "torch")])
def test_the_command_passes_the_engine_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], engine: EngineName
) -> None:
    found: dict[str, Any] = {}
    monkeypatch.setattr(pipeline, "run", lambda *_, **given: found.update(given))
    monkeypatch.setattr(
        "wbcpipe.report.document.read_document", lambda _sample: SimpleNamespace(content=dict)
    )
    command = ["run", "--sample", "s1", "--data", str(tmp_path), "--json", *words]
    result = CliRunner().invoke(pipeline.cli, command, catch_exceptions=False)
    assert json.loads(result.stdout) == {}
    assert found["model"] == ModelChoice("auto", "auto", engine)
