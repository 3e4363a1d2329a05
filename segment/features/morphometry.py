"""Measure shape, stain and texture of one cell, in its crop with its mask.

Every measure is a column of ``cells.zarr``; ``cell_columns.MORPHOMETRY`` names them with their
units. Areas and shapes come from the mask. Densities and fluorescence are taken against the
surroundings of the cell, so that neither lamp nor free dye count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from skimage.measure import find_contours, inertia_tensor_eigvals, moments_central

from wbcpipe.imaging.arrays import block_mean, bounding_box, percentiles
from wbcpipe.imaging.filters import dilation, disk, erosion, gaussian
from wbcpipe.samples.cell_columns import morphometry_columns
from wbcpipe.segment.detection.masks import CYTOPLASM, NUCLEUS
from wbcpipe.segment.detection.separate import split_at_necks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

__all__ = ["count_lobes", "fine_structure", "measure_cell", "shape_of", "stack_measures"]

# Constants, no settings: they define the columns of ``cells.zarr``; samples must stay comparable.
#: Distance from the cell within which its surroundings are measured.
_AROUND_UM: Final = (1.0, 3.0)
#: One pixel in every square of this side is measured there.
_AROUND_PIXEL_UM: Final = 0.2
#: Pixel size at which outlines are traced; they are smoothed over as much.
_SHAPE_PIXEL_UM: Final = 0.2
#: Lobes: pixel size at which they are separated, neck width over that of the thinner lobe, minimum
#: radius and area.
_LOBE_PIXEL_UM: Final = 0.1
_LOBE_NECK_RATIO: Final = 0.88
_MIN_LOBE_RADIUS_UM: Final = 0.6
_MIN_LOBE_UM2: Final = 1.0
_OUTLINE_UM: Final = 0.2
#: Gaussian widths of the band of fine structure: granules are 0.2 to 1 um wide.
_FINE_UM: Final = (0.1, 0.5)
_FINE_TRUNCATE: Final = 3.0
#: The rim of the cytoplasm, left out of its texture, and the minimum area for one.
_RIM_UM: Final = 0.3
_MIN_TEXTURE_UM2: Final = 3.0


def measure_cell(
    image: NDArray[np.uint16],
    mask: NDArray[np.uint8],
    pixel_um: float,
    *,
    reference: int,
    empty: NDArray[np.floating[Any]] | None = None,
    red: int | None = None,
) -> dict[str, NDArray[Any]]:
    """Measure one cell.

    Args:
        image: (M, Y, X) uint16, the crop.
        mask: (Y, X) uint8 from ``masks.cell_mask``.
        pixel_um: size of a pixel.
        reference: index of the nuclear channel; all others are bright-field, but ``red``.
        empty: (M,) level of the bright-field channels' empty background; NaN, or ``None``: measured
            around the cell.
        red: index of a second, red fluorescence channel.

    Returns:
        The entry of each of `morphometry_columns`.
    """
    found: dict[str, NDArray[Any]] = {
        name: np.full(shape, np.nan, np.float32) if dtype == "float32" else np.zeros(shape, dtype)
        for name, (dtype, shape) in morphometry_columns(len(image), red=red is not None).items()
    }
    if not mask.any():
        return found
    wide = bounding_box(mask > 0, round((_AROUND_UM[1] + 0.2) / pixel_um))
    levels = _levels(
        image[:, *wide], mask[wide] > 0, pixel_um, above_background=[reference, red], empty=empty
    )
    # From here on only the rim's reach is needed around the cell.
    box = bounding_box(mask > 0, round(_RIM_UM / pixel_um) + 2)
    image, mask = image[:, *box], mask[box]
    nucleus, cytoplasm = mask == NUCLEUS, mask == CYTOPLASM
    above = image[reference] - levels[reference]
    scalars = _shape(nucleus, cytoplasm, pixel_um) | _fluorescence(
        above, nucleus, cytoplasm, pixel_um
    )
    total = float(above[mask > 0].sum())
    if red is not None and total > 0:
        scalars["red_green_ratio"] = float((image[red] - levels[red])[mask > 0].sum()) / total
    for name, value in scalars.items():
        found[name][...] = value
    # A missing modality has no level.
    seen = [k for k in range(len(image)) if k not in (reference, red) and np.isfinite(levels[k])]
    # Decadic optical density (Beer-Lambert) against the empty background.
    densities = {
        k: np.log10(max(levels[k], np.float32(1)) / np.maximum(image[k], 1).astype(np.float32))
        for k in seen
    }
    rows = [k for k in range(len(image)) if k != reference]
    for k, density in densities.items():
        found["nucleus_absorbance"][rows.index(k)] = _mean(density, nucleus)
        found["cytoplasm_absorbance"][rows.index(k)] = _mean(density, cytoplasm)
    # A pixel at exactly that distance does not belong to the rim.
    inside = erosion(cytoplasm, disk(_RIM_UM / pixel_um - 1e-6), border_value=True)
    if np.count_nonzero(inside) * pixel_um**2 >= _MIN_TEXTURE_UM2:
        *fine, fine_above = fine_structure(np.stack([*densities.values(), above]), inside, pixel_um)
        found["granularity"][seen] = fine
        mean = _mean(above, inside)
        if mean > 0:
            found["granularity"][reference] = fine_above / mean
    return found


def _shape(
    nucleus: NDArray[np.bool_], cytoplasm: NDArray[np.bool_], pixel_um: float
) -> dict[str, float]:
    """Measure areas, lobes, roundness and eccentricity."""
    nucleus_um2, cytoplasm_um2 = (
        np.count_nonzero(part) * pixel_um**2 for part in (nucleus, cytoplasm)
    )
    found = {"cytoplasm_area_um2": cytoplasm_um2, "lobes": float(count_lobes(nucleus, pixel_um))}
    if cytoplasm_um2:
        found["nucleus_cytoplasm_ratio"] = nucleus_um2 / cytoplasm_um2
    for name, part in (("nucleus", nucleus), ("cell", nucleus | cytoplasm)):
        found[f"{name}_roundness"], found[f"{name}_eccentricity"] = shape_of(part, pixel_um)
    return found


def _fluorescence(
    above: NDArray[np.float32],
    nucleus: NDArray[np.bool_],
    cytoplasm: NDArray[np.bool_],
    pixel_um: float,
) -> dict[str, float]:
    """Measure the nuclear channel (Y, X) above its surroundings."""
    return {
        "nucleus_fluorescence": _mean(above, nucleus),
        "cytoplasm_fluorescence": _mean(above, cytoplasm),
        "total_fluorescence": float(above[nucleus | cytoplasm].sum()) * pixel_um**2,
    }


def _levels(
    image: NDArray[np.uint16],
    cell: NDArray[np.bool_],
    pixel_um: float,
    *,
    above_background: list[int | None],
    empty: NDArray[np.floating[Any]] | None,
) -> list[np.float32]:
    """Return the level of each channel (M, Y, X) beside a cell (Y, X), or that of ``empty`` (M,);
    NaN: missing.
    """
    around = _around(cell, pixel_um)
    levels = []
    for k, plane in enumerate(image):
        if k in above_background:
            levels.append(_level(plane[around]))
        elif not np.ptp(plane):
            levels.append(np.float32(np.nan))
        else:
            known = np.float32(np.nan) if empty is None else np.float32(empty[k])
            if (
                not np.isfinite(known) and not cell.all()
            ):  # the bright part, so that red cells do not count
                known = np.float32(percentiles(plane[~cell], 80)[0])
            levels.append(known)
    return levels


def count_lobes(nucleus: NDArray[np.bool_], pixel_um: float) -> int:
    """Count the lobes of a nucleus, which a neck or a gap separates.

    Args:
        nucleus: (Y, X) bool.
        pixel_um: size of a pixel.

    Returns:
        0 for an empty mask, else at least 1. Two lobes connected by a filament are two.
    """
    if not nucleus.any():
        return 0
    factor = max(1, round(_LOBE_PIXEL_UM / pixel_um))
    coarse_um = pixel_um * factor
    small = np.pad(block_mean(nucleus, factor) >= 0.5, 2)
    parts = split_at_necks(small, coarse_um, _LOBE_NECK_RATIO, _MIN_LOBE_RADIUS_UM)
    areas = np.bincount(parts.ravel())[1:] * coarse_um**2
    return max(1, int(np.count_nonzero(areas >= _MIN_LOBE_UM2)))


def shape_of(part: NDArray[np.bool_], pixel_um: float) -> tuple[float, float]:
    """Measure roundness (4 pi area / perimeter^2, at most 1) and eccentricity of a mask (Y, X); NaN
    for an empty mask.

    Area and perimeter are those of the outline between pixels (marching squares), after smoothing
    over 0.2 um, about the resolution of the microscope: correct on discs and squares, where
    counting pixel steps is not. The edge of a hole is part of the outline.
    """
    if not part.any():
        return float("nan"), float("nan")
    part = part[bounding_box(part, 0)]
    factor = max(1, round(_SHAPE_PIXEL_UM / pixel_um))
    coarse_um = pixel_um * factor
    # The smoothed mask reaches beyond the part.
    padded = np.pad(block_mean(part, factor), 1 + round(4 * _OUTLINE_UM / coarse_um))
    smooth = gaussian(padded, _OUTLINE_UM / coarse_um, mirror=False)
    perimeter, area = 0.0, 0.0
    for line in find_contours(smooth, 0.5):  # type: ignore[no-untyped-call]
        steps = np.diff(line, axis=0)
        perimeter += float(np.hypot(*steps.T).sum())
        area += float((line[:-1, 1] * steps[:, 0] - line[:-1, 0] * steps[:, 1]).sum()) / 2
    roundness = min(1.0, 4 * float(np.pi) * abs(area) / perimeter**2) if perimeter else float("nan")
    moments = moments_central(part.astype(np.float32), order=2)  # type: ignore[no-untyped-call]
    large, small = inertia_tensor_eigvals(part, mu=moments)  # type: ignore[no-untyped-call]
    return roundness, float(np.sqrt(1 - small / large)) if large > 0 else 0.0


def stack_measures(
    cells: Iterable[dict[str, NDArray[Any]]], modalities: int, *, red: bool = False
) -> dict[str, NDArray[Any]]:
    """Stack the measures of N cells, or of none, to columns (N, ...)."""
    rows = list(cells)
    return {
        name: np.array([row[name] for row in rows], dtype).reshape(len(rows), *shape)
        for name, (dtype, shape) in morphometry_columns(modalities, red=red).items()
    }


def _mean(values: NDArray[np.floating[Any]], part: NDArray[np.bool_]) -> float:
    return float(values[part].mean()) if part.any() else float("nan")


def _around(cell: NDArray[np.bool_], pixel_um: float) -> NDArray[np.bool_]:
    """Return the surroundings of a cell (Y, X), one pixel in every `_AROUND_PIXEL_UM`."""
    step = max(1, round(_AROUND_PIXEL_UM / pixel_um))
    near, far = (
        dilation(cell[::step, ::step], disk(reach_um / pixel_um / step)) for reach_um in _AROUND_UM
    )
    around = np.zeros(cell.shape, bool)
    around[::step, ::step] = far & ~near
    return around


def _level(values: NDArray[np.uint16]) -> np.float32:
    """Return the median of the surroundings of a cell, without brighter neighbours."""
    level = values.astype(np.float32)
    for _ in range(3):
        if not level.size:
            return np.float32(0)
        middle = percentiles(level, 50)[0]
        spread = 1.4826 * percentiles(np.abs(level - np.float32(middle)), 50)[0]
        level = level[level <= np.float32(middle + 3 * spread)]
    return np.float32(percentiles(level, 50)[0])


def fine_structure(
    values: NDArray[np.float32], inside: NDArray[np.bool_], pixel_um: float
) -> NDArray[np.float32]:
    """Measure the root mean square of the band between two Gaussians, within a mask and from its
    pixels alone.

    Normalised convolution (H. Knutsson, C.-F. Westin, CVPR 1993, doi:10.1109/CVPR.1993.341081,
    equation 9), so that the edge of the nucleus does not count as granules.

    Args:
        values: (M, Y, X) float32.
        inside: (Y, X) bool, not empty.
        pixel_um: size of a pixel.

    Returns:
        (M,) float32.
    """
    sigmas = [sigma_um / pixel_um for sigma_um in _FINE_UM]
    box = bounding_box(inside, 0)
    inside = inside[box]
    weighted = np.concatenate([values[:, *box], np.ones((1, *inside.shape), np.float32)]) * inside
    smooth = [
        gaussian(weighted, sigma, _FINE_TRUNCATE, mirror=False)[:, inside] for sigma in sigmas
    ]  # (M + 1, n) each
    fine, coarse = (one[:-1] / one[-1] for one in smooth)
    return np.asarray(np.sqrt(np.mean((fine - coarse) ** 2, axis=1)), np.float32)
