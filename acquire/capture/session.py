"""One run at the microscope.

Takes the fields that are not on disk yet, and always closes the shutter.
"""

from __future__ import annotations

import itertools
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Self

from wbcpipe.acquire.capture.empty_fields import EmptyFieldDetector, EmptyFieldError
from wbcpipe.acquire.capture.field_accounting import FieldInventory, check_all_fields_accounted
from wbcpipe.acquire.capture.field_acquirer import FieldAcquirer
from wbcpipe.acquire.capture.field_writer import FieldWriter, field_buffers
from wbcpipe.acquire.capture.frame_checks import FrameValidator
from wbcpipe.acquire.capture.light_dose import DoseLedger
from wbcpipe.acquire.capture.sample_record import (
    check_disk_space,
    check_sample,
    create_sample_record,
)
from wbcpipe.acquire.capture.second_pass import relocate_fields
from wbcpipe.acquire.capture.session_observer import SessionObserver
from wbcpipe.acquire.config.cfg_reader import read_config
from wbcpipe.acquire.config.micromanager_cfg import configuration_warnings
from wbcpipe.acquire.focus.manager import FocusManager
from wbcpipe.acquire.hardware.retry import Retries
from wbcpipe.acquire.hardware.sequencing_check import SequencingCheck
from wbcpipe.acquire.label.check import check_label
from wbcpipe.acquire.open_microscope import open_microscope
from wbcpipe.acquire.plan import PlannedPass
from wbcpipe.errors import CoreLostError, HardwareError
from wbcpipe.samples.field_status import read_missing
from wbcpipe.samples.fields import PASSES, field_path, fields_on_disk, read_field

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from wbcpipe.acquire.plan import PlannedField
    from wbcpipe.acquire.request import AcquisitionRequest

__all__ = ["AcquisitionSession"]


#: Fields of an earlier run from which the expected levels are learned.
_LEARNED_FIELDS: Final = 3


