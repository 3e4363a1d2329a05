"""Read stacks of channels: TIFF, ``.npy`` and ``.npz``."""

from __future__ import annotations

import zipfile
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np

from wbcpipe.segment.importers.find_files import class_of
from wbcpipe.segment.importers.raw_images import RawImages
from wbcpipe.segment.importers.tiff_images import read_tiff

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.segment.importers.tiff_images import TiffSeries
    from wbcpipe.system.user_files import UserFile

__all__ = ["read_stack"]

_MAX_CHANNELS: Final = 64
_MAX_CELLS: Final = 10**7
#: A plane in colour has its signal in green if green has at least this share of the contrast of the
#: strongest colour.
_GREEN_SHARE: Final = 0.5


def read_stack(file: UserFile, label_array: str | None = None, nuclear: int = -1) -> RawImages:
    """Read a stack of channels.

    ``.tif`` and ``.npy`` hold one (C, Y, X) or many (N, C, Y, X) images; ``.npz`` an array
    ``images`` of these and, optionally, one label for each.

    Args:
        file: the stack.
        label_array: name of the label array in a ``.npz``; by default ``label``, ``labels``, or the
            only array of text.
        nuclear: which channel is the nuclear one, the only one that may be a photograph in colour.

    Raises:
        WbcpipeError: ``file.error``: too large, not readable, or of another shape or type.
    """
    suffix = file.path.suffix.lower()
    if suffix in {".tif", ".tiff"}:
        content = read_tiff(file)
        images, notes = _channels(file, content.series, nuclear)
        return RawImages(tuple(_checked(file, images)), (), content.bits, content.pixel_um, notes)
    if suffix == ".npz":
        images, labels = _npz(file, label_array)
    elif suffix == ".npy":
        with file.path.open("rb") as handle:
            _check_header(file, handle, file.size())
        images, labels = np.load(file.path, allow_pickle=False), []
    else:
        raise file.refuse(f"{suffix or 'no suffix'}; a stack ends in .tif, .tiff, .npy or .npz.")
    return RawImages(tuple(_checked(file, images)), tuple(labels))


