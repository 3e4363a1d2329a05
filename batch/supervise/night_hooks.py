"""What a night does beside scanning and processing; a batch without hooks does none of it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.batch.records import JournalEntry, WorklistRow
    from wbcpipe.batch.state.batch_folder import BatchFolder

__all__ = ["CheckOutcome", "NightHooks"]


@dataclass(frozen=True)
class CheckOutcome:
    """A check after which the batch may go on.

    Attributes:
        passed: nothing was beyond its limits.
        text: what was found, in words.
        figures: for the journal.
    """

    passed: bool
    text: str
    figures: dict[str, float] = field(default_factory=dict)


class NightHooks:
    """Called by the supervisor; does nothing."""

    def running(self, folder: BatchFolder) -> AbstractContextManager[str]:
        """Return a context that is entered while the batch runs.

        Its value says what may end the night, if anything.
        """
        del folder
        return contextlib.nullcontext("")

    def check(
        self,
        folder: BatchFolder,
        scope: Scope,
        rows: tuple[WorklistRow, ...],
        slides_since: int | None,
        beat: Callable[[], None],
    ) -> CheckOutcome | None:
        """Check the microscope before a slide, if that is due.

        Args:
            folder: of the batch.
            scope: the microscope; it is free.
            rows: that are still to be scanned with it, the next one first.
            slides_since: slides scanned since the last check; ``None`` before the first.
            beat: to call now and then while it takes long.

        Returns:
            What was found; ``None`` if no check is due.

        Raises:
            BatchCheckError: nothing may be scanned.
        """
        del folder, scope, rows, slides_since, beat
        return None

    def told(self, folder: BatchFolder, entry: JournalEntry) -> None:
        """Receive an entry of the journal."""

    def operator_needed(self, folder: BatchFolder, text: str) -> None:
        """Receive what the operator must do."""

    def sample_finished(self, folder: BatchFolder, row: WorklistRow) -> None:
        """Receive a row that has its report."""

    def alive(self) -> None:
        """Receive a sign of life, every few seconds."""
