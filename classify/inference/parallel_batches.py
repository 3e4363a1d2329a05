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

    from wbcpipe.classify.inference.classifier import Classifier
    from wbcpipe.classify.inference.engine import Engine
    from wbcpipe.samples.cell_store import CellStore

__all__ = ["probabilities", "stream_threads"]

_READ_AT_ONCE: Final = 32
"""Cells, at most: finding them and calibrating what comes of them costs as much for few as for many."""


@contextlib.contextmanager
def stream_threads(engine: Engine) -> Iterator[ThreadPoolExecutor]:
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
    spans = list(_spans(total, classifier.batch_size, classifier.engine.lanes))
    size = max((stop - start for start, stop in spans), default=0)
    read_px = side_px if side_px in store.sides_px else store.sides_px[0]
    channels = len(store.modalities)
    whole = list(planes) == list(range(channels))
    memory: queue.SimpleQueue[tuple[NDArray[np.uint16], NDArray[np.float32] | None]] = queue.SimpleQueue()
    for _ in range(classifier.engine.lanes):
        raw = np.empty((size, channels, read_px, read_px), np.uint16)
        memory.put((raw, classifier.room()))

    def call(span: tuple[int, int]) -> tuple[int, NDArray[np.float32]]:
        start, stop = span
        raw, room = memory.get()
        try:
            crops = store.images(start, stop, side_px=read_px, out=raw[: stop - start])
            return stop, classifier.probability_of(crops if whole else crops[:, list(planes)], room)
        finally:
            memory.put((raw, room))

    with stream_threads(classifier.engine) as pool:
        yield from pool.map(call, spans)


def _spans(total: int, batch_size: int, lanes: int) -> Iterator[tuple[int, int]]:
    """Cells from and to, in whole batches, that are read at once: fewer towards the end, so that lanes end together.

    >>> [stop for _, stop in _spans(100, 8, 2)]
    [24, 40, 48, 56, 64, 72, 80, 88, 96, 100]
    """
    start = 0
    while start < total:
        share = min(_READ_AT_ONCE, (total - start) // (2 * lanes))
        stop = min(total, start + max(1, share // batch_size) * batch_size)
        yield start, stop
        start = stop
