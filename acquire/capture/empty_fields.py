"""Detects fields of bare glass from their first bright-field frame, so that no more frames are
taken there.

Bare glass is smooth: only noise remains once the lamp's slow unevenness is removed. A cell, stained
or not, changes the brightness of some tens of square micrometres by a few per cent, in focus or
some micrometres out of focus. The decision uses the frame alone, so that an interrupted run skips
the same fields as an uninterrupted one.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import ndimage

from wbcpipe.imaging.robust_surface import fit_surface

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.acquire.hardware.protocols import Microscope

__all__ = ["EMPTY_BELOW_UM2", "EmptyFieldDetector", "EmptyFieldError", "foreground_area_um2"]

#: A field is empty when its foreground within the size of a cell is below this area. Measured on
#: the virtual scope, up to 5 um out of focus, each object alone on bare glass: platelets 1 to 12;
#: lymphocytes, the faintest cells, at least 44, and at least 28 when only half of the cell is
#: inside; dust on the optics 0.
EMPTY_BELOW_UM2: Final = 16.0
#: Sampling of the frame: fine enough for a cell's rim, coarse enough to cost little and to average
#: the noise.
_SAMPLE_UM: Final = 0.8
#: Side of the window in which the foreground is summed, about a cell.
_CELL_UM: Final = 10.0
#: Relative brightness change of foreground; dust on the optics, out of focus, stays below.
_CONTRAST: Final = 0.025
#: In standard deviations of the noise, so that a dim frame does not seem full of structure.
_NOISE: Final = 6.0
#: The slow unevenness is a polynomial of this degree along each axis, through the medians of
#: blocks.
_DEGREE: Final = 4
_BLOCKS: Final = 12
#: Below this share of the range, or with this share of pixels saturated, a frame cannot show bare
#: glass.
_MIN_LEVEL: Final = 0.02
_MAX_SATURATED_SHARE: Final = 0.02
#: Time in which the first frame of a sequence is copied once all were exposed, unless that failed.
_FIRST_FRAME_S: Final = 1.0


class EmptyFieldError(Exception):
    """Raised when a field's first frame shows no cell.

    Attributes:
        foreground_um2: See `foreground_area_um2`.
    """

    def __init__(self, foreground_um2: float) -> None:
        super().__init__(f"empty field: its foreground area is {foreground_um2:.1f} um2")
        self.foreground_um2 = foreground_um2


class EmptyFieldDetector:
    """Checks the first frame of each field in a separate thread, so that the camera does not wait.

    Args:
        pixel_um: Pixel size of a frame on the specimen.
        saturation: Pixel value from which a pixel counts as saturated.
    """

    def __init__(self, pixel_um: float, saturation: int) -> None:
        self._pixel_um, self._saturation = pixel_um, saturation
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="wbcpipe-empty")
        self._area_um2: Future[float] | None = None
        self._started = threading.Event()

    def start(self, frame: NDArray[np.uint16]) -> None:
        """Start the check of a bright-field frame (Y, X) uint16, which must not change until
        `raise_if_empty`.
        """
        self._area_um2 = self._pool.submit(
            foreground_area_um2, frame, self._pixel_um, self._saturation
        )
        self._started.set()

    def raise_if_empty(self, microscope: Microscope) -> None:
        """Wait for the result of the check.

        Args:
            microscope: The one that exposed the frame; its read-out ends before the field is left.

        Raises:
            EmptyFieldError: The frame shows bare glass.
        """
        if not self._started.wait(_FIRST_FRAME_S):
            microscope.wait_for_frames()  # raises the error that prevented the frame
        if self._area_um2 is None:
            return
        foreground_um2 = self._area_um2.result()
        self.reset()
        if foreground_um2 < EMPTY_BELOW_UM2:
            microscope.wait_for_frames()
            raise EmptyFieldError(foreground_um2)

    def reset(self) -> None:
        """Discard the result before the next field."""
        self._area_um2 = None
        self._started.clear()

    def close(self) -> None:
        """Stop the thread."""
        self._pool.shutdown()


def foreground_area_um2(
    frame: NDArray[np.uint16], pixel_um: float, saturation: int = 65535
) -> float:
    """Return the largest foreground area within a window of a cell's size.

    Args:
        frame: (Y, X) uint16, bright field.
        pixel_um: Pixel size of the frame on the specimen.
        saturation: Pixel value from which a pixel counts as saturated.

    Returns: Square micrometres; infinity for a frame that is too dark, too bright or too small to
        decide.
    """
    samples = _sampled(frame, max(1, round(_SAMPLE_UM / pixel_um)))  # (y, x) float32
    step_um = pixel_um * max(1, round(_SAMPLE_UM / pixel_um))
    if min(samples.shape) < _BLOCKS:
        return float("inf")
    if (
        np.median(samples) < _MIN_LEVEL * saturation
        or np.mean(samples >= saturation) > _MAX_SATURATED_SHARE
    ):
        return float("inf")
    deviation = samples / _background(samples) - 1  # (y, x)
    # Second differences of neighbours measure the noise: structures larger than two samples hardly
    # change them.
    second_differences = np.abs(deviation[:, 2:] - 2 * deviation[:, 1:-1] + deviation[:, :-2])
    noise = float(np.median(second_differences)) / (0.6745 * np.sqrt(6.0))
    limit = max(_CONTRAST, min(_NOISE * noise, 4 * _CONTRAST))
    foreground = (np.abs(deviation) > limit).astype(np.float32)
    window = max(1, round(_CELL_UM / step_um))
    share = ndimage.uniform_filter(foreground, window, mode="constant")
    return round(float(share.max()) * (window * step_um) ** 2, 2)


def _sampled(frame: NDArray[np.uint16], step: int) -> NDArray[np.float32]:
    """Return every ``step``-th row with each ``step`` of its pixels averaged: (y, x) float32."""
    height, width = (side // step for side in frame.shape)
    rows = (
        frame[: height * step : step, : width * step].astype(np.float32).reshape(-1, step)
    )  # (y * x, step)
    averaged: NDArray[np.float32] = rows @ np.full(step, 1 / step, np.float32)
    return averaged.reshape(height, width)


def _background(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fit the lamp's slow unevenness under ``samples`` (y, x): a polynomial through the medians of
    blocks.
    """
    rows, columns = (np.linspace(-1, 1, side) for side in samples.shape)
    high, wide = (side // _BLOCKS for side in samples.shape)
    cut = samples[: high * _BLOCKS, : wide * _BLOCKS].reshape(_BLOCKS, high, _BLOCKS, wide)
    medians = np.median(
        cut.transpose(0, 2, 1, 3).reshape(_BLOCKS * _BLOCKS, -1), axis=1
    )  # (blocks * blocks,)
    y, x = (
        axis[: size * _BLOCKS].reshape(_BLOCKS, size).mean(axis=1)
        for axis, size in ((rows, high), (columns, wide))
    )
    surface = fit_surface(medians.reshape(_BLOCKS, _BLOCKS), _DEGREE, axes=(y, x), iterations=1).at(
        rows, columns
    )
    # Keep it above zero: the fit through a field full of cells has no meaning, but must not fail.
    floor = max(float(np.median(medians)) * 0.05, 1.0)
    return np.maximum(surface, floor).astype(np.float32)
