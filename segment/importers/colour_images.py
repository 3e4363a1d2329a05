"""Read colour images of stained smears: JPEG, PNG, WebP, BMP and TIFF."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, Final

import imagecodecs
import numpy as np
from PIL import Image

from wbcpipe.imaging.arrays import percentiles
from wbcpipe.segment.importers.raw_images import RawImages, bits_of, to_full_range
from wbcpipe.segment.importers.tiff_images import read_tiff
from wbcpipe.segment.stain_separation import background_colour

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from wbcpipe.segment.importers.tiff_images import TiffSeries
    from wbcpipe.system.user_files import UserFile

__all__ = ["read_colour_images", "refuse_dark_background"]

_MIN_SIDE_PX: Final = 16
_GREY_MODES: Final = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "F"}
#: Formats of which all frames are pictures of their own; further frames of a JPEG (MPO) are
#: previews.
_SEVERAL_FRAMES: Final = {"PNG", "WEBP", "TIFF"}
#: A background is dark below this share of the brightest parts, where more is brighter than it than
#: is darker.
_DARK_BACKGROUND: Final = 0.4
_BRIGHTER, _DARKER = 1.5, 0.67


def read_colour_images(file: UserFile) -> RawImages:
    """Read the colour images of a file, every page of it.

    Raises:
        WbcpipeError: ``file.error``: too large, not readable, grey, or too small.
    """
    if file.path.suffix.lower() in {".tif", ".tiff"}:
        content = read_tiff(file)
        images = tuple(image for series in content.series for image in _colour_pages(file, series))
        raw = RawImages(images, bits=content.bits, pixel_um=content.pixel_um)
    else:
        raw = RawImages(tuple(_decode(file)))
    return RawImages(
        tuple(_checked(file, image) for image in raw.images),
        (),
        raw.bits,
        raw.pixel_um,
        _notes(raw),
    )


def _notes(raw: RawImages) -> tuple[str, ...]:
    return (
        (f"holds {len(raw.images)} colour images; each is imported",) if len(raw.images) > 1 else ()
    )


def _colour_pages(file: UserFile, series: TiffSeries) -> Iterator[NDArray[Any]]:
    """Yield the colour images (Y, X, 3) of a series; three grey pages are the planes of one."""
    pixels = series.pixels
    if series.colour:
        yield from pixels.reshape(-1, *pixels.shape[-3:])
    elif pixels.ndim == 3 and len(pixels) in (3, 4):
        yield np.moveaxis(pixels[:3], 0, -1)
    else:
        raise file.refuse(
            f"a grey image: shape {pixels.shape}, {pixels.dtype}; stained-rgb needs colour, (Y, "
            f"X, 3) in each page."
        )


def _decode(file: UserFile) -> Iterator[NDArray[Any]]:
    """Yield the frames (Y, X, 3) of an image that is no TIFF."""
    file.size()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged metadata, and of sizes that are checked here
        try:
            opened = Image.open(file.path)
        except Image.DecompressionBombError as error:
            raise file.refuse(f"too large to be a field of view ({error}).") from error
        with opened as image:
            file.check_pixels(image.height, image.width)
            if image.mode in _GREY_MODES:
                raise file.refuse(f"a grey image ({image.mode}); stained-rgb needs colour.")
            count = getattr(image, "n_frames", 1) if image.format in _SEVERAL_FRAMES else 1
            file.check_decoded_bytes(count * image.height * image.width * 3)
            if image.format == "PNG" and count == 1 and _has_16_bits(file):
                yield imagecodecs.png_decode(file.path.read_bytes())[
                    ..., :3
                ]  # pillow would keep 8 bits of them
                return
            for frame in range(count):
                image.seek(frame)
                yield np.asarray(image.convert("RGB"))


def _has_16_bits(file: UserFile) -> bool:
    """Return whether a PNG has 16 bits a sample: byte 24 is the bit depth in its header."""
    with file.path.open("rb") as handle:
        return handle.read(25)[24:] == b"\x10"


def _checked(file: UserFile, pixels: NDArray[Any]) -> NDArray[Any]:
    """Return an image as uint8, uint16 or float32.

    Refuse one of other values, in grey or too small.
    """
    if pixels.dtype.kind == "f":
        pixels = pixels.astype(np.float32)
        low, high = (float(value) for value in (pixels.min(), pixels.max()))  # NaN if any value is
        if not (0 <= low <= high <= 65535):
            raise file.refuse(
                f"values from {low:.3g} to {high:.3g}; 0 to 1 or 0 to 65535 were expected."
            )
    elif pixels.dtype.kind in "iu" and pixels.dtype not in (np.uint8, np.uint16):
        if pixels.min() < 0 or pixels.max() > 65535:
            raise file.refuse(
                f"values from {pixels.min()} to {pixels.max()}; 0 to 65535 were expected."
            )
        pixels = pixels.astype(np.uint16)
    elif pixels.dtype.kind not in "iu":
        raise file.refuse(
            f"shape {pixels.shape}, {pixels.dtype}; 8 or 16 bits a colour were expected."
        )
    grey = all(
        np.array_equal(pixels[::8, ::8, k], pixels[::8, ::8, 0]) for k in (1, 2)
    )  # some of them, for speed
    if grey and np.ptp(pixels) and (pixels[..., 1:3] == pixels[..., :1]).all():
        raise file.refuse("a grey image, its three planes are the same; stained-rgb needs colour.")
    if min(pixels.shape[:2]) < _MIN_SIDE_PX:
        raise file.refuse(
            f"{pixels.shape[1]} x {pixels.shape[0]} pixels; at least 16 x 16 are needed."
        )
    return pixels


def refuse_dark_background(file: UserFile, raw: RawImages) -> None:
    """Raise ``file.error`` for fluorescence: light on a dark background, of which no density can be
    computed.
    """
    for image in raw.images:
        _refuse_dark_background(file, image)


def _refuse_dark_background(file: UserFile, pixels: NDArray[Any]) -> None:
    step = max(1, math.ceil(np.sqrt(pixels[..., 0].size / 60_000)))
    small = np.ascontiguousarray(np.moveaxis(pixels[::step, ::step], -1, 0))
    # Of the bits that this image uses, as a dim one of an import is no dark one.
    highest = float(small.max())
    if not highest:
        raise file.refuse("a black image; replace or leave out the file.")
    white = (
        255.0 if pixels.dtype == np.uint8 else 1.0 if highest <= 1 else 2.0 ** bits_of(highest) - 1
    )
    planes = to_full_range(small, {pixels.dtype.name: white})
    background = 65535 * float(background_colour(planes).max())
    brightest = planes.max(0)
    top = percentiles(brightest, 99.9)[0]
    brighter, darker = (
        (brightest > _BRIGHTER * background).sum(),
        (brightest < _DARKER * background).sum(),
    )
    if background < _DARK_BACKGROUND * top and brighter > darker:
        raise file.refuse(
            "a dark background, so this is fluorescence and no stained smear; save its channels "
            "as the grey planes of a TIFF and import it with --kind stack."
        )
