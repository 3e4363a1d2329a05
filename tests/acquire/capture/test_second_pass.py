"""Bright field, stain, fluorescence.

The same fields in both passes, whatever happened in between.
"""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from wbcpipe.acquire.capture.session import AcquisitionSession
from wbcpipe.acquire.capture.session_observer import SessionObserver
from wbcpipe.acquire.config.slide_policies import SlideRelocation
from wbcpipe.acquire.plan import AcquisitionPlan, PlannedPass
from wbcpipe.acquire.request import AcquisitionRequest
from wbcpipe.acquire.simulation.virtual_scope import VirtualScope, slide_placement
from wbcpipe.acquire.slide_relocation.alignment import stored_transforms
from wbcpipe.acquire.slide_relocation.transform import SlideTransform
from wbcpipe.acquire.staining.workflow import is_stained, mark_stained, stain
from wbcpipe.errors import AcquisitionError, ConfigError, HardwareError, SampleStateError
from wbcpipe.samples.fields import (
    MODALITIES,
    complete_fields,
    field_path,
    fields_on_disk,
    read_field,
    read_info,
    read_passes,
)
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
    from wbcpipe.samples.fields import Pass

BRIGHT_MS, GLOW_MS = 0.08, 0.31
#: Fields of the usual size on few pixels, which catch 64 times the light, and room for a slide that
#: was shifted.
WIDE = (
    ("pixel_um = 0.1", "pixel_um = 0.8"),
    ("[-60.0, 60.0]", "[-500.0, 500.0]"),
    ("exposure_ms = 5.0", f"exposure_ms = {BRIGHT_MS}"),
    ("exposure_ms = 20.0", f"exposure_ms = {GLOW_MS}"),
)
N_FIELDS = 6
#: Put back with care: found without a long search.
NEAR = SlideTransform(0.4, 25.0, -15.0)


@pytest.fixture
def wide_scope(make_scope: Callable[..., Scope]) -> Scope:
    return make_scope(*WIDE)


@pytest.fixture
def wide_plan(wide_scope: Scope) -> AcquisitionPlan:
    return AcquisitionPlan.from_scope(wide_scope, "A")


class Passes:
    """Takes passes over one sample."""

    def __init__(
        self, sample: Sample, scope: Scope, plan: AcquisitionPlan, specimen: SpecimenPlan
    ) -> None:
        self.sample, self.scope, self.plan, self.specimen = sample, scope, plan, specimen

    def take(
        self, name: Pass, n_fields: int = N_FIELDS, placement: SlideTransform | None = None
    ) -> tuple[list[int], dict[int, str]]:
        """Indices taken and missing; the slide lies as ``placement`` says, if given."""
        taken: list[int] = []
        missing: dict[int, str] = {}

        def lying(
            scope: Scope,
            specimen: SpecimenPlan | None = None,
            planned: PlannedPass | None = None,
            /,
        ) -> VirtualScope:
            assert specimen is not None
            assert placement is not None
            return VirtualScope(scope, specimen, planned, placement=placement)

        opener = lying if placement else None
        request = AcquisitionRequest(
            self.sample, self.scope, self.plan, self.specimen, pass_name=name, microscope=opener
        )
        observer = SessionObserver()
        observer.taken, observer.missing = taken.append, missing.__setitem__  # type: ignore[method-assign, assignment]
        with AcquisitionSession(request, observer) as session:
            session.take(range(n_fields))
        return taken, missing


@pytest.fixture
def passes(
    sample: Sample, wide_scope: Scope, wide_plan: AcquisitionPlan, specimen: SpecimenPlan
) -> Passes:
    return Passes(sample, wide_scope, wide_plan, specimen)


def test_the_second_pass_takes_the_fields_of_the_first(
    passes: Passes, sample: Sample, wide_plan: AcquisitionPlan, specimen: SpecimenPlan
) -> None:
    assert passes.take("brightfield") == (list(range(N_FIELDS)), {})
    assert complete_fields(sample.path / "raw") == []
    assert passes.take("fluorescence") == (list(range(N_FIELDS)), {})
    placement = slide_placement(specimen, PlannedPass(sample, wide_plan, "fluorescence"))
    assert math.hypot(placement.dx_um, placement.dy_um) > 50, "the slide was not taken off at all"
    assert complete_fields(sample.path / "raw") == list(range(N_FIELDS))
    for index in range(N_FIELDS):
        images, info = read_passes(sample.path / "raw", index)
        assert images.shape == (4, 256, 256)
        assert info.modalities == MODALITIES
        stage = read_info(field_path(sample.raw_path("fluorescence"), index))
        # Where the middle of the fluorescence frame really lay in the first pass.
        assert (
            math.dist(placement.to_slide_um(stage.x_um, stage.y_um), (info.x_um, info.y_um)) <= 1.0
        )
        assert info.slide_transform is not None
        assert (info.slide_transform.x_um, info.slide_transform.y_um) == pytest.approx(
            (info.x_um, info.y_um), abs=0.1
        )
        assert info.slide_transform.rotation_deg == pytest.approx(placement.rotation_deg, abs=0.05)
        assert info.dose_ms == GLOW_MS
    assert sample.record().protocol == "two-pass"


