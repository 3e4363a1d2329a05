"""Log files that do not grow without end: lines of our own, and what libraries print."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["MAX_LOG_BYTES", "bound_log", "redirect_output", "rotating_log"]

#: About 100,000 lines; with three older files a log takes at most four times this.
MAX_LOG_BYTES: Final = 8_000_000
_OLDER_FILES: Final = 3


class _RotatingHandler(logging.handlers.RotatingFileHandler):
    """Rotates where it can, and never ends the program that logs."""

    def doRollover(self) -> None:  # noqa: N802 - logging's name
        # Windows refuses to rename a file that a viewer has open: the log then grows until a later
        # line can rotate.
        try:
            super().doRollover()
        except OSError:
            if self.stream is None:
                self.stream = self._open()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Lose the line: a full disk must not stop what is logged, and is reported where data are
        written.
        """


@contextlib.contextmanager
def rotating_log(
    path: Path, *, max_bytes: int = MAX_LOG_BYTES, older_files: int = _OLDER_FILES
) -> Iterator[logging.Logger]:
    """Open a log for one process; each line has its local time and level.

    Args:
        path: of the log; ``path.1`` is the next older file.
        max_bytes: size from which the file is rotated.
        older_files: how many are kept.

    Yields:
        A logger of its own: its lines go into this file alone.
    """
    logger = logging.getLogger(f"wbcpipe.log.{os.getpid()}.{path}")
    handler = _RotatingHandler(
        path,
        maxBytes=max_bytes,
        backupCount=older_files,
        encoding="utf-8",
        errors="replace",
        delay=True,
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield logger
    finally:
        logger.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()


def redirect_output(path: Path) -> None:
    """Append all that this process prints to a file, also what native libraries print.

    For a child's first act.

    Bound the file's size with `bound_log` before the child starts and while it runs.
    """
    # Opened for appending: after the file was cut by `bound_log`, the next line goes to its new
    # end.
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
            os.dup2(log, descriptor)
    finally:
        os.close(log)


def bound_log(path: Path, *, max_bytes: int = MAX_LOG_BYTES) -> None:
    """Move the content of a log that has grown beyond a size into ``path.1``.

    Processes may be writing to the log.

    The file is copied and cut, not renamed: a writer has it open, and Windows renames no open file.
    A line written between the two is lost.
    """
    with contextlib.suppress(OSError):
        if path.stat().st_size <= max_bytes:
            return
        older = path.with_name(f"{path.name}.1")
        with path.open("r+b") as log, older.open("wb") as kept:
            log.seek(-max_bytes, os.SEEK_END)
            kept.write(log.read(max_bytes))
            log.truncate(0)
