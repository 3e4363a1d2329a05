"""The camera: photons to 16-bit numbers, with the noise, the faults and the limits of a real
sensor.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wbcpipe.acquire.simulation.specimen.random_streams import Purpose, stream

__all__ = ["OFFSET_DN", "Window", "digitise", "hot_pixels"]

FULL_WELL_E: Final = 30_000.0
READ_NOISE_E: Final = 1.6
OFFSET_DN: Final = 100.0
HOT_PIXELS_PER_MEGAPIXEL: Final = 12.0
_BLOCK: Final = 256


@dataclass(frozen=True)
class Window:
    """A rectangle of pixels: ``rows`` and ``columns`` as (start, stop)."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.bottom - self.top, self.right - self.left


def hot_pixels(seed: int, sensor_px: tuple[int, int]) -> NDArray[np.float64]:
    """Return row, column and dark current (electrons per second) of the sensor's hot pixels, (N, 3)
    float64.
    """
    rng = stream(Purpose.SENSOR, seed, *sensor_px)
    count = round(HOT_PIXELS_PER_MEGAPIXEL * sensor_px[0] * sensor_px[1] / 1e6)
    rows, columns = rng.integers(0, sensor_px[0], count), rng.integers(0, sensor_px[1], count)
    return np.column_stack([rows, columns, rng.lognormal(np.log(60_000.0), 1.2, count)])


def _noise(frame_key: tuple[int, ...], window: Window, block_row: int) -> NDArray[np.float32]:
    """Unit noise for one row of blocks, cut to the window's columns: the same whatever window asks
    for it.
    """
    blocks = [
        stream(Purpose.NOISE, *frame_key, block_row, column).standard_normal(
            (_BLOCK, _BLOCK), dtype=np.float32
        )
        for column in range(window.left // _BLOCK, (window.right - 1) // _BLOCK + 1)
    ]
    start = window.left % _BLOCK
    wide = np.concatenate(blocks, axis=1) if len(blocks) > 1 else blocks[0]
    return wide[:, start : start + window.right - window.left]


def digitise(
    electrons: NDArray[np.float32],
    window: Window,
    frame_key: tuple[int, ...],
    out: NDArray[np.uint16],
    *,
    pixels_averaged: int = 1,
    bit_depth: int = 16,
) -> None:
    """Turn expected electrons into numbers.

    Args:
        electrons: (rows, columns) float32 mean electrons per unbinned pixel; overwritten.
        window: position on the binned sensor, on which the noise depends.
        frame_key: identifies the exposure.
        out: (rows, columns) uint16, written.
        pixels_averaged: pixels in one bin.
        bit_depth: of the converter; a full well fills its scale.
    """
    top = float(2**bit_depth - 1)
    offset = OFFSET_DN * 2.0 ** (bit_depth - 16)
    gain = (top - offset) / FULL_WELL_E
    for block_row in range(window.top // _BLOCK, (window.bottom - 1) // _BLOCK + 1):
        first = max(window.top, block_row * _BLOCK)
        last = min(window.bottom, (block_row + 1) * _BLOCK)
        signal = electrons[first - window.top : last - window.top]
        noise = _noise(frame_key, window, block_row)[
            first - block_row * _BLOCK : last - block_row * _BLOCK
        ]
        # Above some tens of electrons a Poisson draw is a Gaussian one; below, read noise hides the
        # difference.
        np.maximum(signal, 0.0, out=signal)
        spread = np.sqrt((signal + np.float32(READ_NOISE_E**2)) * np.float32(1.0 / pixels_averaged))
        spread *= noise
        spread += signal
        spread *= np.float32(gain)
        spread += np.float32(offset + 0.5)
        np.clip(spread, 0.0, top, out=spread)
        out[first - window.top : last - window.top] = spread
