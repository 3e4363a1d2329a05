"""Turn the progress of a run into messages to the supervisor, and time its phases."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from wbcpipe.acquire.supervise.messages import TAKING_FIELDS
from wbcpipe.batch.records import phase_figure
from wbcpipe.batch.sample_process.messages import PhaseReport
from wbcpipe.pipeline import WRITING_REPORT

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.batch.records import Phase

__all__ = ["SampleProgress"]

_log = logging.getLogger(__name__)

#: A message with the same phase is sent at most this often; the supervisor needs one within
#: minutes.
_EVERY_S: Final = 0.25
#: How lines of the acquisition begin while no field is being taken.
_LINES: Final[tuple[tuple[str, Phase], ...]] = (
    *(
        (f"{action} {what} ", "loading the slide")
        for action in ("loading", "unloading")
        for what in ("slide", "step")
    ),
    ("opening ", "opening"),
    ("loading the devices anew", "opening"),
    ("finding the focus", "focusing"),
    ("checking the focus", "focusing"),
    ("finding the slide", "focusing"),
    ("the slide was moved", "focusing"),
    ("staining ", "staining"),
    ("incubating ", "staining"),
    (TAKING_FIELDS, "scanning"),
)
#: How names of tasks begin.
_TASKS: Final[tuple[tuple[str, Phase], ...]] = (
    ("fields taken and segmented", "scanning"),
    ("fields, ", "scanning"),
    ("fields stored", "segmenting"),
    ("compiling ", "classifying"),
    ("cells classified", "classifying"),
)


class _Sender(Protocol):
    def send(self, message: object) -> None: ...


class SampleProgress:
    """A `ProgressReporter` that sends `PhaseReport` messages.

    Args:
        link: to the supervisor.
        ask: passes a question on to the operator, and returns when it is answered.

    Attributes:
        first_field_s, last_field_s: see `MicroscopeReleased`.
        figures: seconds by phase, so far; and the counts of the run.
    """

    def __init__(self, link: _Sender, ask: Callable[[str], None]) -> None:
        self._link, self._ask = link, ask
        self._report = PhaseReport("starting")
        self._phase_began_s = self._sent_s = time.monotonic()
        self._seconds: defaultdict[Phase, float] = defaultdict(float)
        self._counts: dict[str, float] = {}
        self.first_field_s: float | None = None
        self.last_field_s: float | None = None

    @property
    def figures(self) -> dict[str, float]:
        """Seconds by phase, the current one included, and the counts."""
        seconds = dict(self._seconds)
        phase = self._report.phase
        seconds[phase] = seconds.get(phase, 0.0) + time.monotonic() - self._phase_began_s
        return {
            phase_figure(name): round(spent, 3) for name, spent in seconds.items()
        } | self._counts

    def enter(self, phase: Phase, text: str = "") -> None:
        """Report the phase that begins now."""
        self._change(PhaseReport(phase, cells=self._report.cells, text=text))

    def update(self, task: str, done: int, total: int, *, text: str = "") -> None:
        """See `ProgressReporter.update`."""
        if task == "cells counted":
            self._counts["cells"] = done
            self._change(
                PhaseReport(self._report.phase, self._report.done, self._report.total, done, text)
            )
            return
        phase = next((phase for start, phase in _TASKS if task.startswith(start)), None)
        if phase is None:  # of a part of the phase
            self._change(replace(self._report, text=text or task))
            return
        if phase == "scanning":
            self.last_field_s = time.monotonic()
            self._counts["fields"] = done
        self._change(PhaseReport(phase, done, total, self._report.cells, text or task))

    def start_phase(self, text: str) -> None:
        """See `ProgressReporter.start_phase`."""
        if text == WRITING_REPORT:
            self.enter("reporting", text)

    def say(self, text: str) -> None:
        """See `ProgressReporter.say`; the line is also logged, into the log of the sample."""
        _log.info("%s", text)
        phase = next(
            (phase for start, phase in _LINES if text.startswith(start)), self._report.phase
        )
        if text == TAKING_FIELDS and self.first_field_s is None:
            self.first_field_s = time.monotonic()
        done, total = (
            (self._report.done, self._report.total) if phase == self._report.phase else (0, 0)
        )
        self._change(PhaseReport(phase, done, total, self._report.cells, text), at_once=True)

    def confirm(self, message: str) -> None:
        """See `ProgressReporter.confirm`."""
        loads = self._report.phase == "loading the slide"
        self.enter("loading the slide" if loads else "staining", message)
        self._ask(message)

    def _change(self, report: PhaseReport, *, at_once: bool = False) -> None:
        now_s, before = time.monotonic(), self._report
        self._report = report
        if report.phase != before.phase:
            self._seconds[before.phase] += now_s - self._phase_began_s
            self._phase_began_s = now_s
            at_once = True
        if (
            at_once
            or (report.done != before.done and now_s - self._sent_s >= _EVERY_S)
            or report.done == report.total
        ):
            self._sent_s = now_s
            self._link.send(report)
