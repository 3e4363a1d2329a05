"""Takes one field, as often as the scope allows, until its frames pass their checks."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from wbcpipe.acquire.capture.capture_field import FieldCapture
from wbcpipe.acquire.capture.empty_fields import EmptyFieldError
from wbcpipe.acquire.capture.frame_checks import is_changed_exposure
from wbcpipe.acquire.events import field_events
from wbcpipe.acquire.slide_relocation.alignment import add_slide_transform
from wbcpipe.errors import HardwareError, StageLimitError
from wbcpipe.samples.fields import PASSES, field_path, read_field

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.acquire.capture.empty_fields import EmptyFieldDetector
    from wbcpipe.acquire.capture.field_writer import PendingField
    from wbcpipe.acquire.capture.frame_checks import FrameValidator
    from wbcpipe.acquire.capture.light_dose import DoseLedger
    from wbcpipe.acquire.events import CaptureEvent
    from wbcpipe.acquire.focus.manager import FocusManager
    from wbcpipe.acquire.hardware.protocols import Microscope
    from wbcpipe.acquire.hardware.retry import Retries
    from wbcpipe.acquire.hardware.sequencing_check import SequencingCheck
    from wbcpipe.acquire.plan import PlannedField
    from wbcpipe.acquire.request import AcquisitionRequest
    from wbcpipe.acquire.slide_relocation.transform import SlideTransform
    from wbcpipe.samples.fields import FieldInfo

__all__ = ["FieldAcquirer"]


@dataclass
class FieldAcquirer:
    """Takes the fields of a pass, one at a time.

    Attributes:
        request: The pass.
        microscope: An open microscope.
        retries, focus, dose, validator, sequencing_check: Those of the session.
        empty_detector: Finds bare glass; ``None`` to take empty fields too.
        slide_transform: Position of the slide in a second pass; ``None`` in a first pass.
        progress: Called with what the operator should know.
    """

    request: AcquisitionRequest
    microscope: Microscope
    retries: Retries
    focus: FocusManager
    dose: DoseLedger
    validator: FrameValidator
    sequencing_check: SequencingCheck
    empty_detector: EmptyFieldDetector | None
    slide_transform: SlideTransform | None = None
    progress: Callable[[str], None] = lambda _: None

    def __post_init__(self) -> None:
        #: Modalities whose exposure the camera changes, as told.
        self._told: set[str] = set()
        self._capture = FieldCapture(
            self.microscope, self.request.scope, self.empty_detector, self.retries.check_stop
        )

    def take(
        self,
        field: PlannedField,
        next_position_um: tuple[float, float] | None,
        start_field: Callable[[], PendingField],
    ) -> tuple[PendingField, FieldInfo]:
        """Take a field, with a new file for each attempt.

        Args:
            field: Field to take.
            next_position_um: (x, y) of the next field.
            start_field: Starts the field's file.

        Raises:
            EmptyFieldError: The field shows bare glass.
            HardwareError: The field could not be taken.
        """
        slide_um = self._on_slide_um(field)
        self.microscope.on_fluorescence = functools.partial(
            self.dose.record, field.index, *slide_um
        )
        for attempt in self.retries.attempts:
            pending, before_ms = start_field(), self.dose.dose_ms(*slide_um)
            try:
                info = self._attempt(field, next_position_um, pending)
                return pending, self._with_light_dose(info, before_ms, self.dose.dose_ms(*slide_um))
            except EmptyFieldError:
                pending.abandon()
                raise
            except StageLimitError as error:
                raise HardwareError(str(error)) from error
            except HardwareError as error:
                try:
                    self.retries.recover_after(error, attempt, field=field.index)
                finally:
                    pending.abandon()  # only now: after the recovery no further frame of it comes
        raise AssertionError  # pragma: no cover - the loop returns or raises

    def _attempt(
        self,
        field: PlannedField,
        next_position_um: tuple[float, float] | None,
        pending: PendingField,
    ) -> FieldInfo:
        self.focus.check_after_loading(field)
        z_um = self.focus.surface.z_um(field.x_um, field.y_um)
        events = field_events(self.request.scope, field, z_um, PASSES[self.request.pass_name])
        self.sequencing_check.consider(self._capture.events_before_empty_check(events))
        info = self._capture.take(events, pending.buffer, next_position_um, pending.complete_frame)
        self._tell_changed_exposures(events, info)
        first = field_path(self.request.sample.raw_path("brightfield"), field.index)
        self.validator.validate(info.modalities, pending.buffer, lambda: read_field(first)[0][0])
        return info

    def _tell_changed_exposures(self, events: tuple[CaptureEvent, ...], info: FieldInfo) -> None:
        """Tell once for each modality that the camera made another exposure of the one it was asked
        for.
        """
        for event, frame in zip(events, info.frames, strict=True):
            if event.modality in self._told or not is_changed_exposure(
                event.exposure_ms, frame.exposure_ms
            ):
                continue
            self._told.add(event.modality)
            self.request.sample.log(
                "exposure_changed",
                modality=event.modality,
                asked_ms=event.exposure_ms,
                exposure_ms=frame.exposure_ms,
            )
            self.progress(
                f"warning: the camera exposes {event.modality} for {frame.exposure_ms:g} ms, "
                f"'modalities.{event.modality}.exposure_ms' is {event.exposure_ms:g}; correct it"
            )

    def _on_slide_um(self, field: PlannedField) -> tuple[float, float]:
        """Return the position (x, y) of a field on the slide, in the coordinates of the first
        pass.
        """
        if self.slide_transform is None:
            return field.x_um, field.y_um
        x_um, y_um = self.slide_transform.to_slide_um(field.x_um, field.y_um)
        return round(x_um, 3), round(y_um, 3)

    def _with_light_dose(self, info: FieldInfo, before_ms: float, dose_ms: float) -> FieldInfo:
        """Add to a field its light dose, its bleaching and, in a second pass, its position on the
        slide.
        """
        bleach_ms = self.request.scope.light.bleach_ms
        faded = round(1 - math.exp(-before_ms / bleach_ms), 4) if bleach_ms else None
        info = replace(info, dose_ms=dose_ms, faded=faded)
        return (
            info
            if self.slide_transform is None
            else add_slide_transform(info, self.slide_transform)
        )
