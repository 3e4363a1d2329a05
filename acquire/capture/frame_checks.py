"""Do the frames show that lamp and camera worked? Looked at before a field is written, on a thinned-out grid of pixels.

A frame is compared with its own limits and with the fields before it; fluorescence also with what bright field shows
there, for it may be dark but for the cells. Whatever the levels are, they only turn frames away; they never change one.
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

    from wbcpipe.acquire.config.scope import FrameChecks

__all__ = ["FrameValidator", "is_noise", "shows_cells", "thinned"]

#: Pixels looked at along each side of a frame: enough for a percentile, few enough to cost nothing.
_SIDE: Final = 96
#: Fields whose median level is the one that is expected, and how many it takes to expect anything.
_REMEMBERED: Final = 9
_LEAST_REMEMBERED: Final = 3
#: Bright field: what is lit and not absorbed; cells cover most of a field, but not all of it. Fluorescence: the
#: darkest tenth lies between the cells.
_BRIGHT_QUANTILE: Final = 0.99
_DARK_QUANTILE: Final = 0.10
#: A level of fluorescence below so many deviations of the frame's noise says nothing: the darkest parts are black.
_LEVEL_NOISE: Final = 5.0
#: Noise alone: at most this share of the pixels (hot ones) is so many deviations brighter than usual, and no pixel
#: knows of its neighbour, to so many deviations of chance.
_TAIL_SHARE: Final = 0.0005
_TAIL_NOISE: Final = 6.0
_CHANCE: Final = 5.0


def thinned(frame: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """About 96 x 96 pixels of a frame (y, x), evenly spread, as a copy."""
    steps = tuple(max(side // _SIDE, 1) for side in frame.shape)
    return frame[steps[0] // 2 :: steps[0], steps[1] // 2 :: steps[1]].copy()


def is_noise(pixels: NDArray[np.uint16]) -> bool:
    """Whether pixels (y, x) show only a camera's noise: no bright cell, no shade of light from place to place."""
    values = pixels.astype(np.float32)
    usual, noise = float(np.median(values)), _noise(values)
    if (values > usual + _TAIL_NOISE * noise).mean() > _TAIL_SHARE:
        return False
    flat = np.clip(values - usual, -3 * noise, 3 * noise)
    flat -= flat.mean()
    power = float(np.square(flat).mean())
    if not power:
        return True
    alike = max(float((flat[1:] * flat[:-1]).mean()), float((flat[:, 1:] * flat[:, :-1]).mean())) / power
    return bool(alike <= _CHANCE / np.sqrt(flat.size))


def _noise(values: NDArray[np.floating] | NDArray[np.uint16]) -> float:
    """The deviation of the darker half of some pixels, where a dark frame has only noise; half a count at least."""
    low, usual = np.quantile(values, [0.1587, 0.5])
    return max(float(usual - low), 0.5)


def shows_cells(frame: NDArray[np.uint16], pixel_um: float, saturation: int) -> bool:
    """Whether a bright-field frame (Y, X) is known to show cells; not so where that cannot be told."""
    figure_um2 = foreground_area_um2(frame, pixel_um, saturation)
    return EMPTY_BELOW_UM2 <= figure_um2 < float("inf")


@dataclass(frozen=True)
class _Look:
    """What a frame was found to be: its level above the camera's offset, and the pixels looked at."""

    level: float
    pixels: NDArray[np.uint16]


