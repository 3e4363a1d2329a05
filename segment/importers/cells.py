"""Bring single-cell pictures made elsewhere into a sample: straight to ``cells.zarr``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, get_args

import numpy as np

from wbcpipe.errors import ImportDataError, SampleStateError
from wbcpipe.samples.cell_columns import CROP_SIDE_PX
from wbcpipe.samples.cell_store import CellBlock, CellStore
from wbcpipe.samples.fields import MODALITIES
from wbcpipe.samples.records import ImportInputs, ImportKind, SampleRecord
from wbcpipe.segment.detection.masks import NUCLEUS, cell_mask
from wbcpipe.segment.features.crop_quality import focus_measure
from wbcpipe.segment.importers.readers import Source, digest, find_sources, order_classes, read_rgb, read_stack
from wbcpipe.segment.importers.resample import centred_crop
from wbcpipe.segment.segment_field import measure_block
from wbcpipe.segment.stain_separation import background_colour, density_channel, nuclear_stain
from wbcpipe.system.blas_threads import single_threaded_blas
from wbcpipe.system.version import SOFTWARE, VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.samples.sample import Sample

__all__ = [
    "KINDS",
    "NUCLEAR",
    "check_kind",
    "check_pixel",
    "import_cells",
    "modality_names",
    "refuse_other",
    "start_import",
]

#: What pictures can be.
KINDS: Final = get_args(ImportKind)
#: The modality in which nuclei are bright.
NUCLEAR: Final = "fluorescence"


@dataclass(frozen=True)
class _Recipe:
    """How pictures become crops."""

    kind: str
    pixel_um: float
    crop_pixel_um: float
    side_px: int
    label_array: str | None


def import_cells(
    paths: Sequence[Path],
    sample: Sample,
    pixel_um: float,
    kind: ImportKind,
    crop_pixel_um: float = 0.1,
    labels: bool = True,
    *,
    modalities: Sequence[str] | None = None,
    label_array: str | None = None,
    side_px: int = CROP_SIDE_PX,
    progress: Callable[[int, int], None] | None = None,
) -> CellStore:
    """Import pictures that show one cell each, in the middle.

    Args:
        paths: files and folders.
        sample: the sample that shall hold them.
        pixel_um: size of the pictures' pixels.
        kind: ``stained-rgb`` (R, G, B become color1 to 3, the nuclear density derived from them stands in for
            fluorescence) or ``stack`` (ready channels of any number).
        crop_pixel_um: pixel size of the crops.
        labels: take labels from manifest.csv, folder names or the stack's label array.
        modalities: channel names of a stack; by default color1, color2, ... and fluorescence as the last.
        label_array: name of the label array of a ``.npz``.
        side_px: side of the crops in pixels.
        progress: called with (cells done, cells in all).

    Returns:
        The store; if it already holds these very pictures nothing is done.

    Raises:
        ImportDataError: pictures that cannot be used; nothing is written then.
        SampleStateError: the sample holds something else.
        SampleBusyError: another process works on the sample.
    """
    check_pixel(pixel_um, "pixel-um")
    check_pixel(crop_pixel_um, "crop-pixel-um")
    check_kind(kind)
    sources = find_sources([*paths], kind, labels=labels)
    recipe = _Recipe(kind, pixel_um, crop_pixel_um, side_px, label_array)
    checked = [_check(source, recipe) for source in sources]
    found = [label if labels else "" for source_labels, _ in checked for label in source_labels]
    names = modality_names({channels for _, channels in checked}, kind, modalities)
    inputs = ImportInputs(
        content="cells",
        sha256=digest(sources),
        kind=kind,
        pixel_um=pixel_um,
        modalities=names,
        crop_pixel_um=crop_pixel_um,
        side_px=side_px,
        labels=labels,
        label_array=label_array,
    )
    refuse_other(sample, inputs)
    with sample.lock("import cells"):
        refuse_other(sample, inputs)
        if (sample.cells_path / "zarr.json").is_file():
            return CellStore(sample.cells_path)
        start_import(sample, inputs, paths)
        store = CellStore.create(
            sample.cells_path,
            _blocks(sources, recipe, names, found, progress),
            modalities=names,
            attributes={
                "pixel_um": crop_pixel_um,
                "classes": order_classes(found),
                "derived": [NUCLEAR] if kind == "stained-rgb" else [],
                "provenance": {
                    "software": SOFTWARE,
                    "inputs": inputs.model_dump(mode="json"),
                    "files": [source.name for source in sources],
                },
            },
        )
        sample.log("cells_imported", cells=len(store), files=len(sources), kind=kind)
        return store


def check_pixel(pixel_um: float, option: str) -> None:
    """Refuse a pixel size no light microscope has."""
    if not 0.005 <= pixel_um <= 10:
        raise ImportDataError(f"{option} {pixel_um} um; a pixel of a microscope picture is 0.005 to 10 um wide.")


def check_kind(kind: str) -> None:
    """Refuse a kind of picture that is not known."""
    if kind not in KINDS:
        raise ImportDataError(f"kind {kind!r} is not known; choose one of {', '.join(KINDS)}.")


def start_import(sample: Sample, inputs: ImportInputs, paths: Sequence[Path]) -> None:
    """Write ``sample.json`` of an imported sample, unless it is there already."""
    if sample.exists():
        return
    sample.write(
        SampleRecord(
            sample=sample.name,
            kind=inputs.kind,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            software={"wbcpipe": VERSION},
            modalities=inputs.modalities,
            pixel_um=inputs.pixel_um,
            derived=(NUCLEAR,) if inputs.kind == "stained-rgb" else (),
            source=tuple(str(path) for path in paths),
            inputs=inputs,
        )
    )


def refuse_other(sample: Sample, inputs: ImportInputs) -> None:
    """Raise `SampleStateError` where the sample holds anything but these inputs."""
    if sample.exists() and sample.record().inputs != inputs:
        raise SampleStateError(
            f"{sample.path}: already holds other data, or these imported with other options; choose another --sample."
        )


def _check(source: Source, recipe: _Recipe) -> tuple[list[str], int]:
    """Read a file once, to be sure of it: (label of each of its cells, channels)."""
    if recipe.kind == "stained-rgb":
        read_rgb(source.path)
        return [source.label], len(MODALITIES)
    images, labels = read_stack(source.path, recipe.label_array)
    return [label or source.label for label in labels], images.shape[1]


def modality_names(counts: set[int], kind: str, given: Sequence[str] | None) -> tuple[str, ...]:
    """Channel names, from the numbers of channels met, the kind and what the user gave."""
    if len(counts) != 1:
        raise ImportDataError(
            f"files with {' and '.join(map(str, sorted(counts)))} channels; import them as samples apart."
        )
    (count,) = counts
    if kind == "stained-rgb":
        return MODALITIES
    if given is not None:
        if len(given) != count or len(set(given)) != count:
            raise ImportDataError(
                f"modalities {', '.join(given)}; {count} different names are needed, one per channel."
            )
        return tuple(given)
    return (*(f"color{k}" for k in range(1, count)), NUCLEAR)


def _blocks(
    sources: Sequence[Source],
    recipe: _Recipe,
    names: tuple[str, ...],
    labels: Sequence[str],
    progress: Callable[[int, int], None] | None,
) -> Iterator[CellBlock]:
    done = 0
    for source in sources:
        if recipe.kind == "stained-rgb":
            pictures = read_rgb(source.path)[None]  # (1, 3, Y, X)
        else:
            pictures = read_stack(source.path, recipe.label_array)[0]
        for picture in pictures:
            yield _block(picture, labels[done], done, names, recipe)
            done += 1
            if progress:
                progress(done, len(labels))


@single_threaded_blas
def _block(picture: NDArray[np.uint16], label: str, index: int, names: tuple[str, ...], recipe: _Recipe) -> CellBlock:
    """One cell: (M, Y, X) picture to a block of length 1."""
    if recipe.kind == "stained-rgb":
        picture = np.concatenate([picture, density_channel(picture)[None]])
    crop = centred_crop(picture, recipe.pixel_um, recipe.crop_pixel_um, recipe.side_px)
    nuclear = names.index(NUCLEAR) if NUCLEAR in names else len(names) - 1
    bare = background_colour(picture[:3]) * 65535 if recipe.kind == "stained-rgb" else None
    dense = crop[nuclear] if bare is None else nuclear_stain(picture[:3]).channel(crop[:3])
    mask = cell_mask(dense, np.delete(crop, nuclear, axis=0), recipe.crop_pixel_um, empty=bare)
    area = recipe.crop_pixel_um**2
    registered = (1, len(names) - 1)
    columns: dict[str, NDArray[Any]] = {
        "field_index": np.array([index]),
        "y_px": np.array([(picture.shape[1] - 1) / 2]),
        "x_px": np.array([(picture.shape[2] - 1) / 2]),
        "y_um": np.array([0.0]),
        "x_um": np.array([0.0]),
        "area_um2": np.array([np.count_nonzero(mask) * area]),
        "nucleus_area_um2": np.array([np.count_nonzero(mask == NUCLEUS) * area]),
        "sharpness": np.array([focus_measure(crop[nuclear], mask, recipe.crop_pixel_um)]),
        "shift_px": np.zeros((*registered, 2)),
        "shift_residual_px": np.zeros(registered),
        "qc_flags": np.array([0]),
    }
    levels = None if bare is None else np.array([*bare, np.nan], np.float32)
    columns |= measure_block(crop[None], mask[None], recipe.crop_pixel_um, names, levels)
    return CellBlock(crop[None], mask[None], columns, [label])
