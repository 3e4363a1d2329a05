"""Import images of single cells, straight to ``cells.zarr``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import ndimage

from wbcpipe.samples.cell_attributes import CellAttributes
from wbcpipe.samples.cell_columns import nuclear_index
from wbcpipe.samples.cell_store import CellBlock, CellStore
from wbcpipe.segment.detection.masks import NUCLEUS, cell_mask
from wbcpipe.segment.features.crop_quality import focus_measure
from wbcpipe.segment.importers.channel_shift import check_channel_shifts
from wbcpipe.segment.importers.find_files import order_classes
from wbcpipe.segment.importers.inputs import refuse_other_inputs, start_import
from wbcpipe.segment.importers.inspect_files import inspect_files
from wbcpipe.segment.parallel import default_jobs, map_ahead
from wbcpipe.segment.segment_field import measure_block
from wbcpipe.segment.stain_separation import (
    NuclearStain,
    background_colour,
    empty_density,
    nuclear_stain,
    optical_density,
)
from wbcpipe.system.blas_threads import single_threaded_blas
from wbcpipe.system.progress import log_line, unreported
from wbcpipe.system.version import SOFTWARE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.samples.sample import Sample
    from wbcpipe.segment.importers.inputs import CellImport
    from wbcpipe.segment.importers.inspect_files import Inspection

__all__ = ["centred_crop", "import_cells"]

#: A process takes two seconds to start: the time of some 50 cells.
_MIN_CELLS_PER_PROCESS: Final = 100


def import_cells(
    paths: Sequence[Path],
    sample: Sample,
    options: CellImport,
    *,
    jobs: int = 1,
    progress: Callable[[str, int, int], None] = unreported,
    say: Callable[[str], None] = log_line,
) -> CellStore:
    """Import images that show one cell each, in the middle.

    Args:
        paths: files and folders.
        sample: a new sample, or one that holds the same import.
        options: of the import.
        jobs: processes; 0 for as many as are fastest on this machine.
        progress: called with (task, units done, units in all).
        say: called with each decision about the files, a line of text.

    Returns:
        The store; one that holds these very images stays untouched.

    Raises:
        ImportDataError: an image cannot be used; nothing is written then.
        SampleStateError: the sample holds something else.
        SampleBusyError: another process works on the sample.
    """
    found = inspect_files(paths, options, progress)
    inputs = found.inputs("cells", options)
    shifts = None
    if options.kind == "stack":  # the planes of a colour picture lie over one another
        names = inputs.modalities
        shifts = check_channel_shifts(
            found.examples,
            names,
            nuclear_index(names),
            found.pixel_um,
            options.segment_settings.channel_shift,
        )
    for line in (*found.notes, *filter(None, [shifts])):
        say(line)
    refuse_other_inputs(sample, inputs)
    with sample.lock("import cells"):
        refuse_other_inputs(sample, inputs)
        if (sample.cells_path / "zarr.json").is_file():
            return CellStore(sample.cells_path)
        start_import(sample, inputs, options, paths)
        store = CellStore.create(
            sample.cells_path,
            _blocks(
                found, replace(options, pixel_um=found.pixel_um), inputs.modalities, jobs, progress
            ),
            CellAttributes(
                modalities=inputs.modalities,
                pixel_um=options.crop_pixel_um,
                kind=options.kind,
                classes=tuple(order_classes(found.labels)),
                derived=tuple(options.derived),
                provenance={
                    "software": SOFTWARE,
                    "inputs": inputs.model_dump(mode="json"),
                    "files": [file.name for file in found.files],
                    "settings": options.segment_settings.model_dump(mode="json"),
                    "settings_sha256": options.segment_settings.digest(),
                },
            ),
        )
        sample.log(
            "cells_imported",
            cells=len(store),
            files=len(found.files),
            kind=options.kind,
            skipped=[*found.skipped],
        )
        return store


def _blocks(
    found: Inspection,
    options: CellImport,
    modalities: tuple[str, ...],
    jobs: int,
    progress: Callable[[str, int, int], None],
) -> Iterator[CellBlock]:
    """Yield the cells in order; where there are many, they are measured in several processes."""
    images = (image for file in found.files for image in found.read(file, options))
    tasks = (
        (image, label, index, modalities, options)
        for index, (image, label) in enumerate(zip(images, found.labels, strict=True))
    )
    jobs = jobs or default_jobs(len(found.labels), _MIN_CELLS_PER_PROCESS)
    for done, block in enumerate(map_ahead(_block, tasks, jobs), 1):
        yield block
        progress("cells imported", done, len(found.labels))


@single_threaded_blas()
def _block(
    image: NDArray[np.uint16],
    label: str,
    index: int,
    modalities: tuple[str, ...],
    options: CellImport,
) -> CellBlock:
    """Return the cell of an image (C, Y, X) as a block of length 1."""
    nuclear = nuclear_index(modalities)
    settings = options.segment_settings
    background = None
    if options.derived:
        background = background_colour(image)
        crop, stained = _stained_crop(image, background, options)
        background = background * 65535
    else:
        crop = _crop(image, options)
        stained = crop[nuclear]
    mask = cell_mask(
        stained,
        np.delete(crop, nuclear, axis=0),
        options.crop_pixel_um,
        empty=background,
        settings=settings.masks,
    )
    area = options.crop_pixel_um**2
    registered = (1, len(modalities) - 1)
    columns: dict[str, NDArray[Any]] = {
        "field_index": np.array([index]),
        "y_px": np.array([(image.shape[1] - 1) / 2]),
        "x_px": np.array([(image.shape[2] - 1) / 2]),
        "y_um": np.array([0.0]),
        "x_um": np.array([0.0]),
        "area_um2": np.array([np.count_nonzero(mask) * area]),
        "nucleus_area_um2": np.array([np.count_nonzero(mask == NUCLEUS) * area]),
        "sharpness": np.array([focus_measure(crop[nuclear], mask, options.crop_pixel_um)]),
        "shift_px": np.zeros((*registered, 2)),
        "shift_residual_px": np.zeros(registered),
        "qc_flags": np.array([0]),
    }
    levels = None if background is None else np.array([*background, np.nan], np.float32)
    columns |= measure_block(crop[None], mask[None], options.crop_pixel_um, modalities, levels)
    return CellBlock(crop[None], mask[None], columns, [label])


def _stained_crop(
    planes: NDArray[np.uint16], background: NDArray[np.float32], options: CellImport
) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Return the crop of a colour image (3, Y, X) with its derived channel, (4, side, side), and
    the channel in which the nucleus is outlined, (side, side).
    """
    density = optical_density(planes, background)
    stain = nuclear_stain(planes, background, options.segment_settings.detection, density)
    derived, empty = NuclearStain(background), empty_density(density[0])
    if not _is_resampled(options):  # of the rest of the image no channel is needed
        planes, density, empty = (
            _middle(part, options.side_px) for part in (planes, density, empty)
        )
    image = np.stack([*planes, derived.channel_of(density, empty)])
    if not _is_resampled(options):
        return image, stain.channel_of(density)
    crop = _crop(image, options)
    return crop, stain.channel(crop[:3])


