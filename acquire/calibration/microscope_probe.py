"""The microscope as calibration uses it.

It approaches places from one side, takes single frames, counts the light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from wbcpipe.acquire.config.calibration_record import LightDose
from wbcpipe.acquire.focus.autofocus import search_focus
from wbcpipe.errors import HardwareError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.protocols import Microscope

__all__ = ["MicroscopeProbe", "spread_places"]

#: Every place is reached by a last move of this length towards +x and +y, so that the stage's
#: backlash does not count.
APPROACH_UM: Final = 50.0
#: Places tried for something to focus on.
_TRIES: Final = 6


def spread_places(
    x_um: tuple[float, float], y_um: tuple[float, float], margin_um: tuple[float, float], count: int
) -> list[tuple[float, float]]:
    """Return places spread evenly over an area, but on no grid.

    The same at each call, the first in the middle.

    This is the R2 sequence of Roberts: like random places, without clumps.

    Args:
        x_um, y_um: [lowest, highest] of the area.
        margin_um: kept free along its sides, in x and y; an area too small for it is used at its
            middle only.
        count: how many.
    """
    plastic = 1.324717957244746
    places = []
    for number in range(count):
        parts = ((0.5 + number / plastic) % 1.0, (0.5 + number / plastic**2) % 1.0)
        place = []
        for (low, high), margin, part in zip((x_um, y_um), margin_um, parts, strict=True):
            room = max(high - low - 2 * margin, 0.0)
            place.append(round((low + high - room) / 2 + part * room, 2))
        places.append((place[0], place[1]))
    return places


class MicroscopeProbe:
    """A microscope to measure.

    Args:
        microscope: opened.
        scope: which it is.
        slot: where the slide lies.
        progress: called with a task, its steps done, and its steps in all.
        check: called before each frame; raises to stop the calibration.

    Attributes:
        light: modality to [exposures made, their milliseconds].
        position_um: (x, y) of the last `go`.
    """

    def __init__(
        self,
        microscope: Microscope,
        scope: Scope,
        slot: str,
        *,
        progress: Callable[[str, int, int], None] = lambda _task, _done, _total: None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.microscope, self.scope = microscope, scope
        self.progress = progress
        self.light: dict[str, list[float]] = {}
        self.position_um = (0.0, 0.0)
        self._area = scope.slot(slot)
        self._check = check
        self._focus_um: float | None = None

    def places(self, count: int, beside_um: float = 0.0) -> list[tuple[float, float]]:
        """Return places of the slot's scan area whose fields lie within it, with ``beside_um`` more
        kept free.
        """
        width_um, height_um = self.scope.field_um
        margin_um = (width_um / 2 + beside_um, height_um / 2 + beside_um)
        return spread_places(self._area.x_um, self._area.y_um, margin_um, count)

    def place_beside(self, fields: float) -> tuple[float, float] | None:
        """Return a place ``fields`` fields beyond a side of the scan area, and beside every other
        slot's.

        ``None`` where the stage reaches no such place.
        """
        (left, right), (low, high) = self._area.x_um, self._area.y_um
        middle = ((left + right) / 2, (low + high) / 2)
        width, height = (fields * side for side in self.scope.field_um)
        reach = self.scope.stage
        areas = self.scope.slots.values()
        for x_um, y_um in (
            (left - width, middle[1]),
            (right + width, middle[1]),
            (middle[0], low - height),
            (middle[0], high + height),
        ):
            reached = (
                reach.x_um[0] <= x_um <= reach.x_um[1] and reach.y_um[0] <= y_um <= reach.y_um[1]
            )
            scanned = any(
                area.x_um[0] - width < x_um < area.x_um[1] + width
                and area.y_um[0] - height < y_um < area.y_um[1] + height
                for area in areas
            )
            if reached and not scanned:
                return x_um, y_um
        return None

    def go(self, x_um: float, y_um: float, side: tuple[int, int] = (-1, -1)) -> tuple[float, float]:
        """Move a place to the middle of the image, from its ``side`` (x, y).

        Return the reported position.

        Raises:
            HardwareError, StageLimitError: as of `Microscope.move_xy`.
        """
        self._check()
        stage = self.scope.stage
        before = [
            min(max(at + APPROACH_UM * sign, low), high)
            for at, sign, (low, high) in zip(
                (x_um, y_um), side, (stage.x_um, stage.y_um), strict=True
            )
        ]
        self.microscope.move_xy(before[0], before[1])
        self.position_um = (x_um, y_um)
        return self.microscope.move_xy(x_um, y_um)

    def frame(
        self, modality: str, *, frame_px: tuple[int, int] | None = None
    ) -> NDArray[np.uint16]:
        """Take one frame (y, x) with its modality's exposure, aligned with the stage by the scope
        file.
        """
        self._check()
        out = np.empty(frame_px or self.scope.camera.image_px, np.uint16)
        exposure_ms = self.scope.modalities.named(modality).exposure_ms
        self.microscope.switch_light(modality)
        real = self.microscope.expose(exposure_ms, out)
        self.microscope.wait_for_frames()
        count = self.light.setdefault(modality, [0, 0.0])
        count[0] += 1
        count[1] += real.exposure_ms
        return out

    def dark(self, exposure_ms: float) -> NDArray[np.uint16]:
        """Take one frame (y, x) with the shutter closed."""
        self._check()
        out = np.empty(self.scope.camera.image_px, np.uint16)
        self.microscope.expose_dark(exposure_ms, out)
        return out

    def at_z(self, z_um: float) -> None:
        """Drive the focus, within the soft limits."""
        low, high = self.scope.stage.z_um
        self.microscope.move_z(round(min(max(z_um, low), high), 3))

    def focus(self) -> float | None:
        """Focus here in bright field and stay there; return Z, or ``None`` where nothing shows.

        The first search covers the scope's full range; the later ones start where the last one
        ended.
        """
        policy = self.scope.focus
        start_um = policy.fixed_um if self._focus_um is None else self._focus_um
        range_um = policy.range_um if self._focus_um is None else 2 * policy.coarse_step_um
        with self.microscope.focus_region(policy.window_px) as frame_px:

            def take(z_um: float) -> NDArray[np.uint16]:
                self.at_z(z_um)
                return self.frame(policy.modality, frame_px=frame_px)

            limits_um = self.scope.stage.z_um
            found = search_focus(
                take, start_um, range_um, policy.coarse_step_um, policy.fine_step_um, limits_um
            )
        if found is None:
            self.at_z(start_um)
            return None
        self._focus_um = found.z_um
        self.at_z(found.z_um)
        return found.z_um

    def find_focus(self) -> float:
        """Focus at the first place of the slot that shows something, unless it was done before.

        Return Z.

        Raises:
            HardwareError: none does.
        """
        if self._focus_um is not None:
            return self._focus_um
        for x_um, y_um in self.places(_TRIES):
            self.go(x_um, y_um)
            if (found_um := self.focus()) is not None:
                return found_um
        raise HardwareError(
            f"none of {_TRIES} positions in the slot shows anything to focus on between "
            f"{self.scope.focus.fixed_um - self.scope.focus.range_um:g} and "
            f"{self.scope.focus.fixed_um + self.scope.focus.range_um:g} um: lay a stained slide "
            f"there, see that the light of the focusing modality reaches the camera, or correct "
            "'focus.fixed_um' and 'focus.range_um'."
        )

    def dose(self) -> dict[str, LightDose]:
        """Return the light used so far in each modality."""
        return {
            name: LightDose(exposures=int(n), total_ms=round(ms, 3))
            for name, (n, ms) in self.light.items()
        }
