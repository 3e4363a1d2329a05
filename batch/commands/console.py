"""The console for tables: as wide as the terminal, and wide enough where there is none."""

from __future__ import annotations

import os
from typing import Final

from rich.console import Console

__all__ = ["plan_console"]

#: In a file, a pipe or an SSH command without a terminal; COLUMNS overrides it.
_WIDTH: Final = 132


def plan_console() -> Console:
    """Return a console on standard output that does not break the lines of a table without need."""
    console = Console(highlight=False)
    return (
        console
        if console.is_terminal or "COLUMNS" in os.environ
        else Console(highlight=False, width=_WIDTH)
    )
