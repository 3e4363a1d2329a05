"""Segment one field: register its frames, detect cells, crop, mask and measure them. Arrays in, arrays out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from wbcpipe.samples.cell_columns import CROP_SIDE_PX, RED_FLUORESCENCE, QcFlag, nuclear_index
from wbcpipe.samples.cell_store import CellBlock
from wbcpipe.segment.crop import crop_cell, outside_field
from wbcpipe.segment.detection.detect import Detections, cells_from_labels, detect_cells
from wbcpipe.segment.detection.detectors import find_labels
from wbcpipe.segment.detection.masks import NUCLEUS, cell_mask
from wbcpipe.segment.features.crop_quality import SATURATED_SHARE, empty_modality, focus_measure, saturated_share
from wbcpipe.segment.features.field_quality import field_figures, with_cells
from wbcpipe.segment.features.morphometry import measure_cell, stack_measures
from wbcpipe.segment.field_cells import FieldCells, no_cells
from wbcpipe.segment.registration.edges import coarse_frame, edge_map
from wbcpipe.segment.registration.register import (
    Alignment,
    align,
    compose_alignments,
    identity,
    slide_transform_alignment,
)
from wbcpipe.segment.stain_separation import background_colour, nuclear_stain
from wbcpipe.system.blas_threads import single_threaded_blas

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.samples.fields import FieldInfo
    from wbcpipe.segment.detection.detect import NuclearKind
    from wbcpipe.segment.detection.detectors import Detector
    from wbcpipe.segment.slide_statistics import SlideStatistics
    from wbcpipe.segment.stain_separation import NuclearStain

__all__ = ["background_levels", "crop_centres", "measure_block", "process_field", "register_field"]


@single_threaded_blas()
def process_field(
    frames: NDArray[np.uint16],
    info: FieldInfo,
    statistics: SlideStatistics,
    *,
    crop_pixel_um: float,
    side_px: int = CROP_SIDE_PX,
    detector: Detector | None = None,
) -> FieldCells:
    """Find and cut out the cells of a field.

    Args:
        frames: (C, Y, X) uint16, the channels of ``info``.
        info: the field.
        statistics: of the slide.
        crop_pixel_um: pixel size of the crops.
        side_px: side of the crops.
        detector: finds the nuclei; ``None`` for the built-in detector.

    Returns:
        The cells, in order of their position in the field.

    Raises:
        ConfigError: the detector failed, or did not return a label image.
    """
    frames, missing = _in_order(frames, info, statistics.modalities)
    centre_um = (info.y_um, info.x_um)
    reference = nuclear_index(statistics.modalities)
    full_range = info.saturation if statistics.kind == "scope" else 65535
    figures = field_figures(
        frames,
        reference=reference,
        shading=statistics.flatfield.shading,
        full_range=full_range,
        camera=statistics.kind == "scope",
    )
    stain = nuclear_stain(frames[:3]) if statistics.kind == "stained-rgb" else None
    nuclear = frames[reference] if stain is None else stain.finding_channel(frames[:3])
    found = _detect(nuclear, info.pixel_um, statistics, detector)
    if not len(found):
        none = no_cells(len(frames), side_px, red=RED_FLUORESCENCE in statistics.modalities)
        return FieldCells(info.index, centre_um, none, figures)
    alignment = _register(frames, info, statistics, reference)
    images, masks = _cut_out(
        frames, found, alignment, statistics, crop_pixel_um / info.pixel_um, crop_pixel_um, side_px, stain
    )
    quality = found.quality | np.uint16(QcFlag.MISSING_MODALITY if missing or empty_modality(frames) else 0)
    if not alignment.trusted.all():
        quality |= np.uint16(QcFlag.UNREGISTERED)
    if statistics.kind == "scope":
        quality |= _saturated(frames, found, info)
    columns = _columns(found, masks, info, alignment, reference, crop_pixel_um)
    columns["qc_flags"] = quality.astype(np.uint16)
    pairs = zip(images[:, reference], masks, strict=True)
    columns["sharpness"] = np.array([focus_measure(image, mask, crop_pixel_um) for image, mask in pairs], np.float32)
    columns |= measure_block(images, masks, crop_pixel_um, statistics.modalities, background_levels(frames, statistics))
    block = CellBlock(images, masks, columns, [""] * len(found))
    figures = with_cells(
        figures,
        block,
        reference=reference,
        pixel_um=crop_pixel_um,
        full_range=full_range,
        alignment=alignment if statistics.kind == "scope" else None,
    )
    return FieldCells(info.index, centre_um, block, figures)


def measure_block(
    images: NDArray[np.uint16],
    masks: NDArray[np.uint8],
    pixel_um: float,
    modalities: tuple[str, ...],
    empty: NDArray[np.float32] | None,
) -> dict[str, NDArray[Any]]:
    """The morphometry columns of crops (N, M, Y, X) with their masks (N, Y, X); ``empty`` as for `measure_cell`."""
    red = modalities.index(RED_FLUORESCENCE) if RED_FLUORESCENCE in modalities else None
    cells = (
        measure_cell(image, mask, pixel_um, reference=nuclear_index(modalities), empty=empty, red=red)
        for image, mask in zip(images, masks, strict=True)
    )
    return stack_measures(cells, len(modalities), red=red is not None)


def register_field(
    frames: NDArray[np.uint16], info: FieldInfo, statistics: SlideStatistics
) -> tuple[NDArray[np.uint16], Alignment]:
    """Frames (M, Y, X) in the run's order, and how they lie to each other; arguments as `process_field`."""
    ordered, _ = _in_order(frames, info, statistics.modalities)
    return ordered, _register(ordered, info, statistics, nuclear_index(statistics.modalities))


