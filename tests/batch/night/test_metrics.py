"""Figures for Prometheus: parsed by its own parser, on loopback alone, and from files alone."""

from __future__ import annotations

import sys
import urllib.request
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from wbcpipe.batch.night.metrics import MetricsExporter, metrics_text
from wbcpipe.batch.records import Heartbeat, MicroscopeState, ProcessStatus
from wbcpipe.errors import ConfigError
from wbcpipe.pipeline import cli

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.batch.state.batch_folder import BatchFolder

NOW = datetime(2026, 11, 27, 22, 0, tzinfo=UTC)


def figures(text: bytes | str) -> dict[tuple[str, ...], float]:
    """Return name and label values, without the batch's, to the figure."""
    content = text.decode() if isinstance(text, bytes) else text
    found = {}
    for family in text_string_to_metric_families(content):
        for sample in family.samples:
            assert sample.labels["batch"] == "2026-11-27-night"
            labels = [value for name, value in sample.labels.items() if name != "batch"]
            found[sample.name.removeprefix("wbcpipe_batch_"), *labels] = sample.value
    return found


def test_the_figures_of_a_batch(night: BatchFolder) -> None:
    got = figures(metrics_text(night))
    assert got["readable",] == 1
    assert got["rows", "finished"] == 4
    assert got["rows", "quarantined"] == 2
    assert got["rows", "staining"] == 0
    assert got["fields_total", "taken"] == 83
    assert (got["fields_total", "missing"], got["fields_total", "empty"]) == (1, 2)
    assert got["cells_counted_total",] == 206 + 213 + 67
    assert got["faults_total", "DeviceTimeoutError", "attempt_failed"] == 3
    assert got["faults_total", "", "scanning_stopped"] == 1
    assert got["phase_seconds_total", "scanning"] == 4 * 790
    assert got["microscope_seconds_total",] == 94 * 60
    assert got["idle_seconds_total",] == pytest.approx(0.1 + 1.6 + 3.2 + 6.2)
    assert got["last_idle_seconds",] == pytest.approx(6.2)
    assert got["peak_memory_bytes",] == 1.62e9
    assert got["gates_failed",] == 2
    assert got["running",] == 0
    assert ("disk_free_bytes",) not in got


def test_the_figures_of_the_heartbeat(night: BatchFolder) -> None:
    process = ProcessStatus(
        sample="S010",
        attempt=1,
        pid=1,
        created=0,
        phase="scanning",
        phase_since=NOW,
        cells=77,
        memory_bytes=5 * 10**8,
    )
    beat = Heartbeat(
        time=NOW,
        pid=1,
        created=0,
        host="pc",
        microscope=MicroscopeState(state="scanning", sample="S010", since=NOW),
        processes=(process,),
        disk_free_bytes=10**11,
    )
    beat.write(night.heartbeat_path)
    got = figures(metrics_text(night))
    assert got["heartbeat_timestamp_seconds",] == NOW.timestamp()
    assert got["disk_free_bytes",] == 1e11
    assert {key[1]: value for key, value in got.items() if key[0] == "microscope_state"}[
        "scanning"
    ] == 1
    assert sum(value for key, value in got.items() if key[0] == "microscope_state") == 1
    assert got["memory_bytes", "S010"] == 5e8
    assert got["cells_in_progress",] == 77


def test_a_damaged_batch_says_that_it_cannot_be_read(night: BatchFolder) -> None:
    (night.path / "batch.json").write_text("{")
    assert figures(metrics_text(night)) == {("readable",): 0}


def test_the_port_is_of_this_computer_alone(night: BatchFolder) -> None:
    exporter = MetricsExporter(night, port=0)
    exporter.start()
    try:
        assert exporter.port
        connections = psutil.Process().net_connections(kind="inet")
        heard = {
            found.laddr.ip
            for found in connections
            if found.laddr and found.laddr.port == exporter.port
        }
        with urllib.request.urlopen(
            f"http://127.0.0.1:{exporter.port}/metrics", timeout=10
        ) as answer:
            assert figures(answer.read())["rows", "finished"] == 4
        assert heard == {"127.0.0.1"}
        with pytest.raises(ConfigError, match="cannot be opened"):
            MetricsExporter(night, port=exporter.port).start()
    finally:
        exporter.stop()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{exporter.port}/metrics", timeout=10)


def test_the_file_is_whole_and_up_to_date(
    night: BatchFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wbcpipe.batch.night.metrics.FILE_EVERY_S", 0.01)
    path = tmp_path / "wbcpipe.prom"
    exporter = MetricsExporter(night, textfile=path)
    exporter.start()
    assert figures(path.read_bytes())["readable",] == 1
    (night.path / "batch.json").rename(night.path / "away")
    exporter.stop()
    assert figures(path.read_bytes()) == {("readable",): 0}
    assert [found.name for found in tmp_path.iterdir() if found.name != "data"] == ["wbcpipe.prom"]


@pytest.mark.parametrize("name", ["wbcpipe.txt", "none/wbcpipe.prom"])
def test_a_file_that_node_exporter_would_not_read(
    name: str, night: BatchFolder, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"files named \*\.prom"):
        MetricsExporter(night, textfile=tmp_path / name)


def test_prometheus_is_an_extra(night: BatchFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigError, match=r"pip install 'wbcpipe\[night\]'"):
        metrics_text(night)


def test_the_command_prints_them(night: BatchFolder) -> None:
    result: Any = CliRunner().invoke(
        cli, ["batch", "metrics", "--data", str(night.root)], catch_exceptions=False
    )
    assert figures(result.output)["rows", "held"] == 1
