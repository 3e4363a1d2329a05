"""Fields of bare glass on the real core.

Skipped without fluorescence or file, remembered, and counted as missed.
"""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from wbcpipe.acquire.capture.sample_record import create_sample_record
from wbcpipe.acquire.capture.session import AcquisitionSession
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.request import AcquisitionRequest
from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
from wbcpipe.acquire.simulation.specimen.slide import Specimen
from wbcpipe.acquire.simulation.virtual_scope import VirtualScope
from wbcpipe.acquire.supervise.messages import DeadlinePassed, FieldEmpty, FieldTaken, RequestDone
from wbcpipe.acquire.supervise.worker import AcquisitionWorker
from wbcpipe.report.document import count_fields
from wbcpipe.report.evaluate import visible_truth
from wbcpipe.samples.field_status import read_skipped, write_skipped
from wbcpipe.samples.fields import fields_on_disk, read_field
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.plan import PlannedPass

#: A slide with an island of bare glass, whose edge crosses the scan area.
ISLAND = SpecimenPlan(6)
FIELDS = 16


class Watched(VirtualScope):
    """Notes each light that was switched on."""

    lights: list[str]

    def __init__(self, scope: Scope, plan: SpecimenPlan, planned: PlannedPass | None) -> None:
        super().__init__(scope, plan, planned)
        self.lights = []

    def switch_light(self, modality: str) -> None:
        self.lights.append(modality)
        super().switch_light(modality)


@pytest.fixture
def island_scope(make_scope: Callable[..., Scope]) -> Scope:
    z_um = Specimen(ISLAND).focus_um(310.0, 310.0)
    return make_scope(
        ("[-60.0, 60.0]", "[250.0, 370.0]"),
        ("skip_empty = false", "skip_empty = true"),
        (
            f"fixed_um = {Specimen(SpecimenPlan(7)).focus_um(0.0, 0.0):.2f}",
            f"fixed_um = {z_um:.2f}",
        ),
    )


def test_empty_fields_are_skipped_remembered_and_add_up(
    island_scope: Scope, sample: Sample, recorder: Any
) -> None:
    plan = AcquisitionPlan.from_scope(island_scope, "A")
    opened: list[Watched] = []

    def watched(
        scope: Scope, specimen: SpecimenPlan | None = None, planned: PlannedPass | None = None, /
    ) -> Watched:
        assert specimen is not None
        opened.append(Watched(scope, specimen, planned))
        return opened[-1]

    with AcquisitionSession(
        AcquisitionRequest(sample, island_scope, plan, ISLAND, microscope=watched), recorder
    ) as session:
        session.take(range(FIELDS))
    taken, empty = recorder.taken_fields, recorder.empty_fields
    raw = sample.raw_path()
    assert taken == list(fields_on_disk(raw))
    assert len(taken) >= 2
    assert len(empty) >= 2
    assert sorted([*taken, *empty]) == list(range(FIELDS))
    assert read_skipped(raw) == empty
    # A skipped field has no dose, and what is skipped holds no white cell.
    assert opened[0].lights.count("fluorescence") == len(taken)
    slide, half_um = Specimen(ISLAND), island_scope.field_um[0] / 2
    for index in empty:
        x_um, y_um = plan.fields()[index].x_um, plan.fields()[index].y_um
        there = slide.objects_in(x_um - half_um, y_um - half_um, x_um + half_um, y_um + half_um)
        assert not [item for item in there if item.label]
    # Another run opens the microscope, and looks at nothing again.
    before = (raw / "skipped_fields.json").stat().st_mtime_ns
    with AcquisitionSession(
        AcquisitionRequest(sample, island_scope, plan, ISLAND, microscope=watched)
    ) as session:
        assert session.inventory.empty == empty
        session.take(range(FIELDS))
    assert opened[1].lights == []
    assert (raw / "skipped_fields.json").stat().st_mtime_ns == before
    fields = count_fields(sample, sample.record())
    assert (fields.wanted, fields.taken, fields.empty, fields.missing) == (
        FIELDS,
        len(taken),
        tuple(sorted(empty)),
        (),
    )


