"""The XY stage and the focus drive of a Micro-Manager core, and the device that focuses by
itself.
"""

from __future__ import annotations

import contextlib
import math
import time
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from wbcpipe.errors import HardwareError, StageLimitError

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.protocols import Core

__all__ = ["CoreFocusDrive", "CoreXYStage"]

_LOCK_POLL_S: Final = 0.02
#: How often the position of a stage that is still on its way is asked for.
_ARRIVAL_POLL_S: Final = 0.005

_Position = TypeVar("_Position", float, tuple[float, float])


class Arrival(NamedTuple):
    """When a stage counts as arrived, and how long it may take."""

    tolerance_um: float
    timeout_s: float


def _arrival(
    position: Callable[[], _Position], off_um: Callable[[_Position], float], limits: Arrival
) -> _Position:
    """Return the position once it is within its tolerance, or where it is at the deadline.

    Many stages say that they are not busy before they have arrived. Where the first answer is
    within the tolerance, no time is lost.
    """
    deadline_s = time.monotonic() + limits.timeout_s
    while off_um(here := position()) > limits.tolerance_um and time.monotonic() < deadline_s:
        time.sleep(_ARRIVAL_POLL_S)
    return here


def _finite(value: object, axis: str, device: str) -> float:
    """Return a position in um.

    Raises:
        HardwareError: the device gives none.
    """
    position_um = float(value)  # type: ignore[arg-type]
    if not math.isfinite(position_um):
        raise HardwareError(
            f"{device!r} gives {position_um} as its {axis} position: its controller has lost it; "
            f"home or restart it."
        )
    return position_um


class CoreXYStage:
    """Fulfils `protocols.XYStage`: moves within its limits and reads its position back."""

    def __init__(self, scope: Scope, core: Core) -> None:
        self._scope, self._core = scope, core
        #: Target (x, y) of a move under way.
        self._target_um: tuple[float, float] | None = None

    def xy_um(self) -> tuple[float, float]:
        """Return the stage's own position (x, y).

        Raises:
            HardwareError: it does not know its position.
        """
        device = self._scope.stage.xy_device
        x_um, y_um = (
            _finite(self._core.call(f"get_{axis}_position"), axis.upper(), device) for axis in "xy"
        )
        return x_um, y_um

    def start_move_xy(self, x_um: float, y_um: float) -> None:
        """See `protocols.XYStage.start_move_xy`."""
        stage = self._scope.stage
        offset_um = self._scope.camera.centre_offset_um()
        target_um = (x_um - offset_um[0], y_um - offset_um[1])
        if target_um == self._target_um:
            return
        self._target_um = None
        for axis, asked_um, limits_um in zip(
            "xy", target_um, (stage.x_um, stage.y_um), strict=True
        ):
            if not limits_um[0] <= asked_um <= limits_um[1]:
                raise StageLimitError(
                    f"{axis} = {asked_um:g} um is beyond the stage's limits, {limits_um[0]:g} to "
                    f"{limits_um[1]:g}; nothing moved."
                )
        self._core.call("set_xy_position", float(target_um[0]), float(target_um[1]))
        self._target_um = target_um

    def start_next_move(self, position_um: tuple[float, float] | None) -> None:
        """Start the move to the next field, if there is one; `move_xy` to that field raises what
        fails here.
        """
        if position_um is not None:
            with contextlib.suppress(HardwareError, StageLimitError):
                self.start_move_xy(*position_um)

    def move_xy(self, x_um: float, y_um: float) -> tuple[float, float]:
        """See `protocols.XYStage.move_xy`."""
        stage = self._scope.stage
        self.start_move_xy(x_um, y_um)
        target_um, self._target_um = self._target_um, None
        assert target_um is not None
        limits = Arrival(stage.tolerance_um, self._scope.reliability.move_timeout_s)
        self._core.wait_for((stage.xy_device,), limits.timeout_s, "moving the stage")
        here_um = _arrival(self.xy_um, lambda at_um: math.dist(at_um, target_um), limits)
        if stage.settle_ms:
            time.sleep(stage.settle_ms / 1000)
            here_um = self.xy_um()
        error_um = math.dist(here_um, target_um)
        if error_um > stage.tolerance_um:
            raise HardwareError(
                f"the stage is at ({here_um[0]:.2f}, {here_um[1]:.2f}) um, {error_um:.2f} um from "
                f"its target; 'stage.tolerance_um' allows {stage.tolerance_um:g} um. Check that "
                f"nothing blocks it."
            )
        offset_um = self._scope.camera.centre_offset_um()
        return here_um[0] + offset_um[0], here_um[1] + offset_um[1]

    def forget(self) -> None:
        """Send the stage anew at the next move."""
        self._target_um = None


