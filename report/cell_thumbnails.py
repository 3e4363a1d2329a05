"""Thumbnails of cells.

The modalities side by side and a false-colour composite, one JPEG per cell.
"""

from __future__ import annotations

import base64
import functools
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from wbcpipe.errors import FrameFileError
from wbcpipe.samples.fields import complete_fields, read_passes_info

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wbcpipe.samples.cell_store import CellStore
    from wbcpipe.samples.sample import Sample

__all__ = [
    "Contrast",
    "cell_panels",
    "cell_strip",
    "choose_cells",
    "data_uri",
    "display_panel",
    "illumination_wavelengths",
    "measure_contrast",
]

SIDE_PX: Final = 128
_GAP_PX: Final = 4
_QUALITY: Final = 80
#: Black lies this part of the range below the darkest pixels: the chromatin of dark nuclei stays
#: visible.
_BELOW_BLACK: Final = 0.2
_CONTRAST_CELLS: Final = 64
_PERCENTILES: Final = (0.3, 99.7)


@dataclass(frozen=True)
class Contrast:
    """Display range, the same for every cell of a sample.

    Attributes:
        low: (M,) pixel value displayed as black, per modality.
        high: (M,) pixel value displayed as white.
        fluorescent: indices of the modalities displayed in green on black.
        composite: the three modalities displayed as red, green and blue; ``None`` if there are
            fewer.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    fluorescent: tuple[int, ...]
    composite: tuple[int, int, int] | None


def measure_contrast(
    store: CellStore, chosen: Sequence[int], *, wavelengths_nm: dict[str, float]
) -> Contrast:
    """Measure the display range of each modality on up to 64 cells, spread evenly over ``chosen``.

    Args:
        store: the cells.
        chosen: indices of the cells to measure.
        wavelengths_nm: of the illuminations, as far as known; the longest becomes red in the
            composite.
    """
    take = np.unique(
        np.linspace(0, len(chosen) - 1, min(len(chosen), _CONTRAST_CELLS)).round().astype(int)
    )
    pixels = store.images_at([chosen[i] for i in take])[:, :, ::2, ::2]  # (n, M, s, s)
    bounds = np.percentile(
        pixels.transpose(1, 0, 2, 3).reshape(pixels.shape[1], -1), _PERCENTILES, axis=1
    )  # (2, M)
    fluorescent = tuple(i for i, name in enumerate(store.modalities) if "fluor" in name.lower())
    bright = [i for i in range(pixels.shape[1]) if i not in fluorescent]
    low, high = bounds[0], np.maximum(bounds[1], bounds[0] + 1)
    low[bright] -= _BELOW_BLACK * (high[bright] - low[bright])
    names = store.modalities
    if all(names[i] in wavelengths_nm for i in bright):
        bright.sort(key=lambda i: -wavelengths_nm[names[i]])
    return Contrast(
        low=low,
        high=high,
        fluorescent=fluorescent,
        composite=(bright[0], bright[1], bright[2]) if len(bright) >= 3 else None,
    )


def cell_strip(image: NDArray[np.uint16], contrast: Contrast) -> bytes:
    """Return one cell as a JPEG: its modalities from left to right, then the composite.

    Args:
        image: (M, side, side) uint16.
        contrast: of the sample.
    """
    panels = cell_panels(image, contrast)
    strip = Image.new("RGB", (len(panels) * (SIDE_PX + _GAP_PX) - _GAP_PX, SIDE_PX), "white")
    for position, panel in enumerate(panels):
        thumbnail = Image.fromarray(panel)
        strip.paste(
            thumbnail.resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS),
            (position * (SIDE_PX + _GAP_PX), 0),
        )
    encoded = io.BytesIO()
    strip.save(encoded, "JPEG", quality=_QUALITY, subsampling=0, optimize=True)
    return encoded.getvalue()


def cell_panels(image: NDArray[np.uint16], contrast: Contrast) -> list[NDArray[np.uint8]]:
    """Return the modalities as they are displayed, (side, side, 3) uint8 each, and the composite if
    there is one.

    Args:
        image: (M, side, side) uint16.
        contrast: of the sample.
    """
    shown = [(i,) for i in range(len(image))]
    return [
        display_panel(image, contrast, channels)
        for channels in (*shown, contrast.composite)
        if channels
    ]


def display_panel(
    image: NDArray[np.uint16], contrast: Contrast, channels: Sequence[int]
) -> NDArray[np.uint8]:
    """Return one modality, or three as red, green and blue, as (y, x, 3) uint8.

    Args:
        image: (M, y, x) uint16.
        contrast: of the sample.
        channels: one index of a modality, or three.
    """
    if len(channels) == 1:
        i = channels[0]
        table = _display_table(
            float(contrast.low[i]), float(contrast.high[i]), i in contrast.fluorescent
        )
        panel: NDArray[np.uint8] = table[image[i]]
        return panel
    tables = [
        _display_table(float(contrast.low[i]), float(contrast.high[i]), False)[:, 0]
        for i in channels
    ]
    return np.stack([table[image[i]] for table, i in zip(tables, channels, strict=True)], axis=-1)


@functools.lru_cache(maxsize=64)
def _display_table(low: float, high: float, fluorescent: bool) -> NDArray[np.uint8]:
    """Return the colour (65536, 3) of every pixel value.

    To look colours up is ten times as fast as to compute them.
    """
    plane = np.clip((np.arange(1 << 16) - low) / (high - low), 0, 1)[None]  # (1, 65536)
    coloured = _green_on_black(plane) if fluorescent else np.stack([plane] * 3, axis=-1)
    table: NDArray[np.uint8] = (coloured[0] * 255).round().astype(np.uint8)
    return table


def illumination_wavelengths(sample: Sample) -> dict[str, float]:
    """Read the wavelength (nm) of each modality from the sample's first field, as far as it is
    known.
    """
    raw = sample.path / "raw"
    for index in complete_fields(raw):
        try:
            frames = read_passes_info(raw, index).frames
        except FrameFileError:
            return {}  # the colours of the composite are then in the wrong order
        return {
            frame.modality: frame.wavelength_nm
            for frame in frames
            if frame.wavelength_nm is not None
        }
    return {}


def _green_on_black(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a plane in green on black, white at the maximum: (side, side, 3)."""
    edge = np.clip((plane - 0.6) / 0.4, 0, 1)
    return np.stack([0.75 * edge, plane, 0.15 * plane + 0.5 * edge], axis=-1).clip(0, 1)


def data_uri(jpeg: bytes) -> str:
    """Return the JPEG as a data URI, so that the page needs no other file."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def choose_cells(
    candidates: Sequence[int], confidence: NDArray[np.float32], wanted: int
) -> list[int]:
    """Return some of the candidates, evenly spread from the highest to the lowest confidence.

    >>> choose_cells([3, 5, 7], np.array([0, 0, 0, 0.5, 0, 0.9, 0, 0.7], dtype=np.float32), 2)
    [5, 3]
    """
    ranked = sorted(candidates, key=lambda index: (-float(confidence[index]), index))
    if len(ranked) <= wanted:
        return ranked
    return [ranked[i] for i in np.linspace(0, len(ranked) - 1, wanted).round().astype(int)]
