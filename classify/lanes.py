"""Cells from the store to their probabilities, in lanes: each reads, prepares and calls batches of its own.

So a core that has a batch ready calls it at once, pictures are prepared while they are in that core's cache, and no
core waits for another or for the disk. A lane keeps its memory from batch to batch.
"""

from __future__ import annotations

import contextlib
import queue
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from wbcpipe.classify.engines import Engine
    from wbcpipe.classify.predict import Classifier
    from wbcpipe.segment.cells import CellStore

__all__ = ["lane_threads", "probabilities"]

_READ_AT_ONCE: Final = 16
"""Cells: finding them and calibrating what comes of them costs as much for few as for many."""


@contextlib.contextmanager
def lane_threads(engine: Engine) -> Iterator[ThreadPoolExecutor]:
    """A thread for each lane of an engine, with its share of the threads that torch may use."""
    before = torch.get_num_threads()
    each = max(1, before // engine.lanes)
    pool = ThreadPoolExecutor(engine.lanes, "lane", initializer=torch.set_num_threads, initargs=(each,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)  # those of the lanes would be the number for threads to come


def probabilities(
    store: CellStore, classifier: Classifier, planes: Sequence[int]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Calibrated probabilities of a store's cells, in order.

    Args:
        store: the cells.
        classifier: what calls them.
        planes: the store's channel of each plane that the bundle reads.

    Yields:
        How many cells are done, and the probabilities (n, heads, K) of the last n of them.
    """
    side_px, total = classifier.bundle.info.side, len(store)
    size = classifier.batch_size * max(1, _READ_AT_ONCE // classifier.batch_size)
    read_px = side_px if side_px in store.sides_px else store.sides_px[0]
    channels = len(store.modalities)
    whole = list(planes) == list(range(channels))
    memory: queue.SimpleQueue[tuple[NDArray[np.uint16], NDArray[np.float32] | None]] = queue.SimpleQueue()
    for _ in range(classifier.engine.lanes):
        raw = np.empty((size, channels, read_px, read_px), np.uint16)
        memory.put((raw, classifier.room()))

    def call(start: int) -> tuple[int, NDArray[np.float32]]:
        raw, room = memory.get()
        try:
            stop = min(start + size, total)
            crops = store.images(start, stop, side_px=read_px, out=raw[: stop - start])
            return stop, classifier.probability_of(crops if whole else crops[:, list(planes)], room)
        finally:
            memory.put((raw, room))

    with lane_threads(classifier.engine) as pool:
        yield from pool.map(call, range(0, total, size))
