"""MLLP: messages over TCP, each between a start and an end block (HL7 v2.5.1 implementation guide,
appendix C).
"""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Final, Self

__all__ = ["MllpConnection", "NoAnswerError"]

_START: Final = b"\x0b"
_END: Final = b"\x1c\x0d"
_MAX_ANSWER_BYTES: Final = 65_536
_CHUNK: Final = 4096


class NoAnswerError(Exception):
    """The message was sent, or not, and no valid answer came; the text says why."""


class MllpConnection:
    """A connection to one listener; it is opened when it is needed and kept for the next message.

    Args:
        host: name or address of the listener.
        port: of it.
        timeout_s: to wait for the connection, and for each answer.
    """

    def __init__(self, host: str, port: int, timeout_s: float) -> None:
        self._address = (host, port)
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None

    def exchange(self, content: bytes) -> bytes:
        """Send a message and return the answer, both without their frames.

        Raises:
            NoAnswerError: no connection, a broken one, no answer in time, or no frame; the
                connection is closed.
        """
        deadline_s = time.monotonic() + self._timeout_s
        try:
            if self._socket is None:
                self._socket = socket.create_connection(self._address, timeout=self._timeout_s)
            self._socket.settimeout(self._timeout_s)
            self._socket.sendall(_START + content + _END)
            return self._answer(self._socket, deadline_s)
        except TimeoutError as error:
            self.close()
            raise NoAnswerError(f"no answer within {self._timeout_s:g} s") from error
        except OSError as error:
            self.close()
            raise NoAnswerError(error.strerror or str(error)) from error
        except BaseException:
            # An answer that comes later must not be taken for that of the next message.
            self.close()
            raise

    def _answer(self, connection: socket.socket, deadline_s: float) -> bytes:
        received = b""
        while not received.endswith(_END):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            connection.settimeout(left_s)
            chunk = connection.recv(_CHUNK)
            if not chunk:
                raise NoAnswerError("the connection was closed before the answer was complete")
            received += chunk
            if not received.startswith(_START):
                raise NoAnswerError("the answer does not begin with an MLLP block")
            if len(received) > _MAX_ANSWER_BYTES:
                raise NoAnswerError(f"an answer of more than {_MAX_ANSWER_BYTES} bytes")
        return received[len(_START) : -len(_END)]
