"""The XY stage of a Micro-Manager core: moves within its limits and reads its position back."""

from __future__ import annotations

import contextlib
import math
import time
from typing import TYPE_CHECKING

from wbcpipe.errors import HardwareError, StageLimitError

if TYPE_CHECKING:
    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.protocols import Core

__all__ = ["CoreXYStage"]


class CoreXYStage:
    """Fulfils `protocols.XYStage`."""

    def __init__(self, scope: Scope, core: Core) -> None:
        self._scope, self._core = scope, core
        #: Target (x, y) of a move under way.
        self._target_um: tuple[float, float] | None = None

    def xy_um(self) -> tuple[float, float]:
        """Return the stage's own position (x, y)."""
        return float(self._core.call("get_x_position")), float(self._core.call("get_y_position"))

    def start_move_xy(self, x_um: float, y_um: float) -> None:
        """See `protocols.XYStage.start_move_xy`."""
        stage = self._scope.stage
        offset_um = self._scope.camera.centre_offset_um()
        target_um = (x_um - offset_um[0], y_um - offset_um[1])
        if target_um == self._target_um:
            return
        self._target_um = None
        for axis, asked_um, limits_um in zip("xy", target_um, (stage.x_um, stage.y_um), strict=True):
            if not limits_um[0] <= asked_um <= limits_um[1]:
                raise StageLimitError(
                    f"{axis} = {asked_um:g} um is beyond the stage's limits, {limits_um[0]:g} to {limits_um[1]:g}; "
                    "nothing moved."
                )
        self._core.call("set_xy_position", float(target_um[0]), float(target_um[1]))
        self._target_um = target_um

    def start_next_move(self, position_um: tuple[float, float] | None) -> None:
        """Start the move to the next field, if there is one; `move_xy` to that field raises what fails here."""
        if position_um is not None:
            with contextlib.suppress(HardwareError, StageLimitError):
                self.start_move_xy(*position_um)

    def move_xy(self, x_um: float, y_um: float) -> tuple[float, float]:
        """See `protocols.XYStage.move_xy`."""
        stage = self._scope.stage
        self.start_move_xy(x_um, y_um)
        target_um, self._target_um = self._target_um, None
        assert target_um is not None
        self._core.wait_for((stage.xy_device,), self._scope.reliability.move_timeout_s, "moving the stage")
        if stage.settle_ms:
            time.sleep(stage.settle_ms / 1000)
        here_um = self.xy_um()
        error_um = math.dist(here_um, target_um)
        if error_um > stage.tolerance_um:
            raise HardwareError(
                f"the stage is at ({here_um[0]:.2f}, {here_um[1]:.2f}) um, {error_um:.2f} um from its target; "
                f"'stage.tolerance_um' allows {stage.tolerance_um:g} um. Check that nothing blocks it."
            )
        offset_um = self._scope.camera.centre_offset_um()
        return here_um[0] + offset_um[0], here_um[1] + offset_um[1]

    def forget(self) -> None:
        """Send the stage anew at the next move."""
        self._target_um = None
