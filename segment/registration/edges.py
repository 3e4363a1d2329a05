"""Edges of a frame: what the modalities have in common, at the pixel size that registration works with.

Contrast turns over between modalities (a nucleus is bright in AO and dark in bright-field; a red cell absorbs at one
wavelength and only bends light at another), so edges are compared, not brightness: the gradient of the logarithm,
strong or weak.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from wbcpipe.imaging.arrays import block_mean, enlarge_grid, percentiles
from wbcpipe.imaging.filters import gaussian

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "EDGES",
    "coarse_factor",
    "coarse_frame",
    "frame_structure",
    "shadow_ceiling",
    "structure",
    "usual_edge",
]

_COARSE_UM: Final = 0.4
#: Root mean square length of the central-difference gradient of unit noise under a Gaussian of 0.8 px.
_EDGES_OF_NOISE: Final = 0.64


class EdgeRules(NamedTuple):
    """How `structure` makes edges of a frame.

    Attributes:
        levels_percent: percentiles of a frame that tell shadows, see `shadow_ceiling`.
        smooth_px: Gaussian, in coarse pixels, under which gradients are taken.
        steep_percent: this percentile of the gradients is steep.
        strong: share of that from which edges count alike.
        fine_px, wide_px: Gaussians whose difference is looked at.
    """

    levels_percent: tuple[float, float, float] = (1.0, 50.0, 99.9)
    smooth_px: float = 0.8
    steep_percent: float = 99.0
    strong: float = 0.3
    fine_px: float = 1.0
    wide_px: float = 4.0


EDGES: Final = EdgeRules()


def coarse_factor(pixel_um: float) -> int:
    """Frame pixels per pixel of `structure`."""
    return max(1, round(_COARSE_UM / pixel_um))


def coarse_frame(frame: NDArray[np.uint16], pixel_um: float) -> NDArray[np.float32]:
    """A frame (Y, X) uint16 at the pixel size registration works with, (y, x) float32."""
    return block_mean(frame, coarse_factor(pixel_um))


def structure(coarse: NDArray[np.float32], shading: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Edges of a frame, whatever its contrast, evened out.

    Args:
        coarse: (y, x) float32 from `coarse_frame`.
        shading: (rows, columns) float32 grid of the illumination; a quadratic fitted to the frame if ``None``. Uneven
            light left in would strengthen one side of every cell and so pretend a change of scale.

    Returns:
        (y, x) float32.
    """
    logarithm = np.log(np.maximum(coarse, 1))
    logarithm -= _quadratic(logarithm) if shading is None else enlarge_grid(np.log(shading), coarse.shape)
    noise = _noise(logarithm)
    dark, level, bright = percentiles(logarithm[::2, ::2], *EDGES.levels_percent)
    ceiling = shadow_ceiling(dark, level, bright, noise)
    if ceiling is not None:
        logarithm = np.minimum(logarithm, np.float32(ceiling))
    smooth = gaussian(logarithm, EDGES.smooth_px)
    down, across = smooth[2:, 1:-1] - smooth[:-2, 1:-1], smooth[1:-1, 2:] - smooth[1:-1, :-2]
    square = np.zeros_like(smooth)
    square[1:-1, 1:-1] = down * down + across * across
    # Strong edges count alike. Nothing here looks at the neighbourhood: it would shift edges towards empty regions.
    usual = usual_edge(float(np.sqrt(percentiles(square[::2, ::2], EDGES.steep_percent)[0])), noise)
    fine = gaussian(square / (square + np.float32(usual**2)), EDGES.fine_px)
    return fine - gaussian(fine, EDGES.wide_px)


def frame_structure(frame: NDArray[np.uint16], factor: int, shading: NDArray[np.float32]) -> NDArray[np.float32]:
    """The `structure` (y, x) of a frame (Y, X) at ``factor`` times its pixel size."""
    return structure(block_mean(frame, factor), shading)


def shadow_ceiling(dark: float, level: float, bright: float, noise: float) -> float | None:
    """Where a fluorescence frame is cut off, so that it shows its shadows only; ``None`` for any other frame.

    Red cells shade the glow of free dye: dark disks, as in bright-field. A white cell glows unevenly, so its outline
    seems displaced towards its nucleus.

    Args:
        dark, level, bright: the percentiles ``EDGES.levels_percent`` of the frame's logarithm.
        noise: standard deviation of that.
    """
    return level + 0.02 if bright - level > 0.5 and level - dark > max(0.05, 4 * noise) else None


def usual_edge(steep: float, noise: float) -> float:
    """The gradient from which edges count alike, given that of the steepest and the noise."""
    return EDGES.strong * steep + 2 * _EDGES_OF_NOISE * noise + 1e-9


def _noise(values: NDArray[np.float32]) -> float:
    """Standard deviation of the noise of (y, x) values, from one row in four.

    J. Immerkaer, Comput. Vis. Image Underst. 64 (1996) 300, doi:10.1006/cviu.1996.0060, with a median for the mean.
    """
    rows = len(values) - 2
    down = values[:rows:4] - 2 * values[1 : 1 + rows : 4] + values[2 : 2 + rows : 4]
    laplacian = down[:, 2:] - 2 * down[:, 1:-1] + down[:, :-2]
    return 1.4826 / 6 * percentiles(np.abs(laplacian), 50)[0]


def _quadratic(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Robust quadratic surface through (y, x) values: what is far off (cells) counts little."""
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in values.shape)
    y, x = y[:, None], x[None, :]
    terms = np.stack([np.broadcast_to(term, values.shape) for term in (np.ones_like(y), y, x, y * y, y * x, x * x)], -1)
    step = max(1, min(values.shape) // 64)
    design, sample = terms[::step, ::step].reshape(-1, 6), values[::step, ::step].ravel()
    weight = np.ones_like(sample)
    for _ in range(6):
        rows = (design * weight[:, None]).T
        coefficients = np.linalg.solve(rows @ design + 1e-6 * np.eye(6), rows @ sample)
        residual = np.abs(sample - design @ coefficients)
        weight = 1 / (1 + (residual / (1.5 * np.median(residual) + 1e-6)) ** 2)
    return np.asarray(terms @ coefficients.astype(np.float32), np.float32)
