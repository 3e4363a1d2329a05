"""Read every file of an import once before anything is written.

What can be used, and what was decided about it.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from wbcpipe.errors import ImportDataError, WbcpipeError
from wbcpipe.samples.records import ImportInputs
from wbcpipe.samples.segment_settings.settings import SegmentSettings
from wbcpipe.segment.importers.colour_images import read_colour_images, refuse_dark_background
from wbcpipe.segment.importers.find_files import files_sha256, find_image_files
from wbcpipe.segment.importers.raw_images import (
    saturation,
    to_full_range,
    value_range,
    white_levels,
)
from wbcpipe.segment.importers.stacks import read_stack
from wbcpipe.segment.importers.zarr_stores import read_zarr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.samples.records import ImportKind
    from wbcpipe.segment.importers.find_files import ImageFile
    from wbcpipe.segment.importers.inputs import FieldImport
    from wbcpipe.segment.importers.raw_images import RawImages, ValueRange

__all__ = ["Inspection", "inspect_files", "read_images"]

#: Bad files that an error names; it is one line.
_MAX_NAMED: Final = 40
#: Pixel sizes that differ by less than this share are the same.
_SAME_PIXEL: Final = 0.02
#: Images that are kept for checks.
_EXAMPLES: Final = 64
#: Bytes of decoded images that are kept between the check of the files and their import.
_KEPT_BYTES: Final = 2**29


@dataclass(frozen=True)
class Inspection:
    """The files of an import that can be used.

    Attributes:
        files: the files.
        sha256: over their names, labels and bytes, see `files_sha256`.
        shapes: (C, Y, X) of each image, in order; a derived channel is not included.
        labels: of each image, empty where unknown.
        examples: some of the images, in the values of their files.
        white: see `white_levels`.
        pixel_um: size of the images' pixels.
        saturation: value from which a pixel of the imported images is saturated.
        notes: what was decided, one line each.
        skipped: the files that are left out with the reason, one line each.
        decoded: the images of the first files, which need not be read again.
    """

    files: tuple[ImageFile, ...]
    sha256: str
    shapes: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...]
    examples: tuple[NDArray[Any], ...]
    white: dict[str, float]
    pixel_um: float
    saturation: int
    notes: tuple[str, ...]
    skipped: tuple[str, ...]
    decoded: dict[Path, tuple[NDArray[Any], ...]]

    def read(self, file: ImageFile, options: FieldImport) -> Iterator[NDArray[np.uint16]]:
        """Yield the images of one of the files, (C, Y, X) uint16."""
        images = self.decoded.pop(file.path, None) or read_images(file, options).images
        for image in images:
            if options.kind == "stained-rgb":
                image = np.ascontiguousarray(np.moveaxis(image, -1, 0))
            yield to_full_range(image, self.white)

    def inputs(self, content: Literal["fields", "cells"], options: FieldImport) -> ImportInputs:
        """Return the record of the import of these files.

        Raises:
            ImportDataError: as for `FieldImport.modality_names`.
        """
        channels = {shape[0] + len(options.derived) for shape in self.shapes}
        found = {"pixel_um": self.pixel_um, "modalities": options.modality_names(channels)}
        given = {
            field.name: getattr(options, field.name)
            for field in fields(options)
            if field.name not in ("skip_bad", "settings")
        }
        settings = options.segment_settings
        if content == "cells" and settings != SegmentSettings():
            given["settings_sha256"] = settings.digest()
        return ImportInputs(content=content, sha256=self.sha256, **{**given, **found})


def inspect_files(
    paths: Sequence[Path], options: FieldImport, progress: Callable[[str, int, int], None]
) -> Inspection:
    """Find the files of an import and read every one.

    Raises:
        ImportDataError: there is none, some cannot be used (all are named, unless the options skip
            them), their pixel size is not known or contradictory.
    """
    found = find_image_files(paths, options.kind, labels=options.takes_labels)
    usable: list[ImageFile] = []
    bad: list[str] = []
    shapes: list[tuple[int, ...]] = []
    labels: list[str] = []
    ranges: list[ValueRange] = []
    sizes: dict[str, float] = {}
    examples: list[NDArray[Any]] = []
    decided: Counter[str] = Counter()
    decoded: dict[Path, tuple[NDArray[Any], ...]] = {}
    kept_bytes = 0
    for done, file in enumerate(found.files, 1):
        try:
            raw = read_images(file, options)
            if options.kind == "stained-rgb":
                refuse_dark_background(file.user_file, raw)
        except ImportDataError as error:
            bad.append(str(error))
        else:
            usable.append(file)
            ranges.append(value_range(raw))
            shapes += [_channels_first(image.shape, options.kind) for image in raw.images]
            labels += [label or file.label for label in raw.labels or [""] * len(raw.images)]
            if raw.pixel_um is not None:
                sizes[file.name] = raw.pixel_um
            decided.update(raw.notes)
            kept_bytes += sum(image.nbytes for image in raw.images)
            if kept_bytes <= _KEPT_BYTES:
                decoded[file.path] = raw.images
            examples += raw.images[:: 1 + len(raw.images) // _EXAMPLES][: _EXAMPLES - len(examples)]
            progress("files checked", done, len(found.files))
    _refuse_bad_files(bad, len(found.files), options)
    white = white_levels(ranges, options.kind)
    pixel_um, warnings = _pixel_size(options.pixel_um, sizes)
    passed_over = found.note()
    notes = [passed_over] if passed_over else []
    notes += [
        f"{note} ({count} {'file' if count == 1 else 'files'})" for note, count in decided.items()
    ]
    notes += _scaling_notes(white) + warnings + [f"left out: {reason}" for reason in bad]
    return Inspection(
        tuple(usable),
        files_sha256(usable),
        tuple(shapes),
        tuple(labels) if options.takes_labels else ("",) * len(labels),
        tuple(examples),
        white,
        pixel_um,
        saturation(ranges, options.kind),
        tuple(notes),
        tuple(bad),
        decoded,
    )


def read_images(file: ImageFile, options: FieldImport) -> RawImages:
    """Read the images of a file.

    Raises:
        ImportDataError: the file cannot be used; the text says why.
    """
    given = file.user_file
    try:
        if file.path.is_dir():
            return read_zarr(given, options.kind, options.modalities)
        with _quiet_tifffile():
            if options.kind == "stained-rgb":
                return read_colour_images(given)
            return read_stack(given, options.label_array_name, options.nuclear_channel)
    except WbcpipeError:
        raise
    except MemoryError as error:
        raise given.refuse(
            "too large for the memory that is free: split the file, or close other programs."
        ) from error
    except Exception as error:
        reason = f"{error}" or type(error).__name__
        what = (
            "Zarr"
            if file.path.is_dir()
            else "TIFF"
            if file.path.suffix.lower() in {".tif", ".tiff"}
            else "an image"
        )
        raise given.refuse(
            f"not readable as {what} ({reason}); replace or leave out the file."
        ) from error


@contextlib.contextmanager
def _quiet_tifffile() -> Iterator[None]:
    """Drop what tifffile logs about damaged files: the error that it raises says it, or the checks
    of its pages do.
    """
    logger, drop = logging.getLogger("tifffile"), logging.Filter("nothing of this name")
    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)


def _channels_first(shape: tuple[int, ...], kind: ImportKind) -> tuple[int, ...]:
    return (shape[-1], *shape[:-1]) if kind == "stained-rgb" else shape


def _refuse_bad_files(bad: Sequence[str], count: int, options: FieldImport) -> None:
    if not bad or (options.skip_bad and len(bad) < count):
        return
    named = "; ".join(text.removesuffix(".") for text in bad[:_MAX_NAMED])
    more = f"; and {len(bad) - _MAX_NAMED} more" if len(bad) > _MAX_NAMED else ""
    if len(bad) == 1 == count:
        raise ImportDataError(bad[0])
    advice = "" if len(bad) == count else " --skip-bad imports the others."
    raise ImportDataError(f"{len(bad)} of {count} files cannot be used: {named}{more}.{advice}")


def _pixel_size(given: float | None, sizes: dict[str, float]) -> tuple[float, list[str]]:
    """Return the pixel size (um) of an import, and warnings; ``sizes`` are those that files give,
    by name.
    """
    known = sorted(set(sizes.values()))
    if given is not None:
        others = {name: size for name, size in sizes.items() if abs(size / given - 1) > _SAME_PIXEL}
        if not others:
            return given, []
        name, size = next(iter(others.items()))
        return given, [
            f"warning: {name} gives a pixel size of {size:.4g} um ({len(others)} files differ "
            f"from --pixel-um); --pixel-um {given:g} is used: make sure that it is right"
        ]
    if not known:
        raise ImportDataError(
            "no file gives the size of its pixels; give --pixel-um, in um: a red cell is about "
            "7.5 um wide."
        )
    if known[-1] / known[0] - 1 > _SAME_PIXEL:
        low, high = (
            next(name for name, size in sizes.items() if size == known[k]) for k in (0, -1)
        )
        raise ImportDataError(
            f"{low} gives a pixel size of {known[0]:.4g} um, {high} one of {known[-1]:.4g} um; "
            f"import each as a sample of its own, or give --pixel-um."
        )
    return known[0], [
        f"the files give a pixel size of {known[0]:.4g} um ({len(sizes)} of them); it is used"
    ]


def _scaling_notes(white: dict[str, float]) -> list[str]:
    return [
        f"values of {name} use {level:g} as white; they are scaled to the full range"
        for name, level in white.items()
        if (name == "uint16" and level < 65535) or name == "float32"
    ]
