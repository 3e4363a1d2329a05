"""Figures of a batch for Prometheus.

On a port of this computer alone, or as a file for node_exporter.

Everything is read from the files of the batch when it is asked for, so a finished batch has figures
too.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, get_args

from wbcpipe.batch.morning.summary import summarise
from wbcpipe.batch.records import MicroscopeState
from wbcpipe.batch.row_status import RowState
from wbcpipe.batch.state.night_times import idle_seconds
from wbcpipe.errors import ConfigError, MissingPackageError, WbcpipeError
from wbcpipe.system.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from wbcpipe.batch.morning.records import NightSummary
    from wbcpipe.batch.records import JournalEntry
    from wbcpipe.batch.state.batch_folder import BatchFolder

__all__ = ["MetricsExporter", "metrics_text"]

_HOST: Final = "127.0.0.1"
#: Between two writings of the file; node_exporter is asked about as often.
FILE_EVERY_S: Final = 15.0
_FAULTS: Final = (
    "attempt_failed",
    "interrupted",
    "check_failed",
    "scanning_stopped",
    "computer_slept",
    "disk_low",
)
_MICROSCOPE_STATES: Final = get_args(MicroscopeState.model_fields["state"].annotation)

_log = logging.getLogger(__name__)


def _prometheus(module: str = "") -> Any:
    try:
        return importlib.import_module(f"prometheus_client{module}")
    except ImportError as error:
        raise MissingPackageError(
            "figures for Prometheus need the package prometheus-client; run `pip install "
            "'wbcpipe[night]'`."
        ) from error


def metrics_text(folder: BatchFolder) -> bytes:
    """Return the figures of a batch in Prometheus' text format.

    Raises:
        MissingPackageError: prometheus-client is missing.
    """
    text: bytes = _prometheus().generate_latest(_registry(folder))
    return text


class MetricsExporter:
    """Offers the figures of a batch while it runs.

    Args:
        folder: of the batch.
        port: of 127.0.0.1; ``None`` opens none, 0 takes a free one.
        textfile: of node_exporter's textfile collector; its name must end in ``.prom``.

    Raises:
        ConfigError: the port is in use, or the file's name or folder is not valid.
        MissingPackageError: prometheus-client is not installed.
    """

    def __init__(
        self, folder: BatchFolder, *, port: int | None = None, textfile: Path | None = None
    ) -> None:
        if textfile is not None and (textfile.suffix != ".prom" or not textfile.parent.is_dir()):
            raise ConfigError(
                f"--metrics-textfile {textfile}: node_exporter reads only files named *.prom; "
                f"give such a name, in a folder that exists."
            )
        self._folder, self._wanted_port, self._textfile = folder, port, textfile
        self._stopping = threading.Event()
        self._stack = ExitStack()
        #: The port in use; ``None`` without one.
        self.port: int | None = None

    def start(self) -> None:
        """Open the port, write the file, and keep both up to date in threads; return at once."""
        if self._wanted_port is not None:
            self._serve(self._wanted_port)
        if self._textfile is not None:
            _prometheus()
            self._write()
            thread = threading.Thread(target=self._keep_writing, name="metrics", daemon=True)
            thread.start()
            self._stack.callback(thread.join, 5.0)

    def stop(self) -> None:
        """Close the port, and write the file a last time."""
        self._stopping.set()
        self._stack.close()
        if self._textfile is not None:
            self._write()

    def _serve(self, port: int) -> None:
        try:
            server, thread = _prometheus().start_http_server(
                port, addr=_HOST, registry=_registry(self._folder)
            )
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"--metrics-port {port}: the port of {_HOST} cannot be opened ({error}); give a "
                f"free one."
            ) from error
        self.port = server.server_port
        self._stack.callback(thread.join, 5.0)
        self._stack.callback(server.server_close)
        self._stack.callback(server.shutdown)

    def _keep_writing(self) -> None:
        while not self._stopping.wait(FILE_EVERY_S):
            self._write()

    def _write(self) -> None:
        assert self._textfile is not None
        try:
            text = metrics_text(self._folder)
            with write_atomic(self._textfile) as handle:
                handle.write(text)
        except (WbcpipeError, OSError) as error:  # figures never end a night
            _log.warning("%s: the figures could not be written: %s", self._textfile, error)


def _registry(folder: BatchFolder) -> Any:
    registry = _prometheus(".registry").CollectorRegistry(auto_describe=False)
    registry.register(_Collector(folder))
    return registry


class _Collector:
    """Reads the figures when Prometheus asks."""

    def __init__(self, folder: BatchFolder) -> None:
        self._folder = folder
        self._core = _prometheus(".core")

    def collect(self) -> Iterator[Any]:
        """Yield each family of figures.

        Of files that cannot be read, only that they cannot be read.
        """
        try:
            families = [
                *self._of_summary(summarise(self._folder, charts=False)),
                *self._of_journal(self._folder.journal()),
            ]
            families += self._of_heartbeat()
        except (WbcpipeError, OSError):
            families = []
        yield self._gauge(
            "readable", "1 if the files of the batch can be read.", [((), float(bool(families)))]
        )
        yield from families

    def _of_summary(self, summary: NightSummary) -> Iterator[Any]:
        rows = [((state,), summary.states.get(state, 0)) for state in get_args(RowState)]
        yield self._gauge("rows", "Samples by state.", rows, "state")
        fields = {
            "taken": sum(sample.fields_taken or 0 for sample in summary.samples),
            "missing": sum(sample.fields_missing for sample in summary.samples),
            "empty": sum(sample.fields_empty for sample in summary.samples),
        }
        yield self._counter(
            "fields",
            "Fields of view by result.",
            [((key,), n) for key, n in fields.items()],
            "result",
        )
        cells = sum(sample.counted or 0 for sample in summary.samples)
        yield self._counter("cells_counted", "Cells counted in finished reports.", [((), cells)])
        failed = sum(len(sample.gates_failed) for sample in summary.samples)
        yield self._gauge("gates_failed", "Failed quality gates of all samples.", [((), failed)])
        phases: Counter[str] = Counter()
        for sample in summary.samples:
            for phase, seconds in sample.phases_s.items():
                phases[phase] += seconds  # type: ignore[assignment]
        yield self._counter(
            "phase_seconds", "Time by phase.", [((name,), s) for name, s in phases.items()], "phase"
        )
        yield self._counter(
            "microscope_seconds", "Time with a sample.", [((), summary.microscope_s)]
        )
        light_s = summary.light.total_ms / 1000
        yield self._counter(
            "fluorescence_seconds", "Fluorescence exposure of all slides.", [((), light_s)]
        )
        peak = max((sample.memory_bytes or 0 for sample in summary.samples), default=0)
        yield self._gauge(
            "peak_memory_bytes", "Highest memory of the process of a sample so far.", [((), peak)]
        )
        yield self._gauge(
            "running", "1 while a process runs the batch.", [((), float(summary.running))]
        )

    def _of_journal(self, journal: list[JournalEntry]) -> Iterator[Any]:
        faults = Counter((entry.event, entry.error) for entry in journal if entry.event in _FAULTS)
        yield self._counter(
            "faults",
            "Faults by kind, and by class of error.",
            list(faults.items()),
            "kind",
            "error",
        )
        pauses = idle_seconds(journal)
        yield self._counter(
            "idle_seconds", "Idle time of the microscope between samples.", [((), sum(pauses))]
        )
        last = pauses[-1] if pauses else 0.0
        yield self._gauge("last_idle_seconds", "The last such pause.", [((), last)])

    def _of_heartbeat(self) -> Iterator[Any]:
        beat = self._folder.heartbeat()
        if beat is None:
            return
        yield self._gauge(
            "heartbeat_timestamp_seconds",
            "Time of the last heartbeat.",
            [((), beat.time.timestamp())],
        )
        yield self._gauge(
            "disk_free_bytes", "Free space at the data folder.", [((), beat.disk_free_bytes)]
        )
        states = [((state,), float(state == beat.microscope.state)) for state in _MICROSCOPE_STATES]
        yield self._gauge("microscope_state", "1 for the microscope's state.", states, "state")
        memory = [((process.sample,), process.memory_bytes) for process in beat.processes]
        yield self._gauge(
            "memory_bytes", "Memory of the process of a sample and its children.", memory, "sample"
        )
        cells = sum(process.cells or 0 for process in beat.processes)
        yield self._gauge(
            "cells_in_progress", "Cells counted so far in samples in progress.", [((), cells)]
        )

    def _gauge(self, name: str, text: str, values: Any, *labels: str) -> Any:
        return self._filled(self._core.GaugeMetricFamily, name, text, values, labels)

    def _counter(self, name: str, text: str, values: Any, *labels: str) -> Any:
        return self._filled(self._core.CounterMetricFamily, name, text, values, labels)

    def _filled(self, kind: Any, name: str, text: str, values: Any, labels: tuple[str, ...]) -> Any:
        family = kind(f"wbcpipe_batch_{name}", text, labels=("batch", *labels))
        for key, value in values:
            family.add_metric([self._folder.name, *key], float(value))
        return family