class AcquisitionSession:
    """An open microscope that takes the fields of one pass; use it as a context manager.

    Args:
        request: The pass; its sample is created on entering unless it is on disk.
        observer: Receives progress and results.
        given_up: Fields that are not tried, with the reason to record: the process crashed at them
            before.

    Attributes:
        microscope: The open microscope.
        inventory: Fields on disk, and fields skipped as empty.
        focus: Focus of the pass.
        acquirer: Takes single fields.
    """

    def __init__(
        self,
        request: AcquisitionRequest,
        observer: SessionObserver | None = None,
        *,
        given_up: Mapping[int, str] | None = None,
    ) -> None:
        self.request = request
        self._observer = observer or SessionObserver()
        self._given_up = dict(given_up or {})
        self._planned = request.plan.fields()
        self._positions = dict(enumerate(self._planned))
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        request, progress = self.request, self._observer.progress
        check_sample(request)
        for warning in configuration_warnings(
            request.scope, read_config(request.scope.config_path)
        ):
            progress(f"warning: {warning}")
        progress(f"opening {request.scope.name}")
        opener = request.microscope or open_microscope
        planned = PlannedPass(request.sample, request.plan, request.pass_name, request.slide_id)
        self.microscope = opener(request.scope, request.specimen, planned)
        try:
            label = check_label(self.microscope, request, progress)
            # Only now: a scope file that must be corrected before it opens, or a wrong slide,
            # leaves no sample behind.
            create_sample_record(request, label)
            self.inventory = FieldInventory.read(request.sample, request.scope, request.pass_name)
            self._report_open_shutter()
            self._prepare()
        except BaseException:
            self.microscope.close()
            raise
        return self

    @property
    def _raw(self) -> Path:
        return self.request.sample.raw_path(self.request.pass_name)

    def _prepare(self) -> None:
        """Create the objects that take fields."""
        request, scope = self.request, self.request.scope
        camera = scope.camera
        self._retries = Retries(
            scope, request.sample, self.microscope, self._stop, self._observer.progress
        )
        self.focus = FocusManager(request, self.microscope, self._retries, self._observer.progress)
        validator = FrameValidator(
            scope.frame_checks, camera.saturation, scope.light.shutter_device, camera.image_pixel_um
        )
        for index in list(self.inventory.taken)[-_LEARNED_FIELDS:]:
            images, info = read_field(field_path(self._raw, index))
            validator.learn(info.modalities, images)
        self.acquirer = FieldAcquirer(
            request,
            self.microscope,
            self._retries,
            self.focus,
            DoseLedger(self._raw, scope.field_um, self.inventory.taken.values()),
            validator,
            SequencingCheck(self.microscope, scope, request.sample.log),
            EmptyFieldDetector(camera.image_pixel_um, camera.saturation)
            if scope.scan.skip_empty
            else None,
            progress=self._observer.progress,
        )
        self._buffers = field_buffers(len(PASSES[request.pass_name]), camera.image_px)

    def __exit__(self, *_: object) -> None:
        if self.acquirer.empty_detector is not None:
            self.acquirer.empty_detector.close()
        self.microscope.close()
        self.acquirer.dose.close()

    def _report_open_shutter(self) -> None:
        """Log and report that an earlier process left light on the slide."""
        if not self.microscope.shutter_was_open:
            return
        # The folder's time is that of the last field, or of the start of the run.
        since = datetime.fromtimestamp(self._raw.stat().st_mtime, UTC).isoformat(timespec="seconds")
        self.request.sample.log("shutter_found_open", last_field=since)
        self._observer.progress(
            f"light was found on, and is off now: the slide may have been lit since {since}, when "
            f"this sample was last worked on"
        )

    def stop(self) -> None:
        """Ask from another thread to end after the present frame; `take` then raises
        `InterruptedRunError`.
        """
        self._stop.set()

    def take(self, indices: Iterable[int]) -> bool:
        """Take those planned fields that are neither on disk nor known to be empty, in the plan's
        order.

        Args:
            indices: Of planned fields; those on disk are not reported.

        Returns:
            False if the request's deadline passed before the last field was started.

        Raises:
            AcquisitionError: A field is neither on disk nor recorded as missing.
            DiskFullError: Not enough space; the fields written before are complete.
            CoreLostError: The devices do not come back in this process; another process may
                continue.
            HardwareError: Too many consecutive fields could not be taken.
            InterruptedRunError: `stop` was called.
        """
        wanted = sorted(set(indices))
        outside = [index for index in wanted if not 0 <= index < len(self._planned)]
        if outside:
            raise ValueError(
                f"fields {outside} are not in the plan, which has 0 to {len(self._planned) - 1}."
            )
        wanted = [index for index in wanted if index not in self.inventory.empty]
        unusable: dict[int, str] = {}
        if self.request.pass_name == "fluorescence":
            first = fields_on_disk(self.request.sample.raw_path("brightfield"))
            unusable = {
                index: "it has no bright-field frames." for index in wanted if index not in first
            }
        todo = [
            index for index in wanted if index not in self.inventory.taken and index not in unusable
        ]
        in_time = True
        if (todo or unusable) and (in_time := self.request.in_time()):
            if (
                todo
                and self.request.pass_name == "fluorescence"
                and self.acquirer.slide_transform is None
            ):
                self.acquirer.slide_transform, self._positions = relocate_fields(
                    self.request,
                    self.microscope,
                    self._retries,
                    self.focus,
                    self._observer.progress,
                )
            check_disk_space(self._raw, self.request.scope, {self.request.pass_name: len(todo)})
            if todo:
                usable = [self._positions[index] for index in wanted if index not in unusable]
                self.focus.measure(usable, self.inventory.taken)
            in_time = self._take_fields([self._positions[index] for index in todo], unusable)
            if in_time:
                check_all_fields_accounted(self._raw, wanted, self.inventory.empty)
        return in_time

    def _take_fields(self, todo: Sequence[PlannedField], unusable: Mapping[int, str]) -> bool:
        """Take fields and record the unusable ones as missing; False if the deadline passed before
        the last.
        """
        writer = FieldWriter(self._raw, self._buffers, self.inventory, self._observer)
        consecutive, in_time = 0, True
        try:
            for index, reason in unusable.items():
                self._record_missing(writer, index, reason)
            for field, following in itertools.zip_longest(todo, todo[1:]):
                if not (in_time := self.request.in_time()):
                    break
                check_disk_space(self._raw, self.request.scope, {self.request.pass_name: 1})
                if field.index in self._given_up:
                    self._record_missing(writer, field.index, self._given_up[field.index])
                    continue
                self._observer.started(field.index)
                error = self._take_field(field, following, writer)
                consecutive = 0 if error is None else consecutive + 1
                if (
                    error is not None
                    and consecutive >= self.request.scope.reliability.max_consecutive_missing
                ):
                    raise HardwareError(
                        f"{consecutive} fields in a row could not be taken, the last because: "
                        f"{error} The fields taken before are kept; put this right and run the "
                        "same command again."
                    ) from error
        finally:
            # Fields already taken are written even where the run ends here; the first error is the
            # one to show.
            writer.finish()
        writer.check()
        return in_time

    def _take_field(
        self, field: PlannedField, following: PlannedField | None, writer: FieldWriter
    ) -> HardwareError | None:
        """Take a field and queue its file, or its entry as empty or missing.

        Return the error of a missing one.
        """
        if self.focus.surface.check_is_due(field.index):
            self.focus.check_drift(field)
        skip_next = following is None or following.index in self._given_up
        next_position_um = (
            None if following is None or skip_next else (following.x_um, following.y_um)
        )
        buffer = writer.take_buffer()
        try:
            pending, info = self.acquirer.take(
                field, next_position_um, lambda: writer.start_field(field.index, buffer)
            )
        except EmptyFieldError as found:
            writer.release_buffer(buffer)
            writer.record(field.index, found.foreground_um2)
        except CoreLostError:
            raise
        except HardwareError as error:
            writer.release_buffer(buffer)
            self._record_missing(writer, field.index, str(error))
            return error
        else:
            writer.write(pending, info)
        return None

    def _record_missing(self, writer: FieldWriter, index: int, reason: str) -> None:
        # A process that replaces a dead one finds the entries of that process.
        if read_missing(self._raw).get(index) != reason:
            self.request.sample.log("field_missing", field=index, reason=reason)
        writer.record(index, reason)
