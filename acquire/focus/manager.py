"""The focus of one session.

Measure the surface where fields will be taken, watch its drift, store both.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Final

from wbcpipe.acquire.focus.focus_map import FocusSurface, distance_um, load_surface
from wbcpipe.acquire.focus.focuser import DeviceFocuser, FieldFocuser, FocusCount
from wbcpipe.errors import CoreLostError, HardwareError, SampleStateError, StageLimitError
from wbcpipe.samples.records import DriftCheck, FocusPoint
from wbcpipe.system.files import rename

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence
    from pathlib import Path

    from wbcpipe.acquire.focus.focus_map import Finder
    from wbcpipe.acquire.hardware.protocols import Microscope
    from wbcpipe.acquire.hardware.retry import Retries
    from wbcpipe.acquire.plan import PlannedField
    from wbcpipe.acquire.request import AcquisitionRequest

__all__ = ["FocusManager"]

#: Number of points that may fail at every attempt before the others are left for later.
_POINTS_GIVEN_UP: Final = 3
#: Number of reference points that are tried, the nearest first, where a check sees nothing.
_TRIES: Final = 3


class FocusManager:
    """Maintains the focus surface of a pass in ``focus.json``.

    Args:
        request: The pass, with its scope, plan and sample.
        microscope: An open microscope.
        retries: Retries of the session.
        progress: Receives a sentence about the current work.

    Attributes:
        surface: of focus, as far as it is measured.
    """

    def __init__(
        self,
        request: AcquisitionRequest,
        microscope: Microscope,
        retries: Retries,
        progress: Callable[[str], None],
    ) -> None:
        self._sample, self._scope, self._plan = request.sample, request.scope, request.plan
        self._path = self._sample.raw_path(request.pass_name) / "focus.json"
        self._microscope, self._retries, self._progress = microscope, retries, progress
        self._finder: tuple[Finder, FieldFocuser] | None = None
        self._remaining: list[PlannedField] = []
        self._loaded = retries.reload_count
        self.surface: FocusSurface = self._load_surface()

    def _load_surface(self) -> FocusSurface:
        """Read the surface; a damaged file is kept beside it, and the surface is measured again.

        Fields that were taken are not affected: each file holds the Z of its frames.
        """
        try:
            return load_surface(self._path, self._plan, self._scope.focus)
        except SampleStateError as error:
            kept = self._set_aside()
            self._sample.log("focus_damaged", reason=str(error), kept=kept.name)
            self._progress(f"{error} The focus is measured again; the file is kept as {kept.name}.")
            return FocusSurface(self._plan, self._scope.focus)

    def _set_aside(self) -> Path:
        """Rename the file of the surface to ``focus_1.json`` or the next free name, and return
        it.
        """
        names = (self._path.with_name(f"focus_{number}.json") for number in itertools.count(1))
        kept = next(path for path in names if not path.exists())
        rename(self._path, kept)
        return kept

    def discard_surface(self) -> None:
        """Discard the surface of a slide that was moved.

        Keep its file as ``focus_1.json`` or the next free name.
        """
        if self._path.exists():
            self._set_aside()
        self.surface = FocusSurface(self._plan, self._scope.focus)

    def measure(self, fields: Sequence[PlannedField], on_disk: Container[int] = ()) -> None:
        """Measure the focus surface where fields will be taken, and store it before the first of
        them.

        Args:
            fields: planned; without any, only the coarse surface is measured.
            on_disk: those that an earlier run took.
        """
        self._remaining = [field for field in fields if field.index not in on_disk]
        if self.surface.resumed and (self._remaining or not fields):
            self._check_since_last_run()
        positions = [(field.x_um, field.y_um) for field in self._remaining]
        policy = self._scope.focus
        if policy.method == "fixed" or (
            self.surface.coarse and not self.surface.missing_nodes(positions)
        ):
            if not self._path.is_file():
                self.surface.save(self._path)
            return
        coarse = 0 if self.surface.coarse else policy.coarse_points**2
        total = (
            (len(self.surface.coarse) or coarse)
            + len(self.surface.fine)
            + len(self.surface.missing_nodes(positions))
        )
        self._progress(f"finding the focus at {total - self.surface.points} points")
        started_s, before = time.monotonic(), self.surface.points
        count = self._measure_point_by_point(positions)
        self.surface.save(self._path)
        seconds = round(time.monotonic() - started_s, 2)
        self._sample.log(
            "focused", points=self.surface.points - before, **vars(count), seconds=seconds
        )

    def _measure_point_by_point(self, positions: Sequence[tuple[float, float]]) -> FocusCount:
        """Measure the surface, each point as often as the scope allows.

        Skip one that fails every time.

        After some such points the others are left for later: the points measured so far are used
        until then.

        Raises:
            HardwareError: no point of this slide was measured yet.
        """
        by_image: FieldFocuser | None = None
        failed_at: tuple[float, ...] | None = ()
        attempt = given_up = 0
        while True:
            try:
                with self._microscope.focus_region(self._scope.focus.window_px) as frame_px:
                    finder, by_image = self._focuser(frame_px, restart=by_image is None)
                    self.surface.measure(positions, finder)
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
                    self._pass_over(
                        error, for_good=failed_at is None or given_up == _POINTS_GIVEN_UP
                    )
                    failed_at = ()
                    if given_up == _POINTS_GIVEN_UP:
                        return by_image.count if by_image else FocusCount()

    def _pass_over(self, error: HardwareError, *, for_good: bool) -> None:
        """Skip the point that failed; ``for_good`` also those that follow, if some point was
        measured.
        """
        where = dict(zip(("x_um", "y_um"), self.surface.pending or (), strict=False))
        self._sample.log("focus_point_failed", **where, reason=str(error))
        self.surface.give_up()
        if not for_good:
            return
        if not self.surface.fall_back():
            raise error
        self._sample.log("focus_fallback", points=self.surface.points, reason=str(error))
        self._progress(
            f"the focus cannot be measured here; continuing with the points measured so far: "
            f"{error}"
        )

    def _focuser(
        self, frame_px: tuple[int, int], *, restart: bool = True
    ) -> tuple[Finder, FieldFocuser]:
        """Return the scope's finder and the image focuser in it.

        Kept, because it learns whether the device is right.

        Args:
            frame_px: (height, width) of the region for focusing.
            restart: reset the count, and the time limit of a mapping.
        """
        if self._finder is None:
            by_image = FieldFocuser(
                self._microscope,
                self._scope,
                frame_px,
                self._retries.check_stop,
                self._sample.log,
                self._progress,
            )
            finder: Finder = by_image
            if self._scope.focus.method == "hardware":
                finder = DeviceFocuser(self._microscope, self._scope, by_image, self._sample.log)
            self._finder = (finder, by_image)
        if restart:
            self._finder[1].restart()
        return self._finder

    def _check_since_last_run(self) -> None:
        """Check an earlier run's surface where fields will be taken, before the first of them.

        The slide may have been moved, Z may have drifted, the stage may have been homed. A drift
        within the limit is not recorded: the files are those of an uninterrupted run.
        """
        self.surface.resumed = False
        if self._scope.focus.method == "fixed" or not self.surface.coarse:
            return
        self._progress("checking the focus of the earlier run")
        reference_points = self.surface.reference_points()
        positions = [self._beside(field) for field in self._remaining] or reference_points
        index = self._remaining[0].index if self._remaining else 0
        seen = failed = False
        # Near the first field until something is visible; then in the middle and at the end, for a
        # tilted slide.
        for target, tries in (
            (positions[0], _TRIES),
            (positions[len(positions) // 2], 1),
            (positions[-1], 1),
        ):
            near = sorted(reference_points, key=lambda point: distance_um(point, target))[:tries]
            # Reference points show something, but may be far from the fields to come.
            if not seen and near and distance_um(near[0], target) > self._scope.focus.spacing_um:
                near.insert(0, target)
            for point in near:
                before = len(self.surface.checks)
                check = self._check_at(point, index, keep=False, firmly=True)
                if len(self.surface.checks) > before:
                    self._measure_again(index)
                    return
                failed |= check is None
                if check is not None and check.measured_um is not None:
                    seen = True
                    break
        # If the devices fail, the surface is used as it is.
        if not seen and not failed:
            self._sample.log(
                "focus_check_failed",
                field=index,
                reason="nothing is visible at points that were focused before",
            )
            self.surface.outdated = True
            self._measure_again(index, or_end=True)

    def check_after_loading(self, field: PlannedField) -> None:
        """Check the focus at a field if the devices were loaded again since: a stage may have been
        homed.
        """
        if self._loaded == self._retries.reload_count:
            return
        self._loaded = self._retries.reload_count
        if self._scope.focus.method != "fixed" and self.surface.coarse:
            self._check_at(self._beside(field), field.index, keep=False)
            self._measure_again(field.index)

    def _beside(self, field: PlannedField) -> FocusPoint:
        """Return a point beside a field's centre: a failure at the centre itself belongs to the
        field.
        """
        return FocusPoint(field.x_um + self._plan.field_width_um / 4, field.y_um, None)

    def check_drift(self, field: PlannedField) -> None:
        """Measure the drift at the field that is taken next; see `FocusSurface.check_drift`.

        If that fails, the surface is used as it is.
        """
        self._check_at(FocusPoint(field.x_um, field.y_um, None), field.index, keep=True)
        self._measure_again(field.index)

    def _check_at(
        self, point: FocusPoint, index: int, *, keep: bool, firmly: bool = False
    ) -> DriftCheck | None:
        """Measure the drift at a point; ``None`` if that fails, which the surface records if
        ``keep`` is set.

        Args:
            point: its x_um and y_um are used.
            index, keep: see `FocusSurface.check_drift`.
            firmly: retry as often as the scope allows, with devices loaded again if needed.
        """

        def check_once() -> DriftCheck:
            with self._microscope.focus_region(self._scope.focus.window_px) as frame_px:
                finder, _ = self._focuser(frame_px)
                return self.surface.check_drift(index, point.x_um, point.y_um, finder, keep=keep)

        try:
            check = (
                self._retries.retry(check_once, doing="checking the focus", field=index)
                if firmly
                else check_once()
            )
        except CoreLostError:
            raise
        except (HardwareError, StageLimitError) as error:
            self._microscope.recover()
            self._sample.log("focus_check_failed", field=index, reason=str(error))
            if keep:
                now = (
                    self.surface.checks[-1] if self.surface.checks else DriftCheck(index, None, 0.0)
                )
                self.surface.checks.append(replace(now, field=index, measured_um=None))
                self.surface.save(self._path)
            return None
        finally:
            self._loaded = self._retries.reload_count
        self.surface.save(self._path)
        self._sample.log("focus_checked", **asdict(check))
        return check

    def _measure_again(self, index: int, *, or_end: bool = False) -> None:
        """Measure an outdated surface again for the fields from ``index`` on.

        Args:
            index: of the field that is taken next.
            or_end: raise if that fails, rather than go on with the old surface, shifted.
        """
        if not self.surface.outdated:
            return
        self._progress("the slide was moved: measuring the focus again")
        self._sample.log("focus_outdated", field=index)
        old, remaining = self.surface, [field for field in self._remaining if field.index >= index]
        self.discard_surface()
        try:
            self.measure(remaining)
        except CoreLostError:
            raise
        except HardwareError as error:
            if or_end:
                raise
            self._sample.log("focus_check_failed", field=index, reason=str(error))
            self.surface, old.outdated = old, False
        else:
            self.surface.checks.append(DriftCheck(index, 0.0, 0.0))
        self.surface.save(self._path)
