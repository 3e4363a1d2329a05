"""A light source that ignores the camera's trigger is found out before it spoils a slide."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from wbcpipe.acquire.capture.session import AcquisitionSession
from wbcpipe.acquire.hardware.sequencing_check import compare_lights
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.request import AcquisitionRequest
from wbcpipe.acquire.simulation.virtual_scope import VirtualScope
from wbcpipe.errors import HardwareError
from wbcpipe.samples.fields import fields_on_disk, read_field
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.plan import PlannedPass
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan


def lights(*levels: int, seed: int = 1) -> NDArray[np.uint16]:
    """Frames (C, 64, 64) of the same cells, dark to a level in each, under noise of their own."""
    cells = np.random.default_rng(3).random((64, 64)) < 0.3
    rng = np.random.default_rng(seed)
    return np.stack(
        [np.where(cells, level, 30_000) + rng.integers(0, 100, (64, 64)) for level in levels]
    ).astype(np.uint16)


@pytest.mark.parametrize(
    ("sequence", "verdict"),
    [
        (lights(10_000, 20_000, 28_000), "right"),
        (lights(10_000, 10_000, 10_000), "wrong"),
        (lights(20_000, 28_000, 10_000), "wrong"),
        (lights(30_000, 30_000, 30_000), "wrong"),
    ],
    ids=["follows", "stays at the first", "a step ahead", "dark cells gone"],
)
def test_lights_are_told_apart(sequence: NDArray[np.uint16], verdict: str) -> None:
    assert compare_lights(lights(10_000, 20_000, 28_000, seed=2), sequence) == verdict


def test_bare_glass_tells_nothing() -> None:
    assert (
        compare_lights(lights(30_000, 30_000, 30_000), lights(30_000, 30_000, 30_000, seed=2))
        == "unclear"
    )


class Untriggered(VirtualScope):
    """A light source whose trigger cable is out: it stays where the last command put it."""

    def __init__(self, scope: Scope, plan: SpecimenPlan, planned: PlannedPass | None) -> None:
        super().__init__(scope, plan, planned)
        observed = self.illumination.observed
        self.illumination.observed = lambda frame=None: observed(None if frame is None else 0)  # type: ignore[method-assign]


def untriggered(
    scope: Scope, plan: SpecimenPlan | None = None, planned: PlannedPass | None = None, /
) -> Untriggered:
    assert plan is not None
    return Untriggered(scope, plan, planned)


def events_of(sample: Sample) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (sample.path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def test_a_light_that_does_not_follow_is_switched_by_command(
    tmp_path: Path, make_scope: Callable[..., Scope], specimen: SpecimenPlan
) -> None:
    samples = [Sample.open(tmp_path, name) for name in ("untriggered", "sound")]
    for sample, sequencing, opener in zip(
        samples, ("auto", "off"), (untriggered, None), strict=True
    ):
        scope = make_scope(sequencing=sequencing)
        plan = AcquisitionPlan.from_scope(scope, "A")
        with AcquisitionSession(
            AcquisitionRequest(sample, scope, plan, specimen, microscope=opener)
        ) as session:
            session.take(range(2))
    one, other = (
        [read_field(path)[0] for path in fields_on_disk(sample.raw_path()).values()]
        for sample in samples
    )
    np.testing.assert_array_equal(one, other)
    (event,) = [event for event in events_of(samples[0]) if event["event"] == "sequencing_disabled"]
    assert "is the light source triggered by the camera?" in event["reason"]


def test_sequences_that_were_asked_for_and_are_wrong_end_the_run(
    sample: Sample, make_scope: Callable[..., Scope], specimen: SpecimenPlan
) -> None:
    scope = make_scope(
        ("retries = 2", "retries = 0"),
        ("max_consecutive_missing = 5", "max_consecutive_missing = 1"),
        sequencing="on",
    )
    plan = AcquisitionPlan.from_scope(scope, "A")
    with (
        AcquisitionSession(
            AcquisitionRequest(sample, scope, plan, specimen, microscope=untriggered)
        ) as session,
        pytest.raises(HardwareError, match="triggered by the camera"),
    ):
        session.take(range(2))
    assert fields_on_disk(sample.raw_path()) == {}
