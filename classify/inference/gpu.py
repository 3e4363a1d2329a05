"""A GPU that need not wait: pictures go to it while it computes, and a batch is started with one command.

All that is CUDA's own is behind `Runtime`, so that the rest runs, and is tested, without a GPU.
"""

from __future__ import annotations

import contextlib
import queue
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import torch

from wbcpipe.classify.inference.engine import AGREES, TorchEngine, check_agreement, shared_threads
from wbcpipe.classify.networks.fuse import fused_copy
from wbcpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from wbcpipe.classify.networks import FusionNetwork

__all__ = ["CudaRuntime", "GpuEngine", "Runtime", "gpu_engine"]

_DTYPES: Final = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_WARM_UP: Final = 3
"""Runs before a batch is recorded: libraries choose their kernels and take their memory in the first ones."""


class Runtime(Protocol):
    """What is asked of a GPU.

    Attributes:
        device: where networks and pictures go.
    """

    device: torch.device

    def host(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Float32 memory of the computer that the GPU reads by itself."""
        ...

    def stream(self) -> Any:
        """A queue of work for the GPU, beside the others."""
        ...

    def on(self, stream: Any) -> contextlib.AbstractContextManager[Any]:
        """Within it, work goes to that queue."""
        ...

    def recorded(self, run: Callable[[], None], stream: Any) -> Callable[[], None]:
        """What does all that ``run`` does, with one command.

        Raises:
            RuntimeError: this work cannot be recorded.
        """
        ...


class CudaRuntime:
    """The current CUDA device."""

    def __init__(self) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())

    def host(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Pinned memory: from other memory a copy would hold up whoever asks for it."""
        return torch.empty(shape, pin_memory=True)

    def stream(self) -> Any:
        """A stream of its own."""
        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def on(self, stream: Any) -> contextlib.AbstractContextManager[Any]:
        """Makes the stream the current one of this thread."""
        return torch.cuda.stream(stream)

    def recorded(self, run: Callable[[], None], stream: Any) -> Callable[[], None]:
        """A CUDA graph."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            run()
        replay: Callable[[], None] = graph.replay
        return replay


class _Lane:
    """A place on the GPU for one batch: its pictures, its logits and a queue of its own."""

    def __init__(self, network: FusionNetwork, shape: tuple[int, ...], dtype: torch.dtype, runtime: Runtime) -> None:
        self._network, self._dtype, self._runtime = network, dtype, runtime
        self._stream = runtime.stream()
        with torch.inference_mode(), runtime.on(self._stream):
            self._images = torch.zeros(shape, device=runtime.device)  # (B, M * c, side, side)
            for _ in range(_WARM_UP):
                self._forward()
            self._logits.sum().item()  # waits
        try:
            with torch.inference_mode():
                self._start = runtime.recorded(self._forward, self._stream)
            self.recorded = True
        except RuntimeError:
            self._start, self.recorded = self._forward, False

    def _forward(self) -> None:
        images = self._images.to(self._dtype, memory_format=torch.channels_last)
        self._logits: torch.Tensor = self._network(images).float()

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits of (n, M * c, side, side); behind them lies what was there before, which nobody looks at."""
        with torch.inference_mode(), self._runtime.on(self._stream):
            self._images[: len(images)].copy_(torch.from_numpy(images), non_blocking=True)
            self._start()
            found: NDArray[np.float32] = self._logits[: len(images)].to("cpu", copy=True).numpy()  # waits
        return found


class GpuEngine:
    """A network on a GPU: batch norm folded, channels last, half precision, a recorded batch for each lane.

    While one lane's batch is computed, the others are copied and prepared.

    Args:
        network: a trained network.
        shape: (M * c, side, side) of a picture.
        batch_size: cells that a lane takes at once.
        precision: ``float16``, ``bfloat16`` or ``float32``.
        runtime: the GPU.
        lanes: by default what torch's number of threads gives.

    Attributes:
        recorded: whether batches are started with one command.
    """

    of_crops = None

    def __init__(
        self,
        network: FusionNetwork,
        shape: tuple[int, int, int],
        batch_size: int,
        precision: str = "float16",
        *,
        runtime: Runtime,
        lanes: int | None = None,
    ) -> None:
        self.name = f"torch-{runtime.device.type}-{precision}"
        self.lanes = lanes or shared_threads(torch.get_num_threads())[0]
        self._runtime, self.batch_size = runtime, batch_size
        dtype = _DTYPES[precision]
        twin = fused_copy(network).to(device=runtime.device, dtype=dtype).to(memory_format=torch.channels_last)
        places = [_Lane(twin, (batch_size, *shape), dtype, runtime) for _ in range(self.lanes)]
        self.recorded = all(place.recorded for place in places)
        self._places: queue.SimpleQueue[_Lane] = queue.SimpleQueue()
        for place in places:
            self._places.put(place)

    def buffer(self, shape: tuple[int, int, int, int]) -> NDArray[np.float32]:
        """Room for a batch (B, M * c, side, side) that the GPU reads by itself."""
        room: NDArray[np.float32] = self._runtime.host(shape).numpy()
        return room

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (B, heads, K) of normalised pictures (B, M * c, side, side)."""
        place = self._places.get()
        try:
            starts = range(0, len(images), self.batch_size)
            return np.concatenate([place(images[start : start + self.batch_size]) for start in starts])
        finally:
            self._places.put(place)


def gpu_engine(
    network: FusionNetwork, shape: tuple[int, int, int], batch_size: int, runtime: Runtime | None = None
) -> TorchEngine | GpuEngine:
    """A GPU in float16 if that gives what the processor gives in float32, else in float32.

    Args:
        network: a trained network.
        shape: (M * c, side, side) of a picture.
        batch_size: cells at once.
        runtime: by default CUDA.
    """
    runtime = runtime or CudaRuntime()
    reference = TorchEngine(network, torch.device("cpu"))
    with contextlib.suppress(ConfigError, RuntimeError):  # it differs; memory or an operation is missing
        found = GpuEngine(network, shape, batch_size, "float16", runtime=runtime)
        check_agreement(found, reference, shape, AGREES["float16"])
        return found
    with contextlib.suppress(RuntimeError):
        return GpuEngine(network, shape, batch_size, "float32", runtime=runtime)
    return TorchEngine(network, runtime.device)
