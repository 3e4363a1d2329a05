"""One run at the microscope: what is there is kept, what is missing is taken, every way out is dark."""

from __future__ import annotations

import itertools
import threading
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Self

from wbcpipe.acquire.capture.empty_fields import EmptyFieldDetector, EmptyFieldError
from wbcpipe.acquire.capture.field_accounting import drop_stale, quarantine_damaged, reconcile
from wbcpipe.acquire.capture.field_acquirer import FieldTaker
from wbcpipe.acquire.capture.field_writer import FieldWriter, field_buffers
from wbcpipe.acquire.capture.frame_checks import FrameValidator
from wbcpipe.acquire.capture.light_dose import DoseLedger
from wbcpipe.acquire.capture.sample_record import begin_sample, check_disk, check_sample
from wbcpipe.acquire.config.micromanager_cfg import lint_warnings, read_config
from wbcpipe.acquire.focus.manager import FocusManager
from wbcpipe.acquire.hardware.retry import Retries
from wbcpipe.acquire.hardware.sequencing_check import SequencingCheck
from wbcpipe.acquire.open_microscope import open_microscope
from wbcpipe.acquire.plan import PlannedPass
from wbcpipe.acquire.slide_relocation.alignment import (
    SlideFinder,
    first_fields,
    latest_transform,
    load_alignments,
    save_alignment,
    second_fields,
)
from wbcpipe.errors import CoreLostError, HardwareError
from wbcpipe.samples.field_status import read_missing, read_skipped
from wbcpipe.samples.fields import PASSES, field_path, fields_on_disk, read_field

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.open_microscope import MicroscopeOpener
    from wbcpipe.acquire.plan import AcquisitionPlan, PlannedField
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
    from wbcpipe.samples.fields import FieldInfo, Pass
    from wbcpipe.samples.sample import Sample

__all__ = ["AcquisitionSession"]


#: Fields of an earlier run that tell which levels to expect.
_LEARNT_FIELDS: Final = 3


@dataclass(frozen=True)
class _Told:
    """Who is told what: see the arguments of `AcquisitionSession.take`."""

    field: Callable[[int], None]
    missing: Callable[[int, str], None]
    empty: Callable[[int, float], None]
    begin: Callable[[int], None]


