"""The focus of one session: the surface measured where fields will be taken, its drift watched, both kept on disk."""

from __future__ import annotations

import itertools
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Final

from wbcpipe.acquire.focus.focus_map import FocusSurface, apart_um, load_surface
from wbcpipe.acquire.focus.focuser import DeviceFocuser, FieldFocuser, FocusCount
from wbcpipe.errors import CoreLostError, HardwareError, StageLimitError
from wbcpipe.samples.records import DriftCheck, FocusPoint

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.focus.focus_map import Finder
    from wbcpipe.acquire.hardware.protocols import Microscope
    from wbcpipe.acquire.hardware.retry import Retries
    from wbcpipe.acquire.plan import AcquisitionPlan, PlannedField
    from wbcpipe.samples.sample import Sample

__all__ = ["FocusManager"]

#: Points of a measurement that may fail at every attempt before the rest is left for later.
_POINTS_GIVEN_UP: Final = 3
#: Places focused before that are tried, the nearest first, where a check sees nothing.
_TRIES: Final = 3


class FocusManager:
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
        self._to_come: list[PlannedField] = []
        self._loaded = retries.reload_count
        self.surface: FocusSurface = load_surface(self._path, plan, scope.focus)

    def z_um(self, x_um: float, y_um: float) -> float:
        """See `FocusSurface.z_um`."""
        return self.surface.z_um(x_um, y_um)

    def begin_anew(self) -> None:
        """Forget the surface, of a slide that was moved; its file is kept as ``focus_1.json`` or the next free one."""
        if self._path.is_file():
            kept = (self._path.with_name(f"focus_{number}.json") for number in itertools.count(1))
            self._path.replace(next(path for path in kept if not path.exists()))
        self.surface = FocusSurface(self._plan, self._scope.focus)

    def measure(self, fields: Sequence[PlannedField], on_disk: Container[int] = ()) -> None:
        """Measure the surface of focus where fields will be taken, and store it before the first of them.

        Args:
            fields: planned; without any, only the coarse surface over the whole area.
            on_disk: those that an earlier run took.
        """
        self._to_come = [field for field in fields if field.index not in on_disk]
        if self.surface.resumed and (self._to_come or not fields):
            self._check_since_last_run()
        places = [(field.x_um, field.y_um) for field in self._to_come]
        policy = self._scope.focus
        if policy.method == "fixed" or (self.surface.coarse and not self.surface.missing_nodes(places)):
            if not self._path.is_file():
                self.surface.save(self._path)
            return
        coarse = 0 if self.surface.coarse else policy.coarse_points**2
        total = (len(self.surface.coarse) or coarse) + len(self.surface.fine) + len(self.surface.missing_nodes(places))
        self._progress(f"finding the focus at {total - self.surface.points} points")
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
                with self._microscope.focus_region(self._scope.focus.window_px) as frame_px:
                    finder, by_image = self._focuser(frame_px, anew=by_image is None)
                    self.surface.measure(places, finder)
                return by_image.count
            except HardwareError as error:
                attempt = attempt + 1 if self.surface.pending == failed_at else 0
                failed_at = self.surface.pending
                try:
                    self._retries.recover_after(error, attempt, doing="focus")
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

    def _check_since_last_run(self) -> None:
        """Look whether an earlier run's surface still holds where fields are to be taken, before any of them is.

        The slide may have been put back another way, Z may have drifted, the stage may have been homed. What is within
        the limit leaves no trace: the files are those of a run that was not broken.
        """
        self.surface.resumed = False
        if self._scope.focus.method == "fixed" or not self.surface.coarse:
            return
        self._progress("looking whether the focus is still where it was")
        landmarks = self.surface.landmarks()
        places = [self._beside(field) for field in self._to_come] or landmarks
        index = self._to_come[0].index if self._to_come else 0
        seen = failed = False
        # Near the first of them until something shows; then in the middle and at the end, for a slide that leans.
        for place, tries in ((places[0], _TRIES), (places[len(places) // 2], 1), (places[-1], 1)):
            near = sorted(landmarks, key=lambda point: apart_um(point, place))[:tries]
            # What was focused before shows something; but it may lie far from where fields were never taken.
            if not seen and near and apart_um(near[0], place) > self._scope.focus.spacing_um:
                near.insert(0, place)
            for point in near:
                before = len(self.surface.checks)
                check = self._look(point, index, keep=False, firmly=True)
                if len(self.surface.checks) > before:
                    self._measure_anew(index)
                    return
                failed |= check is None
                if check is not None and check.measured_um is not None:
                    seen = True
                    break
        # Only what can be looked at shows nothing; where the devices fail, the surface is believed as it is.
        if not seen and not failed:
            self._sample.log("focus_check_failed", field=index, reason="nothing shows where the focus was seen before")
            self.surface.outdated = True
            self._measure_anew(index, or_end=True)

    def check_after_loading(self, field: PlannedField) -> None:
        """Look at the focus of a field again if the devices were loaded anew since: a stage may have been homed."""
        if self._loaded == self._retries.reload_count:
            return
        self._loaded = self._retries.reload_count
        if self._scope.focus.method != "fixed" and self.surface.coarse:
            self._look(self._beside(field), field.index, keep=False)
            self._measure_anew(field.index)

    def _beside(self, field: PlannedField) -> FocusPoint:
        """A place within a field, but not its own: what always goes wrong there is the field's, when it is taken."""
        return FocusPoint(field.x_um + self._plan.field_width_um / 4, field.y_um, None)

    def check_drift(self, field: PlannedField, *, keep: bool = True) -> None:
        """Measure the drift at the place of the field that is taken next; see `FocusSurface.check_drift`.

        Where that fails, the surface is believed as it is.
        """
        self._look(FocusPoint(field.x_um, field.y_um, None), field.index, keep=keep)
        self._measure_anew(field.index)

    def _look(self, place: FocusPoint, index: int, *, keep: bool, firmly: bool = False) -> DriftCheck | None:
        """Measure the drift at a place; ``None`` where that fails, which is noted in the surface if it is to `keep`.

        Args:
            place, index, keep: see `FocusSurface.check_drift`.
            firmly: as often as the scope allows, on devices loaded anew if need be.
        """

        def look() -> DriftCheck:
            with self._microscope.focus_region(self._scope.focus.window_px) as frame_px:
                finder, _ = self._focuser(frame_px)
                return self.surface.check_drift(index, place.x_um, place.y_um, finder, keep=keep)

        try:
            check = self._retries.retry(look, doing="checking the focus", field=index) if firmly else look()
        except CoreLostError:
            raise
        except (HardwareError, StageLimitError) as error:
            self._microscope.recover()
            self._sample.log("focus_check_failed", field=index, reason=str(error))
            if keep:
                now = self.surface.checks[-1] if self.surface.checks else DriftCheck(index, None, 0.0)
                self.surface.note(replace(now, field=index, measured_um=None))
                self.surface.save(self._path)
            return None
        finally:
            self._loaded = self._retries.reload_count
        self.surface.save(self._path)
        self._sample.log("focus_checked", **asdict(check))
        return check

    def _measure_anew(self, index: int, *, or_end: bool = False) -> None:
        """Measure an outdated surface anew for the fields from ``index`` on; a sound one is left as it is.

        Args:
            index: of the field that is taken next.
            or_end: raise where that cannot be done, rather than go on with the old one, shifted.
        """
        if not self.surface.outdated:
            return
        self._progress("the slide does not lie as it did: measuring the focus anew")
        self._sample.log("focus_outdated", field=index)
        old, to_come = self.surface, [field for field in self._to_come if field.index >= index]
        self.begin_anew()
        try:
            self.measure(to_come)
        except CoreLostError:
            raise
        except HardwareError as error:
            if or_end:
                raise
            self._sample.log("focus_check_failed", field=index, reason=str(error))
            self.surface, old.outdated = old, False
        else:
            self.surface.note(DriftCheck(index, 0.0, 0.0))
        self.surface.save(self._path)
