"""One run at the microscope: what is there is kept, what is missing is taken, every way out is dark."""

from __future__ import annotations

import itertools
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from wbcpipe.acquire.capture import FieldFocuser, capture_field
from wbcpipe.acquire.events import field_events
from wbcpipe.acquire.focus_surface import FocusSurface, load_surface
from wbcpipe.acquire.frames import MODALITIES, field_path, fields_on_disk, read_field, read_info
from wbcpipe.acquire.plausible import FrameJudge
from wbcpipe.acquire.reconcile import drop_stale, reconcile
from wbcpipe.acquire.record import begin_sample, check_disk
from wbcpipe.acquire.specimen import Specimen, TruthRow, truth_rows, write_truth
from wbcpipe.acquire.writer import FieldWriter, field_buffers, read_missing
from wbcpipe.errors import CoreLostError, FrameFileError, HardwareError, InterruptedRunError, StageLimitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.acquire.config import Scope
    from wbcpipe.acquire.frames import FieldInfo
    from wbcpipe.acquire.hardware import Microscope
    from wbcpipe.acquire.plan import AcquisitionPlan, PlannedField
    from wbcpipe.acquire.specimen import SpecimenPlan
    from wbcpipe.samples import Sample

__all__ = ["AcquisitionSession", "open_microscope", "quarantine_damaged"]

#: Fields of an earlier run that tell which levels to expect.
_LEARNT_FIELDS: Final = 3
#: From this attempt of a field on, counted from 0, bringing to rest was not enough: the devices are loaded anew.
_REINITIALISE_AFTER: Final = 1


def open_microscope(scope: Scope, specimen: SpecimenPlan | None) -> Microscope:
    """Open the microscope of a scope, or the virtual one with its specimen.

    Raises:
        HardwareError: it does not open.
    """
    if specimen is None:
        from wbcpipe.acquire.scope import CoreMicroscope

        return CoreMicroscope(scope)
    from wbcpipe.acquire.virtual import VirtualScope

    return VirtualScope(scope, specimen)


