"""Standard output and error that cannot fail a run.

Its result is on the disk, and its exit code says what it did.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["protect_standard_streams"]

_STDERR: Final = 2
#: The reader has gone, as that of `| head -1` does: nobody misses what is lost.
_READER_GONE: Final = {errno.EPIPE, errno.EINVAL, errno.ECONNRESET}


class _LossyOutput(io.RawIOBase):
    """Writes to a standard stream until that fails, and then into nothing."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw, self._lost = raw, False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw.isatty()

    def write(self, content: Buffer, /) -> int | None:
        if not self._lost:
            try:
                return self._raw.write(content)
            except OSError as error:
                self._lost = True
                # Windows gives EINVAL for a pipe whose reader has gone.
                if self._raw.fileno() != _STDERR and error.errno not in _READER_GONE:
                    with contextlib.suppress(OSError):
                        os.write(
                            _STDERR,
                            f"wbcpipe: standard output was lost: {error.strerror}.\n".encode(),
                        )
        return len(memoryview(content))


def protect_standard_streams() -> None:
    """Have no message end a command: one that the console cannot show, or that a full disk or
    closed pipe refuses.

    Call it once, before anything is printed.
    """
    for name, descriptor in (("stdout", 1), ("stderr", _STDERR)):
        stream = getattr(sys, name)
        if stream is None:
            # Closed by the caller (`>&-`, or pythonw). Opened at once, so that no file of data gets
            # its number, into which a native library would then print.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
        elif isinstance(stream, io.TextIOWrapper):
            raw = getattr(stream.buffer, "raw", stream.buffer)  # `python -u` has no buffer between
            with contextlib.suppress(OSError, ValueError):
                if isinstance(raw, io.RawIOBase) and raw.fileno() == descriptor:
                    setattr(sys, name, _lossy(stream, raw))
                    continue
            stream.reconfigure(
                errors="backslashreplace"
            )  # of a test, or of a program that runs commands


def _lossy(stream: io.TextIOWrapper, raw: io.RawIOBase) -> io.TextIOWrapper:
    """Return a stream as the given one, which the interpreter keeps as ``sys.__stdout__`` and which
    holds no text.
    """
    stream.flush()
    output = _LossyOutput(raw)
    return io.TextIOWrapper(
        io.BufferedWriter(output) if hasattr(stream.buffer, "raw") else output,  # type: ignore[arg-type]  # as Python does
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