def _channels(
    file: UserFile, series: tuple[TiffSeries, ...], nuclear: int
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Return the pages of a TIFF as (N, C, Y, X) or (C, Y, X), and notes."""
    if len(series) == 1 and not series[0].colour:
        pixels, axes = series[0].pixels, series[0].axes
        if "C" in axes and pixels.ndim > 3:
            pixels = np.moveaxis(pixels, axes.index("C"), -3)
            pixels = pixels.reshape(-1, *pixels.shape[-3:])
        return pixels, ()
    shapes = {one.pixels.shape[-3:-1] if one.colour else one.pixels.shape[-2:] for one in series}
    if len(shapes) != 1:
        raise file.refuse(
            f"pages of {len(shapes)} sizes ({', '.join(f'{x} x {y}' for y, x in sorted(shapes))} "
            f"pixels); the channels of a stack have one size."
        )
    planes: list[NDArray[Any]] = []
    for one in series:
        wide = 3 if one.colour else 2
        planes.extend(one.pixels.reshape(-1, *one.pixels.shape[-wide:]))
    if len(planes) < 2:
        raise file.refuse(
            "a picture in colour and no stack; import it with --kind stained-rgb, or save its "
            "channels."
        )
    notes: list[str] = []
    grey = [
        plane if plane.ndim == 2 else _grey_plane(file, plane, k, k == nuclear % len(planes), notes)
        for k, plane in enumerate(planes)
    ]
    types = {plane.dtype.name for plane in grey}
    if len(types) != 1:
        raise file.refuse(
            f"channels of {' and '.join(sorted(types))}; save all with the same number of bits."
        )
    return np.stack(grey), tuple(notes)


def _grey_plane(
    file: UserFile, colour: NDArray[Any], number: int, nuclear: bool, notes: list[str]
) -> NDArray[Any]:
    """Return a channel (Y, X) that was saved in colour (Y, X, 3): grey, or the green light of
    Acridine Orange.
    """
    if (colour[..., 1:] == colour[..., :1]).all():
        return np.ascontiguousarray(colour[..., 0])
    contrast = [
        float(np.percentile(plane, 99.5) - np.median(plane)) for plane in np.moveaxis(colour, -1, 0)
    ]
    if not nuclear or contrast[1] < _GREEN_SHARE * max(contrast):
        strongest = ("red", "green", "blue")[int(np.argmax(contrast))]
        raise file.refuse(
            f"channel {number + 1} is a photograph in colour, with most contrast in {strongest}; "
            f"save that plane alone, in grey."
        )
    notes.append(f"channel {number + 1} is a photograph in colour; its green plane is taken")
    return np.ascontiguousarray(colour[..., 1])


def _checked(file: UserFile, images: NDArray[Any]) -> NDArray[Any]:
    """Return images as (N, C, Y, X) of uint8, uint16 or float32.

    Refuse any other shape or value.
    """
    images = images[None] if images.ndim == 3 else images
    kind = images.dtype.kind
    if images.ndim == 5 or (
        images.ndim == 4 and images.shape[1] > _MAX_CHANNELS and images.shape[3] in (3, 4)
    ):
        raise file.refuse(
            f"shape {images.shape}: planes in colour; save each channel as a grey plane."
        )
    if images.ndim != 4 or kind not in "iuf" or not images.size or images.shape[1] > _MAX_CHANNELS:
        raise file.refuse(
            f"shape {images.shape}, {images.dtype}; (N, C, Y, X) or (C, Y, X) of 8 or 16 bits was "
            f"expected."
        )
    if images.dtype in (np.uint8, np.uint16):
        return images
    low, high = (float(value) for value in (images.min(), images.max()))  # NaN if any value is
    if not (0 <= low <= high <= 65535):
        raise file.refuse(
            f"{images.dtype} values from {low:.3g} to {high:.3g}; (N, C, Y, X) of 8 or 16 bits "
            f"was expected, or values of 0 to 1 or 0 to 65535."
        )
    return images.astype(np.float32 if kind == "f" else np.uint16)


def _npz(file: UserFile, label_array: str | None) -> tuple[NDArray[Any], list[str]]:
    file.size()
    with zipfile.ZipFile(file.path) as archive:
        members = archive.infolist()
        file.check_decoded_bytes(sum(member.file_size for member in members))
        for member in members:
            with archive.open(member) as handle:
                _check_header(
                    file, handle, member.file_size, images=member.filename == "images.npy"
                )
    with np.load(file.path, allow_pickle=False) as content:
        if "images" not in content.files:
            raise file.refuse(f"arrays {content.files}; one named 'images' is needed.")
        images = content["images"]
        others = {name: content[name] for name in content.files if name != "images"}
    text = [
        name for name, values in others.items() if values.dtype.kind == "U" and values.ndim == 1
    ]
    common = [name for name in ("label", "labels") if name in others]
    name = label_array or (common or text if len(common or text) == 1 else [None])[0]
    if name is None:
        return images, []
    if name not in others or others[name].shape != (len(images),):
        raise file.refuse(
            f"no label array {name!r} of length {len(images)}; arrays: {sorted(others)}."
        )
    return images, [class_of(str(value)) for value in others[name]]


def _check_header(file: UserFile, handle: IO[bytes], size: int, *, images: bool = True) -> None:
    """Check what an array of numpy declares against the limits and the bytes that are there."""
    version = np.lib.format.read_magic(handle)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read(handle)
    if dtype.hasobject:
        raise file.refuse("not readable: it holds Python objects; save arrays of numbers and text.")
    count = 1
    for side in shape:
        count *= side
    if images and len(shape) >= 3 and count:
        file.check_pixels(shape[-2], shape[-1])
        if len(shape) == 4 and shape[0] > _MAX_CELLS:
            raise file.refuse(
                f"declares {shape[0]} images; a file may hold {_MAX_CELLS}: split it."
            )
    file.check_decoded_bytes(count * dtype.itemsize)
    if handle.tell() + count * dtype.itemsize > size:
        raise file.refuse(
            f"truncated: it declares an array of shape {shape}, {dtype}, and has {size} bytes."
        )
