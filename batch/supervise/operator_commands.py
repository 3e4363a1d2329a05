"""The commands of an operator, applied to a running batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.batch.row_request import row_request
from wbcpipe.batch.state.command_rules import command_problem
from wbcpipe.batch.state.inbox import CommandRefusedError
from wbcpipe.errors import InterruptedRunError, WbcpipeError
from wbcpipe.samples.sample import check_sample_name

if TYPE_CHECKING:
    from wbcpipe.batch.records import Command, WorklistRow
    from wbcpipe.batch.supervise.batch_state import BatchState

__all__ = ["OperatorCommands"]


_Change = Literal["hold", "release", "skip", "retry"]


class _Processes(Protocol):
    """The part of `Supervisor` that is used here."""

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
                self._change(command.kind, command.sample, command.by)

    def _change(self, kind: _Change, sample: str, by: str) -> None:
        """Hold, release, skip or retry a sample."""
        if sample not in self._state.status:
            raise CommandRefusedError(f"the batch has no sample {sample!r}")
        if problem := command_problem(kind, self._state.status[sample]):
            raise CommandRefusedError(problem)
        match kind:
            case "hold":
                self._supervisor.end(sample)
                self._state.journal("held", sample, reason="held by the operator", by=by)
            case "release":
                self._state.journal("released", sample, by=by)
            case "skip":
                self._supervisor.end(sample, "skipped by the operator")
                self._state.journal("skipped", sample, reason="skipped by the operator", by=by)
            case "retry":
                self._state.journal("retried", sample, by=by)
                self._state.refresh(sample)

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
        self._state.journal(
            "stop_requested", reason="after the sample that is being scanned", by=command.by
        )

    def _confirm(self, by: str) -> None:
        done = self._supervisor.confirm()
        if not done:
            raise CommandRefusedError("the batch waits for nothing")
        self._state.journal("operator_confirmed", reason=done, by=by)
