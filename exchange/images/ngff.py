"""Fields as OME-Zarr (NGFF 0.5): one image pyramid for each field, with its cells as labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree

import numpy as np
import zarr
from skimage.draw import polygon

from wbcpipe.errors import StorageError
from wbcpipe.exchange.images.cell_outlines import outlines_of_field
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.fields import complete_fields, read_passes_info
from wbcpipe.samples.freed import refuse_if_freed
from wbcpipe.segment.view.field_view import FieldViewer
from wbcpipe.system.files import make_folder, remove_tree, rename, sync_tree, write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.samples.fields import FieldInfo
    from wbcpipe.samples.sample import Sample

__all__ = ["export_ngff"]

VERSION: Final = "0.5"
_OME: Final = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_CHUNK_PX: Final = 512
#: Shorter side of the smallest image of a pyramid.
_SMALLEST_PX: Final = 256
_COLOURS: Final = ("FF0000", "00FF00", "0000FF", "00FF80", "FFFF00", "FF00FF")


def export_ngff(
    sample: Sample,
    out: Path,
    progress: Callable[[str, int, int], None] = lambda _task, _done, _total: None,
) -> int:
    """Write the fields of a sample, registered and evenly lit, into a new folder.

    Return their number.

    The folder has the layout of bioformats2raw: a group for each field, in the order of ``OME``'s
    ``series``. Pixels of the label image ``cells`` are the row of the cell in ``cells.zarr`` plus
    one.

    Args:
        sample: a segmented sample with fields.
        out: folder that does not exist.
        progress: called with (task, fields done, fields in all).

    Raises:
        StorageError: the folder exists.
        SampleStateError: the sample has no cells.
        FrameFileError: a field is damaged.
        DiskFullError: no space left; nothing remains.
    """
    if out.exists():
        raise StorageError(f"{out}: is there already; give the name of a new folder.")
    refuse_if_freed(sample, "export its fields")
    store, viewer = CellStore(sample.cells_path), FieldViewer(sample)
    fields = complete_fields(sample.path / "raw")
    aside = out.with_name(f".{out.name}.partial")
    remove_tree(aside)
    make_folder(aside.parent)
    try:
        root = zarr.open_group(aside, mode="w", zarr_format=3)
        root.attrs["ome"] = {"version": VERSION, "bioformats2raw.layout": 3}
        series = root.create_group("OME")
        series.attrs["ome"] = {"version": VERSION, "series": [str(index) for index in fields]}
        infos = []
        for done, index in enumerate(fields):
            progress("fields", done, len(fields))
            infos.append(read_passes_info(sample.path / "raw", index))
            _write_field(
                root.create_group(str(index)), viewer.registered_frames(index), infos[-1], store
            )
        with write_atomic(aside / "OME" / "METADATA.ome.xml") as handle:
            handle.write(_ome_xml(infos, store.modalities))
        sync_tree(aside)
        rename(aside, out)
    except BaseException:
        remove_tree(aside)
        raise
    return len(fields)


def _ome_xml(infos: Sequence[FieldInfo], modalities: Sequence[str]) -> bytes:
    """Return the description of all images in OME-XML, by which readers of bioformats2raw's layout
    find them.
    """
    root = ElementTree.Element("OME", xmlns=_OME)
    for info in infos:
        number = info.index  # napari takes the number for the name of the group
        image = ElementTree.SubElement(
            root, "Image", ID=f"Image:{number}", Name=f"field {info.index}"
        )
        height, width = info.shape_px
        pixels = ElementTree.SubElement(
            image,
            "Pixels",
            ID=f"Pixels:{number}",
            DimensionOrder="XYCZT",
            Type="uint16",
            SizeX=str(width),
            SizeY=str(height),
            SizeC=str(len(modalities)),
            SizeZ="1",
            SizeT="1",
            PhysicalSizeX=f"{info.pixel_um:.9g}",
            PhysicalSizeY=f"{info.pixel_um:.9g}",
        )
        for channel, name in enumerate(modalities):
            ElementTree.SubElement(
                pixels, "Channel", ID=f"Channel:{number}:{channel}", Name=name, SamplesPerPixel="1"
            )
        ElementTree.SubElement(pixels, "MetadataOnly")
    written: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return written


def _write_field(
    group: zarr.Group, frames: NDArray[np.uint16], info: FieldInfo, store: CellStore
) -> None:
    shape = frames.shape[1:]
    levels = _levels(shape)
    for level in range(levels):
        _array(group, str(level), frames, ("c", "y", "x"))
        if level < levels - 1:
            frames = _halved(frames)
    highest = int(min(info.saturation, 65535))
    group.attrs["ome"] = {
        "version": VERSION,
        "multiscales": [_multiscale(f"field {info.index}", ("c", "y", "x"), levels, info, shape)],
        "omero": {
            "channels": [
                {
                    "label": name,
                    "color": _COLOURS[k % len(_COLOURS)],
                    "active": True,
                    "window": {"min": 0, "max": 65535, "start": 0, "end": highest},
                }
                for k, name in enumerate(store.modalities)
            ]
        },
    }
    labels = group.create_group("labels")
    labels.attrs["ome"] = {"version": VERSION, "labels": ["cells"]}
    cells = labels.create_group("cells")
    painted = _label_image(store, info, shape)
    for level in range(levels):
        _array(cells, str(level), painted[:: 2**level, :: 2**level], ("y", "x"))
    cells.attrs["ome"] = {
        "version": VERSION,
        "multiscales": [_multiscale("cells", ("y", "x"), levels, info, shape)],
        "image-label": {"source": {"image": "../../"}},
    }


def _levels(shape: tuple[int, ...]) -> int:
    levels = 1
    while min(shape) // 2**levels >= _SMALLEST_PX:
        levels += 1
    return levels


def _halved(frames: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Return frames (C, Y, X) binned 2 x 2; an odd last row or column is left out of the mean."""
    height, width = (side // 2 * 2 for side in frames.shape[1:])
    blocks = frames[:, :height, :width].reshape(len(frames), height // 2, 2, width // 2, 2)
    return np.asarray(np.rint(blocks.mean(axis=(2, 4), dtype=np.float32)), np.uint16)


def _array(group: zarr.Group, name: str, content: NDArray[Any], axes: tuple[str, ...]) -> None:
    chunks = (*(1 for _ in axes[:-2]), *(min(_CHUNK_PX, side) for side in content.shape[-2:]))
    array = group.create_array(
        name, shape=content.shape, dtype=content.dtype, chunks=chunks, dimension_names=axes
    )
    array[...] = content


def _multiscale(
    name: str, axes: tuple[str, ...], levels: int, info: FieldInfo, shape: tuple[int, ...]
) -> dict[str, Any]:
    """Return the metadata of a pyramid: pixel centres in um on the stage."""
    first = [1.0] * (len(axes) - 2)
    corner = [
        centre - (side - 1) / 2 * info.pixel_um
        for centre, side in zip((info.y_um, info.x_um), shape, strict=True)
    ]
    datasets = []
    for level in range(levels):
        pixel_um = info.pixel_um * 2**level
        # The mean of a block lies between its pixels; a label is that of the block's first pixel,
        # half of one away.
        shift = (2**level - 1) / 2 * info.pixel_um if "c" in axes else 0.0
        datasets.append(
            {
                "path": str(level),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [*first, pixel_um, pixel_um]},
                    {
                        "type": "translation",
                        "translation": [*(0.0 for _ in first), *(at + shift for at in corner)],
                    },
                ],
            }
        )
    return {
        "name": name,
        "axes": [
            {"name": axis, "type": "channel"}
            if axis == "c"
            else {"name": axis, "type": "space", "unit": "micrometer"}
            for axis in axes
        ],
        "datasets": datasets,
    }


def _label_image(store: CellStore, info: FieldInfo, shape: tuple[int, ...]) -> NDArray[np.uint32]:
    painted = np.zeros(shape, np.uint32)
    for row, outline in outlines_of_field(store, info):
        inside = polygon(outline[:, 0], outline[:, 1], shape)  # type: ignore[no-untyped-call]
        painted[inside] = row + 1
    return painted
