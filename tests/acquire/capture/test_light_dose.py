"""Fluorescence light is counted before it falls, by the place on the slide, whatever becomes of its
frame.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from wbcpipe.acquire.capture.light_dose import DoseLedger
from wbcpipe.acquire.capture.session import AcquisitionSession
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.request import AcquisitionRequest
from wbcpipe.acquire.simulation.virtual_scope import VirtualScope
from wbcpipe.acquire.slide_relocation.alignment import add_slide_transform
from wbcpipe.acquire.slide_relocation.transform import SlideTransform
from wbcpipe.errors import DiskFullError
from wbcpipe.samples.fields import (
    FieldInfo,
    FieldTransform,
    FrameInfo,
    field_path,
    fields_on_disk,
    read_info,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.protocols import Exposure
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
    from wbcpipe.samples.sample import Sample

GLOW_MS = 20.0
FIELD_UM = (25.6, 25.6)


class _Killed(BaseException):
    """Ends a process, as far as what is on disk goes."""


class Dying(VirtualScope):
    """Dies at a fluorescence exposure, counted from 0, once the slide was lit."""

    dies_at: int
    lit = 0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._expose_sequence = self.sequencing.expose_sequence
        self.sequencing.expose_sequence = self.expose_sequence  # type: ignore[method-assign]

    def expose(self, *arguments: Any, **options: Any) -> Exposure:
        exposure = super().expose(*arguments, **options)
        if self.illumination.current == "fluorescence":
            type(self).lit += 1
            if type(self).lit - 1 == self.dies_at:
                raise _Killed
        return exposure

    def expose_sequence(self, *arguments: Any, **options: Any) -> list[Exposure]:
        exposures = self._expose_sequence(*arguments, **options)
        if arguments[0][-1].modality == "fluorescence":
            type(self).lit += 1
            if type(self).lit - 1 == self.dies_at:
                raise _Killed
        return exposures


def dying(at: int) -> Callable[..., VirtualScope]:
    return type("One", (Dying,), {"dies_at": at, "lit": 0})


@pytest.mark.parametrize("sequencing", ["off", "on"])
def test_light_before_a_death_is_in_the_next_runs_fields(
    sample: Sample, make_scope: Callable[..., Scope], specimen: SpecimenPlan, sequencing: str
) -> None:
    scope = make_scope(sequencing=sequencing)
    plan = AcquisitionPlan.from_scope(scope, "A")
    with (
        pytest.raises(_Killed),
        AcquisitionSession(
            AcquisitionRequest(sample, scope, plan, specimen, microscope=dying(2))
        ) as session,
    ):
        session.take(range(4))
    assert list(fields_on_disk(sample.raw_path())) == [0, 1]
    with AcquisitionSession(AcquisitionRequest(sample, scope, plan, specimen)) as session:
        session.take(range(4))
    infos = [read_info(path) for path in fields_on_disk(sample.raw_path()).values()]
    assert [info.dose_ms for info in infos] == [GLOW_MS, GLOW_MS, 2 * GLOW_MS, GLOW_MS]
    assert [info.faded for info in infos] == [
        0.0,
        0.0,
        round(1 - math.exp(-GLOW_MS / 650.0), 4),
        0.0,
    ]


def test_light_of_a_damaged_file_counts(
    sample: Sample, small_scope: Scope, small_plan: AcquisitionPlan, specimen: SpecimenPlan
) -> None:
    for _ in range(2):
        with AcquisitionSession(
            AcquisitionRequest(sample, small_scope, small_plan, specimen)
        ) as session:
            session.take(range(2))
        path = field_path(sample.raw_path(), 1)
        path.write_bytes(path.read_bytes()[:9000])
    with AcquisitionSession(
        AcquisitionRequest(sample, small_scope, small_plan, specimen)
    ) as session:
        session.take(range(2))
    assert read_info(path).dose_ms == 3 * GLOW_MS


def info_at(index: int, x_um: float, y_um: float) -> FieldInfo:
    return FieldInfo(
        index, x_um, y_um, 0.1, (FrameInfo("color1", 5.0), FrameInfo("fluorescence", GLOW_MS))
    )


def test_a_slide_that_was_moved_is_counted_where_it_was_lit(tmp_path: Path) -> None:
    before = SlideTransform(0.5, 40.0, -10.0)
    info = add_slide_transform(info_at(3, *before.to_stage_um(1000.0, 500.0)), before)
    assert DoseLedger(tmp_path, FIELD_UM, [info]).dose_ms(1000.0, 500.0) == GLOW_MS
    ledger = DoseLedger(tmp_path, FIELD_UM, [info])
    ledger.record(3, 1000.001, 500.0, GLOW_MS)
    assert ledger.dose_ms(1000.0, 500.0) == 2 * GLOW_MS
    assert ledger.dose_ms(1000.0 + FIELD_UM[0], 500.0) == 0.0
    ledger.close()


def test_what_a_power_cut_left_of_the_notes_is_made_up_from_the_files(tmp_path: Path) -> None:
    ledger = DoseLedger(tmp_path, FIELD_UM)
    for field in range(3):
        ledger.record(field, 100.0 * field, 0.0, GLOW_MS)
    ledger.close()
    path = tmp_path / "light.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    again = DoseLedger(tmp_path, FIELD_UM, [info_at(0, 0.0, 0.0), info_at(2, 200.0, 0.0)])
    assert [again.dose_ms(100.0 * field, 0.0) for field in range(3)] == [GLOW_MS, GLOW_MS, GLOW_MS]


def test_light_that_cannot_be_noted_does_not_fall(
    small_scope: Scope, specimen: SpecimenPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    def full(_: float) -> None:
        raise DiskFullError("no space left on the disk.")

    frame = np.empty((256, 256), np.uint16)
    with VirtualScope(small_scope, specimen) as microscope:
        microscope.on_fluorescence = full
        monkeypatch.setattr(
            microscope.link.shutter, "set_open", lambda **_: pytest.fail("the slide was lit")
        )
        microscope.switch_light("fluorescence")
        with pytest.raises(DiskFullError):
            microscope.expose(GLOW_MS, frame)
        monkeypatch.undo()


def test_a_field_taken_again_after_the_slide_was_moved(
    sample: Sample, make_scope: Callable[..., Scope], specimen: SpecimenPlan
) -> None:
    wide = (("pixel_um = 0.1", "pixel_um = 0.8"), ("[-60.0, 60.0]", "[-500.0, 500.0]"))
    bright = (
        ("exposure_ms = 5.0", "exposure_ms = 0.08"),
        ("exposure_ms = 20.0", "exposure_ms = 0.31"),
    )
    scope = make_scope(*wide, *bright)
    plan = AcquisitionPlan.from_scope(scope, "A")

    def lying(placement: SlideTransform) -> Callable[..., VirtualScope]:
        return partial(VirtualScope, placement=placement)

    with AcquisitionSession(
        AcquisitionRequest(sample, scope, plan, specimen, pass_name="brightfield")
    ) as session:
        session.take(range(2))
    for placement in (SlideTransform(0.7, 20.0, -20.0), SlideTransform(-0.9, -110.0, 40.0)):
        field_path(sample.raw_path("fluorescence"), 1).unlink(missing_ok=True)
        with AcquisitionSession(
            AcquisitionRequest(
                sample, scope, plan, specimen, pass_name="fluorescence", microscope=lying(placement)
            )
        ) as session:
            session.take(range(2))
    infos = [read_info(field_path(sample.raw_path("fluorescence"), index)) for index in range(2)]
    assert [info.dose_ms for info in infos] == [0.31, 0.62]
    assert isinstance(infos[1].slide_transform, FieldTransform)
