"""Read TIFF files as other programs write them.

Several pages, colour models, palettes, compression.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import tifffile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.system.user_files import UserFile

__all__ = ["TiffContent", "TiffSeries", "read_tiff"]

_PHOTOMETRIC: Final = tifffile.PHOTOMETRIC
_PIXELS: Final = re.compile(r"<(?:\w+:)?Pixels\b[^>]*>")
_UNITS_UM: Final = {
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "nm": 1e-3,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
}
#: Pixel sizes along x and y that differ by more than this share are no square pixels.
_SQUARE: Final = 0.02


@dataclass(frozen=True)
class TiffSeries:
    """Pages of a TIFF file that belong together.

    Attributes:
        pixels: (..., Y, X) of grey pages or (..., Y, X, 3) of pages in colour, as the file stores
            them.
        axes: of the leading axes of ``pixels``, such as ``C`` or ``TC``; letters of tifffile.
        colour: the pages are in colour.
    """

    pixels: NDArray[Any]
    axes: str
    colour: bool


@dataclass(frozen=True)
class TiffContent:
    """What a TIFF file holds.

    Attributes:
        series: of its pages, without reduced copies and masks.
        bits: that its values use, where the file says so.
        pixel_um: size of a pixel, where the file gives one (OME-TIFF, ImageJ).
    """

    series: tuple[TiffSeries, ...]
    bits: int | None
    pixel_um: float | None


def read_tiff(file: UserFile) -> TiffContent:
    """Read all full pages of a TIFF file; its size is checked before anything is decoded.

    Raises:
        WbcpipeError: ``file.error``: too large, incomplete, or of a colour model or compression
            that is not read.
    """
    size = file.size()
    with tifffile.TiffFile(file.path, _multifile=False) as tiff:
        chosen = [s for s in tiff.series if not (s.keyframe.is_reduced or s.keyframe.is_mask)]
        if not chosen:
            raise file.refuse("a TIFF without a page; replace or leave out the file.")
        for series in chosen:
            _check_series(file, series, size)
        file.check_decoded_bytes(sum(int(series.size) * series.dtype.itemsize for series in chosen))
        return TiffContent(
            tuple(_read_series(file, series) for series in chosen),
            _stated_bits(tiff),
            _stated_pixel_um(file, tiff),
        )


def _check_series(file: UserFile, series: Any, size: int) -> None:
    """Refuse what is too large, what is not complete, and what is no picture."""
    sides = dict(zip(series.axes, series.shape, strict=True))
    file.check_pixels(sides.get("Y", 0), sides.get("X", 0))
    if series.dtype is None:
        raise file.refuse("pages without a type of pixel; replace or leave out the file.")
    if series.dataoffset is not None:
        if series.dataoffset + int(series.size) * series.dtype.itemsize > size:
            raise file.refuse(
                f"truncated: {size} bytes do not hold its pages; copy the file again."
            )
        return
    for page in series.pages:
        if page is None:
            raise file.refuse("its pages lie in several files; save each field as one OME-TIFF.")
        ends = [
            offset + count
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
        ]
        if not ends or max(ends) > size or min(page.databytecounts) == 0:
            raise file.refuse(
                f"truncated: {size} bytes do not hold its pages; copy the file again."
            )


def _read_series(file: UserFile, series: Any) -> TiffSeries:
    """Return a series with Y and X last, then the colours.

    Its values as a grey or an RGB picture has them.
    """
    page = series.keyframe
    pixels, axes = np.asarray(series.asarray()), str(series.axes)
    pixels = pixels.reshape(series.shape)
    last = "YXS" if "S" in axes else "YX"
    lead = "".join(axis for axis in axes if axis not in last)
    pixels = np.transpose(pixels, [axes.index(axis) for axis in lead + last])
    photometric = page.photometric
    if photometric == _PHOTOMETRIC.PALETTE and page.colormap is not None and last == "YX":
        pixels = _through_palette(pixels, page.colormap)
        return TiffSeries(pixels, lead, colour=True)
    if last == "YX":
        if photometric == _PHOTOMETRIC.MINISWHITE and pixels.dtype.kind == "u":
            pixels = pixels.dtype.type(2**page.bitspersample - 1) - pixels
        elif photometric not in (
            _PHOTOMETRIC.MINISBLACK,
            _PHOTOMETRIC.MINISWHITE,
            _PHOTOMETRIC.RGB,
        ):
            raise file.refuse(
                f"pages of the colour model {_name(photometric)} are not read; save it as RGB."
            )
        return TiffSeries(pixels, lead, colour=False)
    if photometric in (_PHOTOMETRIC.MINISBLACK, _PHOTOMETRIC.MINISWHITE):
        return TiffSeries(
            np.moveaxis(pixels, -1, -3), f"{lead}S", colour=False
        )  # samples that are channels
    return TiffSeries(_to_rgb(file, pixels, page), lead, colour=True)


def _through_palette(indices: NDArray[Any], palette: NDArray[Any]) -> NDArray[Any]:
    """Return the colours (..., Y, X, 3) of a palette (3, 2^bits) uint16; 8 bits each where no more
    are used.
    """
    colours: NDArray[Any] = np.moveaxis(np.asarray(palette), 0, -1)[indices]
    eight_bits = (palette & 255 == palette >> 8).all() or (palette & 255 == 0).all()
    return (colours >> 8).astype(np.uint8) if eight_bits else colours


def _to_rgb(file: UserFile, pixels: NDArray[Any], page: Any) -> NDArray[Any]:
    """Return (..., Y, X, 3) in RGB from samples of another colour model; an opacity is left out."""
    model, samples = page.photometric, pixels.shape[-1]
    # The decoder of JPEG converts YCbCr itself.
    jpeg = int(page.compression) in {6, 7, 33003, 33005, 33007, 34712}
    if samples >= 3 and (model == _PHOTOMETRIC.RGB or (model == _PHOTOMETRIC.YCBCR and jpeg)):
        return pixels[..., :3]
    if model == _PHOTOMETRIC.SEPARATED and samples >= 4 and pixels.dtype.kind == "u":
        full = np.float32(np.iinfo(pixels.dtype).max)
        light = (full - pixels[..., :3]) * (
            (full - pixels[..., 3:4]) / full
        )  # ink takes light away, black as well
        return np.asarray(np.rint(light), pixels.dtype)
    if (
        model in (_PHOTOMETRIC.CIELAB, _PHOTOMETRIC.ICCLAB)
        and samples >= 3
        and pixels.dtype in (np.uint8, np.uint16)
    ):
        return _lab_to_rgb(pixels[..., :3], offset=model == _PHOTOMETRIC.ICCLAB)
    raise file.refuse(
        f"{samples} samples of {pixels.dtype} in the colour model {_name(model)} are not read; "
        f"save it as RGB."
    )


def _lab_to_rgb(pixels: NDArray[Any], *, offset: bool) -> NDArray[Any]:
    """Return (..., Y, X, 3) in sRGB from CIE L*a*b*, whose a* and b* are signed, or offset by the
    middle (ICC).
    """
    # Imported here: scikit-image takes a second to load, and most commands need none of it.
    from skimage import color

    full = np.iinfo(pixels.dtype).max
    unit = 256 ** (pixels.dtype.itemsize - 1)
    signed = pixels[..., 1:] if offset else pixels[..., 1:].view(f"i{pixels.dtype.itemsize}")
    lab = np.empty(pixels.shape, np.float32)
    lab[..., 0] = pixels[..., 0] * np.float32(100 / full)
    lab[..., 1:] = signed.astype(np.float32) / unit - (128 if offset else 0)
    rgb: NDArray[Any] = color.lab2rgb(lab)
    return np.asarray(np.rint(np.clip(rgb, 0, 1) * full), pixels.dtype)


def _name(photometric: Any) -> str:
    return str(getattr(photometric, "name", photometric))


def _stated_bits(tiff: Any) -> int | None:
    """Return the bits of a value, where the file tells fewer than its type has."""
    page = tiff.pages.first
    if page.bitspersample not in (8, 16, 32, 64):
        return int(page.bitspersample)
    found = re.search(r'\bSignificantBits="(\d{1,2})"', tiff.ome_metadata or "")
    return int(found[1]) if found and 8 <= int(found[1]) < page.bitspersample else None


def _stated_pixel_um(file: UserFile, tiff: Any) -> float | None:
    sizes = _ome_pixel_um(tiff.ome_metadata) if tiff.is_ome else _imagej_pixel_um(tiff)
    if sizes is None:
        return None
    if abs(sizes[0] / sizes[1] - 1) > _SQUARE:
        raise file.refuse(
            f"pixels of {sizes[0]:.4g} x {sizes[1]:.4g} um; square pixels are needed: resample "
            f"the image."
        )
    return sizes[0]


def _ome_pixel_um(xml: str | None) -> tuple[float, float] | None:
    """Return PhysicalSizeX and PhysicalSizeY (um) of the first image; ``None`` where one is not
    given.
    """
    tag = _PIXELS.search(xml or "")
    found = []
    for axis in "XY":
        size = re.search(rf'\bPhysicalSize{axis}="([^"]+)"', tag[0]) if tag else None
        unit = re.search(rf'\bPhysicalSize{axis}Unit="([^"]+)"', tag[0]) if tag else None
        found.append(_in_um(size[1], unit[1] if unit else "µm") if size else None)
    x_um, y_um = found
    return None if x_um is None or y_um is None else (x_um, y_um)


def _imagej_pixel_um(tiff: Any) -> tuple[float, float] | None:
    """Return the pixel size (um) of a calibrated ImageJ file."""
    unit = str((tiff.imagej_metadata or {}).get("unit", "")).replace("\\u00B5", "µ")
    tags = tiff.pages.first.tags
    found = []
    for name in ("XResolution", "YResolution"):
        pixels, units = tags[name].value if name in tags else (0, 1)
        found.append(_in_um(str(units / pixels), unit) if pixels else None)
    x_um, y_um = found
    return None if x_um is None or y_um is None else (x_um, y_um)


def _in_um(size: str, unit: str) -> float | None:
    try:
        value = float(size) * _UNITS_UM[unit.strip()]
    except (ValueError, KeyError):
        return None
    return value if 1e-4 < value < 1e4 else None
