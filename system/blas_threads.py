"""One core a process: fields are what is shared out among cores, and within one nothing else is.

The matrix products of cells and coarse frames are so small that BLAS, left to itself, loses more by waking its threads
than it gains; where the other cores are busy, ten times over.
"""

from __future__ import annotations

import threading
from contextlib import ContextDecorator
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from threadpoolctl import ThreadpoolController

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["single_threaded_blas"]


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


class _OneCore(ContextDecorator, threading.local):
    """Within it, or a function that it decorates, BLAS uses one thread. What is within already costs nothing more.

    Each Python thread asks for itself; threadpoolctl sees to it that they do not fight.
    """

    def __init__(self) -> None:
        self._inside = 0
        self._limit: Any = None

    def __enter__(self) -> None:
        if not self._inside:
            self._limit = _libraries().limit(limits=1, user_api="blas")
        self._inside += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inside -= 1
        if not self._inside:
            self._limit.restore_original_limits()


single_threaded_blas: Final = _OneCore()
