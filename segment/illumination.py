"""Estimate the light of one colour image, plane by plane, and find what lies outside of the lit
field.

Many cameras and condensers give each colour a vignette of its own: the middle of a field is bluish,
its edge pink. One background colour for such a field makes pink glass or a bluish red cell look
stained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import ndimage

from wbcpipe.imaging.arrays import block_mean, enlarge_grid
from wbcpipe.imaging.filters import dilation, disk
from wbcpipe.samples.segment_settings.stain import LightSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["illumination_surface", "unlit_mask"]

# Constants, no settings: resolution, degree and effort of the fit.
#: Pixels along the longer side of the grid.
_GRID_SIDE_PX: Final = 96
#: Total degree of the polynomial.
_DEGREE: Final = 4
_ROUNDS: Final = 20
#: Ridge of the fit, for terms that the background of an image does not determine.
_RIDGE: Final = 1e-9
_DEFAULT: Final = LightSettings()


def illumination_surface(
    planes: NDArray[np.uint16],
    unlit: NDArray[np.bool_] | None = None,
    settings: LightSettings = _DEFAULT,
) -> NDArray[np.float32]:
    """Estimate the background of each plane over the field: a smooth surface through its brightest
    parts.

    The surface is a polynomial of the logarithm of the light, fitted by iteratively reweighted
    least squares with weights that fall off quickly for pixels that absorb light: an upper
    envelope, of all planes at the same pixels.

    Args:
        planes: (3, Y, X) uint16, full range.
        unlit: (Y, X) pixels that are not of the field.
        settings: of the lit part.

    Returns:
        (3, rows, columns) float32 in (0, 1], on a grid of equal tiles.
    """
    factor = max(1, round(max(planes.shape[1:]) / _GRID_SIDE_PX))
    coarse = block_mean(planes, factor)
    lit = (coarse.max(0) > settings.dark_fraction * 65535).ravel()
    if unlit is not None:
        lit &= block_mean(unlit, factor).ravel() == 0
    logs = np.log10(np.maximum(coarse, 1) / 65535).reshape(3, -1)  # (3, n)
    if np.count_nonzero(lit) < 4 * (_DEGREE + 1) * (_DEGREE + 2):
        return np.ones((3, 1, 1), np.float32)
    design = _polynomial(coarse.shape[1:])
    used, seen = design[lit], logs[:, lit]
    weights = np.ones(len(used))
    ridge = _RIDGE * len(used) * np.eye(design.shape[1])
    for _ in range(_ROUNDS):
        weighted = (used * weights[:, None] ** 2).T
        solution = np.linalg.solve(weighted @ used + ridge, weighted @ seen.T)  # (terms, 3)
        above = (seen - (used @ solution).T).sum(0)
        near = weights > 0.3
        spread = 1.4826 * float(np.median(np.abs(above[near]))) if near.any() else 0.0
        spread = max(spread, settings.noise_od)
        absorbing = 1 / (1 + (np.maximum(-above, 0) / spread) ** 4)
        # Bright rims of refractile cells exceed the background.
        weights = np.where(
            above < 0, absorbing, 1 / (1 + (np.maximum(above - 3 * spread, 0) / spread) ** 2)
        )
    surface = 10 ** np.minimum(design @ solution, 0)
    return np.ascontiguousarray(surface.T.reshape(coarse.shape), np.float32)


def unlit_mask(
    planes: NDArray[np.uint16],
    surface: NDArray[np.float32],
    settings: LightSettings = _DEFAULT,
) -> NDArray[np.bool_]:
    """Find the pixels that show no specimen: a field stop or frame, and opaque marks such as a
    black scale bar.

    Args:
        planes: (3, Y, X) uint16, full range.
        surface: (3, rows, columns) of `illumination_surface`.
        settings: of the lit part.

    Returns:
        (Y, X) bool.
    """
    factor = max(1, round(max(planes.shape[1:]) / (4 * _GRID_SIDE_PX)))
    coarse = block_mean(planes, factor) / 65535
    light = np.stack([enlarge_grid(plane, coarse.shape[1:]) for plane in surface])
    clearest, dark = (
        (coarse / np.maximum(light, 1e-3)).max(0),
        coarse.max(0) < settings.dark_fraction,
    )
    opaque = dark | (clearest < 10**-settings.opaque_od)
    labels, count = ndimage.label(dark | (clearest < 10**-settings.stop_od))
    if count:
        touching = np.zeros(count + 1, bool)
        for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
            touching[edge] = True
        touching[0] = False
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        stop = (touching & (sizes >= settings.min_stop_fraction * labels.size))[labels]
        if stop.any():
            opaque |= dilation(stop, disk(max(1.0, settings.stop_edge_fraction * max(stop.shape))))
    rows, columns = planes.shape[1:]
    return np.repeat(np.repeat(opaque, factor, 0), factor, 1)[:rows, :columns]


def _polynomial(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the terms of the polynomial at the nodes of a grid, (rows * columns, terms)."""
    y, x = (np.linspace(-1, 1, side) for side in shape)
    powers = [(i, j) for i in range(_DEGREE + 1) for j in range(_DEGREE + 1 - i)]
    return np.stack([np.outer(y**i, x**j).ravel() for i, j in powers], -1)
