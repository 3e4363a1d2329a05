"""The engine of a GPU, on a stand-in for CUDA; on CUDA itself where it is."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from wbcpipe.classify.inference import engine as engines
from wbcpipe.classify.inference import gpu
from wbcpipe.classify.inference.engine import TorchEngine
from wbcpipe.classify.inference.gpu import GpuEngine, gpu_engine
from wbcpipe.classify.inference.parallel_batches import stream_threads
from wbcpipe.classify.networks import build_network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from wbcpipe.classify.networks import FusionNetwork

SHAPE = (3, 32, 32)
BATCH = 4
CPU = torch.device("cpu")


class Runtime:
    """Does on the processor, at once, what a GPU would do."""

    device = CPU

    def __init__(self, *, records: bool = True, memory: bool = True) -> None:
        self.records, self.memory = records, memory
        self.streams = 0
        self.current: Any = None
        self.started: list[int] = []

    def host(self, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.empty(shape)

    def stream(self) -> int:
        if not self.memory:
            raise RuntimeError("CUDA out of memory")
        self.streams += 1
        return self.streams

    @contextlib.contextmanager
    def on(self, stream: int) -> Iterator[None]:
        self.current = stream
        yield
        self.current = None

    def recorded(self, run: Callable[[], None], stream: int) -> Callable[[], None]:
        if not self.records:
            raise RuntimeError("operation not permitted when stream is capturing")

        def start() -> None:
            assert self.current == stream, "a lane starts its batch in its own queue"
            self.started.append(stream)
            run()

        return start


@pytest.fixture
def network() -> FusionNetwork:
    torch.manual_seed(0)
    return build_network("mm-mimo", "shufflenet_v2_x1_0", 3, 1, 4).eval()


@pytest.fixture
def pictures() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0, 1, (9, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize("records", [True, False], ids=["recorded", "not recorded"])
def test_batches_of_any_size_give_what_the_processor_gives(
    network: FusionNetwork, pictures: NDArray[np.float32], records: bool
) -> None:
    runtime = Runtime(records=records)
    engine = GpuEngine(network, SHAPE, BATCH, "float32", runtime=runtime, lanes=1)
    assert (engine.name, engine.lanes, engine.recorded) == ("torch-cpu-float32", 1, records)
    expected = TorchEngine(network, CPU)(pictures)
    for rows in (slice(0, 4), slice(4, 5), slice(0, 9), slice(2, 4)):  # shorter ones after full ones
        np.testing.assert_allclose(engine(pictures[rows]), expected[rows], atol=1e-5)
    assert len(runtime.started) == (1 + 1 + 3 + 1 if records else 0)
    room = engine.buffer((2, *SHAPE))
    room[:] = pictures[:2]
    np.testing.assert_allclose(engine(room), expected[:2], atol=1e-5)


def test_answers_stay_when_the_next_batch_comes(network: FusionNetwork, pictures: NDArray[np.float32]) -> None:
    engine = GpuEngine(network, SHAPE, BATCH, "float32", runtime=Runtime(), lanes=1)
    first = engine(pictures[:4])
    kept = first.copy()
    engine(pictures[4:8])
    assert np.array_equal(first, kept)


def test_lanes_have_queues_of_their_own(network: FusionNetwork) -> None:
    runtime = Runtime()
    engine = GpuEngine(network, SHAPE, BATCH, "float32", runtime=runtime, lanes=3)
    assert runtime.streams == 3
    for _ in range(6):
        engine(np.zeros((1, *SHAPE), np.float32))
    assert sorted(runtime.started) == [1, 1, 2, 2, 3, 3]


def test_half_precision_is_taken_if_it_agrees(network: FusionNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_engine(network, SHAPE, BATCH, Runtime()).name == "torch-cpu-float16"
    monkeypatch.setitem(engines.AGREES, "float16", 0.0)
    assert gpu_engine(network, SHAPE, BATCH, Runtime()).name == "torch-cpu-float32"


def test_half_precision_that_runs_over_is_not_taken(network: FusionNetwork) -> None:
    with torch.no_grad():
        first = next(module for module in network.modules() if isinstance(module, torch.nn.Conv2d))
        first.weight.mul_(1e6)  # beyond 65504, and batch norm brings it back in float32
        following = next(module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d))
        following.running_var.mul_(1e12)  # type: ignore[union-attr]
        following.bias.fill_(1e5)
    assert gpu_engine(network, SHAPE, BATCH, Runtime()).name == "torch-cpu-float32"


def test_without_room_for_lanes_batches_go_one_by_one(network: FusionNetwork, pictures: NDArray[np.float32]) -> None:
    engine = gpu_engine(network, SHAPE, BATCH, Runtime(memory=False))
    assert isinstance(engine, TorchEngine)
    np.testing.assert_allclose(engine(pictures), TorchEngine(network, CPU)(pictures), atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
def test_cuda_gives_what_the_processor_gives(network: FusionNetwork, pictures: NDArray[np.float32]) -> None:
    engine = gpu_engine(network, SHAPE, BATCH)
    assert isinstance(engine, GpuEngine)
    assert (engine.name, engine.recorded) == ("torch-cuda-float16", True)
    assert torch.from_numpy(engine.buffer((2, *SHAPE))).is_pinned()
    expected = TorchEngine(network, CPU)(pictures)
    np.testing.assert_allclose(engine(pictures), expected, atol=0.02)
    parts = [pictures[row : row + 3] for row in range(6)] * 20
    with stream_threads(engine) as pool:
        for row, found in enumerate(pool.map(engine, parts)):
            np.testing.assert_allclose(found, expected[row % 6 : row % 6 + 3], atol=0.02)
    exact = GpuEngine(network, SHAPE, BATCH, "float32", runtime=gpu.CudaRuntime(), lanes=2)
    np.testing.assert_allclose(exact(pictures), expected, atol=0.01)  # convolutions may take TF32