def test_finding_the_slide_reports_its_frames(
    passes: Passes, sample: Sample, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "wbcpipe.acquire.capture.second_pass.ThrottledProgress", lambda progress: progress
    )
    passes.take("brightfield", 1)
    request = AcquisitionRequest(
        sample, passes.scope, passes.plan, passes.specimen, pass_name="fluorescence"
    )
    with AcquisitionSession(request, recorder) as session:
        session.take([0])
    (entry,) = stored_transforms(sample.raw_path("fluorescence"))
    frames = [text for text in recorder.messages if text.startswith("finding the slide: frame ")]
    assert frames == [f"finding the slide: frame {number}" for number in range(1, entry.frames + 1)]


def test_a_second_pass_in_pieces_equals_one_at_a_stretch(
    tmp_path: Path, wide_scope: Scope, wide_plan: AcquisitionPlan, specimen: SpecimenPlan
) -> None:
    whole, broken = (
        Passes(Sample.open(tmp_path, name), wide_scope, wide_plan, specimen)
        for name in ("whole", "broken")
    )
    for one in (whole, broken):
        one.take("brightfield", 3)
    whole.take("fluorescence", 3, NEAR)
    for n_fields in (1, 3):
        broken.take("fluorescence", n_fields, NEAR)
    for index in range(3):
        pictures = [
            read_field(field_path(one.sample.raw_path("fluorescence"), index))
            for one in (whole, broken)
        ]
        np.testing.assert_array_equal(pictures[0][0], pictures[1][0])
        assert pictures[0][1].slide_transform == pictures[1][1].slide_transform
    assert len(stored_transforms(broken.sample.raw_path("fluorescence"))) == 1


def test_a_slide_moved_in_the_middle_of_the_second_pass_is_found_anew(
    passes: Passes, sample: Sample
) -> None:
    passes.take("brightfield", 4)
    before, after = SlideTransform(0.7, 20.0, -20.0), SlideTransform(-0.9, -110.0, 40.0)
    passes.take("fluorescence", 2, before)
    passes.take("fluorescence", 4, after)
    raw = sample.raw_path("fluorescence")
    assert [entry.rotation_deg for entry in stored_transforms(raw)] == pytest.approx(
        [0.7, -0.9], abs=0.05
    )
    for index, placement in enumerate([before, before, after, after]):
        stage = read_info(field_path(raw, index))
        first = read_info(field_path(sample.raw_path("brightfield"), index))
        assert (
            math.dist(placement.to_slide_um(stage.x_um, stage.y_um), (first.x_um, first.y_um))
            <= 1.0
        )
        assert stage.slide_transform is not None
        assert stage.slide_transform.rotation_deg == pytest.approx(placement.rotation_deg, abs=0.05)


def test_another_slide_in_the_second_pass_is_refused_and_nothing_taken(
    passes: Passes,
    sample: Sample,
    wide_scope: Scope,
    wide_plan: AcquisitionPlan,
    specimen: SpecimenPlan,
) -> None:
    passes.take("brightfield", 1)
    near = wide_scope.model_copy(update={"slide_relocation": SlideRelocation(reach_um=150.0)})

    def wrong(
        scope: Scope, plan: SpecimenPlan | None = None, planned: PlannedPass | None = None, /
    ) -> VirtualScope:
        assert plan is not None
        return VirtualScope(scope, type(plan)(plan.seed + 1), planned)

    with (
        AcquisitionSession(
            AcquisitionRequest(
                sample, near, wide_plan, specimen, pass_name="fluorescence", microscope=wrong
            )
        ) as session,
        pytest.raises(AcquisitionError, match="is it the same slide"),
    ):
        session.take([0])
    assert fields_on_disk(sample.raw_path("fluorescence")) == {}


