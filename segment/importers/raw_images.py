"""The images of a file as the file holds them, and their conversion to the full range of 16
bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from wbcpipe.samples.records import ImportKind

__all__ = [
    "RawImages",
    "ValueRange",
    "bits_of",
    "saturation",
    "to_full_range",
    "value_range",
    "white_levels",
]

#: Bits of the cameras of microscopes.
_BITS: Final = (8, 10, 12, 14, 16)
#: Rounding may take a float image a little over 1.
_ONE: Final = 1.001


@dataclass(frozen=True)
class RawImages:
    """The images of one file, in the values of the file.

    Attributes:
        images: each (Y, X, 3) for ``stained-rgb``, (C, Y, X) for ``stack``; uint8, uint16 or
            float32, finite and at least 0.
        labels: one for each image, or empty.
        bits: that the values use, where the file says so.
        pixel_um: size of a pixel, where the file gives it.
        notes: what was decided about the file, one line each.
    """

    images: tuple[NDArray[Any], ...]
    labels: tuple[str, ...] = ()
    bits: int | None = None
    pixel_um: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ValueRange:
    """The values of a file's images.

    Attributes:
        dtype: name of their type.
        highest: of them all.
        bits: that they use, where the file says so.
    """

    dtype: str
    highest: float
    bits: int | None


def value_range(raw: RawImages) -> ValueRange:
    """Return the range of a file's values."""
    return ValueRange(
        raw.images[0].dtype.name, max(float(image.max()) for image in raw.images), raw.bits
    )


def bits_of(highest: float) -> int:
    """Return the bits of the camera whose values reach ``highest``.

    >>> [bits_of(value) for value in (255, 1000, 4095, 4096, 65535)]
    [8, 10, 12, 14, 16]
    """
    return next((bits for bits in _BITS if highest < 2**bits), 16)


def white_levels(ranges: Iterable[ValueRange], kind: ImportKind) -> dict[str, float]:
    """Return, for each type of value, the value of white in all files of an import alike.

    A bright-field picture has a background near white, so its highest value tells the bits of its
    camera. Channels of a stack keep their counts.
    """
    levels: dict[str, float] = {}
    for found in ranges:
        if found.dtype == "uint8":
            white = 255.0
        elif found.dtype == "float32" and found.highest <= _ONE:
            white = 1.0
        elif kind == "stack":
            white = 65535.0
        else:
            white = 2.0 ** max(bits_of(found.highest), found.bits or 0) - 1
        levels[found.dtype] = max(white, levels.get(found.dtype, 0.0))
    return levels


def saturation(ranges: Iterable[ValueRange], kind: ImportKind) -> int:
    """Return the value from which a pixel of the imported images is saturated: the highest that
    their camera gives.
    """
    found = list(ranges)
    if kind != "stack" or {one.dtype for one in found} != {"uint16"}:
        return 65535
    return int(2 ** max(max(bits_of(one.highest), one.bits or 0) for one in found)) - 1


def to_full_range(image: NDArray[Any], white: Mapping[str, float]) -> NDArray[np.uint16]:
    """Return an image, of any shape, as uint16 in which white is 65535.

    Levels as of `white_levels`.
    """
    level = white[image.dtype.name]
    if image.dtype == np.uint8:
        return image.astype(np.uint16) * np.uint16(257)
    if image.dtype == np.uint16 and level == 65535:
        return np.ascontiguousarray(image)
    scaled = image.astype(np.float32) * np.float32(65535 / level)
    return np.asarray(np.minimum(np.rint(scaled), 65535), np.uint16)
