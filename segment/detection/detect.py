"""Find the nucleated cells of a field in its nuclear channel.

There are two thresholds, relative to the brightness of nuclei: only nuclei exceed the high one; the
cell's body exceeds the low one, because Acridine Orange stains cytoplasm faintly, and so does a
Giemsa stain. A body is one cell, with any number of nuclear lobes; a body with a neck is two
touching cells. Platelets and debris have no nucleus of a cell's size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from scipy import ndimage

from wbcpipe.imaging.arrays import block_mean, enlarge_grid, percentiles
from wbcpipe.imaging.filters import dilation, disk, erosion, gaussian, opening
from wbcpipe.imaging.holes import fill_holes
from wbcpipe.samples.cell_columns import QcFlag
from wbcpipe.samples.segment_settings.detection import DetectionSettings
from wbcpipe.segment.detection.clumps import find_clumps
from wbcpipe.segment.detection.separate import merge_lobes, split_at_necks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.samples.segment_settings.detection import ClumpSettings, NucleusSettings

__all__ = ["Detections", "NuclearKind", "cells_from_labels", "detect_cells", "nuclear_level"]

NuclearKind = Literal["fluorescence", "stained"]
_DEFAULT: Final = DetectionSettings()

# Constants, no settings: a figure of the Gaussian, and the margins that restore what an opening
# with `NucleusSettings.solid_um` removes.
#: Distance of the percentiles 5 and 25 of a Gaussian, in standard deviations.
_GAUSSIAN_5_TO_25: Final = 0.9704
#: Distance from a nucleus's thick parts within which its thin parts lie.
_SOLID_MARGIN_UM: Final = 1.0
#: Filaments between lobes reach so far from them.
_THIN_REACH_UM: Final = 2.0
#: Thick parts: minimum share of a nucleus, and area.
_MIN_SOLID_SHARE: Final = 0.5
_MIN_SOLID_UM2: Final = 8.0


@dataclass(frozen=True)
class Detections:
    """The N cells of a field, in order of their position (row, then column).

    Attributes:
        y_px: (N,) float64 centre of the cell's body, in pixels of the image.
        x_px: (N,) float64.
        area_um2: (N,) float64 of the body.
        nucleus_area_um2: (N,) float64.
        quality: (N,) uint16, bits BORDER, DOUBLET, DEBRIS, CLUMP of ``QcFlag``.
        labels: (y, x) int32 at ``factor`` times the image's pixel size: 1 to N in the bodies of the
            cells.
        nuclei: (y, x) bool of the same shape.
        factor: image pixels per coarse pixel.
        level: the nuclear level used.
        unassigned_um2: area as bright as nuclei that belongs to no cell, or to debris.
    """

    y_px: NDArray[np.float64]
    x_px: NDArray[np.float64]
    area_um2: NDArray[np.float64]
    nucleus_area_um2: NDArray[np.float64]
    quality: NDArray[np.uint16]
    labels: NDArray[np.int32]
    nuclei: NDArray[np.bool_]
    factor: int
    level: float
    unassigned_um2: float

    def __len__(self) -> int:
        return len(self.y_px)


@dataclass(frozen=True)
class _CoarseChannel:
    """The nuclear channel of an image at coarse pixels.

    Attributes:
        signal: (y, x) float32, without background.
        noise: standard deviation of the background.
        factor: image pixels per coarse pixel.
        coarse_um: size of a coarse pixel.
        image_shape: (Y, X) of the image.
    """

    signal: NDArray[np.float32]
    noise: float
    factor: int
    coarse_um: float
    image_shape: tuple[int, ...]

    def shows_nuclei(self, level: float, rules: NucleusSettings) -> bool:
        """Return whether nuclei of this level exceed the background."""
        return level >= max(rules.min_level, rules.min_contrast * self.noise)


def detect_cells(
    nuclear: NDArray[Any],
    pixel_um: float,
    kind: NuclearKind,
    *,
    level: float | None = None,
    settings: DetectionSettings = _DEFAULT,
) -> Detections:
    """Find the nucleated cells.

    Args:
        nuclear: (Y, X) any number type, nuclei bright on dark.
        pixel_um: size of a pixel.
        kind: of the channel.
        level: brightness of nuclei above background; measured in this image if ``None``.
        settings: which objects are cells.

    Returns:
        The cells; none where no object is as bright as a nucleus.
    """
    rules = _rules(settings, kind)
    channel = _coarse_channel(nuclear, pixel_um, rules)
    signal, coarse_um = channel.signal, channel.coarse_um
    level = _level(channel, rules) if level is None else level
    if not channel.shows_nuclei(level, rules):
        none = np.zeros(signal.shape, np.int32)
        return _measure(none, none > 0, channel, level, rules, settings.clumps)
    nuclei = opening(
        signal > np.float32(rules.nucleus_fraction * level),
        _disk(rules.speckle_radius_um / coarse_um),
    )
    if rules.solid_um:
        nuclei = _solid(nuclei, coarse_um, rules)
    body = signal > np.float32(max(rules.body_fraction * level, rules.noise_factor * channel.noise))
    if rules.reach_um:
        body &= dilation(nuclei, disk(rules.reach_um / coarse_um))
    body |= nuclei
    parts = _label_cells(body, nuclei, coarse_um, rules)
    return _measure(parts, nuclei, channel, level, rules, settings.clumps)


def cells_from_labels(
    labels: NDArray[np.int32],
    nuclear: NDArray[Any],
    pixel_um: float,
    kind: NuclearKind,
    *,
    level: float | None = None,
    settings: DetectionSettings = _DEFAULT,
) -> Detections:
    """Turn the labels of another detector, of nuclei or cells, into cells: merge lobes, measure and
    flag them.

    Args:
        labels: (Y, X) int32, 0 in the background.
        nuclear: (Y, X) any number type, nuclei bright on dark.
        pixel_um: size of a pixel.
        kind: of the channel.
        level: brightness of nuclei above background; measured in this image if ``None``.
        settings: which objects are cells.
    """
    rules = _rules(settings, kind)
    channel = _coarse_channel(nuclear, pixel_um, rules)
    signal, factor = channel.signal, channel.factor
    level = _level(channel, rules) if level is None else level
    half = factor // 2
    coarse = np.pad(labels, ((0, factor), (0, factor)), mode="edge")[half::factor, half::factor]
    coarse = coarse[: signal.shape[0], : signal.shape[1]]
    # Labels of cells include cytoplasm.
    nuclei = (coarse > 0) & (signal > rules.nucleus_fraction * level)
    parts = _with_lobes_merged(coarse, nuclei, channel.coarse_um, rules)
    return _measure(parts, nuclei, channel, level, rules, settings.clumps)


def nuclear_level(
    nuclear: NDArray[Any],
    pixel_um: float,
    kind: NuclearKind,
    settings: DetectionSettings = _DEFAULT,
) -> float:
    """Return the brightness of nuclei above background in this image; 0 where there is no nucleus.

    The median over fields with cells is a good ``level`` for a field without.
    """
    rules = _rules(settings, kind)
    channel = _coarse_channel(nuclear, pixel_um, rules)
    level = _level(channel, rules)
    return level if channel.shows_nuclei(level, rules) else 0.0


def _rules(settings: DetectionSettings, kind: NuclearKind) -> NucleusSettings:
    """Return the settings for nuclei of a kind of channel."""
    return settings.fluorescence if kind == "fluorescence" else settings.stained


def _coarse_channel(
    nuclear: NDArray[Any], pixel_um: float, rules: NucleusSettings
) -> _CoarseChannel:
    factor = max(1, round(rules.detection_pixel_um / pixel_um))
    coarse_um = pixel_um * factor
    smooth = gaussian(block_mean(nuclear, factor), rules.smooth_um / coarse_um)
    tile = max(4, round(rules.background_um / coarse_um))
    rows, columns = (max(1, side // tile) for side in smooth.shape)
    tiles = [
        [percentiles(part[::2, ::2], 50)[0] for part in np.array_split(row, columns, axis=1)]
        for row in np.array_split(smooth, rows, axis=0)
    ]
    # A tile full of cells is brighter than the background: the lower third of the adjacent tiles is
    # not.
    grid = ndimage.percentile_filter(np.array(tiles, np.float32), 30, size=3, mode="nearest")
    signal = smooth - enlarge_grid(grid, smooth.shape)
    sample = signal[::3, ::3]
    low = sample[sample < percentiles(sample, 75)[0]]
    noise = 1.4826 * percentiles(np.abs(low - percentiles(low, 50)[0]), 50)[0] if low.size else 0.0
    # In a crowded image cells are most of that; the darkest pixels are background even there.
    low5, low25 = percentiles(sample, 5, 25)
    noise = min(noise, (low25 - low5) / _GAUSSIAN_5_TO_25)
    return _CoarseChannel(signal, noise, factor, coarse_um, nuclear.shape)


def _level(channel: _CoarseChannel, rules: NucleusSettings) -> float:
    """Return the median peak of objects as wide as a nuclear lobe, without those far dimmer than
    the brightest.
    """
    half = block_mean(channel.signal, 2)
    coarse_um = 2 * channel.coarse_um
    side = 2 * max(1, round(0.9 / coarse_um)) + 1
    grey = ndimage.grey_opening(half, size=(side, side))
    pixels = min(grey.size, max(1, round(rules.brightest_um2 / coarse_um**2)))
    brightest = float(np.partition(grey.ravel(), -pixels)[-pixels])
    if brightest <= 0:
        return 0.0
    labels, _ = ndimage.label(grey > rules.level_fraction * brightest)
    objects = [grey[box][labels[box] == k] for k, box in enumerate(ndimage.find_objects(labels), 1)]
    peaks = [float(values.max()) for values in objects if values.size * coarse_um**2 >= 5.0]
    return float(np.median(peaks)) if peaks else brightest


def _solid(
    nuclei: NDArray[np.bool_], coarse_um: float, rules: NucleusSettings
) -> NDArray[np.bool_]:
    """Keep the parts (Y, X) that are as thick as a lobe of a nucleus.

    The rims of red cells are thinner.
    """
    core = opening(nuclei, disk(rules.solid_um / coarse_um), border_value=True)
    near = nuclei & dilation(core, disk(_SOLID_MARGIN_UM / coarse_um))
    labels, count = ndimage.label(near, np.ones((3, 3)))
    pixels, solid = (np.bincount(labels.ravel(), mask.ravel(), count + 1) for mask in (near, core))
    kept = (solid >= _MIN_SOLID_SHARE * pixels) & (solid * coarse_um**2 >= _MIN_SOLID_UM2)
    kept[0] = False
    return np.asarray(nuclei & dilation(kept[labels], disk(_THIN_REACH_UM / coarse_um)), bool)


def _disk(radius_px: float) -> tuple[int, ...]:
    """Return the half widths of the rows of a small disk, slightly rounder than one of exactly that
    radius.
    """
    radius_px = max(radius_px, 1.0)
    reach = int(radius_px)
    return tuple(min(reach, int(np.sqrt(radius_px**2 + 0.5 - row**2))) for row in range(reach + 1))


def _label_cells(
    body: NDArray[np.bool_], nuclei: NDArray[np.bool_], coarse_um: float, rules: NucleusSettings
) -> NDArray[np.int32]:
    """Label every cell, (Y, X) int32, group after group of bodies near each other."""
    reach_um = max(rules.lobe_gap_um, 2 * rules.closing_um)
    margin = int(np.ceil((reach_um + 1.0) / coarse_um)) + 2
    # The border is no outline: the image is extended by its edge, or a cut cell would seem to have
    # a neck. Groups are formed at twice the pixel size, so the sides are even.
    even = [(margin, margin + side % 2) for side in body.shape]
    rows, columns = (slice(margin, margin + side) for side in body.shape)
    body, nuclei = (np.pad(mask, even, mode="edge") for mask in (body, nuclei))
    near = dilation(block_mean(body, 2) > 0, _disk(reach_um / 2 / coarse_um / 2 + 1))
    groups, count = ndimage.label(near)
    nuclear_um2 = (
        np.bincount(groups.ravel(), block_mean(nuclei, 2).ravel(), count + 1) * (2 * coarse_um) ** 2
    )
    labels = np.zeros(body.shape, np.int32)
    cells, half_margin = 0, (margin + 1) // 2
    for group, box in enumerate(ndimage.find_objects(groups), 1):
        if nuclear_um2[group] < rules.min_nucleus_um2:
            continue
        around = tuple(
            slice(max(side.start - half_margin, 0), side.stop + half_margin) for side in box
        )
        window = tuple(slice(2 * side.start, 2 * side.stop) for side in around)
        inside = np.repeat(np.repeat(groups[around] == group, 2, 0), 2, 1)
        parts = _label_group(body[window] & inside, nuclei[window] & inside, coarse_um, rules)
        labels[window] = np.where(parts > 0, parts + cells, labels[window])
        cells += int(parts.max())
    return labels[rows, columns]


def _label_group(
    body: NDArray[np.bool_], nuclei: NDArray[np.bool_], coarse_um: float, rules: NucleusSettings
) -> NDArray[np.int32]:
    """Label the cells of one group: close gaps, fill holes, remove spurs, split at necks, merge
    lobes.
    """
    around = _disk(rules.closing_um / coarse_um)
    closed = fill_holes(erosion(dilation(body, around), around) | body)
    smooth = opening(closed, _disk(rules.spur_radius_um / coarse_um)) | nuclei
    parts = split_at_necks(smooth, coarse_um, rules.max_neck_ratio, rules.min_radius_um)
    return _with_lobes_merged(parts, nuclei, coarse_um, rules)


def _with_lobes_merged(
    parts: NDArray[np.int32], nuclei: NDArray[np.bool_], coarse_um: float, rules: NucleusSettings
) -> NDArray[np.int32]:
    lobe_um2 = (rules.lobe_min_um2, rules.lobe_max_um2)
    return merge_lobes(parts, nuclei, coarse_um, lobe_um2=lobe_um2, gap_um=rules.lobe_gap_um)


def _measure(
    parts: NDArray[np.int32],
    nuclei: NDArray[np.bool_],
    channel: _CoarseChannel,
    level: float,
    rules: NucleusSettings,
    clump_settings: ClumpSettings,
) -> Detections:
    factor, coarse_um, shape = channel.factor, channel.coarse_um, channel.image_shape
    size = int(parts.max()) + 1
    y, x = np.nonzero(parts)
    cell = parts[y, x]
    pixels = np.bincount(cell, minlength=size).astype(float)
    nuclear = np.bincount(cell, nuclei[y, x], size) * coarse_um**2
    centre_y, centre_x = (np.bincount(cell, at, size) / np.maximum(pixels, 1) for at in (y, x))
    border = np.zeros(size, bool)
    # A body may leak over red cells to the border: what is further from a nucleus than cytoplasm
    # reaches is no cell.
    near = dilation(nuclei, disk(rules.cytoplasm_um / coarse_um))
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        border[parts[edge][near[edge]]] = True
    kept = np.flatnonzero((pixels > 0) & (nuclear >= rules.min_nucleus_um2))
    kept = kept[kept > 0]
    kept = kept[np.lexsort((centre_x[kept], centre_y[kept]))]
    area = pixels[kept] * coarse_um**2
    quality = np.zeros(len(kept), np.uint16)
    quality[border[kept]] |= np.uint16(QcFlag.BORDER)
    # A cut nucleus may be smaller than any whole one.
    least = np.where(border[kept], rules.cut_nucleus_um2, rules.debris_nucleus_um2)
    debris = (nuclear[kept] < least) | (area > rules.max_area_um2)
    renumber = np.zeros(size, np.int32)
    renumber[kept] = np.arange(1, len(kept) + 1)
    labels = renumber[parts]
    clumps = find_clumps(
        labels,
        nuclei,
        nuclear[kept],
        clump_settings,
        min_um2=rules.debris_nucleus_um2,
        max_um2=rules.clump_um2 or math.inf,
    )
    quality[clumps] |= np.uint16(QcFlag.CLUMP)
    quality[debris & ~clumps] |= np.uint16(QcFlag.DEBRIS)
    is_cell = np.append(False, (quality & QcFlag.DEBRIS) == 0)
    bright = opening(
        channel.signal > max(rules.nucleus_fraction * level, rules.noise_factor * channel.noise),
        _disk(rules.speckle_radius_um / coarse_um),
    )
    quality[_touching(labels, y, x) - 1] |= np.uint16(QcFlag.DOUBLET)
    return Detections(
        y_px=np.minimum((centre_y[kept] + 0.5) * factor - 0.5, shape[0] - 1),
        x_px=np.minimum((centre_x[kept] + 0.5) * factor - 0.5, shape[1] - 1),
        area_um2=area,
        nucleus_area_um2=nuclear[kept].astype(np.float64),
        quality=quality,
        labels=labels,
        nuclei=nuclei & (labels > 0),
        factor=factor,
        level=level,
        unassigned_um2=float(np.count_nonzero(bright & ~is_cell[labels]) * coarse_um**2),
    )


def _touching(
    labels: NDArray[np.int32], y: NDArray[np.intp], x: NDArray[np.intp]
) -> NDArray[np.int32]:
    """Return the labels (Y, X) that touch another label at a side; ``y``, ``x`` are the labelled
    pixels.
    """
    found = []
    for down, right in ((1, 0), (0, 1)):
        inner = (y < labels.shape[0] - down) & (x < labels.shape[1] - right)
        one, other = labels[y[inner], x[inner]], labels[y[inner] + down, x[inner] + right]
        touch = (one != other) & (one > 0) & (other > 0)
        found += [one[touch], other[touch]]
    return np.unique(np.concatenate(found))
