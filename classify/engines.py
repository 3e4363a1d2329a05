"""Engines: what turns normalised pictures into logits, on the processor or on a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch

from wbcpipe.classify.networks.fuse import fused_copy
from wbcpipe.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wbcpipe.classify.bundle import Bundle
    from wbcpipe.classify.networks import FusionNetwork

__all__ = ["Engine", "TorchEngine", "engine_for", "fast_bfloat16", "pick_device"]


class Engine(Protocol):
    """A network ready for use.

    Attributes:
        name: for provenance, such as ``torch-cpu-float32``.
    """

    name: str

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (B, heads, K) of normalised pictures (B, M * c, side, side)."""
        ...


def pick_device(name: str) -> torch.device:
    """The device that ``auto``, ``cpu`` or ``cuda`` stands for here.

    Raises:
        ConfigError: ``cuda`` is asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device 'cuda': torch finds no GPU here; use --device cpu, or install a CUDA build of torch.")
    return torch.device(name)


def fast_bfloat16() -> bool:
    """True where the processor multiplies bfloat16 in hardware."""
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(probe is not None and probe())


class TorchEngine:
    """torch, with batch norm folded into the convolutions and channels last.

    Args:
        network: a trained network.
        device: where to run.
        precision: ``float32``; ``bfloat16`` for processors; ``float16`` (mixed) for GPUs.
    """

    def __init__(self, network: FusionNetwork, device: torch.device, precision: str = "float32") -> None:
        self.name = f"torch-{device.type}-{precision}"
        self._device = device
        self._dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self._mixed = precision == "float16"
        twin = fused_copy(network).to(device=device, dtype=self._dtype)
        self._network = twin.to(memory_format=torch.channels_last)

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (B, heads, K) of normalised pictures (B, M * c, side, side)."""
        with torch.inference_mode(), torch.autocast(self._device.type, torch.float16, enabled=self._mixed):
            batch = torch.from_numpy(images).to(
                device=self._device, dtype=self._dtype, memory_format=torch.channels_last
            )
            logits: torch.Tensor = self._network(batch)
            found: NDArray[Any] = logits.float().cpu().numpy()
        return found


def engine_for(bundle: Bundle, device: str = "auto") -> Engine:
    """The fastest engine here that calls as the bundle was validated.

    bfloat16 is used where the processor has it and the bundle's validation cells were all called alike by it.
    """
    place = pick_device(device)
    if place.type == "cuda":
        return TorchEngine(bundle.network(), place, "float16")
    alike = bundle.info.validation.get("bfloat16_agreement") == 1.0
    return TorchEngine(bundle.network(), place, "bfloat16" if alike and fast_bfloat16() else "float32")
