"""A quick look at a field's first bright-field frame: is there anything on the glass that is worth three more?

Bare glass is smooth: what is left after the lamp's slow unevenness is noise. A cell, stained or not, darkens or
brightens some tens of square micrometres by a few per cent, in focus or some micrometres off. Decided from the frame
alone, so that a run that was broken skips the same fields as one that was not.
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

__all__ = ["EMPTY_BELOW_UM2", "EmptyFieldDetector", "EmptyFieldError", "foreground_area_um2", "is_empty"]

#: A field is empty when nothing in it covers so much within the size of a cell. Measured on the virtual scope, each
#: alone on bare glass and up to 5 um out of focus: platelets 1 to 12, lymphocytes, the faintest, 44 and more, and 28
#: and more when only half of the cell is inside; dust on the optics 0.
EMPTY_BELOW_UM2: Final = 16.0
#: Sampling of the frame: fine enough for a cell's rim, coarse enough to cost little and to average the noise.
_SAMPLE_UM: Final = 0.8
#: Window in which what stands out is added up, about a cell.
_CELL_UM: Final = 10.0
#: What counts as standing out: dust out of focus on the optics stays below.
_CONTRAST: Final = 0.025
#: In deviations of the noise, so that a dim frame does not look full of structure.
_NOISE: Final = 6.0
#: The slow unevenness is a polynomial of this degree along each axis, through the medians of blocks.
_DEGREE: Final = 4
_BLOCKS: Final = 12
#: Below this share of the range, or with this share of it saturated, a frame tells nothing: a dark lamp is no glass.
_DIMMEST: Final = 0.02
_SATURATED_SHARE: Final = 0.02
#: How soon the first frame of a burst is copied once all were exposed, unless that failed.
_FIRST_FRAME_S: Final = 1.0


class EmptyFieldError(Exception):
    """Raised to leave a field whose first frame shows no cell.

    Attributes:
        figure_um2: see `foreground_area_um2`.
    """

    def __init__(self, figure_um2: float) -> None:
        super().__init__(f"empty: {figure_um2:.1f} um2 stand out")
        self.figure_um2 = figure_um2


class EmptyFieldDetector:
    """Judges the first frame of each field in a thread of its own, so that the camera need not wait.

    Args:
        pixel_um: of a frame on the specimen.
        saturation: pixel value from which a pixel counts as saturated.
    """

    def __init__(self, pixel_um: float, saturation: int) -> None:
        self._pixel_um, self._saturation = pixel_um, saturation
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="wbcpipe-look")
        self._figure_um2: Future[float] | None = None
        self._begun = threading.Event()

    def begin(self, frame: NDArray[np.uint16]) -> None:
        """Look at a bright-field frame (Y, X) uint16, which stays as it is until `decide`."""
        self._figure_um2 = self._pool.submit(foreground_area_um2, frame, self._pixel_um, self._saturation)
        self._begun.set()

    def decide(self, microscope: Microscope) -> None:
        """Wait for the look, if one was begun or is about to be, once the frame is whole.

        Args:
            microscope: that exposed the frame; brought to an end of its read-out before the field is left.

        Raises:
            EmptyFieldError: the frame shows bare glass.
        """
        if not self._begun.wait(_FIRST_FRAME_S):
            microscope.wait_for_frames()  # raises what kept the frame from becoming whole
        if self._figure_um2 is None:
            return
        figure_um2 = self._figure_um2.result()
        self.forget()
        if figure_um2 < EMPTY_BELOW_UM2:
            microscope.wait_for_frames()
            raise EmptyFieldError(figure_um2)

    def forget(self) -> None:
        """Expect another field."""
        self._figure_um2 = None
        self._begun.clear()

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown()


def is_empty(frame: NDArray[np.uint16], pixel_um: float, saturation: int = 65535) -> bool:
    """True when a bright-field frame (Y, X) uint16 shows bare glass; see `foreground_area_um2` for the arguments."""
    return foreground_area_um2(frame, pixel_um, saturation) < EMPTY_BELOW_UM2


def foreground_area_um2(frame: NDArray[np.uint16], pixel_um: float, saturation: int = 65535) -> float:
    """The largest area that stands out from the background within a window of a cell's size.

    Args:
        frame: (Y, X) uint16, bright field.
        pixel_um: of the frame on the specimen.
        saturation: pixel value from which a pixel counts as saturated.

    Returns:
        Square micrometres; infinity for a frame that is too dark, too bright or too small to be judged.
    """
    samples = _sampled(frame, max(1, round(_SAMPLE_UM / pixel_um)))  # (y, x) float32
    step_um = pixel_um * max(1, round(_SAMPLE_UM / pixel_um))
    if min(samples.shape) < _BLOCKS:
        return float("inf")
    if np.median(samples) < _DIMMEST * saturation or np.mean(samples >= saturation) > _SATURATED_SHARE:
        return float("inf")
    deviation = samples / _background(samples) - 1  # (y, x)
    # Second differences of neighbours: the noise, whatever lies there that is larger than a sample or two.
    bends = np.abs(deviation[:, 2:] - 2 * deviation[:, 1:-1] + deviation[:, :-2])
    noise = float(np.median(bends)) / (0.6745 * np.sqrt(6.0))
    limit = max(_CONTRAST, min(_NOISE * noise, 4 * _CONTRAST))
    stands_out = (np.abs(deviation) > limit).astype(np.float32)
    window = max(1, round(_CELL_UM / step_um))
    share = ndimage.uniform_filter(stands_out, window, mode="constant")
    return round(float(share.max()) * (window * step_um) ** 2, 2)


def _sampled(frame: NDArray[np.uint16], step: int) -> NDArray[np.float32]:
    """Every ``step``-th row, each ``step`` of its pixels averaged: (y, x) float32."""
    height, width = (side // step for side in frame.shape)
    rows = frame[: height * step : step, : width * step].astype(np.float32).reshape(-1, step)  # (y * x, step)
    averaged: NDArray[np.float32] = rows @ np.full(step, 1 / step, np.float32)
    return averaged.reshape(height, width)


def _background(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """The lamp's slow unevenness under ``samples`` (y, x): a polynomial through the medians of blocks."""
    rows, columns = (np.linspace(-1, 1, side) for side in samples.shape)
    high, wide = (side // _BLOCKS for side in samples.shape)
    cut = samples[: high * _BLOCKS, : wide * _BLOCKS].reshape(_BLOCKS, high, _BLOCKS, wide)
    medians = np.median(cut.transpose(0, 2, 1, 3).reshape(_BLOCKS * _BLOCKS, -1), axis=1)  # (blocks * blocks,)
    y, x = (
        axis[: size * _BLOCKS].reshape(_BLOCKS, size).mean(axis=1) for axis, size in ((rows, high), (columns, wide))
    )
    surface = fit_surface(medians.reshape(_BLOCKS, _BLOCKS), _DEGREE, axes=(y, x), iterations=1).at(rows, columns)
    # Never to zero or below: the fit through a field full of cells means nothing, but must not fail.
    floor = max(float(np.median(medians)) * 0.05, 1.0)
    return np.maximum(surface, floor).astype(np.float32)