def quarantine_damaged(sample: Sample, scope: Scope) -> dict[int, FieldInfo]:
    """Look at each field on disk; those that are damaged move to ``raw/quarantine``. Gives back the whole ones."""
    raw = sample.raw_path()
    height_px, width_px = scope.camera.image_px
    least_bytes = 2 * len(MODALITIES) * height_px * width_px
    whole: dict[int, FieldInfo] = {}
    for index, path in fields_on_disk(raw).items():
        try:
            info = read_info(path)
            if info.index != index or info.modalities != MODALITIES or path.stat().st_size < least_bytes:
                raise FrameFileError(f"{path}: not the field {index} of this plan.")
            whole[index] = info
        except FrameFileError as error:
            folder = raw.parent / "quarantine"
            folder.mkdir(exist_ok=True)
            target = folder / path.name
            for number in range(1, 10_000):
                if not target.exists():
                    break
                target = folder / f"{path.name}.{number}"
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
        microscope: gives the opened microscope; by default the one of ``scope``.
        progress: told in words what is being done.
        given_up: fields not to be tried, with the reason that is recorded: those that took the process down before.
    """

    def __init__(
        self,
        sample: Sample,
        scope: Scope,
        plan: AcquisitionPlan,
        specimen: SpecimenPlan | None = None,
        *,
        microscope: Callable[[Scope, SpecimenPlan | None], Microscope] = open_microscope,
        progress: Callable[[str], None] = lambda _: None,
        given_up: Mapping[int, str] | None = None,
    ) -> None:
        self.sample, self.scope, self.plan, self.specimen = sample, scope, plan, specimen
        self.raw: Path = sample.raw_path()
        self._open, self._progress = microscope, progress
        self._given_up = dict(given_up or {})
        self._fields = plan.fields()
        self._stop = threading.Event()
        self._on_disk: dict[int, FieldInfo] = {}
        self._started_s = time.monotonic()

    def __enter__(self) -> Self:
        begin_sample(self.sample, self.scope, self.plan, self.specimen)
        self.raw.mkdir(parents=True, exist_ok=True)
        self._on_disk = quarantine_damaged(self.sample, self.scope)
        drop_stale(self.raw, self._on_disk)
        self._buffers = field_buffers(self.scope.camera.image_px)
        self._judge = FrameJudge(self.scope.light_check, self.scope.camera.saturation, self.scope.light.shutter_device)
        for index in list(self._on_disk)[-_LEARNT_FIELDS:]:
            images, info = read_field(field_path(self.raw, index))
            self._judge.learn(info.modalities, images)
        self._progress(f"opening {self.scope.name}")
        self.microscope = self._open(self.scope, self.specimen)
        try:
            self._tell_of_light()
            self.microscope.age(_doses(self._on_disk.values()))
            self.surface: FocusSurface = load_surface(self.raw / "focus.json", self.plan, self.scope.focus)
        except BaseException:
            self.microscope.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.microscope.close()

    def _tell_of_light(self) -> None:
        """Note and tell that the shutter was found open: an earlier process left the slide in the light."""
        if not self.microscope.found_lit:
            return
        # The folder's time is that of the last field, or of the run's beginning.
        since = datetime.fromtimestamp(self.raw.stat().st_mtime, UTC).isoformat(timespec="seconds")
        self.sample.log("shutter_found_open", last_field=since)
        self._progress(
            f"the shutter stood open and was closed: the slide may have been lit since {since}, when this sample was "
            "last worked on"
        )

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
        on_begin: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Take those of the planned fields that have no whole file yet, in the plan's order.

        Args:
            indices: of planned fields; those on disk are passed over without a call of ``on_field``.
            on_field: called with each index once its file is whole, from the writing thread.
            on_missing: called with the index and the reason of a field that could not be taken, in turn.
            on_begin: called with each index before the first device is touched for it.

        Raises:
            AcquisitionError: a field is neither on disk nor recorded as missing.
            DiskFullError: no room; the fields written before are whole.
            CoreLostError: the devices do not come back in this process; another one may go on.
            HardwareError: too many fields in a row could not be taken.
            InterruptedRunError: `stop` was called.
        """
        wanted = sorted(set(indices))
        outside = [index for index in wanted if not 0 <= index < len(self._fields)]
        if outside:
            raise ValueError(f"fields {outside} are not in the plan, which has 0 to {len(self._fields) - 1}.")
        todo = [self._fields[index] for index in wanted if index not in self._on_disk]
        if todo:
            check_disk(self.raw, self.scope, len(todo))
            self._focus([self._fields[index] for index in wanted])
            self._take_fields(todo, on_field, on_missing, on_begin)
            reconcile(self.raw, wanted)
        if self.specimen is not None and self._on_disk:
            write_truth(self.sample.truth_path, _truth(self.specimen, self.scope, self._on_disk))

    def _take_fields(
        self,
        todo: Sequence[PlannedField],
        on_field: Callable[[int], None],
        on_missing: Callable[[int, str], None],
        on_begin: Callable[[int], None],
    ) -> None:
        infos: dict[int, FieldInfo] = {}

        def written(index: int) -> None:
            self._on_disk[index] = infos.pop(index)
            on_field(index)

        writer = FieldWriter(self.raw, self._buffers, written, on_missing)
        in_a_row = 0
        try:
            for field, following in itertools.zip_longest(todo, todo[1:]):
                check_disk(self.raw, self.scope, 1)
                if field.index in self._given_up:
                    self._miss(writer, field.index, self._given_up[field.index])
                    continue
                on_begin(field.index)
                buffer = writer.buffer()
                try:
                    info = self._take_field(field, following, buffer)
                except CoreLostError:
                    raise
                except HardwareError as error:
                    writer.give_back(buffer)
                    self._miss(writer, field.index, str(error))
                    in_a_row += 1
                    if in_a_row >= self.scope.reliability.missing_in_a_row:
                        raise HardwareError(
                            f"{in_a_row} fields in a row could not be taken, the last because: {error} The fields "
                            "taken before are kept; put this right and run the same command again."
                        ) from error
                    continue
                in_a_row = 0
                infos[field.index] = info
                writer.write(buffer, info)
        finally:
            # What was taken is written even where the run ends here; the first error is the one to show.
            writer.finish(raise_error=False)
        writer.check()

    def _miss(self, writer: FieldWriter, index: int, reason: str) -> None:
        # A process that goes on for one that died finds what that one noted.
        if read_missing(self.raw).get(index) != reason:
            self.sample.log("field_missing", field=index, reason=reason)
        writer.miss(index, reason)

    def _take_field(self, field: PlannedField, following: PlannedField | None, buffer: NDArray[np.uint16]) -> FieldInfo:
        """Take a field into ``buffer``, and again after a failure, as often as the scope allows."""
        onward_um = None if following is None or following.index in self._given_up else (following.x_um, following.y_um)
        policy = self.scope.reliability
        for attempt in range(policy.retries + 1):
            try:
                events = field_events(self.scope, field, self.surface.z_um(field.x_um, field.y_um))
                info = capture_field(
                    self.microscope,
                    self.scope,
                    events,
                    buffer,
                    started_s=self._started_s,
                    then_to_um=onward_um,
                    check=self._check_stop,
                )
                self._judge.judge(info.modalities, buffer)
                return info
            except StageLimitError as error:
                raise HardwareError(str(error)) from error
            except HardwareError as error:
                self._rest(error, attempt, field=field.index)
        raise AssertionError  # pragma: no cover - the loop returns or raises

    def _rest(self, error: HardwareError, attempt: int, **where: int | str) -> None:
        """Bring the hardware to rest after ``error``, load it anew if that was tried; raise after the last attempt."""
        if isinstance(error, CoreLostError):
            raise error
        self.microscope.recover()
        if attempt == self.scope.reliability.retries:
            raise error
        self.sample.log("retry", **where, reason=str(error))
        if attempt >= _REINITIALISE_AFTER:
            self._progress(f"loading the devices anew: {error}")
            try:
                self.microscope.reinitialise()
            except CoreLostError:
                raise
            except HardwareError as changed:
                raise CoreLostError(f"after loading the devices anew: {changed}") from error
            self.sample.log("reinitialised", **where)
        self._stop.wait(self.scope.reliability.retry_wait_s)
        self._check_stop()

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise InterruptedRunError(
                f"sample {self.sample.name!r}: stopped; the fields taken are kept, the same command goes on."
            )

    def _focus(self, fields: Sequence[PlannedField]) -> None:
        """Measure the surface of focus where fields will be taken, and store it before the first of them."""
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
                    finder = FieldFocuser(self.microscope, self.scope, frame_px, self._check_stop)
                    points = self.surface.measure(places, finder)
                break
            except HardwareError as error:
                self._rest(error, attempt, doing="focus")
        self.surface.save(self.raw / "focus.json")
        self.sample.log("focused", points=points, seconds=round(time.monotonic() - started_s, 2))


def _truth(plan: SpecimenPlan, scope: Scope, fields: Mapping[int, FieldInfo]) -> list[TruthRow]:
    """What lies in the rectangle around the fields; each object with the field whose centre is nearest, or -1."""
    index = np.array(sorted(fields))
    centre_um = np.array([(fields[at].x_um, fields[at].y_um) for at in index.tolist()])  # (F, 2)
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


def _doses(fields: Iterable[FieldInfo]) -> Iterator[tuple[float, float, float]]:
    """The fluorescence exposures that gave the fields on disk: (x_um, y_um, exposure_ms) each."""
    for info in fields:
        for frame in info.frames:
            if frame.modality == "fluorescence":
                yield info.x_um, info.y_um, frame.exposure_ms
