"""The checks of a microscope that are due before a scan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wbcpipe.errors import BatchCheckError

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.batch.records import BatchEvent, WorklistRow
    from wbcpipe.batch.supervise.batch_state import BatchState
    from wbcpipe.batch.supervise.night_hooks import NightHooks

__all__ = ["ScanChecks"]


class ScanChecks:
    """Runs the checks of a night, and counts the slides since the last one of each microscope.

    Args:
        state: of the batch, with its journal.
        hooks: their ``check`` decides whether one is due.

    Attributes:
        running: a check is running.
    """

    def __init__(self, state: BatchState, hooks: NightHooks) -> None:
        self._state, self._hooks = state, hooks
        self._slides_since: dict[str, int] = {}
        self.running = False

    def scanned(self, row: WorklistRow) -> None:
        """Count a slide."""
        self._slides_since[row.scope] = self._slides_since.get(row.scope, 0) + 1

    def check(self, row: WorklistRow, scope: Scope, beat: Callable[[], None]) -> bool:
        """Run the check that is due before the scan of a row; return whether there was one.

        Args:
            row: the next to be scanned.
            scope: its microscope.
            beat: called while the check runs.

        Raises:
            BatchCheckError: it failed, and the night may not go on.
        """
        views = self._state.views()
        others = tuple(
            one.row
            for one in views
            if one.row.scope == row.scope and one.stage == "new" and one.row != row
        )
        self.running = True
        beat()
        try:
            found = self._hooks.check(
                self._state.folder, scope, (row, *others), self._slides_since.get(row.scope), beat
            )
        except BatchCheckError as error:
            self._state.journal("check_failed", error="BatchCheckError", reason=str(error))
            raise
        finally:
            self.running = False
        if found is None:
            return False
        self._slides_since[row.scope] = 0
        event: BatchEvent = "check_passed" if found.passed else "check_failed"
        self._state.journal(event, reason=found.text, figures=found.figures)
        return True
