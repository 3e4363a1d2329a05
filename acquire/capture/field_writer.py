"""The thread that writes fields in the order in which they are taken.

The files on disk have no gap.
"""

from __future__ import annotations

import queue
import threading
from typing import IO, TYPE_CHECKING, Final

import numpy as np

from wbcpipe.errors import StorageError
from wbcpipe.samples.field_status import read_missing, read_skipped, write_missing, write_skipped
from wbcpipe.samples.fields import FieldInfo, field_path, write_field, write_planes
from wbcpipe.system.files import begin_flush

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.acquire.capture.field_accounting import FieldInventory
    from wbcpipe.acquire.capture.session_observer import SessionObserver

__all__ = ["FieldWriter", "PendingField", "field_buffers"]

#: One is filled, one is written, one is in between; more, as memory allows, bridge a pause of the
#: disk.
_MIN_BUFFERS: Final = 3
MAX_BUFFERS: Final = 8
_BUFFER_BYTES: Final = 256 * 2**20
_POLL_S: Final = 0.2
_NOTHING: Final = np.empty((0, 0, 0), np.uint16)


def field_buffers(channels: int, image_px: tuple[int, int]) -> list[NDArray[np.uint16]]:
    """Return buffers (C, Y, X) uint16 for frames of (height, width) pixels.

    Their number does not grow with the run.
    """
    field_bytes = 2 * channels * image_px[0] * image_px[1]
    n_buffers = max(_MIN_BUFFERS, min(MAX_BUFFERS, _BUFFER_BYTES // field_bytes))
    # Filled once, so that their memory pages exist before the first field is taken: new memory is
    # slow.
    return [np.full((channels, *image_px), 1, np.uint16) for _ in range(n_buffers)]


class _AbandonedError(Exception):
    """The field that is being written will not be completed."""


class PendingField:
    """A field whose frames can be written as they are completed; made by `FieldWriter.start_field`.

    Attributes:
        index: Index of the field.
        buffer: (C, Y, X) uint16; receives the frames.
    """

    def __init__(
        self, index: int, buffer: NDArray[np.uint16], send: Callable[[_Message], None]
    ) -> None:
        self.index, self.buffer = index, buffer
        self._send = send

    def complete_frame(self, channel: int) -> None:
        """Report that a frame is complete in the buffer and will not change.

        In the order of the channels.
        """
        self._send((self, channel))

    def abandon(self) -> None:
        """Discard what was written so far: the field is taken again, or not at all."""
        self._send((self, _AbandonedError()))


_Content = FieldInfo | str | float
_Message = tuple[PendingField, "int | _Content | _AbandonedError"]


class _IncomingField:
    """Messages of one field, from its first complete frame on.

    Attributes:
        info: The field, once all its frames are taken.
        left_over: Message of another field, which arrived because this one was abandoned.
    """

    def __init__(self, pending: PendingField, jobs: queue.SimpleQueue[_Message | None]) -> None:
        self._field, self._jobs = pending, jobs
        self._file: IO[bytes] | None = None
        self.info: FieldInfo | None = None
        self.left_over: list[_Message | None] = []

    def open_file(self, file: IO[bytes]) -> None:
        """Receive the temporary file of the field."""
        self._file = file

    def _next(self) -> int | _Content:
        message = self._jobs.get()
        if message is None or message[0] is not self._field:
            self.left_over = [message]
            raise _AbandonedError
        if isinstance(message[1], _AbandonedError):
            raise message[1]
        return message[1]

    def planes(self) -> Iterator[NDArray[np.uint16]]:
        """Yield the frames (Y, X), each once it is complete."""
        flushed = 0
        for channel, plane in enumerate(self._field.buffer):
            if channel and self._next() != channel:
                raise _AbandonedError
            yield plane
            # Written to the disk while the camera exposes, so that less remains for the end.
            if self._file is not None:
                flushed = begin_flush(self._file, flushed)

    def wait_for_info(self) -> FieldInfo:
        """Wait until the field is taken, without writing its frames; return its description."""
        while not isinstance(content := self._next(), FieldInfo):
            pass
        return content

    def describe(self) -> FieldInfo:
        """Wait until the field is taken and return its description."""
        content = self._next()
        if not isinstance(content, FieldInfo):
            raise _AbandonedError
        self.info = content
        return content


class FieldWriter:
    """Writes fields from a ring of buffers while the next ones are taken.

    Args:
        raw: Folder of the fields.
        buffers: Buffers for fields, (C, Y, X) uint16 each; see `field_buffers`.
        inventory: Receives each field once its file is complete, and those skipped as empty.
        observer: Receives the same and the missing fields, in the order of the fields, from the
            writing thread.
    """

    def __init__(
        self,
        raw: Path,
        buffers: list[NDArray[np.uint16]],
        inventory: FieldInventory,
        observer: SessionObserver,
    ) -> None:
        self._raw, self._inventory, self._observer = raw, inventory, observer
        self._free: queue.SimpleQueue[NDArray[np.uint16]] = queue.SimpleQueue()
        for buffer in buffers:
            self._free.put(buffer)
        self._jobs: queue.SimpleQueue[_Message | None] = queue.SimpleQueue()
        #: A message that arrived while another field was written.
        self._left_over: list[_Message | None] = []
        self._missing = read_missing(raw)
        self._empty = read_skipped(raw)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="wbcpipe-writer")
        self._thread.start()

    def take_buffer(self) -> NDArray[np.uint16]:
        """Wait for a free buffer (C, Y, X) uint16 and return it.

        Raises an error of the writing thread.
        """
        while True:
            self.check()
            try:
                return self._free.get(timeout=_POLL_S)
            except queue.Empty:
                continue

    def release_buffer(self, buffer: NDArray[np.uint16]) -> None:
        """Return a buffer whose field was not taken."""
        self._free.put(buffer)

    def start_field(self, index: int, buffer: NDArray[np.uint16]) -> PendingField:
        """Start a field, whose frames are then written as soon as they are reported complete."""
        return PendingField(index, buffer, self._jobs.put)

    def write(self, pending: PendingField, info: FieldInfo) -> None:
        """Queue a field; its buffer belongs to the writer from here on."""
        self._jobs.put((pending, info))

    def record(self, index: int, entry: str | float) -> None:
        """Queue the entry of a field without a file: why it is missing, or the foreground area
        (um2) if it is empty.
        """
        self._jobs.put((PendingField(index, _NOTHING, self._jobs.put), entry))

    def check(self) -> None:
        """Raise the error of the writing thread, if there is one."""
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Wait until all is written and end the thread; `check` then raises its error."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (
            message := self._left_over.pop() if self._left_over else self._jobs.get()
        ) is not None:
            pending, content = message
            try:
                # After an error nothing more is written, so that the files have no gap.
                if self._error is None:
                    content = self._do(pending, content)
            except BaseException as error:  # noqa: BLE001 - raised again by check() in the taking thread
                self._error = error
            if isinstance(content, FieldInfo):
                self._free.put(pending.buffer)

    def _do(
        self, pending: PendingField, content: int | _Content | _AbandonedError
    ) -> _Content | _AbandonedError:
        """Handle a message; return the content of the field's last message."""
        index = pending.index
        if isinstance(content, int):
            if content:
                return _AbandonedError()  # it arrived after its field was abandoned
            found = self._stream(pending)
            if not isinstance(found, FieldInfo):
                return found
            content = found
        elif isinstance(content, FieldInfo):
            write_field(field_path(self._raw, index), pending.buffer, content)
        match content:
            case FieldInfo():
                self._forget_missing(index)
                self._inventory.taken[index] = content
                self._observer.taken(index)
            case float():
                self._empty[index] = content
                write_skipped(self._raw, self._empty)
                self._forget_missing(index)
                self._inventory.empty[index] = content
                self._observer.empty(index, content)
            case str():
                self._missing[index] = content
                write_missing(self._raw, self._missing)
                self._observer.missing(index, content)
        return content

    def _stream(self, pending: PendingField) -> FieldInfo | _AbandonedError:
        """Write a field whose first frame is complete, and each further frame when it is
        completed.
        """
        incoming = _IncomingField(pending, self._jobs)
        path = field_path(self._raw, pending.index)
        try:
            write_planes(
                path, pending.buffer.shape, incoming.planes(), incoming.describe, incoming.open_file
            )
            assert incoming.info is not None
            return incoming.info
        except _AbandonedError as error:
            self._left_over = incoming.left_over
            return error
        except StorageError:
            # All frames stay in the buffer: the field is written again, once it is complete.
            return self._write_again(pending, incoming)

    def _write_again(
        self, pending: PendingField, incoming: _IncomingField
    ) -> FieldInfo | _AbandonedError:
        try:
            info = incoming.info or incoming.wait_for_info()
        except _AbandonedError as error:
            self._left_over = incoming.left_over
            return error
        write_field(field_path(self._raw, pending.index), pending.buffer, info)
        return info

    def _forget_missing(self, index: int) -> None:
        if self._missing.pop(index, None) is not None:
            write_missing(self._raw, self._missing)
