"""Cells come out of the streams whole and in order, each lane with work and memory of its own."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from wbcpipe.classify.inference.engine import TorchEngine
from wbcpipe.classify.inference.openvino_engine import OpenVinoEngine
from wbcpipe.classify.inference.parallel_batches import probabilities, stream_pool

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.classify.networks import FusionNetwork

CELLS = 50
BATCH = 4
CHUNK = 8
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wbcpipe.classify.inference.parallel_batches.CELLS_PER_CHUNK", CHUNK)


class Stage:
    """Stands in for a store of 50 cells, for the classifier that calls them and for its engine of
    two streams.

    A cell's picture holds its number in the first channel, and that plus 1000 in the second.
    """

    modalities = ("a", "b")
    batch_size = BATCH
    streams = 2

    @property
    def step(self) -> int:
        """The cells of the first task."""
        return CHUNK * -(-self.batch_size // CHUNK)

    def __init__(self, side_px: int = 8, fails_at: int = 99) -> None:
        self.sides_px = (8, 4)
        self.bundle = SimpleNamespace(info=SimpleNamespace(side=side_px))
        self.engine = self
        self.fails_at = fails_at
        self.read: list[tuple[int, int, int]] = []
        self.rooms: set[int] = set()
        self.lent: dict[int, set[int]] = {}
        self.together = threading.Barrier(2, timeout=10)

    def __len__(self) -> int:
        return CELLS

    def image_buffer(self) -> NDArray[np.float32]:
        return np.empty((BATCH, 2, self.bundle.info.side, self.bundle.info.side), np.float32)

    def images(
        self, start: int, stop: int, *, side_px: int, out: NDArray[np.uint16]
    ) -> NDArray[np.uint16]:
        self.read.append((start, stop, side_px))
        if start <= self.fails_at < stop:
            raise OSError("the disk is gone")
        assert out.shape == (stop - start, 2, side_px, side_px)
        self.rooms.add(out.ctypes.data)
        out[:] = np.arange(start, stop)[:, None, None, None] + np.array([0, 1000])[:, None, None]
        return out

    def probability_of(
        self, images: NDArray[np.uint16], room: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        first = int(images[0].min())
        if first in (0, self.step):
            self.together.wait()  # is passed only if two streams are at work at once
        time.sleep(0.001 * (first % 3))  # later batches may be ready before earlier ones
        self.lent.setdefault(threading.get_ident(), set()).add(room.ctypes.data)
        return images[:, :, 0, :1].astype(np.float32)  # (n, heads, K)


def run(stage: Any, planes: list[int]) -> tuple[list[int], NDArray[np.float32]]:
    found = list(probabilities(stage, stage, planes))
    return [done for done, _ in found], np.concatenate([part for _, part in found])[..., 0]


@pytest.mark.parametrize(("side_px", "read_px"), [(8, 8), (4, 4), (2, 8)])
def test_cells_come_in_order_from_the_crops_that_fit(side_px: int, read_px: int) -> None:
    stage = Stage(side_px)
    done, found = run(stage, [0, 1])
    assert done == [*range(CHUNK, CELLS, CHUNK), CELLS]
    assert found[:, 0].tolist() == list(range(CELLS))
    assert found[:, 1].tolist() == [1000 + row for row in range(CELLS)]
    assert stage.read == [
        (start, min(start + CHUNK, CELLS), read_px) for start in range(0, CELLS, CHUNK)
    ]
    assert len(stage.rooms) == 3, "the next chunk is read beside those that are classified"
    assert len(set.union(*stage.lent.values())) == 2, "two streams, each with memory of its own"


@pytest.mark.parametrize(
    ("batch_size", "done"), [(3, [8, 16, 24, 32, 40, 48, 50]), (12, [16, 32, 48, 50])]
)
def test_complete_chunks_are_read_whatever_the_batch(batch_size: int, done: list[int]) -> None:
    stage = Stage()
    stage.batch_size = batch_size
    found = run(stage, [0, 1])
    assert found[0] == done
    assert found[1][:, 0].tolist() == list(range(CELLS))


def test_planes_are_put_in_the_order_of_the_bundle() -> None:
    assert run(Stage(), [1, 0])[1][7].tolist() == [1007, 7]


def test_a_lane_that_fails_is_heard_and_the_rest_is_not_read() -> None:
    stage = Stage(fails_at=10)
    stage.together = threading.Barrier(1)  # the second task is never begun
    with pytest.raises(OSError, match="the disk is gone"):
        run(stage, [0, 1])
    assert len(stage.read) < CELLS // CHUNK


@pytest.mark.parametrize("kind", ["torch", "openvino"])
def test_lanes_give_what_one_call_gives(
    network: FusionNetwork, pictures: NDArray[np.float32], kind: str
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        engine = (
            TorchEngine(network, CPU) if kind == "torch" else OpenVinoEngine(network, (3, 32, 32))
        )
        assert engine.streams == {"torch": 3, "openvino": 4}[kind]
        parts = [pictures[[row]] for row in range(len(pictures))] * 3
        expected = [TorchEngine(network, CPU)(part) for part in parts]
        with stream_pool(engine) as pool:
            assert list(pool.map(lambda _: torch.get_num_threads(), range(20))) == [1] * 20
            np.testing.assert_allclose(list(pool.map(engine, parts)), expected, atol=1e-5)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
