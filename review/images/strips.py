"""The images of one cell on the review page.

A strip of its modalities and its composite, and its outlines.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from wbcpipe.report.cell_thumbnails import display_panel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.report.cell_thumbnails import Contrast

__all__ = ["TILE_PX", "cell_outlines", "encode_webp", "make_strip", "mask_outlines"]

TILE_PX: Final = 160
"""Side of a modality in a strip: a cell of 12 um is 86 pixels wide."""
_QUALITY: Final = 82
_FULL_QUALITY: Final = 92
#: Effort of the encoder, 0 to 6: from 2 on a strip takes longer and is hardly smaller.
_METHOD: Final = 1
#: Corners of an outline closer to it than this are left out.
_TOLERANCE_PX: Final = 0.6
_CYTOPLASM, _NUCLEUS = 1, 2


def encode_webp(image: Image.Image, *, quality: int = _QUALITY) -> bytes:
    """Return an RGB image as lossy WebP."""
    encoded = io.BytesIO()
    image.save(encoded, "WEBP", quality=quality, method=_METHOD)
    return encoded.getvalue()


def make_strip(image: NDArray[np.uint16], contrast: Contrast, *, full_size: bool = False) -> bytes:
    """Return a cell's modalities side by side as WebP, and after them its composite where the
    contrast has one.

    Args:
        image: (M, side, side) uint16.
        contrast: of the sample.
        full_size: each modality has its stored size, not `TILE_PX`.
    """
    panels: list[tuple[int, ...]] = [(channel,) for channel in range(len(image))]
    if contrast.composite is not None:
        panels.append(contrast.composite)
    tiles = [Image.fromarray(display_panel(image, contrast, channels)) for channels in panels]
    if full_size:
        return encode_webp(_side_by_side(tiles), quality=_FULL_QUALITY)
    small = [
        tile.resize((TILE_PX, TILE_PX), Image.Resampling.BICUBIC, reducing_gap=2.0)
        for tile in tiles
    ]
    return encode_webp(_side_by_side(small))


def _side_by_side(tiles: list[Image.Image]) -> Image.Image:
    side = tiles[0].height
    strip = Image.new("RGB", (side * len(tiles), side))
    for position, tile in enumerate(tiles):
        strip.paste(tile, (position * side, 0))
    return strip


def mask_outlines(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Return the closed outlines (K, 2) of a mask, y and x in its pixels, the longest first.

    Args:
        mask: (side, side).
    """
    from skimage.measure import (
        approximate_polygon,
        find_contours,
    )  # takes 0.8 s, before the first page

    if not mask.any():
        return []
    # A rim of background closes the outline of what touches the edge.
    found = find_contours(np.pad(mask, 1).astype(np.float32), 0.5)  # type: ignore[no-untyped-call]
    outlines = [approximate_polygon(outline - 1.0, _TOLERANCE_PX) for outline in found]  # type: ignore[no-untyped-call]
    return sorted((outline for outline in outlines if len(outline) > 3), key=len, reverse=True)


def cell_outlines(mask: NDArray[np.uint8]) -> dict[str, Any]:
    """Return the outlines of a cell and of its nucleus, [y, x] from the corner of its crop, and the
    crop's side in px.

    Args:
        mask: (side, side); 0 background, 1 cytoplasm, 2 nucleus.
    """
    parts = {"cell": mask >= _CYTOPLASM, "nucleus": mask == _NUCLEUS}
    outlines = {
        name: [np.round(outline + 0.5, 1).tolist() for outline in mask_outlines(part)]
        for name, part in parts.items()
    }
    return {"side_px": mask.shape[0], **outlines}
