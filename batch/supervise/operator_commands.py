"""The commands of an operator, applied to a running batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.batch.row_request import row_request
from wbcpipe.batch.state.inbox import CommandRefusedError
from wbcpipe.errors import InterruptedRunError, WbcpipeError
from wbcpipe.samples.sample import check_sample_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wbcpipe.batch.records import Command, WorklistRow
    from wbcpipe.batch.row_status import RowStatus
    from wbcpipe.batch.supervise.batch_state import BatchState
    from wbcpipe.batch.supervise.sample_run import SampleRun

__all__ = ["OperatorCommands"]


class _Processes(Protocol):
    """The part of `Supervisor` that is used here."""

    def processes(self) -> Mapping[str, SampleRun]: ...
    def end(self, sample: str, reason: str = "") -> None: ...
    def stop_after_sample(self) -> None: ...
    def confirm(self) -> str: ...


class OperatorCommands:
    """Applies commands.

    Args:
        state: of the batch.
        supervisor: owns the processes.
    """

    def __init__(self, state: BatchState, supervisor: _Processes) -> None:
        self._state, self._supervisor = state, supervisor

    def apply(self, command: Command) -> None:
        """Apply a command and journal it.

        Raises:
            CommandRefusedError: it does not fit the state of its row.
            InterruptedRunError: the batch stops at once.
        """
        match command.kind:
            case "add":
                self._add(command.row, command.by)
            case "stop":
                self._stop(command)
            case "confirm":
                self._confirm(command.by)
            case "hold" | "release" | "skip" | "retry":
                change = {"hold": self._hold, "release": self._release, "skip": self._skip, "retry": self._retry}
                for status in self._rows(command):
                    change[command.kind](status, command.by)

    def _rows(self, command: Command) -> list[RowStatus]:
        """Return the row of a command; of one for all rows, those that it fits."""
        if command.sample:
            if command.sample not in self._state.status:
                raise CommandRefusedError(f"the batch has no sample {command.sample!r}")
            return [self._state.status[command.sample]]
        fitting = {"hold": ("waiting",), "release": ("held",), "retry": ("quarantined", "skipped")}.get(command.kind)
        if fitting is None:
            raise CommandRefusedError("a sample must be named")
        return [status for status in self._state.status.values() if status.state in fitting]

    def _add(self, row: WorklistRow | None, by: str) -> None:
        if row is None:
            raise CommandRefusedError("it has no row")
        if row.sample in self._state.status:
            if self._state.status[row.sample].row == row:
                return  # applied before a crash
            raise CommandRefusedError(f"sample {row.sample!r} is in the batch already")
        try:
            check_sample_name(row.sample)
            row_request(row, load_scope(row.scope), self._state.folder.root)
        except (WbcpipeError, ValueError) as error:
            raise CommandRefusedError(str(error)) from error
        self._state.write_rows((*self._state.record.rows, row))
        self._state.journal("row_added", row.sample, by=by)

    def _stop(self, command: Command) -> None:
        if command.at_once:
            raise InterruptedRunError("stopped by `batch stop --now`")
        self._supervisor.stop_after_sample()
        self._state.journal("stop_requested", reason="after the sample that is being scanned", by=command.by)

    def _confirm(self, by: str) -> None:
        done = self._supervisor.confirm()
        if not done:
            raise CommandRefusedError("the batch waits for nothing")
        self._state.journal("operator_confirmed", reason=done, by=by)

    def _hold(self, status: RowStatus, by: str) -> None:
        sample = status.row.sample
        run = self._supervisor.processes().get(sample)
        if status.done or status.state == "held":
            raise CommandRefusedError(f"it is {status.state}")
        if run is not None and run.microscope in ("using", "done"):
            raise CommandRefusedError(f"it is being worked on ({run.report.phase}); `skip` ends that")
        self._supervisor.end(sample)
        self._state.journal("held", sample, reason="held by the operator", by=by)

    def _release(self, status: RowStatus, by: str) -> None:
        if status.state != "held":
            raise CommandRefusedError(f"it is not held, but {status.state}")
        self._state.journal("released", status.row.sample, by=by)

    def _skip(self, status: RowStatus, by: str) -> None:
        if status.done:
            raise CommandRefusedError(f"it is {status.state} already")
        self._supervisor.end(status.row.sample, "skipped by the operator")
        self._state.journal("skipped", status.row.sample, reason="skipped by the operator", by=by)

    def _retry(self, status: RowStatus, by: str) -> None:
        if status.state not in ("quarantined", "skipped"):
            raise CommandRefusedError(f"it is {status.state}; only a quarantined or skipped sample is tried again")
        self._state.journal("retried", status.row.sample, by=by)
        self._state.refresh(status.row.sample)
