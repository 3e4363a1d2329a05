"""Figures of a field's technical quality, for the quality gates of the report.

Each is of one field alone, and compared with nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from wbcpipe.imaging.arrays import bounding_box, enlarge_grid, percentiles
from wbcpipe.imaging.filters import dilation, disk, gradient_magnitude
from wbcpipe.imaging.holes import fill_holes
from wbcpipe.samples.segment_settings.quality import QualitySettings
from wbcpipe.segment.detection.masks import NUCLEUS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from wbcpipe.samples.cell_attributes import FieldFigures
    from wbcpipe.samples.cell_store import CellBlock
    from wbcpipe.segment.registration.register import Alignment

__all__ = [
    "FIELD_FIGURES",
    "Figure",
    "edge_blur_um",
    "field_figures",
    "stack_figures",
    "with_cells",
    "with_counts",
]

# Constants, no settings: what a median needs.
#: Share of the band's pixels, those of the steepest gradient, that count as edge.
_EDGE_SHARE: Final = 0.3
#: Number of red cells from which white cells are compared with them.
_MIN_RED_CELLS: Final = 20
_DEFAULT: Final = QualitySettings()


class Figure(NamedTuple):
    """One figure of a field.

    Attributes:
        per_modality: one value for each modality, else one for the field.
        unit: of the values; empty for plain numbers.
        meaning: for people.
    """

    per_modality: bool
    unit: str
    meaning: str


#: The figures by name; NaN where there is nothing to measure.
FIELD_FIGURES: Final[dict[str, Figure]] = {
    "blur_um": Figure(False, "um", "Gaussian width of the edges of nuclei, median of the cells"),
    "saturated_percent": Figure(True, "%", "pixels at or above the camera's saturation"),
    "background_percent": Figure(
        True, "% of the range", "brightness of the empty background; bright-field modalities"
    ),
    "residual_px": Figure(True, "px", "estimated error of the registration"),
    "unregistered_modalities": Figure(
        False, "modalities", "number whose registration is not reliable; that of the slide is used"
    ),
    "nuclear_contrast_percent": Figure(
        False,
        "% of the range",
        "nuclear channel in nuclei above its surroundings, median of the cells",
    ),
    "nucleus_cytoplasm_contrast_ratio": Figure(
        False, "", "brightness of nuclei over that of cytoplasm, both above their surroundings"
    ),
    "red_cover_percent": Figure(
        False, "%", "area of a bright field covered by cells, nearly all of them red cells"
    ),
    "cells_per_mm2": Figure(
        False, "/mm2", "white cells per mm2, without the first of the field and without debris"
    ),
    "white_per_100_red": Figure(
        False,
        "",
        "the white cells of cells_per_mm2 per 100 red cells of 45 um2; where there are 20 red "
        "cells or more",
    ),
    "unassigned_fluorescence_percent": Figure(
        False,
        "%",
        "area as bright as nuclei that belongs to no cell, or to debris; not of stained smears",
    ),
}


def field_figures(
    frames: NDArray[np.uint16],
    *,
    reference: int,
    shading: NDArray[np.float32],
    full_range: int,
    camera: bool,
    settings: QualitySettings = _DEFAULT,
) -> dict[str, NDArray[np.float32]]:
    """Measure the frames of a field; the figures that need cells are NaN until `with_cells`.

    Args:
        frames: (M, Y, X) uint16.
        reference: which is the nuclear one.
        shading: (M, y, x) float32, the illumination on some coarser grid, in any unit.
        full_range: value from which a pixel is saturated.
        camera: the frames are of a camera, whose light may saturate or drift; false for imported
            images.
        settings: what is covered, and what background.

    Returns:
        Name to float32, () or (M,), of each of `FIELD_FIGURES`.
    """
    modalities = len(frames)
    figures = {
        name: np.full((modalities,) if figure.per_modality else (), np.nan, np.float32)
        for name, figure in FIELD_FIGURES.items()
    }
    small = np.ascontiguousarray(frames[:, ::4, ::4])
    background = np.full(modalities, np.nan)
    covered: NDArray[np.bool_] | None = None
    for k in range(modalities):
        if k == reference:
            continue
        even = small[k] / enlarge_grid(shading[k] / shading[k].mean(), small.shape[1:])
        bright = percentiles(even[::2, ::2], settings.background_percentile)[0]
        if bright > 0:
            background[k] = bright
            dark = _smoothed(even) < np.float32(bright * 10**-settings.covered_od)
            if covered is None or np.count_nonzero(dark) > np.count_nonzero(covered):
                covered = dark
    if covered is not None:
        cover = 100 * np.count_nonzero(fill_holes(covered)) / covered.size
        figures["red_cover_percent"] = np.asarray(cover, np.float32)
    if camera:
        saturated = np.count_nonzero(small >= full_range, axis=(1, 2)) / small[0].size
        figures["background_percent"] = (100 * background / full_range).astype(np.float32)
        figures["saturated_percent"] = (100 * saturated).astype(np.float32)
    return figures


def _smoothed(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean of each of (Y, X) values with its eight neighbours."""
    wide = np.pad(values, 1, mode="edge")
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    return np.asarray((rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / np.float32(9), np.float32)


def with_cells(
    figures: Mapping[str, NDArray[np.float32]],
    block: CellBlock,
    *,
    full_range: int,
    alignment: Alignment | None,
    blur_um: NDArray[np.float32],
) -> dict[str, NDArray[np.float32]]:
    """Return the figures with those that need cells.

    Args:
        figures: of the field.
        block: its cells.
        full_range: of the frames' values.
        alignment: of the field's modalities; ``None`` where they need none.
        blur_um: (N,) width of the edges of each nucleus.
    """
    nucleus, cytoplasm = (
        _median(block.columns[f"{part}_fluorescence"].astype(float))
        for part in ("nucleus", "cytoplasm")
    )
    measured: dict[str, float | NDArray[np.float64]] = {
        "blur_um": _median(blur_um.astype(float)),
        "nuclear_contrast_percent": 100 * nucleus / full_range,
        "nucleus_cytoplasm_contrast_ratio": nucleus / cytoplasm if cytoplasm > 0 else np.nan,
    }
    if alignment is not None:
        measured["residual_px"] = alignment.residual_px
        measured["unregistered_modalities"] = float(np.count_nonzero(~alignment.trusted))
    return {**figures, **{name: np.asarray(value, np.float32) for name, value in measured.items()}}


def with_counts(
    figures: Mapping[str, NDArray[np.float32]],
    *,
    white_cells: int,
    white_um2: float,
    field_um2: float,
    unassigned_um2: float,
    settings: QualitySettings = _DEFAULT,
) -> dict[str, NDArray[np.float32]]:
    """Return the figures with those that compare the number of white cells with the field and its
    red cells.

    Args:
        figures: of the field.
        white_cells: number found, without debris.
        white_um2: their area together.
        field_um2: area of the field.
        unassigned_um2: area as bright as nuclei that belongs to no cell; NaN where it is not
            fluorescence.
        settings: size of a red cell.
    """
    red_um2 = field_um2 * float(figures["red_cover_percent"]) / 100 - white_um2
    red_cells = red_um2 / settings.red_cell_um2
    # A field may have been photographed for the one white cell that it shows: the others are of the
    # blood.
    others = max(white_cells - 1, 0)
    counted: dict[str, float] = {
        "cells_per_mm2": 1e6 * others / field_um2,
        "white_per_100_red": 100 * others / red_cells if red_cells >= _MIN_RED_CELLS else np.nan,
        "unassigned_fluorescence_percent": 100 * unassigned_um2 / field_um2,
    }
    return {**figures, **{name: np.asarray(value, np.float32) for name, value in counted.items()}}


def edge_blur_um(
    image: NDArray[np.uint16],
    mask: NDArray[np.uint8],
    pixel_um: float,
    settings: QualitySettings = _DEFAULT,
) -> float:
    """Measure the Gaussian width of the edge of a nucleus, whatever its brightness and contrast.

    Args:
        image: (Y, X) uint16, the nuclear channel.
        mask: (Y, X) uint8, the nucleus is `NUCLEUS`.
        pixel_um: size of a pixel.
        settings: widths of the Gaussians and of the band.

    Returns: The standard deviation (um) of the Gaussian that turns a step into such an edge, at
        most ``max_blur_um``; NaN for an empty mask.

    An edge of width s has, after a Gaussian of width a, a gradient of 1 / sqrt(s^2 + a^2) of its
    step: two Gaussians give s. After Zhuo and Sim, Defocus map estimation from a single image,
    Pattern Recognition 44 (2011), which re-blurs once and does without the first Gaussian; noise
    needs it here.
    """
    inside = mask == NUCLEUS
    if not inside.any():
        return float("nan")
    sigmas_um = (settings.blur_fine_um, settings.blur_wide_um)
    reach = max(1, round(settings.blur_band_um / pixel_um))
    box = bounding_box(inside, reach + int(4 * sigmas_um[1] / pixel_um))
    values, inside = image[box].astype(np.float32), inside[box]
    band = dilation(inside, disk(reach)) & dilation(~inside, disk(reach))
    fine, coarse = (gradient_magnitude(values, sigma / pixel_um)[band] for sigma in sigmas_um)
    steep = fine >= percentiles(fine, 100 * (1 - _EDGE_SHARE))[0]
    if not coarse[steep].all():
        return float("nan")
    ratio2 = float(np.median(fine[steep] / coarse[steep])) ** 2
    narrow2, wide2 = (sigma**2 for sigma in sigmas_um)
    if ratio2 <= 1:
        return settings.max_blur_um
    return min(
        settings.max_blur_um, float(np.sqrt(max(0.0, (wide2 - ratio2 * narrow2) / (ratio2 - 1))))
    )


def stack_figures(
    fields: Iterable[tuple[int, Mapping[str, NDArray[np.float32]]]],
) -> FieldFigures:
    """Gather the figures of all fields for JSON; ``None`` stands for NaN.

    Args:
        fields: index and figures of each.

    Returns:
        ``field_index`` and the name of each figure, with one entry per field.
    """
    table: FieldFigures = {"field_index": [], **{name: [] for name in FIELD_FIGURES}}
    for index, figures in fields:
        table["field_index"].append(index)
        for name in FIELD_FIGURES:
            table[name].append(_to_json(figures[name]))
    return table


def _to_json(value: NDArray[np.float32]) -> float | list[float | None] | None:
    """Return a number or a list of numbers, of 5 digits; ``None`` where not finite."""
    return [_rounded(entry) for entry in value] if value.ndim else _rounded(value)


def _rounded(value: NDArray[np.float32]) -> float | None:
    return float(f"{float(value):.5g}") if np.isfinite(value) else None


def _median(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if known.size else float("nan")
