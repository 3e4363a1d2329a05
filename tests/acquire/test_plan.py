"""The order and the reach of planned fields, and the events they become."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbcpipe.acquire.capture.sample_record import estimate_seconds
from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.acquire.events import field_events
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.errors import ConfigError, StageLimitError
from wbcpipe.samples.fields import MODALITIES

PLAN = AcquisitionPlan(
    slot="A", field_width_um=200, field_height_um=100, overlap=0.1, x_um=(0, 1000), y_um=(-500, 0)
)


def test_fields_are_a_serpentine_from_the_corner() -> None:
    fields = PLAN.fields()
    assert [field.index for field in fields] == list(range(PLAN.columns * PLAN.rows))
    assert (fields[0].x_um, fields[0].y_um) == (100, -450)
    for one, other in itertools.pairwise(fields):
        step_um = (abs(other.x_um - one.x_um), abs(other.y_um - one.y_um))
        assert step_um in [(180, 0), (0, 90)]


spans = st.tuples(st.integers(-60_000, 60_000), st.floats(60.0, 2000.0)).map(
    lambda drawn: (float(drawn[0]), drawn[0] + drawn[1])
)


@given(st.floats(30.0, 60.0), st.floats(30.0, 60.0), st.floats(0.0, 0.5), spans, spans)
def test_any_area_is_covered_up_to_less_than_a_field(
    width_um: float,
    height_um: float,
    overlap: float,
    x_um: tuple[float, float],
    y_um: tuple[float, float],
) -> None:
    plan = AcquisitionPlan(
        slot="A",
        field_width_um=width_um,
        field_height_um=height_um,
        overlap=overlap,
        x_um=x_um,
        y_um=y_um,
    )
    fields = plan.fields()
    assert len({(field.x_um, field.y_um) for field in fields}) == len(fields) == plan.n_fields
    for side_um, span_um, at_um in (
        (width_um, x_um, sorted({field.x_um for field in fields})),
        (height_um, y_um, sorted({field.y_um for field in fields})),
    ):
        # Positions are rounded to a nanometre.
        assert at_um[0] - side_um / 2 == pytest.approx(span_um[0], abs=1e-3)
        assert at_um[-1] + side_um / 2 <= span_um[1] + 2e-3
        assert span_um[1] - (at_um[-1] + side_um / 2) < side_um * (1 - overlap) + 2e-3
        assert all(after - before <= side_um + 2e-3 for before, after in itertools.pairwise(at_um))


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.5])
def test_fields_cover_the_area_without_leaving_it(overlap: float) -> None:
    plan = PLAN.model_copy(update={"overlap": overlap})
    x_um = np.array([field.x_um for field in plan.fields()])
    y_um = np.array([field.y_um for field in plan.fields()])
    assert x_um.min() - 100 >= 0
    assert x_um.max() + 100 <= 1000
    assert y_um.min() - 50 >= -500
    assert y_um.max() + 50 <= 0
    # What is left over is less than another field would need, and no gap is between rows or
    # columns.
    assert 1000 - (x_um.max() + 100) < 200 * (1 - overlap)
    assert 0 - (y_um.max() + 50) < 100 * (1 - overlap)
    assert np.diff(np.unique(x_um)).max() <= 200
    assert np.diff(np.unique(y_um)).max() <= 100


def test_an_area_of_whole_fields_loses_none_to_rounding() -> None:
    plan = AcquisitionPlan(
        slot="A", field_width_um=0.1, field_height_um=0.1, overlap=0, x_um=(0, 0.3), y_um=(0, 0.7)
    )
    assert (plan.columns, plan.rows) == (3, 7)


@pytest.mark.parametrize("key", list(AcquisitionPlan.model_fields))
def test_a_misspelt_key_of_a_plan_is_refused(key: str) -> None:
    content = PLAN.model_dump()
    content[key + "x"] = content.pop(key)
    with pytest.raises(ValueError, match=f"{key}x"):
        AcquisitionPlan.model_validate(content)


def test_a_scan_area_beyond_the_stage_is_refused() -> None:
    scope = load_scope("demo")
    stage = scope.stage.model_copy(update={"x_um": (-1000.0, 1000.0)})
    with pytest.raises(
        StageLimitError,
        match=r"slot 'A' scans x from -2500 to 2500 um, the stage reaches -1000 to 1000",
    ):
        AcquisitionPlan.from_scope(scope.model_copy(update={"stage": stage}), "A")


def test_an_area_smaller_than_a_field_is_refused() -> None:
    scope = load_scope("demo")
    slot = scope.slots["A"].model_copy(update={"x_um": (0.0, 100.0)})
    with pytest.raises(ConfigError, match=r"smaller than a field of 204\.8 x 204\.8 um"):
        AcquisitionPlan.from_scope(scope.model_copy(update={"slots": {"A": slot}}), "A")


def test_an_overlap_beyond_half_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"the overlap 0\.6 is not allowed: give 0 to 0.5"):
        AcquisitionPlan.from_scope(load_scope("demo"), "A", overlap=0.6)


def test_events_end_with_fluorescence_and_keep_their_offsets() -> None:
    scope = load_scope("demo")
    shifted = scope.modalities.color3.model_copy(update={"z_offset_um": 0.5})
    scope = scope.model_copy(
        update={"modalities": scope.modalities.model_copy(update={"color3": shifted})}
    )
    events = field_events(scope, PLAN.fields()[3], 2.0)
    assert tuple(event.modality for event in events) == MODALITIES
    assert [event.z_um for event in events] == [2.0, 2.0, 2.5, 2.0]
    assert [event.exposure_ms for event in events] == [5, 5, 5, 20]
    assert {event.field for event in events} == {3}


def test_an_event_beyond_the_soft_limits_is_refused() -> None:
    with pytest.raises(
        StageLimitError,
        match="field 0, color1: Z of 101 um is outside the soft limits -100 to 100 um",
    ):
        field_events(load_scope("demo"), PLAN.fields()[0], 101.0)


def test_more_fields_take_more_time_and_room() -> None:
    scope = load_scope("demo")
    plan = AcquisitionPlan.from_scope(scope, "A")
    assert estimate_seconds(scope, plan, 100) > estimate_seconds(scope, plan, 10) > 0
    assert scope.field_bytes(MODALITIES) == pytest.approx(4 * 2 * 2048**2, rel=0.01)
