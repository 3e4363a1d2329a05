"""Import fields of view: each becomes one OME-TIFF, as if a microscope had taken it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from wbcpipe.errors import ImportDataError
from wbcpipe.samples.fields import FieldInfo, FrameInfo, field_path, fields_on_disk, write_field
from wbcpipe.segment.importers.inputs import NUCLEAR, refuse_other_inputs, start_import
from wbcpipe.segment.importers.readers import add_derived_channel, files_sha256, find_image_files, read_images
from wbcpipe.system.files import make_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from wbcpipe.samples.sample import Sample
    from wbcpipe.segment.importers.inputs import FieldImport
    from wbcpipe.segment.importers.readers import ImageFile

__all__ = ["import_fields"]

#: Distance of neighbouring fields on the assumed stage, in widths of the largest: fields must not seem to overlap.
_SPACING: Final = 1.25


def import_fields(
    paths: Sequence[Path],
    sample: Sample,
    options: FieldImport,
    *,
    progress: Callable[[str, int, int], None] = lambda _task, _done, _total: None,
) -> int:
    """Import images of fields of view.

    Each becomes ``raw/single/field_00000.ome.tif`` and so on, in the order of their names, with an assumed stage
    position of its own. Fields that are there already stay untouched: an interrupted import resumes.

    Arguments and errors are those of `importers.cells.import_cells`.

    Returns:
        Number of fields.
    """
    files = find_image_files(paths, options.kind, labels=False)
    shapes = []
    for done, file in enumerate(files, 1):
        shapes += [image.shape for image in read_images(file, options.kind)[0]]
        progress("files checked", done, len(files))
    names = options.modality_names({shape[0] + len(options.derived) for shape in shapes})
    if NUCLEAR not in names:
        raise ImportDataError(
            f"modalities {', '.join(names)}; cells are found in one named {NUCLEAR!r}, which is missing."
        )
    inputs = options.inputs("fields", files_sha256(files), names)
    refuse_other_inputs(sample, inputs)
    with sample.lock("import fields"):
        refuse_other_inputs(sample, inputs)
        start_import(sample, inputs, options.derived, paths)
        raw = sample.raw_path()
        make_folder(raw)
        present = len(fields_on_disk(raw))
        _write_fields(files, raw, options, names, shapes, progress)
        if present < len(shapes):
            sample.log("fields_imported", fields=len(shapes), kind=options.kind)
        return len(shapes)


def _write_fields(
    files: Sequence[ImageFile],
    raw: Path,
    options: FieldImport,
    modalities: tuple[str, ...],
    shapes: Sequence[tuple[int, ...]],
    progress: Callable[[str, int, int], None],
) -> None:
    """Write the fields that are not on the disk yet, in rows on the assumed stage."""
    step_um = _SPACING * options.pixel_um * max(max(shape[1:]) for shape in shapes)
    columns = math.ceil(math.sqrt(len(shapes)))
    present = fields_on_disk(raw).keys()
    frames = tuple(FrameInfo(name, derived=name in options.derived) for name in modalities)
    index = 0
    for file in files:
        for image in read_images(file, options.kind)[0]:
            if index not in present:
                y_um, x_um = (number * step_um for number in divmod(index, columns))
                info = FieldInfo(index, x_um, y_um, options.pixel_um, frames, kind=options.kind, source=file.name)
                planes = np.ascontiguousarray(add_derived_channel(image, options.kind))
                write_field(field_path(raw, index), planes, info)
            index += 1
            progress("fields imported", index, len(shapes))
