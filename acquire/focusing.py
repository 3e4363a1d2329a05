"""The focus of one session: the surface measured where fields will be taken, its drift watched, both kept on disk."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from wbcpipe.acquire.focus_surface import DriftCheck, FocusSurface, load_surface
from wbcpipe.acquire.focuser import DeviceFocuser, FieldFocuser, FocusCount
from wbcpipe.errors import CoreLostError, HardwareError, StageLimitError

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence
    from pathlib import Path

    from wbcpipe.acquire.config import Scope
    from wbcpipe.acquire.focus_surface import Finder
    from wbcpipe.acquire.hardware import Microscope
    from wbcpipe.acquire.plan import AcquisitionPlan, PlannedField
    from wbcpipe.acquire.retries import Retries
    from wbcpipe.samples import Sample

__all__ = ["FocusKeeper"]

#: Points of a measurement that may fail at every attempt before the rest is left for later.
_POINTS_GIVEN_UP: Final = 3


class FocusKeeper:
    """Keeps ``focus.json`` of a pass, and measures what it lacks.

    Args:
        sample: whose log tells of it.
        raw: folder of the pass.
        scope, plan: the policy and the area.
        microscope: opened.
        retries: of the session.
        progress: told in words what is being done.

    Attributes:
        surface: of focus, as far as it is measured.
    """

    def __init__(
        self,
        sample: Sample,
        raw: Path,
        scope: Scope,
        plan: AcquisitionPlan,
        microscope: Microscope,
        retries: Retries,
        progress: Callable[[str], None],
    ) -> None:
        self._sample, self._scope, self._plan = sample, scope, plan
        self._path = raw / "focus.json"
        self._microscope, self._retries, self._progress = microscope, retries, progress
        self._finder: tuple[Finder, FieldFocuser] | None = None
        self.surface: FocusSurface = load_surface(self._path, plan, scope.focus)

    def z_um(self, x_um: float, y_um: float, index: int | None = None) -> float:
        """See `FocusSurface.z_um`."""
        return self.surface.z_um(x_um, y_um, index)

    def begin_anew(self, kept_as: str) -> None:
        """Forget the surface, of a slide that was moved; its file is kept under another name."""
        if self._path.is_file():
            self._path.replace(self._path.with_name(kept_as))
        self.surface = FocusSurface(self._plan, self._scope.focus)

    def measure(self, fields: Sequence[PlannedField], on_disk: Container[int] = ()) -> None:
        """Measure the surface of focus where fields will be taken, and store it before the first of them.

        Args:
            fields: planned; without any, only the coarse surface over the whole area.
            on_disk: those that an earlier run took.
        """
        if self.surface.resumed and fields:
            self.surface.resumed = False
            self._check_since_last_run(fields, on_disk)
        places = [(field.x_um, field.y_um) for field in fields]
        policy = self._scope.focus
        if policy.method == "fixed" or (self.surface.coarse and not self.surface.missing_nodes(places)):
            if not self._path.is_file():
                self.surface.save(self._path)
            return
        self._progress("finding the focus")
        started_s, before = time.monotonic(), self.surface.points
        count = self._measure_point_by_point(places)
        self.surface.save(self._path)
        seconds = round(time.monotonic() - started_s, 2)
        self._sample.log("focused", points=self.surface.points - before, **vars(count), seconds=seconds)

    def _measure_point_by_point(self, places: Sequence[tuple[float, float]]) -> FocusCount:
        """Measure the surface, each point as often as the scope allows; one that fails to the end is passed over.

        After some such points the rest is left for later: what was measured so far serves until then.

        Raises:
            HardwareError: nothing at all was measured yet, on this slide.
        """
        by_image: FieldFocuser | None = None
        failed_at: tuple[float, ...] | None = ()
        attempt = given_up = 0
        while True:
            try:
                with self._microscope.focus_region(self._scope.focus.roi_px) as frame_px:
                    finder, by_image = self._focuser(frame_px, anew=by_image is None)
                    self.surface.measure(places, finder)
                return by_image.count
            except HardwareError as error:
                attempt = attempt + 1 if self.surface.pending == failed_at else 0
                failed_at = self.surface.pending
                try:
                    self._retries.rest(error, attempt, doing="focus")
                except CoreLostError:
                    raise
                except HardwareError:
                    given_up += 1
                    self._pass_over(error, for_good=failed_at is None or given_up == _POINTS_GIVEN_UP)
                    failed_at = ()
                    if given_up == _POINTS_GIVEN_UP:
                        return by_image.count if by_image else FocusCount()

    def _pass_over(self, error: HardwareError, *, for_good: bool) -> None:
        """Give up the point that failed; ``for_good`` also those that follow, if there is a focus to go on with."""
        where = dict(zip(("x_um", "y_um"), self.surface.pending or (), strict=False))
        self._sample.log("focus_point_failed", **where, reason=str(error))
        self.surface.give_up()
        if not for_good:
            return
        if not self.surface.fall_back():
            raise error
        self._sample.log("focus_fallback", points=self.surface.points, reason=str(error))
        self._progress(f"the focus cannot be measured here; going on with what is known of it: {error}")

    def _focuser(self, frame_px: tuple[int, int], *, anew: bool = True) -> tuple[Finder, FieldFocuser]:
        """What focuses as the scope says, and what looks at the images in it; kept, for it learns whom to believe.

        Args:
            frame_px: (height, width) of the region for focusing.
            anew: count anew, and begin the time that a mapping may take.
        """
        if self._finder is None:
            by_image = FieldFocuser(
                self._microscope, self._scope, frame_px, self._retries.check_stop, self._sample.log, self._progress
            )
            finder: Finder = by_image
            if self._scope.focus.method == "hardware":
                finder = DeviceFocuser(self._microscope, self._scope, by_image, self._sample.log)
            self._finder = (finder, by_image)
        if anew:
            self._finder[1].restart()
        return self._finder

    def _check_since_last_run(self, fields: Sequence[PlannedField], on_disk: Container[int]) -> None:
        """Look whether the focus has drifted since an earlier run, where that run took its last field."""
        missing = [field.index for field in fields if field.index not in on_disk]
        known = [
            field
            for field in fields
            if field.index in on_disk and not self.surface.missing_nodes([(field.x_um, field.y_um)])
        ]
        if known and missing and self._scope.focus.drift_check_fields and self._scope.focus.method != "fixed":
            # What is within the limit leaves no trace: the files are those of a run that was not broken.
            self.check_drift(known[-1], missing[0], keep=False)

    def check_drift(self, place: PlannedField, index: int, *, keep: bool = True) -> None:
        """Measure the drift at a field's place; where that fails, the surface is believed as it is."""
        try:
            with self._microscope.focus_region(self._scope.focus.roi_px) as frame_px:
                finder, _ = self._focuser(frame_px)
                check = self.surface.check_drift(index, place.x_um, place.y_um, finder, keep=keep)
        except CoreLostError:
            raise
        except (HardwareError, StageLimitError) as error:
            self._microscope.recover()
            self._sample.log("focus_check_failed", field=index, reason=str(error))
            check = DriftCheck(index, None, self.surface.shift_um())
            if keep:
                self.surface.note(check)
        self.surface.save(self._path)
        self._sample.log("focus_checked", **vars(check))
