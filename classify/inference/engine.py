"""The protocol of an inference engine, and the engine that runs on torch.

An engine turns normalised images into logits. Several threads may call it at once, each with its
own batch: these are its streams. On a processor, parallel batches are faster than one batch on all
cores, because cores that share a batch wait for each other after every layer (see
`classify.inference.parallel_batches`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import torch

from wbcpipe.classify.models.classes import BATCH_SIZE
from wbcpipe.classify.networks import fused_copy
from wbcpipe.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wbcpipe.classify.networks import FusionNetwork
    from wbcpipe.system.compute import Device

__all__ = ["CropLogits", "Engine", "Precision", "TorchEngine", "pick_device", "share_threads"]

Precision = Literal["float32", "float16", "bfloat16"]
MAX_STREAMS: Final = 8
"""Each stream holds a batch and the activations of the network for it."""


class CropLogits(Protocol):
    """A network that normalises raw crops itself."""

    def __call__(
        self, crops: NDArray[np.uint16], gain: NDArray[np.float32], offset: NDArray[np.float32], /
    ) -> NDArray[np.float32]:
        """Return logits (B, heads, K) of crops (B, M * c, side, side) with gain and offset (B, M *
        c).
        """
        ...


class Engine(Protocol):
    """A network ready for inference.

    Attributes:
        name: for provenance, such as ``torch-cpu-float32``.
        streams: number of threads that may call at once.
        batch_size: the most efficient number of images per call; any number is accepted.
    """

    name: str
    streams: int
    batch_size: int

    @property
    def crop_logits(self) -> CropLogits | None:
        """The call that normalises raw crops with a gain and an offset (`normalise.scaled`); None
        if there is none.
        """
        ...

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits (B, heads, K) of normalised images (B, M * c, side, side)."""
        ...


def pick_device(name: Device | torch.device) -> torch.device:
    """Return the torch device for ``auto``, ``cpu`` or ``cuda``; a torch device stays as it is.

    Raises:
        ConfigError: ``cuda`` is requested and torch finds no GPU.
    """
    if isinstance(name, torch.device):
        return name
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device 'cuda': torch finds no GPU here; use --device cpu, or install a CUDA build of "
            "torch."
        )
    return torch.device(name)


def share_threads(threads: int) -> tuple[int, int]:
    """Return the number of streams, and of threads for each, that share some threads.

    >>> share_threads(2), share_threads(16), share_threads(20)
    ((2, 1), (8, 2), (6, 3))
    """
    each = -(-threads // MAX_STREAMS)
    return threads // each, each


class TorchEngine:
    """Inference with torch: batch norm folded into the convolutions, memory in channels-last order.

    A call uses as many threads as torch has in the calling thread: `parallel_batches` divides them.

    Args:
        network: a trained network.
        device: where to run.
        precision: ``float32``, or mixed precision for GPUs: ``float16`` or ``bfloat16``.
    """

    batch_size = BATCH_SIZE
    crop_logits = None

    def __init__(
        self, network: FusionNetwork, device: torch.device, precision: Precision = "float32"
    ) -> None:
        self.name = f"torch-{device.type}-{precision}"
        self.streams = share_threads(torch.get_num_threads())[0]
        self._device = device
        self._dtype: torch.dtype = getattr(torch, precision)
        self._network = fused_copy(network).to(device).to(memory_format=torch.channels_last)

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits (B, heads, K) of normalised images (B, M * c, side, side)."""
        mixed = self._dtype is not torch.float32
        with torch.inference_mode(), torch.autocast(self._device.type, self._dtype, enabled=mixed):
            batch = torch.from_numpy(images).to(self._device, memory_format=torch.channels_last)
            logits: torch.Tensor = self._network(batch)
            found: NDArray[Any] = logits.float().cpu().numpy()
        return found
