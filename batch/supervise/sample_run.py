"""The process of a sample, from the supervisor's side: its messages, its limits and its end."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal

import psutil

from wbcpipe.batch.records import Phase, ProcessStatus
from wbcpipe.batch.sample_process.messages import (
    MicroscopeReleased,
    MicroscopeWanted,
    OperatorNeeded,
    PhaseReport,
    SampleFailed,
    SampleFinished,
    SampleMessage,
)
from wbcpipe.batch.supervise.schedule import ProcessView
from wbcpipe.system.child_process import ChildLostError, ChildProcess
from wbcpipe.system.process_limits import end_tree, is_alive, process_created, tree_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.batch.sample_process.process import SampleJob

__all__ = ["SampleRun", "count_oom_kills"]

#: How long a process may take to end when it is asked to: it ends the frame and closes the shutter.
_END_S: Final = 20.0
#: How long the children of a process that died may take to notice it and close the shutter.
_ORPHANS_S: Final = 5.0


@dataclass
class SampleRun:
    """A process that works on a sample.

    Attributes:
        job: what it does.
        scope: of the row; ``None`` if its file is not valid.
        attempt: number of the row's attempt, from 1.
        limits_s: see `phase_limits_s`.
        microscope: see `ProcessView`.
        report: its last report.
        released: what it reported when it gave the microscope back.
        waits_for: what the operator must do for it; empty if nothing.
        ending: it is being ended; nothing more is expected of it.
        peak_bytes: highest memory seen.
    """

    job: SampleJob
    scope: Scope | None
    attempt: int
    limits_s: Mapping[Phase, float]
    microscope: Literal["loading", "waiting", "using", "done"] = "loading"
    report: PhaseReport = field(default_factory=lambda: PhaseReport("starting"))
    released: MicroscopeReleased | None = None
    waits_for: str = ""
    ending: bool = False
    peak_bytes: int = 0
    memory_bytes: int = 0
    granted_s: float = 0.0

    def start(self, target: Callable[..., None]) -> None:
        """Start the process."""
        self._oom_kills = count_oom_kills()
        name = f"wbcpipe-{self.job.row.sample}"
        self._child: ChildProcess[SampleMessage] = ChildProcess(
            target, self.job, name=name, end_s=_END_S, forwards_log=False
        )
        self._child.start()
        self.pid = self._child.pid or 0
        self.created = process_created(self.pid) or 0.0
        self._phase_since = datetime.now(UTC)
        self._progress_s = time.monotonic()
        self._children: set[tuple[int, float]] = set()

    @property
    def sample(self) -> str:
        """Name of the sample."""
        return self.job.row.sample

    @property
    def connection(self) -> Any:
        """To wait for a message or the end."""
        return self._child.connection

    @property
    def phase_s(self) -> float:
        """Seconds since its phase began."""
        return max((datetime.now(UTC) - self._phase_since).total_seconds(), 0.0)

    def view(self) -> ProcessView:
        """Return what the schedule sees."""
        ends = (
            self.ending and self.microscope != "using"
        )  # until it is gone, the microscope is not free
        return ProcessView(self.sample, "ending" if ends else self.microscope)

    def status(self) -> ProcessStatus:
        """Return what the heartbeat shows."""
        report = self.report
        return ProcessStatus(
            sample=self.sample,
            attempt=self.attempt,
            pid=self.pid,
            created=self.created,
            phase=report.phase,
            phase_since=self._phase_since,
            done=report.done,
            total=report.total,
            cells=report.cells,
            text=self.waits_for or report.text,
            memory_bytes=self.memory_bytes,
        )

    def send(self, message: object) -> None:
        """Send a message."""
        self._child.send(message)
        self.waits_for = ""
        self._progress_s = time.monotonic()

    def receive(self) -> SampleMessage:
        """Take the next message, and keep account of it; call it when `connection` is ready.

        Returns:
            The message; of a process that died, the failure in words.
        """
        try:
            message = self._child.receive(_END_S)
        except ChildLostError as lost:
            return self._death(lost)
        except Exception as error:  # noqa: BLE001 - the process boundary: what ended the target before it could say so
            return SampleFailed(type(error).__name__, str(error).splitlines()[0], {})
        self._progress_s = time.monotonic()
        match message:
            case PhaseReport():
                if message.phase != self.report.phase:
                    self._phase_since = datetime.now(UTC)
                self.report = message
            case MicroscopeWanted():
                self.microscope = "waiting"
            case MicroscopeReleased():
                self.microscope, self.released = "done", message
            case OperatorNeeded(text):
                self.waits_for = text
            case SampleFinished() | SampleFailed():
                pass
        return message

    def overdue(self) -> SampleFailed | None:
        """Return the failure of a process that made no progress for too long in its phase; ``None``
        if it lives.
        """
        limit_s = self.limits_s.get(self.report.phase)
        silent_s = time.monotonic() - self._progress_s
        if limit_s is None or self.waits_for or silent_s <= limit_s:
            return None
        last = f"; its last words: {self.report.text}" if self.report.text else ""
        text = (
            f"it made no progress for {silent_s:.0f} s while {self.report.phase} (limit "
            f"{limit_s:.0f} s)"
        )
        return SampleFailed("ProcessHungError", f"{text}, so it was ended{last}.")

    def slept(self) -> None:
        """Count the time limit of the phase from now: the computer slept."""
        self._progress_s = time.monotonic()

    def measure_memory(self, limit_bytes: int | None) -> SampleFailed | None:
        """Measure the memory of the process and its children.

        Return the failure if it is beyond the limit.
        """
        memory = tree_memory(self.pid)
        self._children |= _children(self.pid)
        self.memory_bytes = memory.resident_bytes
        self.peak_bytes = max(self.peak_bytes, memory.resident_bytes)
        if limit_bytes is None or memory.resident_bytes <= limit_bytes:
            return None
        return SampleFailed(
            "MemoryLimitError",
            f"it used {memory.resident_bytes / 1e9:.2f} GB of memory while {self.report.phase}, "
            f"and --memory-limit allows {limit_bytes / 1e9:.2f} GB, so it was ended.",
        )

    def close(self) -> None:
        """Ask the process to end, wait, and end it with all its children."""
        self._child.close()
        self._end()

    def kill(self) -> None:
        """End the process and all its children at once."""
        self._end()
        self._child.close()

    def _end(self) -> None:
        self._children |= _children(self.pid)
        if self.created:
            end_tree(self.pid, self.created, 0.0)
        # Of a process that died by itself nothing else says which children were its own; they end
        # by themselves.
        until_s = time.monotonic() + _ORPHANS_S
        for pid, created in self._children:
            while is_alive(pid, created) and time.monotonic() < until_s:
                time.sleep(0.02)
            end_tree(pid, created, 0.0)
        self._children.clear()

    def _death(self, lost: ChildLostError) -> SampleFailed:
        phase = self.report.phase
        code = lost.exit_code
        if code is not None and code < 0:
            killed = self._child.exit_text == "SIGKILL"
            if killed and count_oom_kills() > self._oom_kills:
                text = f"the system ran out of memory and killed its process while {phase}."
                return SampleFailed("OutOfMemoryError", text)
            if killed:
                text = (
                    f"its process was killed from outside (SIGKILL) while {phase}: by a "
                    f"person, or for its memory."
                )
                return SampleFailed("ProcessKilledError", text)
            text = (
                f"its process crashed ({self._child.exit_text}) while {phase}: a fault in "
                f"native code."
            )
            return SampleFailed("ProcessCrashError", text)
        return SampleFailed(
            "ProcessCrashError",
            f"its process ended without a result (exit code {code}) while {phase}.",
        )


def _children(pid: int) -> set[tuple[int, float]]:
    found = set()
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                found.add((process.pid, process.create_time()))
    return found


def count_oom_kills() -> int:
    """Return how many processes the kernel has killed for want of memory since the boot; 0 where it
    does not say.
    """
    with contextlib.suppress(OSError, ValueError), open("/proc/vmstat", encoding="ascii") as lines:  # noqa: PTH123 - no file
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
    return 0
