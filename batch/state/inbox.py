"""Apply the commands of the inbox to a batch.

A refused one is moved aside, with its reason in the journal.
"""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from wbcpipe.batch.records import Command, JournalEntry
from wbcpipe.errors import InterruptedRunError
from wbcpipe.system.files import make_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.batch.state.batch_folder import BatchFolder

__all__ = ["CommandRefusedError", "read_inbox", "refuse_old_stops"]


class CommandRefusedError(Exception):
    """A command that does not fit the state of the batch; the text says why."""


def read_inbox(folder: BatchFolder, apply: Callable[[Command], None]) -> None:
    """Apply each command of the inbox, in the order of their files; remove those applied.

    A command that is applied just before a crash is applied once more: each leaves the state as it
    is then.

    Args:
        folder: of the batch.
        apply: changes the state and the journal; raises `CommandRefusedError`.
    """
    for path, command in list(folder.commands()):
        if isinstance(command, str):
            _refuse(folder, path, command, "")
            continue
        try:
            apply(command)
        except InterruptedRunError:
            path.unlink(missing_ok=True)  # it is obeyed: the batch that resumes must not stop again
            raise
        except CommandRefusedError as refused:
            asked = f"{command.kind} {command.sample}".strip()
            _refuse(folder, path, f"{asked}: {refused}", command.by)
        else:
            path.unlink(missing_ok=True)


def refuse_old_stops(folder: BatchFolder) -> None:
    """Refuse the stops that were asked of an earlier run of the batch: started again, it goes
    on.
    """
    for path, command in list(folder.commands()):
        if not isinstance(command, str) and command.kind == "stop":
            _refuse(
                folder, path, "stop: it was asked before the batch was started again", command.by
            )


def _refuse(folder: BatchFolder, path: Path, reason: str, by: str) -> None:
    folder.append(
        JournalEntry(time=datetime.now(UTC), event="command_refused", reason=reason, by=by)
    )
    refused = folder.inbox_path / "refused"
    make_folder(refused)
    # Windows moves no file that another program has open, and a share may be gone: tried again with
    # the next look.
    with contextlib.suppress(OSError):
        path.replace(refused / path.name)
