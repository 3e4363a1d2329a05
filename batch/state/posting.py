"""Post commands into the inbox of a batch, and see whether its supervisor takes them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from wbcpipe.batch.records import Command
from wbcpipe.batch.state.batch_folder import operator_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wbcpipe.batch.records import CommandKind, WorklistRow
    from wbcpipe.batch.state.batch_folder import BatchFolder

__all__ = ["Posted", "new_command", "pending_commands", "pending_rows", "post_and_wait"]

#: A supervisor looks into its inbox several times in this time.
_WAIT_S: Final = 3.0
_POLL_S: Final = 0.05


@dataclass(frozen=True)
class Posted:
    """Commands that were posted.

    Attributes:
        commands: in order.
        running: a process runs the batch.
        taken: it has taken all of them.
        refused: why it refused some, in words.
    """

    commands: tuple[Command, ...]
    running: bool
    taken: bool
    refused: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """What became of them, for people."""
        if self.taken:
            return "refused" if self.refused else "done"
        if self.running:
            return "posted; the batch is busy and takes it soon (see `wbcpipe batch status`)"
        return "posted; no process runs the batch, and the next `wbcpipe batch run` applies it"

    def content(self) -> dict[str, object]:
        """Return what ``--json`` prints."""
        return {
            "commands": [command.content() for command in self.commands],
            "running": self.running,
            "taken": self.taken,
            "refused": list(self.refused),
        }


def new_command(kind: CommandKind, sample: str = "", *, at_once: bool = False) -> Command:
    """Return a command of this operator, now."""
    return Command(
        kind=kind, sample=sample, at_once=at_once, by=operator_name(), time=datetime.now(UTC)
    )


def post_and_wait(
    folder: BatchFolder, commands: Sequence[Command], *, wait_s: float = _WAIT_S
) -> Posted:
    """Post commands; if a process runs the batch, wait until it has taken them.

    Args:
        folder: of the batch.
        commands: checked before.
        wait_s: how long to wait.
    """
    journal_end = len(folder.journal())
    paths = [folder.post(command) for command in commands]
    if not folder.is_running():
        return Posted(tuple(commands), running=False, taken=False)
    deadline_s = time.monotonic() + wait_s
    while any(path.exists() for path in paths) and time.monotonic() < deadline_s:
        time.sleep(_POLL_S)
    taken = not any(path.exists() for path in paths)
    refused = tuple(_refusals(folder, paths, journal_end)) if taken else ()
    return Posted(tuple(commands), running=True, taken=taken, refused=refused)


def _refusals(folder: BatchFolder, paths: Sequence[Path], journal_end: int) -> list[str]:
    """Return the reasons in the journal for the files that were moved to ``inbox/refused/``."""
    moved = {path.name for path in (folder.inbox_path / "refused").glob("*.json")}
    if not any(path.name in moved for path in paths):
        return []
    entries = [
        entry for entry in folder.journal()[journal_end:] if entry.event == "command_refused"
    ]
    return [entry.reason or "the batch refused the command." for entry in entries] or [
        "the batch refused the command."
    ]


def pending_commands(folder: BatchFolder) -> list[Command]:
    """Return the commands that wait in the inbox."""
    return [command for _, command in folder.commands() if isinstance(command, Command)]


def pending_rows(folder: BatchFolder) -> list[WorklistRow]:
    """Return the rows that wait in the inbox to be added."""
    return [command.row for command in pending_commands(folder) if command.row is not None]
