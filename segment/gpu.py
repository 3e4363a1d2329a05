"""The dense steps of a frame by torch, for a GPU; on the CPU the same code runs in tests.

The only module of this stage that imports torch, itself imported where a GPU is to be used (docs/decisions/0010). Sums
of shifted rows, sorting and FFTs only: no matrix product, whose precision a setting of torch made elsewhere could
change.
"""

from __future__ import annotations

import sys
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from scipy.fft import next_fast_len

from wbcpipe.imaging.arrays import enlarge_grid
from wbcpipe.imaging.filters import gaussian_taps, smoothed_means
from wbcpipe.segment.registration.correlate import correlate_pairs, window_side
from wbcpipe.segment.registration.edges import EDGES, frame_structure, shadow_ceiling, usual_edge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from wbcpipe.segment.registration.correlate import Surfaces

__all__ = ["TorchSteps", "found"]

#: Pixels that go to the GPU at a time: what a frame takes there (some 100 MB) does not grow with the camera.
_STRIP_PX: Final = 8_000_000
#: GPU memory of one process of several.
_WORKER_BYTES: Final = 2**30


def found() -> bool:
    """Whether torch finds a GPU that it can use."""
    return torch.cuda.is_available()


class TorchSteps:
    """See `steps.FrameSteps`. Where the GPU's memory is full numpy does the step, and the night goes on.

    Args:
        device: ``cuda``; ``cpu`` in tests.
        worker: hold this process to a part of the GPU's memory.
    """

    def __init__(self, device: str, *, worker: bool = False) -> None:
        self._device = torch.device(device)
        self.name = f"torch-{device}"
        self._told = False
        if worker and self._device.type == "cuda":
            total = torch.cuda.get_device_properties(self._device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, _WORKER_BYTES / total))

    def smoothed(self, frame: NDArray[np.uint16], factor: int, sigma_px: float) -> NDArray[np.float32]:
        """Block means of a frame (Y, X) under a Gaussian, (y, x)."""
        try:
            with torch.inference_mode():
                return _taken(_gaussian(self._means(frame, factor), sigma_px))
        except torch.OutOfMemoryError:
            self._tell()
            return smoothed_means(frame, factor, sigma_px)

    def structure(self, frame: NDArray[np.uint16], factor: int, shading: NDArray[np.float32]) -> NDArray[np.float32]:
        """Edges of a frame (Y, X), (y, x)."""
        try:
            with torch.inference_mode():
                return _taken(self._structure(frame, factor, shading))
        except torch.OutOfMemoryError:
            self._tell()
            return frame_structure(frame, factor, shading)

    def correlate(
        self, pictures: Sequence[NDArray[np.float32]], centres: NDArray[np.intp], half: int, search: int
    ) -> Surfaces:
        """Correlation surfaces of every pair of pictures, tile by tile."""
        try:
            with torch.inference_mode():
                return self._correlate(pictures, centres, half, search)
        except torch.OutOfMemoryError:
            self._tell()
            return correlate_pairs(pictures, centres, half, search)

    def _tell(self) -> None:
        if not self._told:
            print("the GPU has no memory left: the CPU takes over (--device cpu asks for that)", file=sys.stderr)
        self._told = True

    def _here(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.require(values, requirements=["C", "W"])).to(self._device)

    def _means(self, frame: NDArray[np.uint16], factor: int) -> Tensor:
        """As `arrays.shrink`, a strip at a time."""
        height, width = frame.shape
        columns = torch.arange(-(-width // factor) * factor, device=self._device).clamp(max=width - 1)
        step = max(1, _STRIP_PX // width // factor) * factor
        parts = []
        for top in range(0, height, step):
            # Torch knows few operations on unsigned 16 bits.
            strip = (self._here(frame[top : top + step].view(np.int16)).int() & 0xFFFF).float()
            rows = torch.arange(-(-len(strip) // factor) * factor, device=self._device).clamp(max=len(strip) - 1)
            if len(rows) != len(strip):
                strip = strip[rows]
            if len(columns) != width:
                strip = strip[:, columns]
            blocks = strip.view(len(rows) // factor, factor, len(columns) // factor, factor)
            parts.append(blocks.sum((1, 3)) / factor**2)
        return torch.cat(parts)

    def _structure(self, frame: NDArray[np.uint16], factor: int, shading: NDArray[np.float32]) -> Tensor:
        """As `edges.structure`, step by step."""
        coarse = self._means(frame, factor)
        logarithm = coarse.clamp(min=1).log() - self._here(enlarge_grid(np.log(shading), tuple(coarse.shape)))
        rows = len(logarithm) - 2
        down = logarithm[:rows:4] - 2 * logarithm[1 : 1 + rows : 4] + logarithm[2 : 2 + rows : 4]
        laplacian = (down[:, 2:] - 2 * down[:, 1:-1] + down[:, :-2]).abs()
        noise = 1.4826 / 6 * _percentiles(laplacian, 50)[0]
        dark, level, bright = _percentiles(logarithm[::2, ::2], *EDGES.levels_percent)
        ceiling = shadow_ceiling(dark, level, bright, noise)
        smooth = _gaussian(logarithm if ceiling is None else logarithm.clamp(max=ceiling), EDGES.smooth_px)
        square = torch.zeros_like(smooth)
        square[1:-1, 1:-1] = (smooth[2:, 1:-1] - smooth[:-2, 1:-1]) ** 2 + (smooth[1:-1, 2:] - smooth[1:-1, :-2]) ** 2
        steep = float(np.sqrt(_percentiles(square[::2, ::2], EDGES.steep_percent)[0]))
        usual = usual_edge(steep, noise)
        fine = _gaussian(square / (square + usual**2), EDGES.fine_px)
        return fine - _gaussian(fine, EDGES.wide_px)

    def _correlate(
        self, pictures: Sequence[NDArray[np.float32]], centres: NDArray[np.intp], half: int, search: int
    ) -> Surfaces:
        """As `correlate.correlate_pairs`, by FFTs throughout."""
        wide, lags = half + search, 2 * search + 1
        side = next_fast_len(2 * wide, real=True)
        taper = self._here(window_side(half))
        window = taper[:, None] * taper
        flat = torch.fft.rfft2(window, (side, side))

        def laid_on(template: Tensor, scene: Tensor) -> Tensor:
            surfaces: Tensor = torch.fft.irfft2(template.conj() * scene, (side, side))
            return surfaces[:, :lags, :lags]

        templates, scenes, spreads, sizes = [], [], [], []
        for picture in map(self._here, pictures):
            scene = torch.stack([picture[y - wide : y + wide, x - wide : x + wide] for y, x in centres.tolist()])
            tiles = scene[:, search:-search, search:-search]
            tiles = window * (tiles - (window * tiles).sum((1, 2), keepdim=True) / window.sum())
            scene = scene - scene.mean((1, 2), keepdim=True)
            templates.append(torch.fft.rfft2(tiles, (side, side)))
            scenes.append(torch.fft.rfft2(scene, (side, side)))
            square = laid_on(flat, torch.fft.rfft2(scene * scene, (side, side)))
            variance = square - laid_on(flat, scenes[-1]) ** 2 / window.sum()
            spreads.append(torch.maximum(variance, 1e-3 * square.mean((1, 2), keepdim=True) + 1e-12).sqrt())
            sizes.append(((tiles * tiles / window.clamp(min=1e-6)).sum((1, 2)) + 1e-12).sqrt())
        surfaces = {}
        for i, j in combinations(range(len(pictures)), 2):
            surface = laid_on(templates[i], scenes[j]) / (spreads[j] * sizes[i][:, None, None])
            weight = sizes[i] * sizes[j]
            surfaces[i, j] = _taken(surface.clamp(-1, 1)), _taken(weight / weight.sum())
        return surfaces


def _taken(values: Tensor) -> NDArray[np.float32]:
    return np.asarray(values.cpu().numpy(), np.float32)


def _gaussian(values: Tensor, sigma_px: float) -> Tensor:
    """As `filters.gaussian` of a picture (Y, X)."""
    taps = gaussian_taps(sigma_px).tolist()
    reach = len(taps) // 2
    for axis in (0, 1):
        length = values.shape[axis]
        places = torch.arange(-reach, length + reach, device=values.device) % (2 * length)
        wide = values.index_select(axis, torch.minimum(places, 2 * length - 1 - places))
        values = sum((tap * wide.narrow(axis, k, length) for k, tap in enumerate(taps)), torch.zeros_like(values))
    return values


def _percentiles(values: Tensor, *percent: float) -> list[float]:
    """As `arrays.percentiles`."""
    ordered = values.flatten().sort().values
    found = []
    for one in percent:
        place = (len(ordered) - 1) * one / 100
        low, high = ordered[[int(place), min(int(place) + 1, len(ordered) - 1)]].tolist()
        found.append(low + (place - int(place)) * (high - low))
    return found
