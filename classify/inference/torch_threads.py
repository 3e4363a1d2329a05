"""Share the processor between torch and the programs beside it."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["half_of_the_cores"]


@contextlib.contextmanager
def half_of_the_cores() -> Iterator[None]:
    """Limit torch to half of the processor's cores.

    The other half drives the microscope or renders virtual frames.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, (os.cpu_count() or 2) // 2)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
