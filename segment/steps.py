"""Who does a frame's dense steps: numpy, or a GPU where there is one and the camera is large.

Dense is what touches every pixel of a frame: block means, edges for the registration, their correlation, and the
smoothed picture in which nuclei are looked for. What follows is work on single cells and stays where it is.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from wbcpipe.errors import ConfigError
from wbcpipe.imaging.filters import smoothed_means
from wbcpipe.segment.registration.correlate import correlate_pairs
from wbcpipe.segment.registration.edges import frame_structure

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from wbcpipe.segment.registration.correlate import Surfaces

__all__ = ["NUMPY", "WORTH_A_GPU_PX", "FrameSteps", "frame_steps", "gpu_may_be_there"]

#: Frames of fewer pixels are not sent to a GPU unasked. A guess: on one core the dense steps take about 8 ms a million
#: pixels of four frames, and the way to a GPU and torch's start have their price; it was not measured on a GPU.
WORTH_A_GPU_PX: Final = 12_000_000
#: What NVIDIA's driver leaves where it runs; the last on Windows' Linux.
_DRIVER_FILES: Final = ("/dev/nvidiactl", "/proc/driver/nvidia/version", "/usr/lib/wsl/lib/libcuda.so.1")


class FrameSteps(Protocol):
    """The dense steps. Every way gives the same, to rounding."""

    @property
    def name(self) -> str:
        """Where they are computed: ``cpu`` or ``cuda``."""

    def smoothed(self, frame: NDArray[np.uint16], factor: int, sigma_px: float) -> NDArray[np.float32]:
        """As `filters.smoothed_means`."""

    def structure(self, frame: NDArray[np.uint16], factor: int, shading: NDArray[np.float32]) -> NDArray[np.float32]:
        """As `edges.frame_structure`."""

    def correlate(
        self, pictures: Sequence[NDArray[np.float32]], centres: NDArray[np.intp], half: int, search: int
    ) -> Surfaces:
        """As `correlate.correlate_pairs`."""


class _Numpy:
    """The dense steps on the CPU."""

    name: Final = "cpu"
    smoothed = staticmethod(smoothed_means)
    structure = staticmethod(frame_structure)
    correlate = staticmethod(correlate_pairs)


NUMPY: Final[FrameSteps] = _Numpy()


def gpu_may_be_there() -> bool:
    """Whether NVIDIA's driver is; told by its files, so that torch need not be loaded to hear that there is none."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in {"", "-1"}:
        return False
    if sys.platform == "win32":
        return (Path(os.environ.get("SYSTEMROOT", r"C:\Windows")) / "System32" / "nvcuda.dll").is_file()
    return any(Path(name).exists() for name in _DRIVER_FILES)


def frame_steps(device: str, frame_px: int, *, worker: bool = False) -> FrameSteps:
    """Who does the dense steps.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        frame_px: pixels of a frame; under ``auto`` a GPU is not asked for fewer than `WORTH_A_GPU_PX`.
        worker: one process of several that share the GPU: each is held to a part of its memory.

    Raises:
        ConfigError: ``cuda`` is asked for and there is none.
    """
    if device == "cpu" or (device == "auto" and (frame_px < WORTH_A_GPU_PX or not gpu_may_be_there())):
        return NUMPY
    from wbcpipe.segment import gpu

    if gpu.found():
        return gpu.TorchSteps("cuda", worker=worker)
    if device == "cuda":
        raise ConfigError("device 'cuda': torch finds no GPU here; use --device cpu, or install a CUDA build of torch.")
    return NUMPY
