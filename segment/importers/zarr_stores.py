"""Read images from Zarr: OME-Zarr (NGFF 0.4 and 0.5), and single cells in the layout of BSCCM.

BSCCM (Pinkard et al., arXiv:2402.06191) keeps each cell under LED-array illuminations and in
fluorescence: ``BSCCM_index.csv`` (columns global_index, data_path), ``BSCCM_global_metadata.json``
(names of channels) and ``BSCCM_images.zarr/<data_path>/<led_array|fluor>/cell_<global_index>``,
each (C, Y, X).
"""

from __future__ import annotations

import csv
import io
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wbcpipe.segment.importers.find_files import BSCCM_INDEX, class_of
from wbcpipe.segment.importers.raw_images import RawImages
from wbcpipe.system.user_files import UserFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from wbcpipe.samples.records import ImportKind

__all__ = ["read_zarr"]

_UNITS_UM: Final = {"micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "meter": 1e6}
_SQUARE: Final = 0.02
_BSCCM_METADATA: Final = "BSCCM_global_metadata.json"
_BSCCM_IMAGES: Final = "BSCCM_images.zarr"
_BSCCM_KINDS: Final = ("led_array", "fluorescence")
#: Kind in the metadata to its group in the store.
_BSCCM_GROUPS: Final = {"led_array": "led_array", "fluorescence": "fluor"}
_MAX_INDEX_BYTES: Final = 2**28


def read_zarr(file: UserFile, kind: ImportKind, modalities: Sequence[str] | None) -> RawImages:
    """Read all images of a store.

    Args:
        file: the folder.
        kind: ``stained-rgb`` or ``stack``.
        modalities: names of channels; of a BSCCM store, those to take.

    Raises:
        WbcpipeError: ``file.error``: no store of this kind, too large, or of axes or types that are
            not read.
    """
    if (file.path / BSCCM_INDEX).is_file():
        return _bsccm(file, kind, modalities)
    return _ome_zarr(file, kind)


def _ome_zarr(file: UserFile, kind: ImportKind) -> RawImages:
    # Imported here, as zarr takes a second to load.
    import zarr

    images: list[NDArray[Any]] = []
    sizes: set[float | None] = set()
    count = 0
    for name, group, multiscale in _images_of(zarr.open_group(file.path, mode="r")):
        array = group[str(multiscale["datasets"][0]["path"])]
        axes = [axis["name"] for axis in multiscale["axes"]]
        count += math.prod(array.shape) * array.dtype.itemsize
        file.check_decoded_bytes(count)
        images.append(_planes(file, name, array, axes, kind))
        sizes.add(_pixel_um(file, multiscale))
    if not images:
        raise file.refuse(
            "an OME-Zarr store without an image; give one with 'multiscales' (NGFF 0.4 or 0.5)."
        )
    if len(sizes) > 1:
        raise file.refuse(
            "its images differ in the size of their pixels; import each as a sample of its own."
        )
    return RawImages(tuple(images), (), None, sizes.pop())


def _images_of(group: Any, name: str = "") -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Yield the images of a group and of the groups in it, in order, without labels."""
    attributes = dict(group.attrs)
    described = attributes.get("ome", attributes)
    if isinstance(described, dict) and described.get("multiscales"):
        yield name or "the image", group, described["multiscales"][0]
        return
    names = sorted(
        group.group_keys(),
        key=lambda text: (not text.isdigit(), int(text) if text.isdigit() else 0, text),
    )
    for inner in names:
        if inner not in ("labels", "OME"):
            yield from _images_of(group[inner], f"{name}/{inner}".strip("/"))


def _planes(
    file: UserFile, name: str, array: Any, axes: Sequence[str], kind: ImportKind
) -> NDArray[Any]:
    """Return an image as (C, Y, X), or (Y, X, 3) for ``stained-rgb``."""
    if list(axes[-2:]) != ["y", "x"] or len(axes) != array.ndim:
        raise file.refuse(f"{name}: axes {', '.join(axes)}; y and x must be the last.")
    file.check_pixels(*array.shape[-2:])
    sizes = dict(zip(axes, array.shape, strict=True))
    if extra := [f"{axis} {sizes[axis]}" for axis in axes[:-2] if axis != "c" and sizes[axis] != 1]:
        raise file.refuse(
            f"{name}: {', '.join(extra)}; save one plane of each channel (one time, one focus)."
        )
    if array.dtype not in (np.uint8, np.uint16, np.float32):
        raise file.refuse(f"{name}: {array.dtype}; values of 8 or 16 bits, or float32, are read.")
    pixels = np.asarray(array[...]).reshape(-1, *array.shape[-2:])
    if pixels.dtype == np.float32 and not (
        np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 65535
    ):
        raise file.refuse(f"{name}: values that are not finite, or not from 0 to 65535.")
    if kind == "stack":
        return pixels
    if len(pixels) != 3:
        raise file.refuse(
            f"{name}: {len(pixels)} channels; a stained smear has 3 (import it with --kind stack?)."
        )
    return np.ascontiguousarray(np.moveaxis(pixels, 0, -1))


def _pixel_um(file: UserFile, multiscale: Mapping[str, Any]) -> float | None:
    """Return the size of a pixel of the largest image, where a known unit is given."""
    transforms = [*multiscale["datasets"][0].get("coordinateTransformations", ())]
    transforms += multiscale.get("coordinateTransformations", ())
    scale = np.ones(2)
    for transform in transforms:
        if transform.get("type") == "scale":
            scale = scale * np.asarray(transform["scale"][-2:], np.float64)
    units = {axis.get("unit") for axis in multiscale["axes"][-2:]}
    unit = _UNITS_UM.get(str(units.pop())) if len(units) == 1 else None
    if unit is None:
        return None
    y_um, x_um = (scale * unit).tolist()
    if not (y_um > 0 and x_um > 0) or abs(y_um / x_um - 1) > _SQUARE:
        raise file.refuse(f"pixels of {x_um:g} x {y_um:g} um; square pixels are needed.")
    return float(y_um)


def _bsccm(file: UserFile, kind: ImportKind, modalities: Sequence[str] | None) -> RawImages:
    import zarr

    if kind != "stack":
        raise file.refuse("a BSCCM store holds channels; import it with --kind stack.")
    metadata = UserFile(
        file.path / _BSCCM_METADATA, "the metadata of BSCCM", file.error
    ).read_json()
    try:
        channels = {
            name: (_BSCCM_GROUPS[group], number)
            for group in _BSCCM_KINDS
            for number, name in enumerate(metadata.get(group, {}).get("channel_names", ()))
        }
    except (AttributeError, TypeError) as error:
        raise file.refuse(
            f"{_BSCCM_METADATA} has no lists 'channel_names'; download the set again."
        ) from error
    if not modalities or (unknown := [name for name in modalities if name not in channels]):
        reason = (
            f"there is no channel {unknown[0]!r}"
            if modalities
            else "which channels to take is not given"
        )
        raise file.refuse(
            f"{reason}; give --modality once for each, the one that shows the nuclei last: "
            f"{', '.join(channels)}."
        )
    rows = _bsccm_index(file)
    root: Any = zarr.open_group(file.path / _BSCCM_IMAGES, mode="r")
    chosen = [channels[name] for name in modalities]
    images: list[NDArray[Any]] = []
    count = 0
    for index, place, _ in rows:
        try:
            arrays = {
                group: root[f"{place}/{group}/cell_{index}"] for group, _ in dict.fromkeys(chosen)
            }
            cell = np.stack([np.asarray(arrays[group])[number] for group, number in chosen])
        except (KeyError, IndexError, ValueError, OSError) as error:
            raise file.refuse(
                f"cell {index}: its images are not there ({error}); download the set again."
            ) from error
        if cell.ndim != 3 or cell.dtype not in (np.uint8, np.uint16):
            raise file.refuse(
                f"cell {index}: shape {cell.shape}, {cell.dtype}; (C, Y, X) of 8 or 16 bits is "
                f"read."
            )
        count += cell.nbytes
        if not images:
            file.check_decoded_bytes(cell.nbytes * len(rows))
        file.check_decoded_bytes(count)
        images.append(cell)
    return RawImages(tuple(images), tuple(label for _, _, label in rows))


def _bsccm_index(file: UserFile) -> list[tuple[int, str, str]]:
    """Return global index, path and label of each cell.

    A column ``label`` may be added to the table.
    """
    table = UserFile(file.path / BSCCM_INDEX, "the index of BSCCM", file.error)
    reader = csv.DictReader(io.StringIO(table.read_text(_MAX_INDEX_BYTES)))
    if missing := {"global_index", "data_path"} - set(reader.fieldnames or ()):
        raise table.refuse(f"the column {min(missing)!r} is missing; download the set again.")
    found = []
    for number, row in enumerate(reader, 2):
        place = row["data_path"] or ""
        if (
            not (row["global_index"] or "").isdecimal()
            or ".." in place.split("/")
            or place.startswith("/")
        ):
            raise table.refuse(
                f"line {number}: no cell ({row['global_index']!r}, {place!r}); download the set "
                f"again."
            )
        found.append((int(row["global_index"]), place.strip("/"), class_of(row.get("label") or "")))
    if not found:
        raise table.refuse("lists no cell; download the set again.")
    return found