def test_a_field_without_bright_field_is_missing_in_the_second_pass(
    passes: Passes, sample: Sample
) -> None:
    passes.take("brightfield", 4)
    field_path(sample.raw_path("brightfield"), 1).unlink()
    taken, missing = passes.take("fluorescence", 4, NEAR)
    assert taken == [0, 2, 3]
    assert missing == {1: "it has no bright-field frames."}


def test_passes_are_not_mixed(passes: Passes, sample: Sample) -> None:
    with pytest.raises(SampleStateError, match=r"has no bright-field pass; take it first"):
        passes.take("fluorescence", 1)
    passes.take("brightfield", 1)
    with pytest.raises(
        SampleStateError, match=r"created with protocol = 'two-pass', this call says 'one-pass'"
    ):
        passes.take("single", 1)
    path = field_path(sample.raw_path("brightfield"), 0)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(SampleStateError, match="cannot be repeated on a stained slide"):
        passes.take("fluorescence", 1)


def test_a_failed_attempt_counts_as_light(
    passes: Passes, sample: Sample, wide_scope: Scope
) -> None:
    class Failing(VirtualScope):
        left = 2

        def expose(self, exposure_ms: float, *arguments: Any, **options: Any) -> Any:
            if exposure_ms == GLOW_MS and Failing.left:
                Failing.left -= 1
                super().expose(exposure_ms, *arguments, **options)
                raise HardwareError("the camera is away.")
            return super().expose(exposure_ms, *arguments, **options)

    single = wide_scope.model_copy(update={"light": wide_scope.light})
    request = AcquisitionRequest(sample, single, passes.plan, passes.specimen, microscope=Failing)  # type: ignore[arg-type]
    with AcquisitionSession(request) as session:
        session.take(range(2))
    doses = [read_info(path).dose_ms for path in fields_on_disk(sample.raw_path()).values()]
    assert doses == pytest.approx([3 * GLOW_MS, GLOW_MS])
    field_path(sample.raw_path(), 0).unlink()
    passes.take("single", 2)
    again = read_info(field_path(sample.raw_path(), 0))
    assert again.dose_ms == pytest.approx(4 * GLOW_MS), "the file is gone, its light was there"


def staining(scope: Scope, **changes: Any) -> Scope:
    policy = scope.staining.model_validate({"method": "prompt", **changes})
    return scope.model_copy(update={"staining": policy})


def refuse(message: str) -> None:
    raise AssertionError(message)


def test_staining_by_devices_happens_once(sample: Sample, wide_scope: Scope) -> None:
    assert wide_scope.staining.method == "devices"
    stain(sample, wide_scope, ask=refuse)
    assert is_stained(sample)
    before = (sample.path / "raw" / "staining.json").read_bytes()
    stain(sample, wide_scope, ask=refuse)
    assert (sample.path / "raw" / "staining.json").read_bytes() == before


def test_staining_by_a_program(sample: Sample, wide_scope: Scope, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    program = f"import pathlib; pathlib.Path({str(mark)!r}).open('a').write('x'); print('done')"
    scope = staining(wide_scope, method="command", command=(sys.executable, "-c", program))
    for _ in range(2):
        stain(sample, scope, ask=refuse)
    assert mark.read_text(encoding="utf-8") == "x"
    events = [
        json.loads(line)
        for line in (sample.path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [event["event"] for event in events] == ["staining_program", "stained"]


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import sys; sys.exit('no dye left')", "ended with code 1: no dye left"),
        ("import time; time.sleep(30)", "did not end within 1 s"),
    ],
)
def test_a_staining_that_failed_is_not_repeated_unasked(
    sample: Sample, wide_scope: Scope, program: str, words: str
) -> None:
    scope = staining(
        wide_scope, method="command", command=(sys.executable, "-c", program), timeout_s=1.0
    )
    with pytest.raises(HardwareError, match=words):
        stain(sample, scope, ask=refuse)
    with pytest.raises(
        SampleStateError, match="Check the slide: if it is stained, go on with --already-stained"
    ):
        stain(sample, scope, ask=refuse)
    mark_stained(sample)
    stain(sample, scope, ask=refuse)


def test_the_operator_is_asked_once(sample: Sample, wide_scope: Scope) -> None:
    asked: list[str] = []
    for _ in range(2):
        stain(sample, staining(wide_scope, message="Stain it."), ask=asked.append)
    assert asked == ["Stain it."]


def test_a_method_without_what_it_needs_is_refused(make_scope: Callable[..., Scope]) -> None:
    with pytest.raises(
        ConfigError, match="'steps' belongs to method 'devices', and that method needs it"
    ):
        make_scope(('method = "devices"', 'method = "command"'))
