"""The focus drive of a Micro-Manager core, and the device that focuses by itself."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from wbcpipe.errors import HardwareError, StageLimitError

if TYPE_CHECKING:
    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.protocols import Core

__all__ = ["CoreFocusDrive"]

_LOCK_POLL_S: Final = 0.02


class CoreFocusDrive:
    """Fulfils `protocols.Focus`."""

    def __init__(self, scope: Scope, core: Core) -> None:
        self._scope, self._core = scope, core
        self._last_good_um = 0.0

    def z_um(self) -> float:
        """Return the drive's position."""
        return float(self._core.call("get_position"))

    def move_z(self, z_um: float) -> float:
        """See `protocols.Focus.move_z`."""
        stage = self._scope.stage
        if not stage.z_um[0] <= z_um <= stage.z_um[1]:
            raise StageLimitError(
                f"Z = {z_um:g} um is outside the soft limits {stage.z_um[0]:g} to {stage.z_um[1]:g} um; nothing moved."
            )
        self._start(z_um)
        self._wait("moving the focus")
        here_um = self.z_um()
        if abs(here_um - z_um) > stage.tolerance_um:
            raise HardwareError(
                f"the focus drive is at {here_um:g} um, its target was {z_um:g} um; 'stage.tolerance_um' allows "
                f"{stage.tolerance_um:g} um. Check that nothing blocks it."
            )
        self._last_good_um = here_um
        return here_um

    def focus_by_device(self) -> float:
        """See `protocols.Focus.focus_by_device`."""
        policy, stage, before_um = self._scope.focus, self._scope.stage, self.z_um()
        self._core.call_with_deadline(
            self._focus, policy.hardware_timeout_s, f"focusing by {policy.hardware_device!r}", focusing=True
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
        self._core.wait_for((self._scope.stage.z_device,), self._scope.reliability.move_timeout_s, doing)

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