class FrameValidator:
    """Turns away fields whose frames show a dark, saturated or failing lamp, or a camera that stands still.

    Args:
        limits: of the scope file.
        saturation: pixel value from which a pixel is saturated.
        shutter: label of the shutter, for the advice.
        pixel_um: of a frame on the specimen.
    """

    def __init__(self, limits: FrameChecks, saturation: int, shutter: str = "", pixel_um: float = 0.1) -> None:
        self._limits = limits
        self._saturation, self._pixel_um = saturation, pixel_um
        self._gate = f"the lamp, the shutter {shutter!r}" if shutter else "the lamp, its shutter"
        self._levels: dict[str, deque[float]] = {}
        self._last: dict[str, NDArray[np.uint16]] = {}

    def judge(
        self,
        modalities: Sequence[str],
        images: NDArray[np.uint16],
        bright_field: Callable[[], NDArray[np.uint16] | None] = lambda: None,
    ) -> None:
        """Look at a field that was taken, and remember it if it is sound.

        Args:
            modalities: names of the channels.
            images: (C, Y, X) uint16.
            bright_field: gives a frame (Y, X) of the same place, where there is none among the images; asked only
                where fluorescence shows nothing.

        Raises:
            HardwareError: a frame cannot be right; the text names it, the figures and what to look at.
        """
        if not self._limits.enabled:
            return
        looks = {name: self._look(name, image) for name, image in zip(modalities, images, strict=True)}
        for name, look in looks.items():
            self._judge_alone(name, look)
            self._judge_among(name, look)
        if "fluorescence" in looks and is_noise(looks["fluorescence"].pixels):
            self._judge_noise(images[0] if modalities[0] != "fluorescence" else bright_field())
        self._remember(looks)

    def learn(self, modalities: Sequence[str], images: NDArray[np.uint16]) -> None:
        """Remember a sound field that an earlier run took; as `judge`, without a verdict."""
        self._remember({name: self._look(name, image) for name, image in zip(modalities, images, strict=True)})

    def _remember(self, looks: dict[str, _Look]) -> None:
        for name, look in looks.items():
            self._levels.setdefault(name, deque(maxlen=_REMEMBERED)).append(look.level)
            self._last[name] = look.pixels

    def _look(self, name: str, image: NDArray[np.uint16]) -> _Look:
        pixels = thinned(image)
        place = round((pixels.size - 1) * (_DARK_QUANTILE if name == "fluorescence" else _BRIGHT_QUANTILE))
        return _Look(float(np.partition(pixels, place, axis=None)[place]) - self._limits.camera_offset, pixels)

    def _judge_alone(self, name: str, look: _Look) -> None:
        limits, fluorescence = self._limits, name == "fluorescence"
        pixels, level = look.pixels, look.level
        saturated = float((pixels >= self._saturation).mean())
        allowed = limits.fluorescence_saturated_fraction if fluorescence else limits.saturated_fraction
        if saturated > allowed:
            raise HardwareError(
                f"{name}: {saturated:.0%} of the pixels are saturated, {allowed:.0%} may be: too much light. Check the "
                f"lamp's power, stray light and 'modalities.{name}.exposure_ms'."
            )
        if pixels.min() == pixels.max():
            raise HardwareError(
                f"{name}: every pixel is {pixels.flat[0]}: no camera sees that. Restart the camera, check its cable."
            )
        if not fluorescence and level < limits.dark_fraction * self._saturation:
            raise HardwareError(
                f"{name}: the frame is dark: its level is {level:.0f} above the camera's offset, at least "
                f"{limits.dark_fraction * self._saturation:.0f} is expected. Check {self._gate} and the light path."
            )

    def _judge_noise(self, bright: NDArray[np.uint16] | None) -> None:
        if bright is not None and shows_cells(bright, self._pixel_um, self._saturation):
            raise HardwareError(
                "fluorescence: the frame is dark: it shows nothing but the camera's noise where bright field shows "
                f"cells. Check {self._gate}, the light path with its filters, and that the slide is stained."
            )

    def _judge_among(self, name: str, look: _Look) -> None:
        if name in self._last and np.array_equal(self._last[name], look.pixels):
            raise HardwareError(
                f"{name}: the frame is the one of the field before, to the last pixel looked at: the camera stands "
                "still. Restart the camera, check its cable."
            )
        levels = self._levels.get(name, ())
        if len(levels) < _LEAST_REMEMBERED:
            return
        limits, level, usual = self._limits, look.level, float(np.median(levels))
        most = limits.fluorescence_max_ratio if name == "fluorescence" else limits.max_ratio
        floor = _LEVEL_NOISE * _noise(look.pixels) if name == "fluorescence" else 0.0
        if usual > floor and level < limits.min_ratio * usual:
            raise HardwareError(
                f"{name}: the level fell to {level:.0f} above the camera's offset, in the fields before it was "
                f"{usual:.0f}: the light fails. Check {self._gate} and the light path."
            )
        # A level near the offset may jump by any ratio and mean nothing.
        if level > most * usual and level > limits.dark_fraction * self._saturation:
            raise HardwareError(
                f"{name}: the level rose to {level:.0f} above the camera's offset, in the fields before it was "
                f"{usual:.0f}. Check the lamp's power and for stray light, another lamp that stayed on among it."
            )
