"""Bring whole fields of view made elsewhere into a sample: one OME-TIFF each, as if a microscope had taken them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from wbcpipe.errors import ImportDataError
from wbcpipe.samples.fields import FieldInfo, FrameInfo, field_path, fields_on_disk, write_field
from wbcpipe.samples.records import ImportInputs
from wbcpipe.segment.importers.cells import NUCLEAR, check_kind, check_pixel, modality_names, refuse_other, start_import
from wbcpipe.segment.importers.readers import Source, digest, find_sources, read_rgb, read_stack
from wbcpipe.segment.stain_separation import density_channel
from wbcpipe.system.files import disk_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.samples.records import ImportKind
    from wbcpipe.samples.sample import Sample

__all__ = ["import_fields"]

#: Distance of neighbouring pictures on the made-up stage, in widths of the largest: they must not seem to overlap.
_APART = 1.25


def import_fields(
    paths: Sequence[Path],
    sample: Sample,
    pixel_um: float,
    kind: ImportKind,
    *,
    modalities: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Import pictures of whole fields of view.

    Each becomes ``raw/single/field_00000.ome.tif`` and so on, in the order of their names, with a made-up stage
    position of its own. Fields that are there already are left alone, so a broken import goes on where it stopped.

    Args:
        paths: files and folders.
        sample: the sample that shall hold them.
        pixel_um: size of the pictures' pixels.
        kind: ``stained-rgb`` (R, G, B and a derived nuclear density) or ``stack`` (registered channels).
        modalities: channel names of a stack; by default color1, color2, ... and fluorescence as the last.
        progress: called with (fields done, fields in all).

    Returns:
        Number of fields.

    Raises:
        ImportDataError: pictures that cannot be used; nothing is written then.
        SampleStateError: the sample holds something else.
        SampleBusyError: another process works on the sample.
    """
    check_pixel(pixel_um, "pixel-um")
    check_kind(kind)
    sources = find_sources([*paths], kind, labels=False)
    shapes = [picture.shape for source in sources for picture in _pictures(source, kind)]
    names = modality_names({4 if kind == "stained-rgb" else shape[0] for shape in shapes}, kind, modalities)
    if NUCLEAR not in names:
        raise ImportDataError(
            f"modalities {', '.join(names)}; cells are found in one named {NUCLEAR!r}, which is missing."
        )
    inputs = ImportInputs(content="fields", sha256=digest(sources), kind=kind, pixel_um=pixel_um, modalities=names)
    refuse_other(sample, inputs)
    with sample.lock("import fields"):
        refuse_other(sample, inputs)
        start_import(sample, inputs, paths)
        step_um = _APART * pixel_um * max(max(shape[1:]) for shape in shapes)
        columns = math.ceil(math.sqrt(len(shapes)))
        raw = sample.raw_path()
        with disk_errors(raw):
            raw.mkdir(parents=True, exist_ok=True)
        done = set(fields_on_disk(raw))
        index = 0
        for source in sources:
            for picture in _pictures(source, kind):
                if index not in done:
                    row, column = divmod(index, columns)
                    frames = tuple(FrameInfo(name, derived=name == NUCLEAR and kind == "stained-rgb") for name in names)
                    info = FieldInfo(
                        index, column * step_um, row * step_um, pixel_um, frames, kind=kind, source=source.name
                    )
                    write_field(field_path(raw, index), _channels(picture, kind), info)
                index += 1
                if progress:
                    progress(index, len(shapes))
        if len(done) < index:
            sample.log("fields_imported", fields=index, kind=kind)
        return index


def _pictures(source: Source, kind: str) -> Iterator[NDArray[np.uint16]]:
    """The pictures of one file, each (C, Y, X) uint16."""
    if kind == "stained-rgb":
        yield read_rgb(source.path)
    else:
        yield from read_stack(source.path)[0]


def _channels(picture: NDArray[np.uint16], kind: str) -> NDArray[np.uint16]:
    if kind == "stained-rgb":
        picture = np.concatenate([picture, density_channel(picture)[None]])
    return np.ascontiguousarray(picture)
