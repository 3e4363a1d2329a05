"""Segment one field: register its frames, detect cells, crop, mask and measure them.

Arrays in, arrays out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wbcpipe.samples.cell_columns import CROP_SIDE_PX, RED_FLUORESCENCE, QcFlag, nuclear_index
from wbcpipe.samples.cell_store import CellBlock
from wbcpipe.samples.segment_settings.registration import RegistrationSettings
from wbcpipe.samples.segment_settings.settings import SegmentSettings
from wbcpipe.segment.crop import CropGrid, crop_cell, outside_field
from wbcpipe.segment.detection.detect import Detections, cells_from_labels, detect_cells
from wbcpipe.segment.detection.detectors import find_labels
from wbcpipe.segment.detection.masks import NUCLEUS, CropNuclei, cell_mask
from wbcpipe.segment.features.crop_quality import (
    empty_modality,
    focus_measure,
    saturated_share,
)
from wbcpipe.segment.features.field_quality import (
    edge_blur_um,
    field_figures,
    with_cells,
    with_counts,
)
from wbcpipe.segment.features.morphometry import measure_cell, stack_measures
from wbcpipe.segment.field_cells import FieldCells, no_cells
from wbcpipe.segment.illumination import illumination_surface
from wbcpipe.segment.registration.edges import coarse_factor, coarse_frame, edge_map
from wbcpipe.segment.registration.register import (
    Alignment,
    align,
    compose_alignments,
    identity,
    slide_transform_alignment,
    without_shift,
)
from wbcpipe.segment.slide_statistics import MIN_SIDE, REGISTERED_KINDS
from wbcpipe.segment.stain_separation import background_colour, nuclear_stain
from wbcpipe.system.blas_threads import single_threaded_blas

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.samples.fields import FieldInfo
    from wbcpipe.samples.segment_settings.quality import QualitySettings
    from wbcpipe.samples.segment_settings.registration import RegistrationSettings
    from wbcpipe.segment.detection.detect import NuclearKind
    from wbcpipe.segment.detection.detectors import Detector
    from wbcpipe.segment.slide_statistics import SlideStatistics
    from wbcpipe.segment.stain_separation import NuclearStain

__all__ = [
    "FieldOptions",
    "background_levels",
    "crop_centres",
    "measure_block",
    "process_field",
    "register_field",
]

_DEFAULT: Final = SegmentSettings()


@dataclass(frozen=True)
class FieldOptions:
    """How the cells of a field are found and cut out.

    Attributes:
        crop_pixel_um: pixel size of the crops.
        side_px: side of the crops.
        detector: finds the nuclei; ``None`` for the built-in detector.
        settings: of the segmentation.
    """

    crop_pixel_um: float
    side_px: int = CROP_SIDE_PX
    detector: Detector | None = None
    settings: SegmentSettings = _DEFAULT


@dataclass(frozen=True)
class _Field:
    """One field of a slide.

    Attributes:
        frames: (M, Y, X) uint16, in the slide's order of modalities; all 0 for a missing modality.
        info: its description.
        statistics: of the slide.
        is_complete: no modality is missing.
    """

    frames: NDArray[np.uint16]
    info: FieldInfo
    statistics: SlideStatistics
    is_complete: bool

    @property
    def reference(self) -> int:
        """Index of the nuclear channel."""
        return nuclear_index(self.statistics.modalities)

    @property
    def others(self) -> list[int]:
        """Indices of the other channels."""
        return [k for k in range(len(self.frames)) if k != self.reference]

    @property
    def is_from_scope(self) -> bool:
        """Whether a microscope took the frames."""
        return self.statistics.kind == "scope"

    @property
    def may_be_displaced(self) -> bool:
        """Whether the frames must be registered; the planes of a colour picture need not."""
        return self.statistics.kind in REGISTERED_KINDS

    @property
    def full_range(self) -> int:
        """Value from which a pixel is saturated."""
        return 65535 if self.statistics.kind == "stained-rgb" else self.info.saturation


@single_threaded_blas()
def process_field(
    frames: NDArray[np.uint16],
    info: FieldInfo,
    statistics: SlideStatistics,
    options: FieldOptions,
) -> FieldCells:
    """Find and cut out the cells of a field.

    Args:
        frames: (C, Y, X) uint16, the channels of ``info``.
        info: the field.
        statistics: of the slide.
        options: of the crops, and the settings.

    Returns:
        The cells, in order of their position in the field.

    Raises:
        ConfigError: the detector failed, or did not return a label image.
    """
    field, settings = _order_channels(frames, info, statistics), options.settings
    figures = field_figures(
        field.frames,
        reference=field.reference,
        shading=_shading(field, settings),
        full_range=field.full_range,
        camera=field.is_from_scope,
        settings=settings.quality,
    )
    stain = None
    if statistics.kind == "stained-rgb":
        stain = nuclear_stain(field.frames[:3], settings=settings.detection)
    nuclear = (
        field.frames[field.reference]
        if stain is None
        else stain.detection_channel(field.frames[:3], info.pixel_um)
    )
    found = _detect(nuclear, info.pixel_um, statistics, options)
    centre_um = (info.y_um, info.x_um)
    white = (found.quality & QcFlag.DEBRIS) == 0
    figures = with_counts(
        figures,
        white_cells=int(np.count_nonzero(white)),
        white_um2=float(found.area_um2[white].sum()),
        field_um2=field.frames[0].size * info.pixel_um**2,
        unassigned_um2=found.unassigned_um2 if stain is None else np.nan,
        settings=settings.quality,
    )
    if not len(found):
        none = no_cells(statistics.modalities, options.side_px)
        return FieldCells(info.index, centre_um, none, figures)
    alignment = _register(field, settings.registration)
    block = _cut_out(field, found, alignment, stain, options)
    pairs = zip(block.images[:, field.reference], block.masks, strict=True)
    blur_um = np.array(
        [
            edge_blur_um(image, mask, options.crop_pixel_um, settings.quality)
            for image, mask in pairs
        ],
        np.float32,
    )
    is_blurred = blur_um > settings.quality.blurred_um
    blurred = np.where(is_blurred, np.uint16(QcFlag.BLURRED), np.uint16(0))
    block.columns["qc_flags"] = _flags(field, found, alignment, settings.quality) | blurred
    figures = with_cells(
        figures,
        block,
        full_range=field.full_range,
        alignment=alignment if field.may_be_displaced else None,
        blur_um=blur_um,
    )
    return FieldCells(info.index, centre_um, block, figures)


def register_field(
    frames: NDArray[np.uint16],
    info: FieldInfo,
    statistics: SlideStatistics,
    settings: RegistrationSettings = _DEFAULT.registration,
) -> tuple[NDArray[np.uint16], Alignment]:
    """Return frames (M, Y, X) in the slide's order, and their alignment.

    Arguments as for `process_field`.
    """
    field = _order_channels(frames, info, statistics)
    return field.frames, _register(field, settings)


def measure_block(
    images: NDArray[np.uint16],
    masks: NDArray[np.uint8],
    pixel_um: float,
    modalities: tuple[str, ...],
    empty: NDArray[np.float32] | None,
) -> dict[str, NDArray[Any]]:
    """Measure the morphometry of crops (N, M, Y, X) with their masks (N, Y, X); ``empty`` as for
    `measure_cell`.
    """
    red = modalities.index(RED_FLUORESCENCE) if RED_FLUORESCENCE in modalities else None
    cells = (
        measure_cell(
            image, mask, pixel_um, reference=nuclear_index(modalities), empty=empty, red=red
        )
        for image, mask in zip(images, masks, strict=True)
    )
    return stack_measures(cells, len(modalities), red=red is not None)


def background_levels(
    frames: NDArray[np.uint16], statistics: SlideStatistics
) -> NDArray[np.float32]:
    """Return the background of flat-field corrected frames (M, Y, X), (M,) float32; NaN where it is
    unknown.
    """
    if statistics.kind == "stained-rgb":
        colour = background_colour(frames[:3]) * np.float32(65535)
        return np.array([*colour, *np.zeros(len(frames) - 3)], np.float32)
    return statistics.flatfield.empty


def crop_centres(centres: NDArray[np.float64], ratio: float, side_px: int) -> NDArray[np.float64]:
    """Return the centres of the crops of cells.

    For equal pixel sizes the reference is not resampled.

    Args:
        centres: (N, 2) of the cells, pixels of the reference frame.
        ratio: frame pixels per crop pixel.
        side_px: side of the crops.

    Returns:
        (N, 2) pixels of the reference frame.
    """
    if abs(ratio - 1) > 1e-6:
        return centres
    return np.asarray(np.floor(centres) + (0.5 if side_px % 2 == 0 else 0.0))


def _order_channels(
    frames: NDArray[np.uint16], info: FieldInfo, statistics: SlideStatistics
) -> _Field:
    modalities = statistics.modalities
    if info.modalities == modalities:
        return _Field(frames, info, statistics, is_complete=True)
    ordered = np.zeros((len(modalities), *frames.shape[1:]), np.uint16)
    for k, name in enumerate(modalities):
        if name in info.modalities:
            ordered[k] = frames[info.modalities.index(name)]
    return _Field(ordered, info, statistics, is_complete=set(modalities) <= set(info.modalities))


def _shading(field: _Field, settings: SegmentSettings) -> NDArray[np.float32]:
    """Return the illumination (M, y, x) on a coarse grid; of a stained image from itself."""
    if field.statistics.kind != "stained-rgb":
        return field.statistics.flatfield.shading
    light = illumination_surface(field.frames[:3], None, settings.detection.light)
    return np.concatenate([light, np.ones((len(field.frames) - 3, *light.shape[1:]), np.float32)])


def _detect(
    nuclear: NDArray[np.uint16],
    pixel_um: float,
    statistics: SlideStatistics,
    options: FieldOptions,
) -> Detections:
    detector, settings = options.detector, options.settings.detection
    stained = statistics.kind == "stained-rgb"
    kind: NuclearKind = "stained" if stained else "fluorescence"
    # Images of one import may come from several slides: each has a level of its own.
    level = None if stained else statistics.nuclear_level or None
    if detector is None:
        return detect_cells(nuclear, pixel_um, kind, level=level, settings=settings)
    labels = find_labels(detector, nuclear, pixel_um)
    return cells_from_labels(labels, nuclear, pixel_um, kind, level=level, settings=settings)


def _register(field: _Field, settings: RegistrationSettings) -> Alignment:
    frames, info, statistics, shape = (
        field.frames,
        field.info,
        field.statistics,
        field.frames.shape[1:],
    )
    if not field.may_be_displaced or len(frames) == 1:
        return identity(len(frames), shape)
    of_slide = replace(statistics.alignment, centre_px=(np.array(shape, float) - 1) / 2)
    if min(shape) < MIN_SIDE * coarse_factor(info.pixel_um, settings):
        return of_slide
    edges = [
        edge_map(coarse_frame(frame, info.pixel_um, settings), shading, settings)
        for frame, shading in zip(frames, statistics.flatfield.shading, strict=True)
    ]
    transform = slide_transform_alignment(info, len(frames), shape, reference=field.reference)
    found = align(
        edges,
        compose_alignments(of_slide, transform),
        info.pixel_um,
        reference=field.reference,
        settings=settings,
    )
    # A stack that was registered before stays as it is: interpolation would only blur it.
    displaced = field.is_from_scope or _is_displaced(found, settings.stack_displaced_px)
    return found if displaced else without_shift(found)


def _is_displaced(alignment: Alignment, limit_px: float) -> bool:
    corners = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]) * 2 * alignment.centre_px
    moved = [alignment.to_modality(k, corners) - corners for k in range(len(alignment.shift_px))]
    return bool(np.abs(moved).max() > limit_px)


def _cut_out(
    field: _Field,
    found: Detections,
    alignment: Alignment,
    stain: NuclearStain | None,
    options: FieldOptions,
) -> CellBlock:
    """Return crops, masks and measurements of the N cells; ``stain`` of an RGB image."""
    crop_pixel_um, side_px = options.crop_pixel_um, options.side_px
    frames, flatfield, ratio = (
        field.frames,
        field.statistics.flatfield,
        crop_pixel_um / field.info.pixel_um,
    )
    empty = flatfield.empty
    empty = np.where(np.isnan(empty), np.median(frames[:, ::16, ::16], axis=(1, 2)), empty).astype(
        np.float32
    )
    background = background_levels(frames, field.statistics)
    images = np.empty((len(found), len(frames), side_px, side_px), np.uint16)
    masks = np.empty((len(found), side_px, side_px), np.uint8)
    grid = CropGrid(ratio, side_px)
    for k, centre in enumerate(
        crop_centres(np.stack([found.y_px, found.x_px], -1), ratio, side_px)
    ):
        images[k] = crop_cell(frames, alignment, flatfield, centre, grid, empty=empty)
        outside = outside_field(centre, ratio, side_px, frames.shape[1:])
        own, others = _crop_nuclei(found, k, centre, ratio, side_px)
        if outside is not None:
            others = outside if others is None else others | outside
        nuclear = images[k, field.reference] if stain is None else stain.channel(images[k, :3])
        brightfield = images[k, field.others]
        masks[k] = cell_mask(
            nuclear,
            brightfield,
            crop_pixel_um,
            nuclei=CropNuclei(own, others),
            empty=background[field.others],
            settings=options.settings.masks,
        )
        if outside is not None:
            masks[k][outside] = 0
    columns = _columns(field, found, alignment, masks, crop_pixel_um)
    pairs = zip(images[:, field.reference], masks, strict=True)
    columns["sharpness"] = np.array(
        [focus_measure(image, mask, crop_pixel_um) for image, mask in pairs], np.float32
    )
    columns |= measure_block(images, masks, crop_pixel_um, field.statistics.modalities, background)
    return CellBlock(images, masks, columns, [""] * len(found))


def _crop_nuclei(
    found: Detections, cell: int, centre: NDArray[np.float64], ratio: float, side_px: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_] | None]:
    """Return the nuclear pixels (side, side) bool of a cell in its crop, and those of others;
    ``None`` without any.
    """
    offsets = (np.arange(side_px) - (side_px - 1) / 2) * ratio
    rows, columns = (
        np.clip(np.round((at + offsets + 0.5) / found.factor - 0.5).astype(np.intp), 0, length - 1)
        for at, length in zip(centre, found.labels.shape, strict=True)
    )
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    inside = (rows - rows[0])[:, None], columns - columns[0]
    own = found.labels[window] == cell + 1
    others = found.nuclei[window] & ~own
    return (found.nuclei[window] & own)[inside], others[inside] if others.any() else None


def _columns(
    field: _Field,
    found: Detections,
    alignment: Alignment,
    masks: NDArray[np.uint8],
    crop_pixel_um: float,
) -> dict[str, NDArray[Any]]:
    """Return the columns of the cell table that follow from position and shape."""
    info, others = field.info, field.others
    centres = np.stack([found.y_px, found.x_px], -1)
    shifts = np.stack(
        [alignment.to_modality(k, centres) - centres for k in others], 1
    )  # (N, M - 1, 2)
    # The first modality defines the stage position: the filter cube of the reference shifts the
    # reference's image.
    offset_um = (
        alignment.to_modality(0, centres) - alignment.centre_px
    ) * info.pixel_um  # (N, 2) as y, x
    pixel_um2 = crop_pixel_um**2
    return {
        "field_index": np.full(len(found), info.index, np.int32),
        "y_px": found.y_px.astype(np.float32),
        "x_px": found.x_px.astype(np.float32),
        "y_um": info.y_um + offset_um[:, 0],
        "x_um": info.x_um + offset_um[:, 1],
        "area_um2": (np.count_nonzero(masks, axis=(1, 2)) * pixel_um2).astype(np.float32),
        "nucleus_area_um2": (np.count_nonzero(masks == NUCLEUS, axis=(1, 2)) * pixel_um2).astype(
            np.float32
        ),
        "shift_px": shifts.astype(np.float32),
        "shift_residual_px": np.tile(
            alignment.residual_px[others].astype(np.float32), (len(found), 1)
        ),
    }


def _flags(
    field: _Field, found: Detections, alignment: Alignment, settings: QualitySettings
) -> NDArray[np.uint16]:
    """Return the quality flags (N,) uint16 that a field alone gives."""
    missing = not field.is_complete or empty_modality(field.frames)
    flags = found.quality | np.uint16(QcFlag.MISSING_MODALITY if missing else 0)
    if not alignment.trusted.all():
        flags |= np.uint16(QcFlag.UNREGISTERED)
    if field.is_from_scope:
        radius_px = np.sqrt(found.area_um2 / np.pi) / field.info.pixel_um
        shares = [
            saturated_share(
                field.frames, field.info.saturation, (float(y), float(x)), float(radius)
            )
            for y, x, radius in zip(found.y_px, found.x_px, radius_px, strict=True)
        ]
        saturated = np.array(shares) > settings.saturated_fraction
        flags |= np.where(saturated, np.uint16(QcFlag.SATURATED), np.uint16(0))
    return flags.astype(np.uint16)