def _crop(planes: NDArray[np.uint16], options: CellImport) -> NDArray[np.uint16]:
    return centred_crop(planes, options.image_pixel_um, options.crop_pixel_um, options.side_px)


def _is_resampled(options: CellImport) -> bool:
    return not _agree(options.image_pixel_um, options.crop_pixel_um)


def _agree(pixel_um: float, crop_pixel_um: float) -> bool:
    return abs(crop_pixel_um / pixel_um - 1) < 1e-6


def centred_crop(
    planes: NDArray[np.uint16], pixel_um: float, crop_pixel_um: float, side_px: int
) -> NDArray[np.uint16]:
    """Return the middle of an image as a square of given pixel size.

    Beyond the image its edge is repeated.

    Args:
        planes: (C, Y, X) uint16.
        pixel_um: size of the image's pixel.
        crop_pixel_um: size of the crop's pixel.
        side_px: side of the crop in its own pixels.

    Returns:
        (C, side_px, side_px) uint16; without interpolation where the pixel sizes agree.

    >>> centred_crop(np.arange(9, dtype=np.uint16).reshape(1, 3, 3), 0.1, 0.1, 1).tolist()
    [[[4]]]
    """
    if _agree(pixel_um, crop_pixel_um):
        return np.ascontiguousarray(_middle(planes, side_px))
    ratio = crop_pixel_um / pixel_um  # image pixels per crop pixel
    offset = [(side - 1) / 2 - ratio * (side_px - 1) / 2 for side in planes.shape[1:]]
    crop = np.empty((len(planes), side_px, side_px), np.uint16)
    for plane, out in zip(planes, crop, strict=True):
        source = plane.astype(np.float32)
        if ratio > 1:  # a coarser crop: blur first, or fine structure aliases
            source = ndimage.gaussian_filter(source, 0.5 * np.sqrt(ratio**2 - 1), mode="nearest")
        value = ndimage.affine_transform(
            source,
            [ratio, ratio],
            offset,
            crop.shape[1:],
            order=3 if ratio <= 1 else 1,
            mode="nearest",
        )
        out[...] = np.clip(value + 0.5, 0, 65535)
    return crop


def _middle(planes: NDArray[Any], side_px: int) -> NDArray[Any]:
    """Return the middle (..., side_px, side_px) of planes (..., Y, X), whose edge is repeated."""
    for axis in (-2, -1):
        length = planes.shape[axis]
        first = (length - side_px) // 2
        if first < 0:
            planes = planes.take(np.clip(np.arange(side_px) + first, 0, length - 1), axis)
        else:
            planes = planes.swapaxes(axis, -1)[..., first : first + side_px].swapaxes(axis, -1)
    return planes
