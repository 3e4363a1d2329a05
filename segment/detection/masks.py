"""Mask nucleus and cytoplasm of the cell in the middle of a crop.

The nucleus follows from the nuclear channel by a threshold. The cell's outline is a watershed on
the gradient of the bright-field frames. It floods outward from the nucleus, and inward from the
empty background, from neighbours and from all pixels beyond the reach of cytoplasm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from wbcpipe.imaging.arrays import block_mean, bounding_box, otsu_threshold, percentiles
from wbcpipe.imaging.filters import diamond, dilation, disk, gaussian, opening
from wbcpipe.imaging.holes import fill_holes
from wbcpipe.samples.segment_settings.masks import MaskSettings
from wbcpipe.segment.detection.mask_exclusions import above_background, background_and_red_cell_mask
from wbcpipe.segment.detection.separate import split_at_necks

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CYTOPLASM", "NUCLEUS", "CropNuclei", "cell_mask", "nucleus_mask"]

CYTOPLASM: Final = 1
NUCLEUS: Final = 2
_DEFAULT: Final = MaskSettings()


@dataclass(frozen=True)
class CropNuclei:
    """The detected nuclei in a crop.

    Attributes:
        own: (Y, X) bool, nucleus of this cell, with an approximate outline: selects its lobes.
        others: (Y, X) bool, nuclei of neighbouring cells; they are excluded.
    """

    own: NDArray[np.bool_] | None = None
    others: NDArray[np.bool_] | None = None


def cell_mask(
    nuclear: NDArray[np.uint16],
    brightfield: NDArray[np.uint16],
    pixel_um: float,
    *,
    nuclei: CropNuclei | None = None,
    empty: NDArray[np.floating[Any]] | None = None,
    settings: MaskSettings = _DEFAULT,
) -> NDArray[np.uint8]:
    """Mask the cell in the middle of a crop.

    Args:
        nuclear: (Y, X) uint16, nuclei bright on dark.
        brightfield: (C, Y, X) uint16, registered to ``nuclear``; C may be 0.
        pixel_um: size of a pixel.
        nuclei: as detected; found in the crop if ``None``.
        empty: (C,) value of ``brightfield`` in the empty background; measured in the crop if
            ``None``, or NaN.
        settings: of the outlines.

    Returns:
        (Y, X) uint8: 0 background, 1 cytoplasm, 2 nucleus.
    """
    own, others = (None, None) if nuclei is None else (nuclei.own, nuclei.others)
    factor = max(1, round(settings.mask_pixel_um / pixel_um))
    coarse_um = pixel_um * factor
    small, *bright = block_mean(np.concatenate([nuclear[None], brightfield]), factor)
    neighbours = (
        block_mean(others, factor) > 0.5 if others is not None else np.zeros(small.shape, bool)
    )
    own_small = None if own is None else block_mean(own, factor) > 0.5
    nucleus = nucleus_mask(small, coarse_um, neighbours, own_small, settings)
    if not nucleus.any():
        return np.zeros(nuclear.shape, np.uint8)
    # The square root raises faint cytoplasm next to a bright nucleus.
    frames = np.stack([np.sqrt(small), *bright])
    background = np.full(len(brightfield), np.nan) if empty is None else np.asarray(empty, float)
    if np.isnan(background).any():
        background = np.where(
            np.isnan(background), np.percentile(frames[1:], 95, axis=(1, 2)), background
        )
    others = neighbours & ~nucleus
    cell = _outline(frames, nucleus, others, coarse_um, background.astype(np.float32), settings)
    mask = np.where(nucleus & cell, NUCLEUS, np.where(cell, CYTOPLASM, 0)).astype(np.uint8)
    return _enlarge(mask, factor, nuclear.shape)


def nucleus_mask(
    nuclear: NDArray[np.float32],
    pixel_um: float,
    others: NDArray[np.bool_] | None = None,
    own: NDArray[np.bool_] | None = None,
    settings: MaskSettings = _DEFAULT,
) -> NDArray[np.bool_]:
    """Mask the nucleus of the cell in the middle: the most central lobe, those within reach of it,
    and ``own`` ones.

    Args:
        nuclear: (Y, X) float32, nuclei bright on dark.
        pixel_um: size of a pixel.
        others: (Y, X) nuclei of neighbours; they are excluded.
        own: (Y, X) nucleus of this cell as detected.
        settings: of the outlines.

    Returns:
        (Y, X) bool, all False where no pixel exceeds the threshold.
    """
    smooth = gaussian(nuclear, settings.nucleus_smooth_um / pixel_um)
    centre_um = _distance_from_middle(smooth.shape) * pixel_um
    inside = centre_um <= settings.cell_radius_um
    if others is not None:
        inside &= ~others
    if not inside.any() or np.ptp(smooth[inside]) <= 0:
        return np.zeros(smooth.shape, bool)
    above = np.asarray((smooth > _nuclear_threshold(smooth[inside])) & inside, bool)
    above = fill_holes(above, settings.max_hole_um2 / pixel_um**2)
    wide = opening(above, disk(max(1.0, settings.min_lobe_radius_um / pixel_um)))
    bright = wide if wide.any() else above
    labels, count = ndimage.label(bright)
    if not count:
        return bright
    kept = np.zeros(count + 1, bool)
    kept[_own_lobes(labels, count, centre_um, pixel_um, own, settings)] = True
    return fill_holes(kept[labels], settings.max_hole_um2 / pixel_um**2)


def _nuclear_threshold(values: NDArray[np.float32]) -> float:
    """Return Otsu's threshold, lowered where dense clumps raise it, but above half of the nucleus'
    level.
    """
    plain = otsu_threshold(values)
    above = values > plain
    nucleus, rest = percentiles(values[above], 50)[0], percentiles(values[~above], 50)[0]
    limited = otsu_threshold(np.minimum(values, np.float32(nucleus)))
    return min(plain, max(limited, (nucleus + rest) / 2))


def _own_lobes(
    labels: NDArray[np.integer[Any]],
    count: int,
    centre_um: NDArray[np.float64],
    pixel_um: float,
    own: NDArray[np.bool_] | None,
    settings: MaskSettings,
) -> list[int]:
    """Return those of the labels 1 to ``count`` (Y, X) that are lobes of the nucleus in the
    middle.
    """
    pixel_index = np.flatnonzero(labels)
    label, distance_um = labels.ravel()[pixel_index], centre_um.ravel()[pixel_index]
    pixels = np.bincount(label, minlength=count + 1)
    areas = pixels * pixel_um**2
    nearest, furthest = np.full(count + 1, np.inf), np.zeros(count + 1)
    np.minimum.at(nearest, label, distance_um)
    np.maximum.at(furthest, label, distance_um)
    # The main lobe is large and near the middle.
    main = 1 + int(np.argmax((areas * np.exp(-nearest / 2.0))[1:]))
    near = [main]
    if count > 1:
        reached = labels[dilation(labels == main, disk(settings.lobe_gap_um / pixel_um))]
        near = np.flatnonzero(np.bincount(reached, minlength=count + 1)).tolist()
        if own is not None:
            # Further away than filaments reach, but in the detected nucleus.
            found = np.bincount(labels[own], minlength=count + 1)
            near = sorted({*near, *np.flatnonzero(2 * found > pixels).tolist()})
    near = [k for k in near if k and areas[k] >= settings.min_lobe_um2]
    # A lobe that extends beyond the circle is a neighbour's.
    within = [k for k in near if k == main or furthest[k] < settings.cell_radius_um - pixel_um]
    means = np.bincount(label, distance_um, count + 1) / np.maximum(pixels, 1)
    reach_um = settings.lobe_centre_fraction * settings.cell_radius_um
    return [k for k in within if means[k] <= reach_um]


def _outline(
    frames: NDArray[np.float32],
    nucleus: NDArray[np.bool_],
    others: NDArray[np.bool_],
    pixel_um: float,
    empty_level: NDArray[np.float32],
    settings: MaskSettings,
) -> NDArray[np.bool_]:
    """Mask the cell around ``nucleus`` (Y, X) on the coarse ``frames`` (C + 1, Y, X)."""
    ends = np.array([percentiles(plane, 5, 95) for plane in frames], np.float32)  # (C + 1, 2)
    spread = np.maximum(ends[:, 1] - ends[:, 0], np.float32(1.0))
    gradient = _edges(gaussian(frames / spread[:, None, None], settings.edge_smooth_um / pixel_um))
    empty = np.full(nucleus.shape, len(frames) > 1)
    for plane, high, one in zip(frames[1:], ends[1:, 1], spread[1:], strict=True):
        empty &= plane > high - np.float32(settings.empty_fraction) * one
    distance_um = np.asarray(ndimage.distance_transform_edt(~nucleus), np.float32) * np.float32(
        pixel_um
    )
    reach_um = min(
        settings.cytoplasm_reach_um,
        max(1.5, 2 * settings.cell_radius_um - 2.0 * np.sqrt(nucleus.sum() * pixel_um**2 / np.pi)),
    )
    # The nuclear envelope is the steepest edge: the cell starts just outside of it.
    core = distance_um <= settings.core_um
    density = np.log10(
        np.maximum(empty_level, 1)[:, None, None] / np.maximum(frames[1:], 1)
    ).astype(np.float32)
    around = settings.surroundings
    stained = above_background(frames[0] ** 2, density, distance_um, pixel_um, others, around)
    empty &= ~stained
    excluded = background_and_red_cell_mask(density, distance_um, pixel_um, others, stained, around)
    outside = (distance_um > reach_um) | ((excluded | empty) & ~core) | others
    markers = np.where(outside, 2, 0)
    markers[core & ~others] = 1
    # The edge of the nucleus must not stop the watershed.
    gradient *= np.minimum(distance_um / np.float32(settings.nuclear_edge_um), 1) ** 2
    cell = _watershed(gradient, markers) == 1
    filled = fill_holes(
        opening(cell, diamond(max(1, round(settings.smooth_outline_um / pixel_um)))) | core
    )
    # A touching red cell is connected by a neck, and has no part of the nucleus.
    parts = split_at_necks(filled, pixel_um, settings.max_neck_ratio, settings.min_part_radius_um)
    nuclear = np.bincount(parts.ravel(), nucleus.ravel())
    nuclear[0] = 0
    own = nuclear > 0.1 * np.bincount(parts.ravel())
    # A touching platelet has granules that look like a small lobe.
    own &= nuclear >= settings.min_nuclear_fraction * nuclear.max()
    own[0] = False
    return np.asarray(own[parts], bool)


def _edges(smooth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the sum (Y, X) of the Sobel gradient magnitudes of planes (C, Y, X).

    The border is repeated.
    """
    wide = np.pad(smooth, ((0, 0), (1, 1), (1, 1)), mode="edge")
    down, across = wide[:, 2:] - wide[:, :-2], wide[:, :, 2:] - wide[:, :, :-2]
    down = down[:, :, :-2] + 2 * down[:, :, 1:-1] + down[:, :, 2:]
    across = across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]
    return np.asarray(np.sqrt(down * down + across * across).sum(0), np.float32)


