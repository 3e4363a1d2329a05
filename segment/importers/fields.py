"""Import fields of view: each becomes one OME-TIFF, as if a microscope had taken it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from wbcpipe.errors import ImportDataError
from wbcpipe.samples.fields import FieldInfo, FrameInfo, field_path, fields_on_disk, write_field
from wbcpipe.samples.segment_settings.of_sample import record_settings_file
from wbcpipe.segment.importers.inputs import NUCLEAR, refuse_other_inputs, start_import
from wbcpipe.segment.importers.inspect_files import inspect_files
from wbcpipe.segment.stain_separation import density_channel
from wbcpipe.system.files import make_folder
from wbcpipe.system.progress import log_line, unreported

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from wbcpipe.samples.sample import Sample
    from wbcpipe.segment.importers.inputs import FieldImport
    from wbcpipe.segment.importers.inspect_files import Inspection

__all__ = ["import_fields"]

#: Distance of neighbouring fields on the assumed stage, in widths of the largest: fields must not
#: seem to overlap.
_SPACING: Final = 1.25


def import_fields(
    paths: Sequence[Path],
    sample: Sample,
    options: FieldImport,
    *,
    progress: Callable[[str, int, int], None] = unreported,
    say: Callable[[str], None] = log_line,
) -> int:
    """Import images of fields of view.

    Each becomes ``raw/single/field_00000.ome.tif`` and so on, in the order of their names, with an
    assumed stage position of its own. Fields that are there already stay untouched: an interrupted
    import resumes.

    Arguments and errors are those of `importers.cells.import_cells`.

    Returns:
        Number of fields.
    """
    found = inspect_files(paths, options, progress)
    inputs = found.inputs("fields", options)
    if NUCLEAR not in inputs.modalities:
        raise ImportDataError(
            f"modalities {', '.join(inputs.modalities)}; cells are found in one named "
            f"{NUCLEAR!r}, which is missing."
        )
    for line in found.notes:
        say(line)
    refuse_other_inputs(sample, inputs)
    with sample.lock("import fields"):
        refuse_other_inputs(sample, inputs)
        start_import(sample, inputs, options, paths)
        raw = sample.raw_path()
        make_folder(raw)
        present, count = len(fields_on_disk(raw)), len(found.shapes)
        _write_fields(found, raw, options, inputs.modalities, progress)
        if present < count:
            sample.log("fields_imported", fields=count, kind=options.kind, skipped=[*found.skipped])
        if options.settings is not None:
            record_settings_file(sample, options.settings)
        return count


def _write_fields(
    found: Inspection,
    raw: Path,
    options: FieldImport,
    modalities: tuple[str, ...],
    progress: Callable[[str, int, int], None],
) -> None:
    """Write the fields that are not on the disk yet, in rows on the assumed stage."""
    step_um = _SPACING * found.pixel_um * max(max(shape[1:]) for shape in found.shapes)
    columns = math.ceil(math.sqrt(len(found.shapes)))
    present = fields_on_disk(raw).keys()
    frames = tuple(FrameInfo(name, derived=name in options.derived) for name in modalities)
    index = 0
    for file in found.files:
        for page, image in enumerate(found.read(file, options), 1):
            if index not in present:
                y_um, x_um = (number * step_um for number in divmod(index, columns))
                source = file.name if page == 1 else f"{file.name}, image {page}"
                info = FieldInfo(
                    index,
                    x_um,
                    y_um,
                    found.pixel_um,
                    frames,
                    saturation=found.saturation,
                    kind=options.kind,
                    source=source,
                )
                derived = [density_channel(image)] if options.derived else []
                write_field(field_path(raw, index), np.stack([*image, *derived]), info)
            index += 1
            progress("fields imported", index, len(found.shapes))
