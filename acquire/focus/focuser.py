"""Focus at one stage position.

By images, or by the microscope's own device with images as the fallback.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from wbcpipe.acquire.focus.autofocus import hill_climb, search_focus
from wbcpipe.acquire.throttled_progress import ThrottledProgress
from wbcpipe.errors import DeviceTimeoutError, HardwareError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.protocols import Microscope

__all__ = ["DeviceFocuser", "FieldFocuser", "FocusCount"]

#: Attempts of the device at a position, and positions in a row at which it may fail before it is no
#: longer used.
_ATTEMPTS: Final = 2
_FAILURES: Final = 3
#: Seconds between two progress messages of a search.
HEARTBEAT_S: Final = 2.0


class _LateError(Exception):
    """The time limit of a position has passed."""


@dataclass
class FocusCount:
    """Number of positions and frames so far.

    Attributes:
        positions, empty: searched by images; of these, without a focus.
        frames: taken for that.
        by_device: positions focused by the device.
        late: positions given up at their time limit, or not started at the limit of the mapping.
    """

    positions: int = 0
    empty: int = 0
    frames: int = 0
    by_device: int = 0
    late: int = 0


@dataclass
class FieldFocuser:
    """Focuses by images of the centre of the sensor.

    Attributes:
        microscope: reading only the region for focusing.
        scope: for the policy and the limits of Z.
        frame_px: (height, width) of that region's frames.
        check: called before each frame; raises to stop.
        log: called with each time limit that passes, as `Sample.log` is.
        progress: called with a line about the search every 2 s.
    """

    microscope: Microscope
    scope: Scope
    frame_px: tuple[int, int]
    check: Callable[[], None]
    log: Callable[..., None]
    progress: Callable[[str], None]

    def __post_init__(self) -> None:
        self._report = ThrottledProgress(self.progress, HEARTBEAT_S)
        self._frame = np.empty(self.frame_px, np.uint16)
        self.restart()

    def restart(self) -> None:
        """Reset the count, and start the time limit of a mapping."""
        self.count = FocusCount()
        self._all_until_s = time.monotonic() + self.scope.focus.mapping_deadline_s
        self._until_s = self._all_until_s

    def __call__(self, x_um: float, y_um: float, near_um: float, *, wide: bool) -> float | None:
        """Return Z of best focus near ``near_um``, or within the full range; ``None`` where nothing
        is visible.

        Where nothing is found within the time limit, Z returns to the start of the search.
        """
        policy, limits_um = self.scope.focus, self.scope.stage.z_um
        now_s = time.monotonic()
        if now_s > self._all_until_s:
            self._late("mapping", policy.mapping_deadline_s, x_um, y_um)
            return None
        self._until_s = min(now_s + policy.deadline_s, self._all_until_s)
        self.count.positions += 1
        self.microscope.move_xy(x_um, y_um)
        self.microscope.switch_light(policy.modality)
        start_um = min(max(near_um - policy.offset_um, limits_um[0]), limits_um[1])
        try:
            if wide:
                found = search_focus(
                    self._take,
                    start_um,
                    policy.range_um,
                    policy.coarse_step_um,
                    policy.fine_step_um,
                    limits_um,
                )
            else:
                found = hill_climb(self._take, start_um, policy.fine_step_um, limits_um)
        except _LateError:
            found = None
            self._late("point", policy.deadline_s, x_um, y_um)
        if found is None:
            self.count.empty += 1
            self.microscope.move_z(start_um)
            return None
        return round(found.z_um + policy.offset_um, 3)

    def _take(self, z_um: float) -> NDArray[np.uint16]:
        self.check()
        self._report(
            f"finding the focus: point {self.count.positions}, frame {self.count.frames + 1}"
        )
        if time.monotonic() > self._until_s:
            raise _LateError
        self.count.frames += 1
        self.microscope.move_z(z_um)
        self.microscope.expose(
            self.scope.modalities.named(self.scope.focus.modality).exposure_ms, self._frame
        )
        self.microscope.wait_for_frames()
        return self._frame

    def _late(self, which: str, deadline_s: float, x_um: float, y_um: float) -> None:
        self.count.late += 1
        self.log("focus_deadline", which=which, deadline_s=deadline_s, x_um=x_um, y_um=y_um)


@dataclass
class DeviceFocuser:
    """Focuses by the microscope's own focusing device; by images where it fails.

    Its first positions are verified by images, until one of them shows something: only that reveals
    a device that locks to the wrong side of the glass. A device that is wrong, hangs, or fails at
    three positions in a row is no longer used.

    Attributes:
        microscope: opened.
        scope: for the policy.
        by_image: focuses where the device does not.
        log: called with each failure.
    """

    microscope: Microscope
    scope: Scope
    by_image: FieldFocuser
    log: Callable[..., None]
    _failures: int = field(default=0, init=False)
    _verified: bool = field(default=False, init=False)
    _last_um: tuple[float, float] | None = field(default=None, init=False)

    def __call__(self, x_um: float, y_um: float, near_um: float, *, wide: bool) -> float | None:
        """Return Z of best focus at a position; see `FieldFocuser`."""
        if self._failures >= _FAILURES:
            return self.by_image(x_um, y_um, near_um, wide=wide)
        found_um = self._by_device(x_um, y_um, near_um)
        if found_um is None:
            if self._failures >= _FAILURES:
                self.log("focus_device_given_up", device=self.scope.focus.hardware_device)
            return self.by_image(x_um, y_um, near_um, wide=wide)
        if self._verified:
            return found_um
        seen_um = self.by_image(x_um, y_um, found_um, wide=wide)
        self._verified = seen_um is not None
        if seen_um is None or abs(seen_um - found_um) <= self.scope.focus.drift_limit_um:
            return found_um
        self._failures = _FAILURES
        self.log(
            "focus_device_disagrees", x_um=x_um, y_um=y_um, device_um=found_um, images_um=seen_um
        )
        return seen_um

    def _by_device(self, x_um: float, y_um: float, near_um: float) -> float | None:
        """Return Z of best focus from the device; ``None`` where it fails."""
        policy, limits_um = self.scope.focus, self.scope.stage.z_um
        self.microscope.move_xy(x_um, y_um)
        last_um, self._last_um = self._last_um, (x_um, y_um)
        if last_um is None or math.dist(last_um, (x_um, y_um)) > policy.long_move_um:
            time.sleep(policy.hardware_settle_s)
        start_um = min(max(near_um - policy.hardware_offset_um, limits_um[0]), limits_um[1])
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(policy.hardware_settle_s)
            self.microscope.move_z(start_um)
            try:
                found_um = self.microscope.focus_by_device()
                if abs(found_um - start_um) > policy.range_um:
                    raise HardwareError(
                        f"{policy.hardware_device!r} went {found_um - start_um:+.1f} um, farther "
                        f"than 'focus.range_um'."
                    )
            except HardwareError as error:
                self.log(
                    "focus_device_failed",
                    x_um=x_um,
                    y_um=y_um,
                    attempt=attempt + 1,
                    reason=str(error),
                )
                if isinstance(error, DeviceTimeoutError):
                    self._failures = _FAILURES
                    return None
            else:
                self._failures = 0
                self.by_image.count.by_device += 1
                return round(found_um + policy.hardware_offset_um, 3)
        self._failures += 1
        return None
