"""Edge maps: what the modalities of a field have in common, at the pixel size of registration.

Contrast is inverted between modalities (a nucleus is bright in AO and dark in bright field; a red
cell absorbs at one wavelength and only refracts light at another), so edges are compared, not
brightness: the gradient of the logarithm, strong or weak.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from wbcpipe.imaging.arrays import block_mean, enlarge_grid, percentiles
from wbcpipe.imaging.filters import gaussian
from wbcpipe.samples.segment_settings.registration import RegistrationSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["coarse_factor", "coarse_frame", "edge_map"]

# Constants, no settings: figures of the Gaussians, in pixels of the edge map.
#: Root mean square length of the central-difference gradient of unit noise under `_SMOOTH_PX`.
_NOISE_GRADIENT: Final = 0.64
#: Percentiles of a frame that show whether it has shadows, see `_shadow_ceiling`.
_LEVELS_PERCENT: Final = (1.0, 50.0, 99.9)
#: Natural logarithm by which the ceiling lies above the free dye.
_ABOVE_LEVEL: Final = 0.02
#: Gaussian, in coarse pixels, under which gradients are taken.
_SMOOTH_PX: Final = 0.8
#: Percentile of the gradient that is a steep edge.
_STEEP_PERCENT: Final = 99.0
#: The two Gaussians, in coarse pixels, whose difference is the edge map.
_FINE_PX: Final = 1.0
_WIDE_PX: Final = 4.0
_DEFAULT: Final = RegistrationSettings()


def coarse_factor(pixel_um: float, settings: RegistrationSettings = _DEFAULT) -> int:
    """Return the number of frame pixels per pixel of an edge map."""
    return max(1, round(settings.edge_pixel_um / pixel_um))


def coarse_frame(
    frame: NDArray[np.uint16], pixel_um: float, settings: RegistrationSettings = _DEFAULT
) -> NDArray[np.float32]:
    """Return a frame (Y, X) uint16 at the pixel size of registration, (y, x) float32."""
    return block_mean(frame, coarse_factor(pixel_um, settings))


def edge_map(
    coarse: NDArray[np.float32],
    shading: NDArray[np.float32],
    settings: RegistrationSettings = _DEFAULT,
) -> NDArray[np.float32]:
    """Return the edges of a frame, whatever its contrast, equalised.

    Args:
        coarse: (y, x) float32 from `coarse_frame`.
        shading: (rows, columns) float32 grid of the illumination. Uneven light that is left would
            strengthen one side of every cell and so suggest a change of scale.
        settings: what is an edge.

    Returns:
        (y, x) float32.
    """
    logarithm = np.log(np.maximum(coarse, 1))
    logarithm -= enlarge_grid(np.log(shading), coarse.shape)
    noise = _noise(logarithm)
    ceiling = _shadow_ceiling(logarithm, noise, settings)
    if ceiling is not None:
        logarithm = np.minimum(logarithm, np.float32(ceiling))
    smooth = gaussian(logarithm, _SMOOTH_PX)
    down, across = smooth[2:, 1:-1] - smooth[:-2, 1:-1], smooth[1:-1, 2:] - smooth[1:-1, :-2]
    square = np.zeros_like(smooth)
    square[1:-1, 1:-1] = down * down + across * across
    # Strong edges count alike. The threshold is global: a local one would shift edges towards empty
    # regions.
    steep = float(np.sqrt(percentiles(square[::2, ::2], _STEEP_PERCENT)[0]))
    saturation = settings.steep_fraction * steep + 2 * _NOISE_GRADIENT * noise + 1e-9
    fine = gaussian(square / (square + np.float32(saturation**2)), _FINE_PX)
    return fine - gaussian(fine, _WIDE_PX)


def _shadow_ceiling(
    logarithm: NDArray[np.float32], noise: float, settings: RegistrationSettings
) -> float | None:
    """Return where to cut off a fluorescence frame so that only its shadows are left; ``None`` for
    any other frame.

    Red cells shade the glow of free dye: dark disks, as in bright field. A white cell glows
    unevenly, so its outline seems displaced towards its nucleus.
    """
    dark, level, bright = percentiles(logarithm[::2, ::2], *_LEVELS_PERCENT)
    glows = bright - level > settings.glow_ln
    shaded = level - dark > max(settings.shadow_ln, 4 * noise)
    return level + _ABOVE_LEVEL if glows and shaded else None


def _noise(values: NDArray[np.float32]) -> float:
    """Return the standard deviation of the noise of (y, x) values, from one row in four.

    J. Immerkaer, Comput. Vis. Image Underst. 64 (1996) 300, doi:10.1006/cviu.1996.0060, with a
    median for the mean.
    """
    rows = len(values) - 2
    down = values[:rows:4] - 2 * values[1 : 1 + rows : 4] + values[2 : 2 + rows : 4]
    laplacian = down[:, 2:] - 2 * down[:, 1:-1] + down[:, :-2]
    return 1.4826 / 6 * percentiles(np.abs(laplacian), 50)[0]
