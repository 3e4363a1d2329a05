"""One run at the microscope: what is there is kept, what is missing is taken, every way out is dark."""

from __future__ import annotations

import functools
import itertools
import math
import threading
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np

from wbcpipe.acquire.capture import capture_field
from wbcpipe.acquire.dose import DoseLedger
from wbcpipe.acquire.events import field_events
from wbcpipe.acquire.focus_surface import DriftCheck, FocusSurface, load_surface
from wbcpipe.acquire.focuser import DeviceFocuser, FieldFocuser
from wbcpipe.acquire.frames import PASSES, fields_on_disk, read_info
from wbcpipe.acquire.record import begin_sample, check_disk
from wbcpipe.acquire.second_pass import (
    SlideFinder,
    first_fields,
    latest_reseating,
    load_alignments,
    reseated_info,
    save_alignment,
    second_fields,
)
from wbcpipe.acquire.specimen import UNMOVED, Specimen, TruthRow, reseated, truth_rows, write_truth
from wbcpipe.acquire.writer import FieldWriter, field_buffers
from wbcpipe.errors import DeviceCrashError, FrameFileError, HardwareError, InterruptedRunError, StageLimitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.acquire.config import Scope
    from wbcpipe.acquire.focus_surface import Finder
    from wbcpipe.acquire.frames import FieldInfo, Pass
    from wbcpipe.acquire.hardware import Microscope
    from wbcpipe.acquire.plan import AcquisitionPlan, PlannedField
    from wbcpipe.acquire.reseat import Reseating
    from wbcpipe.acquire.specimen import Seating, SpecimenPlan
    from wbcpipe.samples import Sample

__all__ = ["AcquisitionSession", "open_microscope", "quarantine_damaged", "seating_of"]

_Result = TypeVar("_Result")


def open_microscope(scope: Scope, specimen: SpecimenPlan | None, seating: Seating = UNMOVED) -> Microscope:
    """Open the microscope of a scope, or the virtual one with its specimen, which lies as ``seating`` says.

    Raises:
        HardwareError: it does not open.
    """
    if specimen is None:
        from wbcpipe.acquire.scope import CoreMicroscope

        return CoreMicroscope(scope)
    from wbcpipe.acquire.virtual import VirtualScope

    return VirtualScope(scope, specimen, seating=seating)


def seating_of(plan: AcquisitionPlan, specimen: SpecimenPlan | None, pass_name: Pass) -> Seating:
    """How a virtual slide lies in a pass: for fluorescence it was taken off, stained, and put back."""
    if specimen is None or pass_name != "fluorescence":
        return UNMOVED
    return reseated(specimen.seed, (sum(plan.x_um) / 2, sum(plan.y_um) / 2))


def quarantine_damaged(sample: Sample, scope: Scope, pass_name: Pass = "single") -> dict[int, FieldInfo]:
    """Look at each field of a pass; those that are damaged move to ``raw/quarantine``. Gives back the whole ones."""
    raw = sample.raw_path(pass_name)
    height_px, width_px = scope.camera.image_px
    least_bytes = 2 * len(PASSES[pass_name]) * height_px * width_px
    whole: dict[int, FieldInfo] = {}
    for index, path in fields_on_disk(raw).items():
        try:
            info = read_info(path)
            if info.index != index or info.modalities != PASSES[pass_name] or path.stat().st_size < least_bytes:
                raise FrameFileError(f"{path}: not the field {index} of this plan.")
            whole[index] = info
        except FrameFileError as error:
            folder = raw.parent / "quarantine"
            folder.mkdir(exist_ok=True)
            name = path.name if pass_name == "single" else f"{pass_name}_{path.name}"
            target = folder / name
            for number in range(1, 10_000):
                if not target.exists():
                    break
                target = folder / f"{name}.{number}"
            path.rename(target)
            sample.log("quarantined", field=index, file=str(target.relative_to(sample.path)), reason=str(error))
    return whole


