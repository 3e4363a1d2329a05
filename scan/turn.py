"""The turn of a sample at the microscope.

Begun when a field must be taken, closed when the scan needs no more.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from types import TracebackType

__all__ = ["ScanTurn"]


class ScanTurn:
    """A sample's right to use the microscope; a context manager.

    A turn may begin again after its end.

    Args:
        microscope: returns a context that is entered when the turn begins, and may wait for the
            microscope there; it is left when the turn ends. By default the microscope is free.
    """

    def __init__(
        self, microscope: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    ) -> None:
        self._microscope = microscope
        self._held = contextlib.ExitStack()
        self._began_s: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._began_s = None
        self._held.__exit__(kind, error, trace)

    def begin(self) -> float:
        """Wait for the microscope unless the turn has begun.

        Return the time (of `time.time`) at which it began.
        """
        if self._began_s is None:
            self._held.enter_context(self._microscope())
            self._began_s = time.time()
        return self._began_s

    def close(self) -> None:
        """Give the microscope back; does nothing before the turn."""
        self._began_s = None
        self._held.close()
