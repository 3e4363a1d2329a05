"""The microscopes that a batch has used, until they are left in the dark, without a slide,
parked.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from wbcpipe.batch.supervise.leave_microscope import Left, leave_microscope

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.batch.supervise.background import Background
    from wbcpipe.batch.supervise.batch_state import BatchState

__all__ = ["UsedMicroscopes"]


class UsedMicroscopes:
    """Notes which microscopes were used, and leaves them in the background.

    Args:
        state: of the batch, with its journal.
        background: runs what takes seconds.
        warn: called with a sentence if a slide may still be lit.
        say: called with lines about the loader.
    """

    def __init__(
        self,
        state: BatchState,
        background: Background,
        warn: Callable[[str], None],
        say: Callable[[str], None],
    ) -> None:
        self._state, self._background, self._warn, self._say = state, background, warn, say
        self._scopes: dict[str, Scope] = {}
        self._leaving = 0

    def __bool__(self) -> bool:
        return bool(self._scopes)

    @property
    def leaving(self) -> bool:
        """Return whether a microscope is being left; no process gets one before that is done."""
        return bool(self._leaving)

    def note(self, name: str, scope: Scope) -> None:
        """Note that a microscope is used; ``name`` is that of its row."""
        self._scopes[name] = scope

    def leave(self, *, unload: bool, park: bool) -> None:
        """Leave the microscopes that were used; see `leave_microscope`."""
        while self._scopes:
            _, scope = self._scopes.popitem()
            self._leaving += 1
            work = functools.partial(
                leave_microscope,
                scope,
                self._state.folder.root,
                unload=unload,
                park=park,
                say=self._say,
            )
            self._background.start(work, self._left)

    def _left(self, left: Left | Exception) -> None:
        self._leaving -= 1
        if isinstance(left, Exception):
            left = Left(
                f"It is not certain that the slide is in the dark ({left}): check the lamp."
            )
        self._warn(left.lit)
        if left.error:
            self._state.journal("unload_failed", error=left.error, reason=left.reason)
        elif left.unloaded:
            self._state.journal("slide_unloaded", reason=f"slide {left.unloaded}")