class AcquisitionSession:
    """An opened microscope over a sample.

    Args:
        sample: begun already, or begun here.
        scope: which microscope.
        plan: which fields.
        specimen: on a virtual scope, what lies on the stage.
        pass_name: what is taken; the fluorescence pass finds the fields of the bright-field pass again.
        microscope: gives the opened microscope; by default the one of ``scope``.
        progress: told in words what is being done.
    """

    def __init__(
        self,
        sample: Sample,
        scope: Scope,
        plan: AcquisitionPlan,
        specimen: SpecimenPlan | None = None,
        *,
        pass_name: Pass = "single",
        microscope: Callable[[Scope, SpecimenPlan | None], Microscope] | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.sample, self.scope, self.plan, self.specimen = sample, scope, plan, specimen
        self.pass_name = pass_name
        self.raw: Path = sample.raw_path(pass_name)
        seating = seating_of(plan, specimen, pass_name)
        self._open = microscope or functools.partial(open_microscope, seating=seating)
        self._progress = progress
        self._fields = dict(enumerate(plan.fields()))
        self._reseating: Reseating | None = None
        self._stop = threading.Event()
        self._on_disk: dict[int, FieldInfo] = {}
        self._started_s = time.monotonic()
        self._finder: tuple[Finder, FieldFocuser] | None = None

    def __enter__(self) -> Self:
        begin_sample(self.sample, self.scope, self.plan, self.specimen, pass_name=self.pass_name)
        self.raw.mkdir(parents=True, exist_ok=True)
        self._on_disk = quarantine_damaged(self.sample, self.scope, self.pass_name)
        self._buffers = field_buffers(len(PASSES[self.pass_name]), self.scope.camera.image_px)
        self._dose = DoseLedger(self.raw / "light.json", self.scope.field_um)
        self._dose.add_fields(self._on_disk.values())
        self._progress(f"opening {self.scope.name}")
        self.microscope = self._open(self.scope, self.specimen)
        try:
            self.microscope.age(self._dose.exposures())
            self.surface: FocusSurface = load_surface(self.raw / "focus.json", self.plan, self.scope.focus)
        except BaseException:
            self.microscope.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.microscope.close()

    @property
    def taken(self) -> dict[int, FieldInfo]:
        """The fields that are whole on disk, by index."""
        return dict(self._on_disk)

    def stop(self) -> None:
        """Ask from another thread to end after the present frame; `take` then raises `InterruptedRunError`."""
        self._stop.set()

    def take(
        self,
        indices: Iterable[int],
        on_field: Callable[[int], None] = lambda _: None,
        on_missing: Callable[[int, str], None] = lambda _index, _reason: None,
    ) -> None:
        """Take those of the planned fields that have no whole file yet, in the plan's order.

        Args:
            indices: of planned fields; those on disk are passed over without a call of ``on_field``.
            on_field: called with each index once its file is whole, from the writing thread.
            on_missing: called with the index and the reason of a field that could not be taken, in turn.

        Raises:
            DeviceCrashError: the core is gone; the fields taken before are whole.
            DiskFullError: no room; the fields written before are whole.
            HardwareError: too many fields in a row could not be taken.
            InterruptedRunError: `stop` was called.
        """
        wanted = sorted(set(indices))
        outside = [index for index in wanted if not 0 <= index < len(self.plan.fields())]
        if outside:
            raise ValueError(f"fields {outside} are not in the plan, which has 0 to {len(self.plan.fields()) - 1}.")
        if any(index not in self._on_disk for index in wanted):
            if self.pass_name == "fluorescence":
                self._find_slide()
                for index in [index for index in wanted if index not in self._fields]:
                    on_missing(index, "it has no bright-field frames.")
                    wanted.remove(index)
            todo = [self._fields[index] for index in wanted if index not in self._on_disk]
            check_disk(self.raw, self.scope, len(todo), pass_name=self.pass_name)
            self._focus([self._fields[index] for index in wanted])
            self._take_fields(todo, on_field, on_missing)
        if self.specimen is not None and self._on_disk:
            write_truth(self.sample.truth_path, _truth(self.specimen, self.scope, self._on_disk))

    def _find_slide(self) -> None:
        """See where the slide of the first pass lies now, and so where its fields are; once in a session."""
        if self._reseating is not None:
            return
        first = self.sample.raw_path("brightfield")
        fields = first_fields(first, fields_on_disk(first))
        finder = SlideFinder(
            self.microscope, self.scope, first, lambda x_um, y_um: self.surface.z_um(x_um, y_um), self._check_stop
        )
        self._focus([])
        self._progress("finding the slide of the bright-field pass again")
        known = load_alignments(self.raw)
        still = bool(known) and self._persist(lambda: finder.lies_still(known[-1]), "finding the slide")
        if still:
            self._reseating = latest_reseating(self.raw)
        else:
            if known:
                self._progress("the slide was moved since; looking for it anew")
                (self.raw / "focus.json").replace(self.raw / f"focus_{len(known)}.json")
                self.surface = FocusSurface(self.plan, self.scope.focus)
                self._focus([])
            found = self._persist(lambda: finder.find(fields), "finding the slide")
            self._reseating = save_alignment(self.raw, found)
            self.sample.log(
                "slide_found", **asdict(self._reseating), rms_um=round(found.rms_um, 3), matches=len(found.matches)
            )
        assert self._reseating is not None
        self._fields = second_fields(fields, self._reseating)

    def _persist(self, action: Callable[[], _Result], doing: str) -> _Result:
        """Try something at the hardware, and again after a failure, as often as the scope allows."""
        for attempt in range(self.scope.reliability.retries + 1):
            try:
                return action()
            except HardwareError as error:
                self._rest(error, last=attempt == self.scope.reliability.retries, doing=doing)
        raise AssertionError  # pragma: no cover - the loop returns or raises

    def _take_fields(
        self,
        todo: Sequence[PlannedField],
        on_field: Callable[[int], None],
        on_missing: Callable[[int, str], None],
    ) -> None:
        infos: dict[int, FieldInfo] = {}

        def written(index: int) -> None:
            self._on_disk[index] = infos.pop(index)
            on_field(index)

        writer = FieldWriter(self.raw, self._buffers, written, on_missing)
        in_a_row = 0
        try:
            for field, following in itertools.zip_longest(todo, todo[1:]):
                check_disk(self.raw, self.scope, 1, pass_name=self.pass_name)
                if self.surface.check_is_due(field.index):
                    self._check_drift(field, field.index)
                buffer = writer.buffer()
                try:
                    info = self._take_field(field, following, buffer)
                except DeviceCrashError:
                    raise  # the core is gone, and with it every later field
                except HardwareError as error:
                    writer.give_back(buffer)
                    writer.miss(field.index, str(error))
                    self.sample.log("field_missing", field=field.index, reason=str(error))
                    in_a_row += 1
                    if in_a_row >= self.scope.reliability.missing_in_a_row:
                        raise HardwareError(
                            f"{in_a_row} fields in a row could not be taken, the last because: {error} The fields "
                            "taken before are kept; put this right and run the same command again."
                        ) from error
                    continue
                in_a_row = 0
                infos[field.index] = info = self._described(info)
                writer.write(buffer, info)
        finally:
            # What was taken is written even where the run ends here; the first error is the one to show.
            writer.finish(raise_error=False)
        writer.check()

    def _described(self, info: FieldInfo) -> FieldInfo:
        """What is known of a field beyond what the hardware said: its light so far, and its place on the slide."""
        before_ms = self._dose.at(info.x_um, info.y_um)
        self._dose.add_fields([info])
        bleach_ms = self.scope.light.bleach_ms
        faded = round(1 - math.exp(-before_ms / bleach_ms), 4) if bleach_ms else 0.0
        info = replace(info, dose_ms=self._dose.at(info.x_um, info.y_um), faded=faded)
        return info if self._reseating is None else reseated_info(info, self._reseating)

    def _take_field(self, field: PlannedField, following: PlannedField | None, buffer: NDArray[np.uint16]) -> FieldInfo:
        """Take a field into ``buffer``, and again after a failure, as often as the scope allows."""
        onward_um = None if following is None else (following.x_um, following.y_um)
        policy = self.scope.reliability
        for attempt in range(policy.retries + 1):
            try:
                z_um = self.surface.z_um(field.x_um, field.y_um, field.index)
                events = field_events(self.scope, field, z_um, PASSES[self.pass_name])
                return capture_field(
                    self.microscope,
                    self.scope,
                    events,
                    buffer,
                    started_s=self._started_s,
                    then_to_um=onward_um,
                    check=self._check_stop,
                )
            except StageLimitError as error:
                raise HardwareError(str(error)) from error
            except HardwareError as error:
                if "fluorescence" in PASSES[self.pass_name]:
                    # It may have failed before its light was on; too high a dose is the safer thing to note.
                    exposure_ms = self.scope.modalities.fluorescence.exposure_ms
                    self._dose.add_in_vain(field.x_um, field.y_um, exposure_ms)
                self._rest(error, last=attempt == policy.retries, field=field.index)
        raise AssertionError  # pragma: no cover - the loop returns or raises

    def _rest(self, error: HardwareError, *, last: bool, **where: int | str) -> None:
        """Bring the hardware to rest after ``error``; raise it again if this was the ``last`` attempt."""
        self.microscope.recover()
        if last or isinstance(error, DeviceCrashError):
            raise error
        self.sample.log("retry", **where, reason=str(error))
        self._stop.wait(self.scope.reliability.retry_wait_s)
        self._check_stop()

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise InterruptedRunError(
                f"sample {self.sample.name!r}: stopped; the fields taken are kept, the same command goes on."
            )

    def _focus(self, fields: Sequence[PlannedField]) -> None:
        """Measure the surface of focus where fields will be taken, and store it before the first of them."""
        if self.surface.resumed and fields:
            self.surface.resumed = False
            self._check_since_last_run(fields)
        places = [(field.x_um, field.y_um) for field in fields]
        policy = self.scope.focus
        if policy.method == "fixed" or (self.surface.coarse and not self.surface.missing_nodes(places)):
            if not (self.raw / "focus.json").is_file():
                self.surface.save(self.raw / "focus.json")
            return
        self._progress("finding the focus")
        started_s = time.monotonic()
        for attempt in range(self.scope.reliability.retries + 1):
            try:
                with self.microscope.focus_region(policy.roi_px) as frame_px:
                    finder, by_image = self._focuser(frame_px)
                    points = self.surface.measure(places, finder)
                break
            except HardwareError as error:
                self._rest(error, last=attempt == self.scope.reliability.retries, doing="focus")
        self.surface.save(self.raw / "focus.json")
        self.sample.log(
            "focused", points=points, **vars(by_image.count), seconds=round(time.monotonic() - started_s, 2)
        )

    def _focuser(self, frame_px: tuple[int, int]) -> tuple[Finder, FieldFocuser]:
        """What focuses as the scope says, and what looks at the images in it; kept, for it learns whom to believe."""
        if self._finder is None:
            by_image = FieldFocuser(
                self.microscope, self.scope, frame_px, self._check_stop, self.sample.log, self._progress
            )
            finder: Finder = by_image
            if self.scope.focus.method == "hardware":
                finder = DeviceFocuser(self.microscope, self.scope, by_image, self.sample.log)
            self._finder = (finder, by_image)
        self._finder[1].restart()
        return self._finder

    def _check_since_last_run(self, fields: Sequence[PlannedField]) -> None:
        """Look whether the focus has drifted since an earlier run, where that run took its last field."""
        missing = [field.index for field in fields if field.index not in self._on_disk]
        known = [
            field
            for field in fields
            if field.index in self._on_disk and not self.surface.missing_nodes([(field.x_um, field.y_um)])
        ]
        if known and missing and self.scope.focus.drift_check_fields and self.scope.focus.method != "fixed":
            # What is within the limit leaves no trace: the files are those of a run that was not broken.
            self._check_drift(known[-1], missing[0], keep=False)

    def _check_drift(self, place: PlannedField, index: int, *, keep: bool = True) -> None:
        """Measure the drift at a field's place; where that fails, the surface is believed as it is."""
        try:
            with self.microscope.focus_region(self.scope.focus.roi_px) as frame_px:
                finder, _ = self._focuser(frame_px)
                check = self.surface.check_drift(index, place.x_um, place.y_um, finder, keep=keep)
        except (HardwareError, StageLimitError) as error:
            self.microscope.recover()
            self.sample.log("focus_check_failed", field=index, reason=str(error))
            check = DriftCheck(index, None, self.surface.shift_um())
            if keep:
                self.surface.note(check)
        self.surface.save(self.raw / "focus.json")
        self.sample.log("focus_checked", **vars(check))


def _truth(plan: SpecimenPlan, scope: Scope, fields: Mapping[int, FieldInfo]) -> list[TruthRow]:
    """What lies in the rectangle around the fields; each object with the field whose centre is nearest, or -1."""
    index = np.array(sorted(fields))
    places = [fields[at].reseated or fields[at] for at in index.tolist()]
    centre_um = np.array([(place.x_um, place.y_um) for place in places])  # (F, 2)
    half_um = np.array(scope.field_um) / 2
    x0_um, y0_um = (float(value) for value in centre_um.min(axis=0) - half_um)
    x1_um, y1_um = (float(value) for value in centre_um.max(axis=0) + half_um)
    rows = []
    for row in truth_rows(Specimen(plan), x0_um, y0_um, x1_um, y1_um, (), 0.0):
        away_um = np.abs(centre_um - (row.x_um, row.y_um))  # (F, 2)
        shown = (away_um <= half_um).all(axis=1)
        nearest = np.where(shown, np.square(away_um).sum(axis=1), np.inf)
        rows.append(row._replace(field=int(index[nearest.argmin()]) if shown.any() else -1))
    return rows