@pytest.mark.parametrize("sequencing", ["off", "on"])
def test_bursts_leave_an_empty_field_in_the_dark_too(
    make_scope: Callable[..., Scope], tmp_path: Path, sequencing: str
) -> None:
    """What light falls on an empty field fades its neighbours, which overlap it."""
    z_um = f"{Specimen(ISLAND).focus_um(310.0, 310.0):.2f}"
    scope = make_scope(
        ("[-60.0, 60.0]", "[250.0, 370.0]"),
        ("skip_empty = false", "skip_empty = true"),
        (f"fixed_um = {Specimen(SpecimenPlan(7)).focus_um(0.0, 0.0):.2f}", f"fixed_um = {z_um}"),
        sequencing=sequencing,
    )
    plan = AcquisitionPlan.from_scope(scope, "A")
    whole, broken = Sample.open(tmp_path, "whole"), Sample.open(tmp_path, "broken")
    sequences: list[int] = []
    with AcquisitionSession(AcquisitionRequest(whole, scope, plan, ISLAND)) as session:
        assert isinstance(session.microscope, VirtualScope)
        start = session.microscope.camera.start_sequence

        def spied(n_frames: int, timeout_s: float) -> None:
            sequences.append(n_frames)
            start(n_frames, timeout_s)

        session.microscope.camera.start_sequence = spied  # type: ignore[method-assign]
        session.take(range(FIELDS))
        assert session.inventory.empty
        lit = (whole.raw_path() / "light.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["field"] for line in lit] == list(session.inventory.taken)
    assert set(sequences) == ({3} if sequencing == "on" else set())
    for wanted in (7, FIELDS):
        with AcquisitionSession(AcquisitionRequest(broken, scope, plan, ISLAND)) as session:
            session.take(range(wanted))
    first, second = (fields_on_disk(sample.raw_path()) for sample in (whole, broken))
    assert list(first) == list(second)
    for index, path in first.items():
        images, info = read_field(path)
        np.testing.assert_array_equal(images, read_field(second[index])[0])
        assert info.dose_ms == read_field(second[index])[1].dose_ms == 20.0


def test_a_broken_run_skips_the_same_fields(island_scope: Scope, tmp_path: Path) -> None:
    plan = AcquisitionPlan.from_scope(island_scope, "A")
    whole, broken = Sample.open(tmp_path, "whole"), Sample.open(tmp_path, "broken")
    with AcquisitionSession(AcquisitionRequest(whole, island_scope, plan, ISLAND)) as session:
        session.take(range(FIELDS))
    for wanted in (7, FIELDS):
        with AcquisitionWorker(AcquisitionRequest(broken, island_scope, plan, ISLAND)) as worker:
            worker.request_fields(wanted)
            told = {
                event.index: event
                for event in worker.events()
                if isinstance(event, FieldTaken | FieldEmpty)
            }
        assert list(told) == list(range(wanted))
    assert [index for index, event in told.items() if isinstance(event, FieldEmpty)] == sorted(
        read_skipped(broken.raw_path())
    )
    assert read_skipped(whole.raw_path()) == read_skipped(broken.raw_path())
    first, second = fields_on_disk(whole.raw_path()), fields_on_disk(broken.raw_path())
    assert list(first) == list(second)
    for index, path in first.items():
        np.testing.assert_array_equal(read_field(path)[0], read_field(second[index])[0])
    assert whole.truth_path.read_bytes() == broken.truth_path.read_bytes()


def test_a_white_cell_in_a_skipped_field_counts_as_missed(
    make_scope: Callable[..., Scope], sample: Sample, specimen: SpecimenPlan
) -> None:
    scope = make_scope()
    plan = AcquisitionPlan.from_scope(scope, "A")
    half_um = scope.field_um[0] / 2

    def white_in(index: int) -> int:
        at = plan.fields()[index]
        box = (at.x_um - half_um, at.y_um - half_um, at.x_um + half_um, at.y_um + half_um)
        return sum(bool(item.label) for item in Specimen(specimen).objects_in(*box))

    with_cell = next(index for index in range(len(plan.fields())) if white_in(index))
    other = next(
        index
        for index in range(len(plan.fields()))
        if abs(index - with_cell) > 1 and not white_in(index)
    )
    create_sample_record(AcquisitionRequest(sample, scope, plan, specimen))
    sample.raw_path().mkdir(parents=True)
    write_skipped(sample.raw_path(), {with_cell: 3.0})  # as if the look had been wrong
    with AcquisitionSession(AcquisitionRequest(sample, scope, plan, specimen)) as session:
        session.take([with_cell, other])
    assert list(fields_on_disk(sample.raw_path())) == [other]
    with sample.truth_path.open(encoding="utf-8", newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row["kind"] in ("cell", "doublet")]
    assert [row["field"] for row in rows].count(str(with_cell)) == white_in(with_cell)
    truth = visible_truth(sample)
    assert int(truth.visible.sum()) == white_in(with_cell) + white_in(other)


def test_no_field_is_begun_after_the_deadline(
    sample: Sample,
    small_scope: Scope,
    small_plan: AcquisitionPlan,
    specimen: SpecimenPlan,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with AcquisitionSession(
        AcquisitionRequest(sample, small_scope, small_plan, specimen)
    ) as session:
        with monkeypatch.context() as patch:
            answers = iter(
                [True, True, True, False]
            )  # before the run, and before each of three fields
            patch.setattr(AcquisitionRequest, "in_time", lambda _: next(answers))
            assert not session.take(range(5))
        assert list(fields_on_disk(sample.raw_path())) == [0, 1]
        assert session.take(range(3))
    with AcquisitionWorker(
        AcquisitionRequest(sample, small_scope, small_plan, specimen, deadline_s=1.0)
    ) as worker:
        worker.request_fields(4)
        events = [
            event
            for event in worker.events()
            if isinstance(event, FieldTaken | DeadlinePassed | RequestDone)
        ]
        assert events == [
            *(FieldTaken(index, resumed=True) for index in range(3)),
            DeadlinePassed(4),
        ]
        worker.request_fields(6)
        assert list(worker.events()) == [DeadlinePassed(6)]
    assert list(fields_on_disk(sample.raw_path())) == [0, 1, 2]
    assert json.loads((sample.raw_path() / "focus.json").read_text(encoding="utf-8"))
