"""Takes one field, as often as the scope allows until its frames can be believed, and tells what is known of it."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from wbcpipe.acquire.capture.capture_field import capture_field, taken_together
from wbcpipe.acquire.capture.empty_fields import EmptyFieldError
from wbcpipe.acquire.events import field_events
from wbcpipe.acquire.slide_relocation.alignment import add_slide_transform
from wbcpipe.errors import HardwareError, StageLimitError
from wbcpipe.samples.fields import PASSES, field_path, read_field

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from wbcpipe.acquire.capture.empty_fields import EmptyFieldDetector
    from wbcpipe.acquire.capture.field_writer import Draft
    from wbcpipe.acquire.capture.frame_checks import FrameValidator
    from wbcpipe.acquire.capture.light_dose import DoseLedger
    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.focus.manager import FocusManager
    from wbcpipe.acquire.hardware.protocols import Microscope
    from wbcpipe.acquire.hardware.retry import Retries
    from wbcpipe.acquire.hardware.sequencing_check import SequencingCheck
    from wbcpipe.acquire.plan import PlannedField
    from wbcpipe.acquire.slide_relocation.transform import SlideTransform
    from wbcpipe.samples.fields import FieldInfo, Pass
    from wbcpipe.samples.sample import Sample

__all__ = ["FieldTaker"]


@dataclass
class FieldTaker:
    """What it takes to take the fields of a pass.

    Attributes:
        sample, scope, pass_name: whose, with what, and which frames.
        microscope: opened.
        retries, focus, dose, judge, proof: of the session.
        look: finds bare glass, where that is left.
        slide_transform: how the slide lies in a second pass; ``None`` in a first.
    """

    sample: Sample
    scope: Scope
    pass_name: Pass
    microscope: Microscope
    retries: Retries
    focus: FocusManager
    dose: DoseLedger
    judge: FrameValidator
    proof: SequencingCheck
    look: EmptyFieldDetector | None
    slide_transform: SlideTransform | None = None

    def take(
        self, field: PlannedField, next_position_um: tuple[float, float] | None, draft_of: Callable[[], Draft]
    ) -> tuple[Draft, FieldInfo]:
        """Take a field into a draft, and into another after a failure.

        Args:
            field: where.
            next_position_um: of the field after this one.
            draft_of: begins the field's file.

        Raises:
            EmptyFieldError: it shows bare glass.
            HardwareError: it could not be taken.
        """
        place_um = self._place_um(field)
        self.microscope.on_fluorescence = functools.partial(self.dose.note, field.index, *place_um)
        for attempt in self.retries.attempts:
            draft, before_ms = draft_of(), self.dose.at(*place_um)
            try:
                info = self._attempt(field, next_position_um, draft)
                return draft, self._described(info, before_ms, self.dose.at(*place_um))
            except EmptyFieldError:
                draft.abandon()
                raise
            except StageLimitError as error:
                raise HardwareError(str(error)) from error
            except HardwareError as error:
                try:
                    self.retries.recover_after(error, attempt, field=field.index)
                finally:
                    draft.abandon()  # at rest no further frame of it comes
        raise AssertionError  # pragma: no cover - the loop returns or raises

    def _attempt(self, field: PlannedField, next_position_um: tuple[float, float] | None, draft: Draft) -> FieldInfo:
        self.focus.check_after_loading(field)
        z_um = self.focus.z_um(field.x_um, field.y_um)
        events = field_events(self.scope, field, z_um, PASSES[self.pass_name])
        self.proof.consider(taken_together(events, self.look))
        info = capture_field(
            self.microscope,
            self.scope,
            events,
            draft.buffer,
            next_position_um=next_position_um,
            check=self.retries.check_stop,
            look=self.look,
            on_frame_complete=draft.whole,
        )
        self.judge.judge(info.modalities, draft.buffer, functools.partial(self._bright_field, field.index))
        return info

    def _place_um(self, field: PlannedField) -> tuple[float, float]:
        """Where a field lies on the slide, as the first pass saw it."""
        if self.slide_transform is None:
            return field.x_um, field.y_um
        x_um, y_um = self.slide_transform.to_slide_um(field.x_um, field.y_um)
        return round(x_um, 3), round(y_um, 3)

    def _described(self, info: FieldInfo, before_ms: float, dose_ms: float) -> FieldInfo:
        """What is known of a field beyond what the hardware said: its light so far, and its place on the slide."""
        bleach_ms = self.scope.light.bleach_ms
        faded = round(1 - math.exp(-before_ms / bleach_ms), 4) if bleach_ms else None
        info = replace(info, dose_ms=dose_ms, faded=faded)
        return info if self.slide_transform is None else add_slide_transform(info, self.slide_transform)

    def _bright_field(self, index: int) -> NDArray[np.uint16]:
        """The first bright-field frame (Y, X) of a field, as the pass before took it."""
        frame: NDArray[np.uint16] = read_field(field_path(self.sample.raw_path("brightfield"), index))[0][0]
        return frame
