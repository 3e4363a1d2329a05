"""The one thread that writes fields: in the order of taking, so that the files on disk are always a beginning."""

from __future__ import annotations

import queue
import threading
from typing import IO, TYPE_CHECKING, Final

import numpy as np

from wbcpipe.samples.field_status import read_missing, read_skipped, write_missing, write_skipped
from wbcpipe.samples.fields import FieldInfo, field_path, write_field, write_planes
from wbcpipe.system.files import begin_flush

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray


__all__ = ["Draft", "FieldWriter", "field_buffers"]

#: One being filled, one being written, one between them; more, as memory allows, bridge a pause of the disk.
_LEAST_BUFFERS: Final = 3
_MOST_BUFFERS: Final = 8
_BUFFER_BYTES: Final = 256 * 2**20
_POLL_S: Final = 0.2
_NOTHING: Final = np.empty((0, 0, 0), np.uint16)


def field_buffers(channels: int, image_px: tuple[int, int]) -> list[NDArray[np.uint16]]:
    """Buffers (C, Y, X) uint16 for frames of (height, width) pixels: a fixed number, whatever the run's length."""
    field_bytes = 2 * channels * image_px[0] * image_px[1]
    n_buffers = max(_LEAST_BUFFERS, min(_MOST_BUFFERS, _BUFFER_BYTES // field_bytes))
    # Filled once, so that their pages are there before the first field is taken: fresh memory is slow.
    return [np.full((channels, *image_px), 1, np.uint16) for _ in range(n_buffers)]


class _AbandonedError(Exception):
    """The field that is being written was not taken after all."""


class Draft:
    """A field whose frames may be written as they come; made by `FieldWriter.draft`.

    Attributes:
        index: of the field.
        buffer: (C, Y, X) uint16 that it is taken into.
    """

    def __init__(self, index: int, buffer: NDArray[np.uint16], say: Callable[[_Message], None]) -> None:
        self.index, self.buffer = index, buffer
        self._say = say

    def whole(self, channel: int) -> None:
        """A frame is whole in the buffer, and stays as it is; frames come in the order of the channels."""
        self._say((self, channel))

    def abandon(self) -> None:
        """What was written so far is of no use: the field is taken again, or not at all."""
        self._say((self, _AbandonedError()))


_Content = FieldInfo | str | float
_Message = tuple[Draft, "int | _Content | _AbandonedError"]


class _Incoming:
    """The messages of one field, from its first whole frame on.

    Attributes:
        info: the field, once it was taken.
        left_over: a message that was not of this field: it was left.
    """

    def __init__(self, draft: Draft, jobs: queue.SimpleQueue[_Message | None]) -> None:
        self._draft, self._jobs = draft, jobs
        self._file: IO[bytes] | None = None
        self.info: FieldInfo | None = None
        self.left_over: list[_Message | None] = []

    def open_file(self, file: IO[bytes]) -> None:
        """The file that is written aside."""
        self._file = file

    def _next(self) -> int | _Content:
        message = self._jobs.get()
        if message is None or message[0] is not self._draft:
            self.left_over = [message]
            raise _AbandonedError
        if isinstance(message[1], _AbandonedError):
            raise message[1]
        return message[1]

    def planes(self) -> Iterator[NDArray[np.uint16]]:
        """The frames (Y, X), each once it is whole."""
        flushed = 0
        for channel, plane in enumerate(self._draft.buffer):
            if channel and self._next() != channel:
                raise _AbandonedError
            yield plane
            # While the camera exposes, what is there already goes to the disk: less is left for the end.
            if self._file is not None:
                flushed = begin_flush(self._file, flushed)

    def describe(self) -> FieldInfo:
        """The field, once it was taken."""
        content = self._next()
        if not isinstance(content, FieldInfo):
            raise _AbandonedError
        self.info = content
        return content


class FieldWriter:
    """Writes fields from a ring of buffers while the next ones are taken.

    Args:
        raw: folder of the fields.
        buffers: to take fields into, (C, Y, X) uint16 each; see `field_buffers`.
        on_field: called with the index of each field once its file is whole, from the writing thread.
        on_missing: called with the index and the reason of a field given up, in turn with the others.
        on_empty: called with the index and the figure of a field skipped as empty, in turn with the others.
    """

    def __init__(
        self,
        raw: Path,
        buffers: list[NDArray[np.uint16]],
        on_field: Callable[[int], None],
        on_missing: Callable[[int, str], None],
        on_empty: Callable[[int, float], None] = lambda _index, _figure_um2: None,
    ) -> None:
        self._raw = raw
        self._on_field, self._on_missing, self._on_empty = on_field, on_missing, on_empty
        self._free: queue.SimpleQueue[NDArray[np.uint16]] = queue.SimpleQueue()
        for buffer in buffers:
            self._free.put(buffer)
        self._jobs: queue.SimpleQueue[_Message | None] = queue.SimpleQueue()
        #: A message that came while another field was being written.
        self._left_over: list[_Message | None] = []
        self._missing = read_missing(raw)
        self._empty = read_skipped(raw)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="wbcpipe-writer")
        self._thread.start()

    def buffer(self) -> NDArray[np.uint16]:
        """A buffer (C, Y, X) uint16 to take a field into; waits for one, and raises what the writer met."""
        while True:
            self.check()
            try:
                return self._free.get(timeout=_POLL_S)
            except queue.Empty:
                continue

    def give_back(self, buffer: NDArray[np.uint16]) -> None:
        """Return a buffer whose field was not taken."""
        self._free.put(buffer)

    def draft(self, index: int, buffer: NDArray[np.uint16]) -> Draft:
        """Begin a field: its frames may be told as they become whole, and are then written at once."""
        return Draft(index, buffer, self._jobs.put)

    def write(self, draft: Draft, info: FieldInfo) -> None:
        """Queue a field; the buffer is the writer's from here on."""
        self._jobs.put((draft, info))

    def miss(self, index: int, reason: str) -> None:
        """Queue the note that a field is missing."""
        self._jobs.put((Draft(index, _NOTHING, self._jobs.put), reason))

    def skip(self, index: int, figure_um2: float) -> None:
        """Queue the note that a field is empty, with the figure that says so."""
        self._jobs.put((Draft(index, _NOTHING, self._jobs.put), figure_um2))

    def check(self) -> None:
        """Raise what the writer met, if anything."""
        if self._error is not None:
            raise self._error

    def finish(self, *, raise_error: bool = True) -> None:
        """Wait until all is written and end the thread; may be called twice."""
        self._jobs.put(None)
        self._thread.join()
        if raise_error:
            self.check()

    def _run(self) -> None:
        while (message := self._left_over.pop() if self._left_over else self._jobs.get()) is not None:
            draft, content = message
            try:
                # After an error nothing more is written: the files stay an unbroken beginning.
                if self._error is None:
                    content = self._do(draft, content)
            except BaseException as error:  # noqa: BLE001 - raised again by check() in the taking thread
                self._error = error
            if isinstance(content, FieldInfo):
                self._free.put(draft.buffer)

    def _do(self, draft: Draft, content: int | _Content | _AbandonedError) -> _Content | _AbandonedError:
        """Do what a message asks for; gives back what the field's last message held."""
        index = draft.index
        if isinstance(content, int):
            if content:
                return _AbandonedError()  # came too late, after its field was left
            found = self._stream(draft)
            if not isinstance(found, FieldInfo):
                return found
            content = found
        elif isinstance(content, FieldInfo):
            write_field(field_path(self._raw, index), draft.buffer, content)
        match content:
            case FieldInfo():
                self._forget_missing(index)
                self._on_field(index)
            case float():
                self._empty[index] = content
                write_skipped(self._raw, self._empty)
                self._forget_missing(index)
                self._on_empty(index, content)
            case str():
                self._missing[index] = content
                self._save_missing()
                self._on_missing(index, content)
        return content

    def _stream(self, draft: Draft) -> FieldInfo | _AbandonedError:
        """Write a field of which the first frame is whole, each further one as it comes."""
        incoming = _Incoming(draft, self._jobs)
        path = field_path(self._raw, draft.index)
        try:
            write_planes(path, draft.buffer.shape, incoming.planes(), incoming.describe, incoming.open_file)
        except _AbandonedError as error:
            self._left_over = incoming.left_over
            return error
        assert incoming.info is not None
        return incoming.info

    def _forget_missing(self, index: int) -> None:
        if self._missing.pop(index, None) is not None:
            self._save_missing()

    def _save_missing(self) -> None:
        write_missing(self._raw, self._missing)
