"""The focus of one session: the surface measured where fields will be taken, its drift watched, both kept on disk."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from wbcpipe.acquire.focus_surface import DriftCheck, FocusSurface, load_surface
from wbcpipe.acquire.focuser import DeviceFocuser, FieldFocuser
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
        started_s = time.monotonic()

        def measure() -> dict[str, int]:
            with self._microscope.focus_region(policy.roi_px) as frame_px:
                finder, by_image = self._focuser(frame_px)
                points = self.surface.measure(places, finder)
                return {"points": points, **vars(by_image.count)}

        counts = self._retries.persist(measure, doing="focus")
        self.surface.save(self._path)
        self._sample.log("focused", **counts, seconds=round(time.monotonic() - started_s, 2))

    def _focuser(self, frame_px: tuple[int, int]) -> tuple[Finder, FieldFocuser]:
        """What focuses as the scope says, and what looks at the images in it; kept, for it learns whom to believe."""
        if self._finder is None:
            by_image = FieldFocuser(
                self._microscope, self._scope, frame_px, self._retries.check_stop, self._sample.log, self._progress
            )
            finder: Finder = by_image
            if self._scope.focus.method == "hardware":
                finder = DeviceFocuser(self._microscope, self._scope, by_image, self._sample.log)
            self._finder = (finder, by_image)
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
