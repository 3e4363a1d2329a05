"""BLAS on one thread.

The matrix products of a cell are so small that waking other threads costs more than it gains.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from threadpoolctl import ThreadpoolController

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["single_threaded_blas"]


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Limit BLAS to one thread within a ``with`` block or a decorated function.

    Entering costs about 20 us.
    """
    with _libraries().limit(limits=1, user_api="blas"):
        yield
