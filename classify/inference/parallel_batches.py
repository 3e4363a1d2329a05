"""Probabilities of the cells in a store, computed in parallel batches.

One thread reads chunk after chunk ahead. Each stream of the engine prepares and classifies batches
of its own, so that images are prepared while they are in that core's cache, and no core waits for
another or for the disk. Arrays are used again from batch to batch.
"""

from __future__ import annotations

import contextlib
import queue
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch

from wbcpipe.samples.cell_store import CELLS_PER_CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from wbcpipe.classify.inference.classifier import Classifier
    from wbcpipe.classify.inference.engine import Engine
    from wbcpipe.samples.cell_store import CellStore

__all__ = ["probabilities", "stream_pool"]


@contextlib.contextmanager
def stream_pool(engine: Engine) -> Iterator[ThreadPoolExecutor]:
    """Provide one thread for each stream of an engine, with an equal share of torch's threads."""
    before = torch.get_num_threads()
    each = max(1, before // engine.streams)
    pool = ThreadPoolExecutor(
        engine.streams, "stream", initializer=torch.set_num_threads, initargs=(each,)
    )
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
    side_px, streams, batch_size = (
        classifier.bundle.info.side,
        classifier.engine.streams,
        classifier.batch_size,
    )
    read_px = side_px if side_px in store.sides_px else store.sides_px[0]
    channels, total = len(store.modalities), len(store)
    all_planes = list(planes) == list(range(channels))
    # Complete chunks: reading a part of one costs as much. Every stream has one during the next
    # read.
    step = CELLS_PER_CHUNK * -(-batch_size // CELLS_PER_CHUNK)
    shape, ahead = (step, channels, read_px, read_px), streams
    raw = [np.empty(shape, np.uint16) for _ in range(1 + ahead)]
    buffers: queue.SimpleQueue[NDArray[np.float32] | None] = queue.SimpleQueue()
    for _ in range(streams):
        buffers.put(classifier.image_buffer())

    def classify(crops: NDArray[np.uint16]) -> NDArray[np.float32]:
        images = buffers.get()
        try:
            return classifier.probability_of(
                crops if all_planes else crops[:, list(planes)], images
            )
        finally:
            buffers.put(images)

    pending: deque[tuple[int, list[Future[NDArray[np.float32]]]]] = deque()
    with stream_pool(classifier.engine) as pool:
        for number, start in enumerate(range(0, total, step)):
            if len(pending) == len(raw):
                yield _wait_for(*pending.popleft())
            stop = min(start + step, total)
            crops = store.images(
                start, stop, side_px=read_px, out=raw[number % len(raw)][: stop - start]
            )
            # Fewer tasks cost less; towards the end they are small, so that all streams end
            # together.
            size = step if total - stop >= streams * step else batch_size
            tasks = (crops[first : first + size] for first in range(0, len(crops), size))
            pending.append((stop, [pool.submit(classify, task) for task in tasks]))
        while pending:
            yield _wait_for(*pending.popleft())


def _wait_for(
    done: int, batches: list[Future[NDArray[np.float32]]]
) -> tuple[int, NDArray[np.float32]]:
    return done, np.concatenate([batch.result() for batch in batches])