def _cut_out(
    frames: NDArray[np.uint16],
    found: Detections,
    alignment: Alignment,
    statistics: SlideStatistics,
    ratio: float,
    crop_pixel_um: float,
    side_px: int,
    stain: NuclearStain | None,
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Crops (N, M, side, side) and masks (N, side, side) of the cells found; ``stain`` of an RGB picture."""
    reference = nuclear_index(statistics.modalities)
    others = [k for k in range(len(frames)) if k != reference]
    empty = statistics.flatfield.empty
    empty = np.where(np.isnan(empty), np.median(frames[:, ::16, ::16], axis=(1, 2)), empty).astype(np.float32)
    bare = background_levels(frames, statistics)[others]
    images = np.empty((len(found), len(frames), side_px, side_px), np.uint16)
    masks = np.empty((len(found), side_px, side_px), np.uint8)
    centres = np.stack([found.y_px, found.x_px], -1)
    for k, place in enumerate(crop_centres(centres, ratio, side_px)):
        images[k] = crop_cell(frames, alignment, statistics.flatfield, place, ratio=ratio, side_px=side_px, empty=empty)
        outside = outside_field(place, ratio, side_px, frames.shape[1:])
        own, away = _nuclei(found, k, place, ratio, side_px)
        if outside is not None:
            away = outside if away is None else away | outside
        nuclear = images[k, reference] if stain is None else stain.channel(images[k, :3])
        masks[k] = cell_mask(nuclear, images[k, others], crop_pixel_um, own=own, others=away, empty=bare)
        if outside is not None:
            masks[k][outside] = 0
    return images, masks


def background_levels(frames: NDArray[np.uint16], statistics: SlideStatistics) -> NDArray[np.float32]:
    """What evenly lit frames (M, Y, X) of a field show where nothing lies, (M,) float32; NaN where unknown."""
    if statistics.kind == "stained-rgb":
        colour = background_colour(frames[:3]) * np.float32(65535)
        return np.array([*colour, *np.zeros(len(frames) - 3)], np.float32)
    return statistics.flatfield.empty


def _columns(
    found: Detections,
    masks: NDArray[np.uint8],
    info: FieldInfo,
    alignment: Alignment,
    reference: int,
    crop_pixel_um: float,
) -> dict[str, NDArray[Any]]:
    """The columns of the cell table that follow from place and shape."""
    others = [k for k in range(len(alignment.shift_px)) if k != reference]
    centres = np.stack([found.y_px, found.x_px], -1)
    shifts = np.stack([alignment.to_modality(k, centres) - centres for k in others], 1)  # (N, M - 1, 2)
    y_um, x_um = _on_stage(centres, info, alignment)
    pixel_um2 = crop_pixel_um**2
    return {
        "field_index": np.full(len(found), info.index, np.int32),
        "y_px": found.y_px.astype(np.float32),
        "x_px": found.x_px.astype(np.float32),
        "y_um": y_um,
        "x_um": x_um,
        "area_um2": (np.count_nonzero(masks, axis=(1, 2)) * pixel_um2).astype(np.float32),
        "nucleus_area_um2": (np.count_nonzero(masks == NUCLEUS, axis=(1, 2)) * pixel_um2).astype(np.float32),
        "shift_px": shifts.astype(np.float32),
        "shift_residual_px": np.tile(alignment.residual_px[others].astype(np.float32), (len(found), 1)),
    }


def _saturated(frames: NDArray[np.uint16], found: Detections, info: FieldInfo) -> NDArray[np.uint16]:
    """The SATURATED bit of each cell, (N,) uint16."""
    radius_px = np.sqrt(found.area_um2 / np.pi) / info.pixel_um
    shares = [
        saturated_share(frames, info.saturation, (float(y), float(x)), float(radius))
        for y, x, radius in zip(found.y_px, found.x_px, radius_px, strict=True)
    ]
    return np.where(np.array(shares) > SATURATED_SHARE, np.uint16(QcFlag.SATURATED), np.uint16(0))


def _in_order(
    frames: NDArray[np.uint16], info: FieldInfo, modalities: tuple[str, ...]
) -> tuple[NDArray[np.uint16], bool]:
    """Frames (M, Y, X) in the run's order of modalities, those the field lacks all 0; and whether any is lacking."""
    if info.modalities == modalities:
        return frames, False
    ordered = np.zeros((len(modalities), *frames.shape[1:]), np.uint16)
    for k, name in enumerate(modalities):
        if name in info.modalities:
            ordered[k] = frames[info.modalities.index(name)]
    return ordered, not set(modalities) <= set(info.modalities)


def _detect(
    nuclear: NDArray[np.uint16],
    pixel_um: float,
    statistics: SlideStatistics,
    detector: Detector | None,
) -> Detections:
    stained = statistics.kind == "stained-rgb"
    kind: NuclearKind = "stained" if stained else "fluorescence"
    # Pictures of one import may come from several slides: each has a level of its own.
    level = None if stained else statistics.nuclear_level or None
    if detector is None:
        return detect_cells(nuclear, pixel_um, kind, level=level)
    return cells_from_labels(find_labels(detector, nuclear, pixel_um), nuclear, pixel_um, kind, level=level)


def _register(frames: NDArray[np.uint16], info: FieldInfo, statistics: SlideStatistics, reference: int) -> Alignment:
    if statistics.kind != "scope":
        return identity(len(frames), frames.shape[1:])
    edges = [
        edge_map(coarse_frame(frame, info.pixel_um), shading)
        for frame, shading in zip(frames, statistics.flatfield.shading, strict=True)
    ]
    usual = replace(statistics.alignment, centre_px=(np.array(frames.shape[1:], float) - 1) / 2)
    usual = compose_alignments(
        usual, slide_transform_alignment(info, len(frames), frames.shape[1:], reference=reference)
    )
    return align(edges, usual, info.pixel_um, reference=reference)


def crop_centres(centres: NDArray[np.float64], ratio: float, side_px: int) -> NDArray[np.float64]:
    """Where the crops of cells are centred; where the pixel sizes agree, such that the reference is not resampled.

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


def _nuclei(
    found: Detections, own: int, place: NDArray[np.float64], ratio: float, side_px: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_] | None]:
    """Where nuclei of this cell and of others lie in a crop, (side, side) bool; ``None`` where there is no other."""
    steps = (np.arange(side_px) - (side_px - 1) / 2) * ratio
    rows, columns = (
        np.clip(np.round((at + steps + 0.5) / found.factor - 0.5).astype(np.intp), 0, length - 1)
        for at, length in zip(place, found.labels.shape, strict=True)
    )
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    inside = (rows - rows[0])[:, None], columns - columns[0]
    mine = found.labels[window] == own + 1
    other = found.nuclei[window] & ~mine
    return (found.nuclei[window] & mine)[inside], other[inside] if other.any() else None


def _on_stage(
    centres: NDArray[np.float64], info: FieldInfo, alignment: Alignment
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the stage position (N,) y and x in um of points (N, 2) of the reference.

    The first modality defines the position: the filter cube of the reference shifts the reference's image.
    """
    offset_um = (alignment.to_modality(0, centres) - alignment.centre_px) * info.pixel_um  # (N, 2) as y, x
    return info.y_um + offset_um[:, 0], info.x_um + offset_um[:, 1]
