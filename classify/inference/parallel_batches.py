"""Probabilities of the cells in a store, computed in parallel batches.

Each stream of the engine reads, prepares and classifies batches of its own. A core starts a batch as soon as it has
one, images are prepared while they are in that core's cache, and no core waits for another or for the disk. Arrays are
used again from batch to batch.
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

__all__ = ["probabilities", "stream_pool"]

_MAX_CELLS_PER_READ: Final = 32
"""Reading and calibrating 32 cells costs as much as reading and calibrating few."""


@contextlib.contextmanager
def stream_pool(engine: Engine) -> Iterator[ThreadPoolExecutor]:
    """Provide one thread for each stream of an engine, with an equal share of torch's threads."""
    before = torch.get_num_threads()
    each = max(1, before // engine.streams)
    pool = ThreadPoolExecutor(engine.streams, "stream", initializer=torch.set_num_threads, initargs=(each,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)  # the number set in a stream would apply to later threads


def probabilities(
    store: CellStore, classifier: Classifier, planes: Sequence[int]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Compute the calibrated probabilities of a store's cells, in order.

    Args:
        store: the cells.
        classifier: classifies them.
        planes: the store's channel of each plane that the bundle reads.

    Yields:
        The number of cells done, and the probabilities (n, heads, K) of the last n of them.
    """
    side_px, streams = classifier.bundle.info.side, classifier.engine.streams
    spans = list(_spans(len(store), classifier.batch_size, streams))
    size = max((stop - start for start, stop in spans), default=0)
    read_px = side_px if side_px in store.sides_px else store.sides_px[0]
    channels = len(store.modalities)
    all_planes = list(planes) == list(range(channels))
    buffers: queue.SimpleQueue[tuple[NDArray[np.uint16], NDArray[np.float32] | None]] = queue.SimpleQueue()
    for _ in range(streams):
        raw = np.empty((size, channels, read_px, read_px), np.uint16)
        buffers.put((raw, classifier.image_buffer()))

    def classify(span: tuple[int, int]) -> tuple[int, NDArray[np.float32]]:
        start, stop = span
        raw, images = buffers.get()
        try:
            crops = store.images(start, stop, side_px=read_px, out=raw[: stop - start])
            return stop, classifier.probability_of(crops if all_planes else crops[:, list(planes)], images)
        finally:
            buffers.put((raw, images))

    with stream_pool(classifier.engine) as pool:
        yield from pool.map(classify, spans)


def _spans(total: int, batch_size: int, streams: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of the cells of each read: whole batches, fewer at the end, so that streams end together.

    >>> [stop for _, stop in _spans(100, 8, 2)]
    [24, 40, 48, 56, 64, 72, 80, 88, 96, 100]
    """
    start = 0
    while start < total:
        share = min(_MAX_CELLS_PER_READ, (total - start) // (2 * streams))
        stop = min(total, start + max(1, share // batch_size) * batch_size)
        yield start, stop
        start = stop
