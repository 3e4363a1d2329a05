"""The one thread that writes fields: in the order of taking, so that the files on disk are always a beginning."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Final

import numpy as np

from wbcpipe.acquire.frames import field_path, write_field
from wbcpipe.samples import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.acquire.frames import FieldInfo

__all__ = ["FieldWriter", "field_buffers", "read_missing"]

#: One being filled, one being written, one between them; more, as memory allows, bridge a pause of the disk.
_LEAST_BUFFERS: Final = 3
_MOST_BUFFERS: Final = 8
_BUFFER_BYTES: Final = 256 * 2**20
_POLL_S: Final = 0.2


def read_missing(raw: Path) -> dict[int, str]:
    """Field index to the reason why it could not be taken, from ``missing.json``."""
    path = raw / "missing.json"
    if not path.is_file():
        return {}
    return {int(index): str(reason) for index, reason in read_json(path).items()}


def field_buffers(channels: int, image_px: tuple[int, int]) -> list[NDArray[np.uint16]]:
    """Buffers (C, Y, X) uint16 for frames of (height, width) pixels: a fixed number, whatever the run's length."""
    field_bytes = 2 * channels * image_px[0] * image_px[1]
    n_buffers = max(_LEAST_BUFFERS, min(_MOST_BUFFERS, _BUFFER_BYTES // field_bytes))
    # Filled once, so that their pages are there before the first field is taken: fresh memory is slow.
    return [np.full((channels, *image_px), 1, np.uint16) for _ in range(n_buffers)]


class FieldWriter:
    """Writes fields from a ring of buffers while the next ones are taken.

    Args:
        raw: folder of the fields.
        buffers: to take fields into, (C, Y, X) uint16 each; see `field_buffers`.
        on_field: called with the index of each field once its file is whole, from the writing thread.
        on_missing: called with the index and the reason of a field given up, in turn with the others.
    """

    def __init__(
        self,
        raw: Path,
        buffers: list[NDArray[np.uint16]],
        on_field: Callable[[int], None],
        on_missing: Callable[[int, str], None],
    ) -> None:
        self._raw = raw
        self._on_field, self._on_missing = on_field, on_missing
        self._free: queue.SimpleQueue[NDArray[np.uint16]] = queue.SimpleQueue()
        for buffer in buffers:
            self._free.put(buffer)
        self._jobs: queue.SimpleQueue[tuple[int, NDArray[np.uint16] | None, FieldInfo | str] | None] = (
            queue.SimpleQueue()
        )
        self._missing = read_missing(raw)
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

    def write(self, buffer: NDArray[np.uint16], info: FieldInfo) -> None:
        """Queue a field; the buffer is the writer's from here on."""
        self._jobs.put((info.index, buffer, info))

    def miss(self, index: int, reason: str) -> None:
        """Queue the note that a field is missing."""
        self._jobs.put((index, None, reason))

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
        while (job := self._jobs.get()) is not None:
            index, buffer, content = job
            try:
                # After an error nothing more is written: the files stay an unbroken beginning.
                if self._error is None:
                    self._do(index, buffer, content)
            except BaseException as error:  # noqa: BLE001 - raised again by check() in the taking thread
                self._error = error
            finally:
                if buffer is not None:
                    self._free.put(buffer)

    def _do(self, index: int, buffer: NDArray[np.uint16] | None, content: FieldInfo | str) -> None:
        if buffer is None or isinstance(content, str):
            self._missing[index] = str(content)
            self._save_missing()
            self._on_missing(index, str(content))
            return
        write_field(field_path(self._raw, index), buffer, content)
        if self._missing.pop(index, None) is not None:
            self._save_missing()
        self._on_field(index)

    def _save_missing(self) -> None:
        write_json(self._raw / "missing.json", {str(index): text for index, text in sorted(self._missing.items())})
