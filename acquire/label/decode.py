"""Find the barcodes in an image of a label, with zxing-cpp."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageFilter

from wbcpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["Code", "eight_bit", "read_codes", "reader_problem"]

#: A label that stands askew: the decoder itself turns by quarters, and linear codes only a little.
_TURNS_DEG = (20, -20, 45)


@dataclass(frozen=True)
class Code:
    """A barcode that was read without an error.

    Attributes:
        text: its content.
        format: such as ``DataMatrix``.
    """

    text: str
    format: str


def reader_problem() -> str:
    """Return why no barcode can be read; empty if the decoder is installed."""
    if importlib.util.find_spec("zxingcpp") is not None:
        return ""
    return (
        "labels are read by the package zxing-cpp, which is not installed: pip install "
        "'wbcpipe[barcode]'"
    )


def eight_bit(image: NDArray[np.number[Any]]) -> NDArray[np.uint8]:
    """Return an image (y, x) stretched to 0 to 255 between its 1st and 99th percentile."""
    low, high = (float(value) for value in np.percentile(image, (1, 99)))
    stretched = (image.astype(np.float32) - low) * (255 / max(high - low, 1.0))
    clipped: NDArray[np.uint8] = np.clip(stretched, 0, 255).astype(np.uint8)
    return clipped


def read_codes(image: NDArray[np.number[Any]], formats: Sequence[str]) -> tuple[Code, ...]:
    """Return the codes in an image (y, x), from the first of several variants of it in which there
    is one.

    Args:
        image: in any orientation; noisy, or with little contrast.
        formats: kinds of barcode to look for, as zxing-cpp names them.

    Raises:
        ConfigError: zxing-cpp is not installed.
    """
    if problem := reader_problem():
        raise ConfigError(f"{problem}.")
    import zxingcpp

    wanted = zxingcpp.barcode_formats_from_str("|".join(formats))
    for variant in _variants(Image.fromarray(eight_bit(image))):
        found = zxingcpp.read_barcodes(np.asarray(variant), formats=wanted)
        codes = {
            Code(str(code.text), code.format.name): None
            for code in found
            if code.valid and code.text
        }
        if codes:
            return tuple(codes)
    return ()


def _variants(image: Image.Image) -> Iterator[Image.Image]:
    """Yield an image as it is, without its noise, smaller, and turned."""
    yield image
    yield image.filter(ImageFilter.MedianFilter(3))
    half = image.reduce(2)
    yield half
    for angle_deg in _TURNS_DEG:
        yield half.rotate(angle_deg, Image.Resampling.BILINEAR, expand=True, fillcolor=255)
