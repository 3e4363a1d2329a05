"""Where a run reports its progress: the protocol, and a reporter for programs that call wbcpipe.

`wbcpipe.cli.progress.Reporter` shows the progress of a command.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from wbcpipe.errors import AcquisitionError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CallbackReporter", "ProgressReporter", "log_line", "unreported"]

_log = logging.getLogger(__name__)


class ProgressReporter(Protocol):
    """Where a run reports its progress: a terminal, a callback, or another process."""

    def update(self, task: str, done: int, total: int, *, text: str = "") -> None:
        """Report that ``task`` has finished ``done`` of ``total`` units; ``text`` is shown in place
        of its name.
        """

    def start_phase(self, text: str) -> None:
        """Name what happens now."""

    def say(self, text: str) -> None:
        """Report one line, and name the phase that begins with it."""

    def confirm(self, message: str) -> None:
        """Tell the operator what to do, and return when it is done.

        Raises:
            Exception: it will not be done; the run ends, and the same call resumes it.
        """


def unreported(_task: str, _done: int, _total: int) -> None:
    """Report no progress: the default of a ``progress`` argument."""


def log_line(text: str) -> None:
    """Log a line for people at level INFO: the default of a ``say`` argument."""
    _log.info("%s", text)


@dataclass(frozen=True)
class CallbackReporter:
    """Call functions of the calling program; log what no function is given for.

    Attributes:
        progress: called with (task, units done, units in all), from the thread of the run.
        message: called with each line for the operator; by default it is logged at level INFO.
        operator: called when a person must act, as to stain or load a slide, with what to do;
            returns when it is done, and raises if it will not be done. Without it a run that
            needs an operator ends with an AcquisitionError.

    >>> lines = []
    >>> CallbackReporter(message=lines.append).say("taking fields")
    >>> lines
    ['taking fields']
    """

    progress: Callable[[str, int, int], None] | None = None
    message: Callable[[str], None] | None = None
    operator: Callable[[str], None] | None = None

    def update(self, task: str, done: int, total: int, *, text: str = "") -> None:
        """See `ProgressReporter.update`; ``text`` is logged only."""
        if text:
            _log.debug("%s", text)
        if self.progress is not None:
            self.progress(task, done, total)

    def start_phase(self, text: str) -> None:
        """See `ProgressReporter.start_phase`."""
        _log.debug("%s", text)

    def say(self, text: str) -> None:
        """See `ProgressReporter.say`."""
        if self.message is None:
            _log.info("%s", text)
        else:
            self.message(text)

    def confirm(self, message: str) -> None:
        """See `ProgressReporter.confirm`.

        Raises:
            AcquisitionError: no function for the operator is given.
        """
        if self.operator is None:
            raise AcquisitionError(
                f"an operator is needed and none can be asked: {message} Give a reporter with "
                f"`operator`, or use the command line."
            )
        self.operator(message)
