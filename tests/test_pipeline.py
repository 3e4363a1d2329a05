"""What `run` is asked for reaches the stages."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from wbcpipe import pipeline
from wbcpipe.cli.progress import Reporter
from wbcpipe.errors import ConfigError
from wbcpipe.pipeline import ModelChoice
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.classify.stage import ClassifyOptions
    from wbcpipe.system.compute import EngineName


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """(stage, device, engine) of every stage that calls cells; stages do nothing else."""
    found: list[tuple[str, str, str]] = []

    def scan(*_: Any, device: str, engine: str, **__: Any) -> None:
        found.append(("scan", device, engine))

    def classify(_: Any, __: Any, options: ClassifyOptions, **___: Any) -> None:
        found.append(("classify", options.device, options.engine))

    monkeypatch.setattr("wbcpipe.scan.loop.acquire_and_segment", scan)
    monkeypatch.setattr("wbcpipe.classify.stage.classify_sample", classify)
    monkeypatch.setattr("wbcpipe.report.stage.write_report", lambda sample: None)
    return found


def test_the_engine_reaches_every_stage_that_calls_cells(tmp_path: Path, asked: list[tuple[str, str, str]]) -> None:
    with Reporter(quiet=True) as reporter:
        sample = Sample.open(tmp_path, "s1")
        sample.path.mkdir()
        pipeline.run(sample, None, kind="scope", model=ModelChoice(device="cpu", engine="torch"), reporter=reporter)
    assert asked == [("scan", "cpu", "torch"), ("classify", "cpu", "torch")]


def test_an_engine_that_is_not_here_is_refused_before_the_scan(
    tmp_path: Path, asked: list[tuple[str, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="engine 'openvino' is not installed"), Reporter(quiet=True) as reporter:
        pipeline.run(
            Sample.open(tmp_path, "s1"), None, kind="scope", model=ModelChoice(engine="openvino"), reporter=reporter
        )
    assert asked == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("words", "engine"), [((), "auto"), (("--engine", "torch"), "torch")])
def test_the_command_passes_the_engine_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], engine: EngineName
) -> None:
    found: dict[str, Any] = {}
    monkeypatch.setattr(pipeline, "run", lambda *_, **given: found.update(given))
    monkeypatch.setattr("wbcpipe.report.document.read_document", lambda sample: SimpleNamespace(content=dict))
    command = ["run", "--sample", "s1", "--data", str(tmp_path), "--json", *words]
    result = CliRunner().invoke(pipeline.cli, command, catch_exceptions=False)
    assert json.loads(result.stdout) == {}
    assert found["model"] == ModelChoice("auto", "auto", engine)