class CoreFocusDrive:
    """Fulfils `protocols.Focus`."""

    def __init__(self, scope: Scope, core: Core) -> None:
        self._scope, self._core = scope, core
        self._last_good_um = 0.0

    def z_um(self) -> float:
        """Return the drive's position.

        Raises:
            HardwareError: it does not know its position.
        """
        return _finite(self._core.call("get_position"), "Z", self._scope.stage.z_device)

    def move_z(self, z_um: float) -> float:
        """See `protocols.Focus.move_z`."""
        stage = self._scope.stage
        if not stage.z_um[0] <= z_um <= stage.z_um[1]:
            raise StageLimitError(
                f"Z = {z_um:g} um is outside the soft limits {stage.z_um[0]:g} to "
                f"{stage.z_um[1]:g} um; nothing moved."
            )
        self._start(z_um)
        self._wait("moving the focus")
        limits = Arrival(stage.tolerance_um, self._scope.reliability.move_timeout_s)
        here_um = _arrival(self.z_um, lambda at_um: abs(at_um - z_um), limits)
        if abs(here_um - z_um) > stage.tolerance_um:
            raise HardwareError(
                f"the focus drive is at {here_um:g} um, its target was {z_um:g} um; "
                f"'stage.tolerance_um' allows {stage.tolerance_um:g} um. Check that nothing blocks "
                f"it."
            )
        self._last_good_um = here_um
        return here_um

    def focus_by_device(self) -> float:
        """See `protocols.Focus.focus_by_device`."""
        policy, stage, before_um = self._scope.focus, self._scope.stage, self.z_um()
        self._core.call_with_deadline(
            self._focus,
            policy.hardware_timeout_s,
            f"focusing by {policy.hardware_device!r}",
            focusing=True,
        )
        self._wait("focusing by the device")
        here_um = self.z_um()
        if not stage.z_um[0] <= here_um <= stage.z_um[1]:
            self.move_z(min(max(before_um, stage.z_um[0]), stage.z_um[1]))
            raise HardwareError(
                f"{policy.hardware_device!r} went to Z = {here_um:g} um, beyond the soft limits "
                f"{stage.z_um[0]:g} to {stage.z_um[1]:g} um; driven back."
            )
        self._last_good_um = here_um
        return here_um

    def mark_good(self) -> None:
        """Take the present Z as the last good one."""
        self._last_good_um = self.z_um()

    def start_return(self) -> None:
        """Start the move back to the last good Z."""
        self._start(self._last_good_um)

    def _start(self, z_um: float) -> None:
        self._core.call("set_position", float(z_um))

    def _wait(self, doing: str) -> None:
        self._core.wait_for(
            (self._scope.stage.z_device,), self._scope.reliability.move_timeout_s, doing
        )

    def _focus(self) -> None:
        """Focus as the scope file says.

        Raises:
            HardwareError: the device failed, or did not lock in time.
        """
        policy = self._scope.focus
        self._core.call("set_auto_focus_device", policy.hardware_device)
        if policy.device_offset is not None:
            self._core.call("set_auto_focus_offset", float(policy.device_offset))
        if policy.hardware_mode != "continuous":
            self._core.call(f"{policy.hardware_mode}_focus")
            return
        self._core.call("enable_continuous_focus", True)
        try:
            deadline = time.monotonic() + policy.hardware_timeout_s
            while not self._core.call("is_continuous_focus_locked"):
                if time.monotonic() >= deadline:
                    raise HardwareError(f"{policy.hardware_device!r} did not lock.")
                time.sleep(_LOCK_POLL_S)
        finally:
            # Held on, it would work against the Z offsets of the modalities.
            self._core.call("enable_continuous_focus", False)