class AcquisitionSession:
    """An opened microscope over a sample.

    Args:
        sample: begun already, or begun here.
        scope: which microscope.
        plan: which fields.
        specimen: on a virtual scope, what lies on the stage.
        pass_name: what is taken; the fluorescence pass finds the fields of the bright-field pass again.
        microscope: opens the microscope; by default the one of ``scope``.
        progress: told in words what is being done.
        given_up: fields not to be tried, with the reason that is recorded: those that took the process down before.
        slide: id of the physical slide, if it is known.
    """

    def __init__(
        self,
        sample: Sample,
        scope: Scope,
        plan: AcquisitionPlan,
        specimen: SpecimenPlan | None = None,
        *,
        pass_name: Pass = "single",
        microscope: MicroscopeOpener | None = None,
        progress: Callable[[str], None] = lambda _: None,
        given_up: Mapping[int, str] | None = None,
        slide: str = "",
    ) -> None:
        self.sample, self.scope, self.plan, self.specimen = sample, scope, plan, specimen
        self.pass_name = pass_name
        self.raw: Path = sample.raw_path(pass_name)
        self._open = microscope or open_microscope
        self._progress = progress
        self._given_up, self._slide = dict(given_up or {}), slide
        self._planned = plan.fields()
        self._fields = dict(enumerate(self._planned))
        self._stop = threading.Event()
        self._on_disk: dict[int, FieldInfo] = {}
        self._empty: dict[int, float] = {}
        self._look = (
            EmptyFieldDetector(scope.camera.image_pixel_um, scope.camera.saturation) if scope.scan.skip_empty else None
        )

    def __enter__(self) -> Self:
        check_sample(self.sample, self.scope, self.plan, self.specimen, pass_name=self.pass_name, slide=self._slide)
        for oddity in lint_warnings(self.scope, read_config(self.scope.config_path)):
            self._progress(f"look at this: {oddity}")
        self._progress(f"opening {self.scope.name}")
        planned = PlannedPass(self.sample, self.plan, self.pass_name)
        self.microscope = self._open(self.scope, self.specimen, planned)
        try:
            # Only now: a scope file that has to be corrected before it opens leaves no sample behind.
            begin_sample(self.sample, self.scope, self.plan, self.specimen, pass_name=self.pass_name, slide=self._slide)
            self._look_at_disk()
            self._tell_of_light()
            self._set_out()
        except BaseException:
            self.microscope.close()
            raise
        return self

    def _look_at_disk(self) -> None:
        """Find out what earlier runs left: fields, those found empty, light, and the levels to expect."""
        self.raw.mkdir(parents=True, exist_ok=True)
        self._on_disk = quarantine_damaged(self.sample, self.scope, self.pass_name)
        drop_stale(self.raw, self._on_disk)
        looked_at = self.sample.raw_path("brightfield") if self.pass_name == "fluorescence" else self.raw
        self._empty = {index: um2 for index, um2 in read_skipped(looked_at).items() if index not in self._on_disk}
        self._buffers = field_buffers(len(PASSES[self.pass_name]), self.scope.camera.image_px)
        self._dose = DoseLedger(self.raw, self.scope.field_um, self._on_disk.values())
        camera, light = self.scope.camera, self.scope.light
        self._judge = FrameValidator(
            self.scope.frame_checks, camera.saturation, light.shutter_device, camera.image_pixel_um
        )
        for index in list(self._on_disk)[-_LEARNT_FIELDS:]:
            images, info = read_field(field_path(self.raw, index))
            self._judge.learn(info.modalities, images)

    def _set_out(self) -> None:
        """Have ready what takes the fields."""
        self._retries = Retries(self.scope, self.sample, self.microscope, self._stop, self._progress)
        self.focus = FocusManager(
            self.sample, self.raw, self.scope, self.plan, self.microscope, self._retries, self._progress
        )
        self.taker = FieldTaker(
            self.sample,
            self.scope,
            self.pass_name,
            self.microscope,
            self._retries,
            self.focus,
            self._dose,
            self._judge,
            SequencingCheck(self.microscope, self.scope, self.sample.log),
            self._look,
        )

    def __exit__(self, *_: object) -> None:
        if self._look is not None:
            self._look.close()
        self.microscope.close()
        self._dose.close()

    def _tell_of_light(self) -> None:
        """Note and tell that there was light on the slide: an earlier process left it."""
        if not self.microscope.shutter_was_open:
            return
        # The folder's time is that of the last field, or of the run's beginning.
        since = datetime.fromtimestamp(self.raw.stat().st_mtime, UTC).isoformat(timespec="seconds")
        self.sample.log("shutter_found_open", last_field=since)
        self._progress(
            f"light was found on, and is off now: the slide may have been lit since {since}, when this sample was last "
            "worked on"
        )

    @property
    def taken(self) -> dict[int, FieldInfo]:
        """The fields that are whole on disk, by index."""
        return dict(self._on_disk)

    @property
    def empty(self) -> dict[int, float]:
        """The fields skipped as empty, by index, with the figure that said so."""
        return dict(self._empty)

    def stop(self) -> None:
        """Ask from another thread to end after the present frame; `take` then raises `InterruptedRunError`."""
        self._stop.set()

    def take(
        self,
        indices: Iterable[int],
        on_field: Callable[[int], None] = lambda _: None,
        on_missing: Callable[[int, str], None] = lambda _index, _reason: None,
        on_empty: Callable[[int, float], None] = lambda _index, _figure_um2: None,
        on_begin: Callable[[int], None] = lambda _: None,
        go_on: Callable[[], bool] = lambda: True,
    ) -> bool:
        """Take those of the planned fields that have no whole file yet and are not known as empty, in the plan's order.

        Args:
            indices: of planned fields; those on disk are passed over without a call of ``on_field``.
            on_field: called with each index once its file is whole, from the writing thread.
            on_missing: called with the index and the reason of a field that could not be taken, in turn.
            on_empty: called with the index and the figure of a field that was skipped as empty, in turn.
            on_begin: called with each index before the first device is touched for it.
            go_on: asked before each field; where it says no, the rest is not begun.

        Returns:
            False if ``go_on`` ended it before the last of them.

        Raises:
            AcquisitionError: a field is neither on disk nor recorded as missing.
            DiskFullError: no room; the fields written before are whole.
            CoreLostError: the devices do not come back in this process; another one may go on.
            HardwareError: too many fields in a row could not be taken.
            InterruptedRunError: `stop` was called.
        """
        wanted = sorted(set(indices))
        outside = [index for index in wanted if not 0 <= index < len(self._planned)]
        if outside:
            raise ValueError(f"fields {outside} are not in the plan, which has 0 to {len(self._planned) - 1}.")
        wanted = [index for index in wanted if index not in self._empty]
        lost = self._without_bright_field(wanted)
        open_ = [index for index in wanted if index not in self._on_disk and index not in lost]
        whole = True
        if (open_ or lost) and (whole := go_on()):
            if open_ and self.pass_name == "fluorescence":
                self._find_slide()
            check_disk(self.raw, self.scope, len(open_), pass_name=self.pass_name)
            if open_:
                self.focus.measure([self._fields[index] for index in wanted if index not in lost], self._on_disk)
            told = _Told(on_field, on_missing, on_empty, on_begin)
            whole = self._take_fields([self._fields[index] for index in open_], lost, told, go_on)
            if whole:
                reconcile(self.raw, wanted, self._empty)
        return whole

    def _without_bright_field(self, wanted: Sequence[int]) -> dict[int, str]:
        """Of the fields of a second pass those that the first does not have, with the reason."""
        if self.pass_name != "fluorescence":
            return {}
        first = fields_on_disk(self.sample.raw_path("brightfield"))
        return {index: "it has no bright-field frames." for index in wanted if index not in first}

    def _find_slide(self) -> None:
        """See where the slide of the first pass lies now, and so where its fields are; once in a session."""
        if self.taker.slide_transform is not None:
            return
        first = self.sample.raw_path("brightfield")
        fields = first_fields(first, fields_on_disk(first))
        finder = SlideFinder(self.microscope, self.scope, first, self.focus.z_um, self._retries.check_stop)
        self.focus.measure([])
        self._progress("finding the slide of the bright-field pass again")
        known = load_alignments(self.raw)
        still = bool(known) and self._retries.retry(lambda: finder.lies_still(known[-1]), doing="finding the slide")
        if still:
            now = latest_transform(self.raw)
        else:
            if known:
                self._progress("the slide was moved since; looking for it anew")
                self.focus.begin_anew()
                self.focus.measure([])
            found = self._retries.retry(lambda: finder.find(fields), doing="finding the slide")
            now = save_alignment(self.raw, found)
            self.sample.log("slide_found", **asdict(now), rms_um=round(found.rms_um, 3), matches=len(found.matches))
        assert now is not None
        self.taker.slide_transform = now
        self._fields = second_fields(fields, now)

    def _take_fields(
        self, todo: Sequence[PlannedField], lost: Mapping[int, str], told: _Told, go_on: Callable[[], bool]
    ) -> bool:
        infos: dict[int, FieldInfo] = {}

        def written(index: int) -> None:
            self._on_disk[index] = infos.pop(index)
            told.field(index)

        def empty(index: int, figure_um2: float) -> None:
            self._empty[index] = figure_um2
            told.empty(index, figure_um2)

        writer = FieldWriter(self.raw, self._buffers, written, told.missing, empty)
        in_a_row, whole = 0, True
        try:
            for index, reason in lost.items():
                self._miss(writer, index, reason)
            for field, following in itertools.zip_longest(todo, todo[1:]):
                if not (whole := go_on()):
                    break
                check_disk(self.raw, self.scope, 1, pass_name=self.pass_name)
                if field.index in self._given_up:
                    self._miss(writer, field.index, self._given_up[field.index])
                    continue
                told.begin(field.index)
                error = self._settle(field, following, writer, infos)
                in_a_row = 0 if error is None else in_a_row + 1
                if error is not None and in_a_row >= self.scope.reliability.max_consecutive_missing:
                    raise HardwareError(
                        f"{in_a_row} fields in a row could not be taken, the last because: {error} The fields "
                        "taken before are kept; put this right and run the same command again."
                    ) from error
        finally:
            # What was taken is written even where the run ends here; the first error is the one to show.
            writer.finish(raise_error=False)
        writer.check()
        return whole

    def _settle(
        self, field: PlannedField, following: PlannedField | None, writer: FieldWriter, infos: dict[int, FieldInfo]
    ) -> HardwareError | None:
        """Take a field and have it written, or noted as empty or missing; gives back why it is missing."""
        if self.focus.surface.check_is_due(field.index):
            self.focus.check_drift(field)
        onward_um = None if following is None or following.index in self._given_up else (following.x_um, following.y_um)
        buffer = writer.buffer()
        try:
            draft, info = self.taker.take(field, onward_um, lambda: writer.draft(field.index, buffer))
        except EmptyFieldError as found:
            writer.give_back(buffer)
            writer.skip(field.index, found.figure_um2)
        except CoreLostError:
            raise
        except HardwareError as error:
            writer.give_back(buffer)
            self._miss(writer, field.index, str(error))
            return error
        else:
            infos[field.index] = info
            writer.write(draft, info)
        return None

    def _miss(self, writer: FieldWriter, index: int, reason: str) -> None:
        # A process that goes on for one that died finds what that one noted.
        if read_missing(self.raw).get(index) != reason:
            self.sample.log("field_missing", field=index, reason=reason)
        writer.miss(index, reason)