def _watershed(height: NDArray[np.float32], markers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the watershed, computed where no marker is: of the markers only those at the rim
    matter.
    """
    labels, rest = markers.copy(), markers == 0
    if rest.any():
        box = bounding_box(rest, 1)
        inner = rest[box]
        near = dilation(inner, diamond(1))
        labels[box][inner] = watershed(height[box], markers[box], mask=near)[inner]  # type: ignore[no-untyped-call]
    return labels


@lru_cache(maxsize=8)
def _distance_from_middle(shape: tuple[int, int]) -> NDArray[np.float64]:
    y, x = np.ogrid[: shape[0], : shape[1]]
    return np.asarray(np.hypot(y - (shape[0] - 1) / 2, x - (shape[1] - 1) / 2))


def _enlarge(mask: NDArray[np.uint8], factor: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Enlarge a mask by an integer factor, with outlines smoothed class by class."""
    if factor == 1:
        return mask
    outline = np.zeros(shape, np.uint8)
    side = 2 * factor - 1
    for value in (CYTOPLASM, NUCLEUS):
        area = (mask >= value).astype(np.uint16)
        big = np.repeat(np.repeat(area, factor, 0), factor, 1)[: shape[0], : shape[1]]
        big = np.pad(big, factor - 1, mode="edge")
        # The number of pixels of the class in a window ``side`` wide.
        rows, counts = np.zeros((shape[0], big.shape[1]), np.uint16), np.zeros(shape, np.uint16)
        for k in range(side):
            rows += big[k : k + shape[0]]
        for k in range(side):
            counts += rows[:, k : k + shape[1]]
        outline[2 * counts > side**2] = value
    return outline
