"""Checks of each frame before its field is written: did lamp and camera work?

The checks use a subsample of the pixels. A frame is compared with fixed limits and with the fields
before it. A fluorescence frame may be dark except for its cells, so it is also compared with bright
field. The checks reject frames; they never change one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from wbcpipe.acquire.capture.empty_fields import EMPTY_BELOW_UM2, foreground_area_um2
from wbcpipe.errors import HardwareError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from wbcpipe.acquire.config.policies import FrameChecks

__all__ = ["FrameValidator", "is_changed_exposure", "is_noise", "subsample"]

#: Exposures that differ by no more are equal: cameras have steps of a line's readout.
_EXPOSURE_STEP_MS: Final = 0.05
_EXPOSURE_STEP: Final = 0.05
#: Pixels used along each side of a frame: enough for a percentile, few enough to be fast.
_SIDE: Final = 96
#: The expected level is the median of this many fields, and needs at least that many.
_REMEMBERED: Final = 9
_MIN_REMEMBERED: Final = 3
#: Quantile of the pixels that is a frame's level. Bright field: light that nothing absorbs, as
#: cells cover most of a field but not all. Fluorescence: the darkest tenth lies between the cells.
_BRIGHT_QUANTILE: Final = 0.99
_DARK_QUANTILE: Final = 0.10
#: A fluorescence level below this many standard deviations of the noise has no meaning: the
#: background is black.
_LEVEL_NOISE: Final = 5.0
#: A frame is only noise if at most this share of its pixels (hot ones) is this many standard
#: deviations above the median, and neighbouring pixels correlate by no more than this many standard
#: deviations of chance.
_TAIL_SHARE: Final = 0.0005
_TAIL_NOISE: Final = 6.0
_CHANCE: Final = 5.0


def is_changed_exposure(asked_ms: float, actual_ms: float) -> bool:
    """Return whether a camera made another exposure of the one it was asked for, beyond its own
    steps.
    """
    return abs(actual_ms - asked_ms) > max(_EXPOSURE_STEP_MS, _EXPOSURE_STEP * asked_ms)


def subsample(frame: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Return about 96 x 96 evenly spaced pixels of a frame (y, x), as a copy."""
    steps = tuple(max(side // _SIDE, 1) for side in frame.shape)
    return frame[steps[0] // 2 :: steps[0], steps[1] // 2 :: steps[1]].copy()


def is_noise(pixels: NDArray[np.uint16]) -> bool:
    """Return whether pixels (y, x) show only camera noise: no bright cell, no gradient of light."""
    values = pixels.astype(np.float32)
    median, noise = float(np.median(values)), _noise(values)
    if (values > median + _TAIL_NOISE * noise).mean() > _TAIL_SHARE:
        return False
    flat = np.clip(values - median, -3 * noise, 3 * noise)
    flat -= flat.mean()
    power = float(np.square(flat).mean())
    if not power:
        return True
    correlation = (
        max(float((flat[1:] * flat[:-1]).mean()), float((flat[:, 1:] * flat[:, :-1]).mean()))
        / power
    )
    return bool(correlation <= _CHANCE / np.sqrt(flat.size))


def _noise(values: NDArray[np.floating] | NDArray[np.uint16]) -> float:
    """Return the standard deviation of the darker pixels, where a dark frame has only noise.

    At least 0.5.
    """
    low, median = np.quantile(values, [0.1587, 0.5])
    return max(float(median - low), 0.5)


@dataclass(frozen=True)
class _FrameSummary:
    """A frame's level above the camera's offset, and its subsampled pixels."""

    level: float
    pixels: NDArray[np.uint16]


class FrameValidator:
    """Rejects fields whose frames show a dark, saturated or failing lamp, or a frozen camera.

    Args:
        limits: Limits of the scope file.
        saturation: Pixel value from which a pixel is saturated.
        shutter: Label of the shutter, for the error messages.
        pixel_um: Pixel size of a frame on the specimen.
    """

    def __init__(
        self, limits: FrameChecks, saturation: int, shutter: str = "", pixel_um: float = 0.1
    ) -> None:
        self._limits = limits
        self._saturation, self._pixel_um = saturation, pixel_um
        self._light_source = (
            f"the lamp, the shutter {shutter!r}" if shutter else "the lamp, its shutter"
        )
        self._levels: dict[str, deque[float]] = {}
        self._last: dict[str, NDArray[np.uint16]] = {}

    def validate(
        self,
        modalities: Sequence[str],
        images: NDArray[np.uint16],
        bright_field: Callable[[], NDArray[np.uint16] | None] = lambda: None,
    ) -> None:
        """Check a field that was taken, and remember its levels if it is accepted.

        Args:
            modalities: Names of the channels.
            images: (C, Y, X) uint16.
            bright_field: Returns a bright-field frame (Y, X) of the same position if there is none
                among ``images``; called only where fluorescence shows nothing.

        Raises:
            HardwareError: A frame is wrong; the text gives its name, the measured values and what
                to check.
        """
        if not self._limits.enabled:
            return
        summaries = {
            name: self._summary(name, image) for name, image in zip(modalities, images, strict=True)
        }
        for name, summary in summaries.items():
            self._check_limits(name, summary)
            self._check_against_fields_before(name, summary)
        if "fluorescence" in summaries and is_noise(summaries["fluorescence"].pixels):
            self._check_dark_fluorescence(
                images[0] if modalities[0] != "fluorescence" else bright_field()
            )
        self._remember(summaries)

    def learn(self, modalities: Sequence[str], images: NDArray[np.uint16]) -> None:
        """Remember the levels of a field that an earlier run took.

        Arguments as in `validate`, without a check.
        """
        self._remember(
            {
                name: self._summary(name, image)
                for name, image in zip(modalities, images, strict=True)
            }
        )

    def _remember(self, summaries: dict[str, _FrameSummary]) -> None:
        for name, summary in summaries.items():
            self._levels.setdefault(name, deque(maxlen=_REMEMBERED)).append(summary.level)
            self._last[name] = summary.pixels

    def _summary(self, name: str, image: NDArray[np.uint16]) -> _FrameSummary:
        pixels = subsample(image)
        rank = round(
            (pixels.size - 1) * (_DARK_QUANTILE if name == "fluorescence" else _BRIGHT_QUANTILE)
        )
        level = float(np.partition(pixels, rank, axis=None)[rank]) - self._limits.camera_offset
        return _FrameSummary(level, pixels)

    def _check_limits(self, name: str, summary: _FrameSummary) -> None:
        limits, fluorescence = self._limits, name == "fluorescence"
        pixels, level = summary.pixels, summary.level
        saturated = float((pixels >= self._saturation).mean())
        allowed = (
            limits.fluorescence_saturated_fraction if fluorescence else limits.saturated_fraction
        )
        if saturated > allowed:
            raise HardwareError(
                f"{name}: {saturated:.0%} of the pixels are saturated, at most {allowed:.0%} are "
                f"allowed: too much light. Check the lamp's power, stray light and "
                f"'modalities.{name}.exposure_ms'."
            )
        if pixels.min() == pixels.max():
            raise HardwareError(
                f"{name}: every pixel is {pixels.flat[0]}, which a working camera never gives. "
                f"Restart the camera and check its cable."
            )
        min_level = limits.dark_fraction * self._saturation
        if not fluorescence and level < min_level:
            raise HardwareError(
                f"{name}: the frame is dark: its level is {level:.0f} above the camera's offset, "
                f"at least {min_level:.0f} is expected. Check {self._light_source} and the light "
                f"path."
            )

    def _check_dark_fluorescence(self, bright_field: NDArray[np.uint16] | None) -> None:
        if bright_field is None:
            return
        foreground_um2 = foreground_area_um2(bright_field, self._pixel_um, self._saturation)
        if EMPTY_BELOW_UM2 <= foreground_um2 < float("inf"):
            raise HardwareError(
                "fluorescence: the frame is dark: it shows nothing but the camera's noise where "
                f"bright field shows cells. Check {self._light_source}, the light path with its "
                f"filters, and that the slide is stained."
            )

    def _check_against_fields_before(self, name: str, summary: _FrameSummary) -> None:
        if name in self._last and np.array_equal(self._last[name], summary.pixels):
            raise HardwareError(
                f"{name}: the frame is identical to that of the field before: the camera is "
                f"frozen. Restart the camera and check its cable."
            )
        levels = self._levels.get(name, ())
        if len(levels) < _MIN_REMEMBERED:
            return
        limits, level, expected = self._limits, summary.level, float(np.median(levels))
        max_ratio = limits.fluorescence_max_ratio if name == "fluorescence" else limits.max_ratio
        floor = _LEVEL_NOISE * _noise(summary.pixels) if name == "fluorescence" else 0.0
        if expected > floor and level < limits.min_ratio * expected:
            raise HardwareError(
                f"{name}: the level fell to {level:.0f} above the camera's offset; in the fields "
                f"before it was {expected:.0f}: the light fails. Check {self._light_source} and "
                f"the light path."
            )
        # Near the camera's offset any ratio is noise.
        if level > max_ratio * expected and level > limits.dark_fraction * self._saturation:
            raise HardwareError(
                f"{name}: the level rose to {level:.0f} above the camera's offset; in the fields "
                f"before it was {expected:.0f}. Check the lamp's power, and for stray light or "
                f"another lamp that stayed on."
            )
