"""Logging of wbcpipe: how a command shows it, and how a child process hands it to its parent.

Every module logs to the logger of its name, ``wbcpipe.<module>``. A program that calls wbcpipe
configures logging as it likes; a command calls `show_log`.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LogLine", "forward_log", "log_level", "show_log"]

_ROOT: Final = "wbcpipe"
_DETAILED: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _StandardError(logging.StreamHandler[Any]):
    """Writes to what standard error is when a line comes: bars of progress replace it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> object:
        return sys.stderr


def show_log(level: int = logging.WARNING) -> None:
    """Show the log of this process on standard error.

    Warnings are shown as bare lines, like other messages of a command; from INFO down each line has
    its time, level and module.

    Args:
        level: of `logging`; lines below it are not shown.
    """
    logger = logging.getLogger(_ROOT)
    for handler in [one for one in logger.handlers if isinstance(one, _StandardError)]:
        logger.removeHandler(handler)
    shown = _StandardError()
    shown.setFormatter(logging.Formatter(_DETAILED if level < logging.WARNING else "%(message)s"))
    logger.addHandler(shown)
    logger.setLevel(level)


def log_level() -> int:
    """Return the level from which this process shows or keeps lines of wbcpipe."""
    return logging.getLogger(_ROOT).getEffectiveLevel()


@dataclass(frozen=True)
class LogLine:
    """One line of a child's log, on its way to the parent."""

    name: str
    level: int
    text: str

    def log(self) -> None:
        """Log the line in this process."""
        logging.getLogger(self.name).log(self.level, "%s", self.text)


class _Forwarding(logging.Handler):
    def __init__(self, send: Callable[[LogLine], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(Exception):  # a log must not end what it is about
            self._send(LogLine(record.name, record.levelno, record.getMessage()))


def forward_log(level: int, send: Callable[[LogLine], None]) -> None:
    """Hand the log of this process to another one.

    Args:
        level: from which lines are handed on.
        send: called with each, from the thread that logs.
    """
    logger = logging.getLogger(_ROOT)
    logger.setLevel(level)
    logger.addHandler(_Forwarding(send))
