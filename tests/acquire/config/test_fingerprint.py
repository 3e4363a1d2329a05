"""A sample goes on whatever is put right in the scope's files, as long as its pictures stay of one
kind.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from wbcpipe.acquire.capture.sample_record import check_sample, create_sample_record
from wbcpipe.acquire.capture.session import AcquisitionSession
from wbcpipe.acquire.config.fingerprint import imaging_settings
from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.request import AcquisitionRequest
from wbcpipe.errors import HardwareError, SampleStateError
from wbcpipe.samples.fields import field_path
from wbcpipe.system.files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
    from wbcpipe.samples.fields import Pass
    from wbcpipe.samples.sample import Sample

    Make = Callable[..., Scope]

COLOR1, COLOR2 = "color1,LED,Label,385nm", "color2,LED,Label,550nm"
GLOW = "fluorescence,LED,Label,470nm"


def begun(sample: Sample, scope: Scope, specimen: SpecimenPlan, *passes: Pass) -> AcquisitionPlan:
    """A sample with a field, as far as its name goes, of each of the passes."""
    plan = AcquisitionPlan.from_scope(scope, "A")
    name = passes[0] if passes else "single"
    create_sample_record(
        AcquisitionRequest(
            sample, scope, plan, specimen, pass_name="single" if name == "single" else "brightfield"
        )
    )
    for taken in passes:
        sample.raw_path(taken).mkdir(parents=True)
        field_path(sample.raw_path(taken), 0).touch()
    return plan


@pytest.mark.parametrize(
    "change",
    [
        ("[camera]", "# a comment\n[camera]"),
        ('folder = "mm-test-adapters"', 'folder = "/opt/Micro-Manager"'),
        ("move_timeout_s = 30.0", "move_timeout_s = 60.0"),
        ("retries = 2", "retries = 5"),
        ("range_um = 30.0", "range_um = 20.0"),
        ("z_um = [-100.0, 100.0]", "z_um = [-90.0, 90.0]"),
        ('title = "Virtual', 'title = "My virtual'),
        ("camera_offset = 100.0 ", "camera_offset = 90.0 "),
        ("[27500.0, 32500.0]", "[27500.0, 32400.0]"),
        ("Label,Stain Valve,1,acridine orange", "Label,Stain Valve,1,acridine orange\n# a comment"),
    ],
    ids=lambda change: change[0],
)
def test_what_shapes_no_picture_may_change(
    sample: Sample, make_scope: Make, specimen: SpecimenPlan, change: tuple[str, str]
) -> None:
    plan = begun(sample, make_scope(), specimen, "single")
    before = sample.info_path.read_bytes()
    create_sample_record(AcquisitionRequest(sample, make_scope(change), plan, specimen))
    assert sample.info_path.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            [("exposure_ms = 20.0", "exposure_ms = 25.0")],
            r"exposure_ms\.fluorescence = 20\.0, .* now say 25\.0",
        ),
        ([("offset_um = 0.21 ", "offset_um = 0.5 ")], r"focus\.offset_um = 0\.21"),
        (
            [
                (COLOR1, "color1,LED,Label,635nm"),
                ("color3,LED,Label,635nm", "color3,LED,Label,385nm"),
            ],
            r"lights\.color1\.LED-Label = '385nm', small\.toml and small\.cfg now say '635nm'",
        ),
        (
            [
                (
                    "Property,Camera,BitDepth,16",
                    "Property,Camera,BitDepth,16\nProperty,Camera,Gain,3",
                )
            ],
            r"settings\.Gain",
        ),
        ([("Device,XY,DemoCamera,DXYStage", "Device,XY,Other,XYStage")], r"devices\.xy_stage"),
    ],
    ids=lambda part: part[0][0] if isinstance(part, list) else None,
)
def test_what_shapes_pictures_is_named_where_it_changed(
    sample: Sample,
    make_scope: Make,
    specimen: SpecimenPlan,
    changes: list[tuple[str, str]],
    words: str,
) -> None:
    plan = begun(sample, make_scope(), specimen, "single")
    with pytest.raises(SampleStateError, match=words):
        check_sample(AcquisitionRequest(sample, make_scope(*changes), plan, specimen))


def test_before_the_first_picture_everything_may_be_put_right(
    sample: Sample, make_scope: Make, specimen: SpecimenPlan
) -> None:
    plan = begun(sample, make_scope(), specimen)
    create_sample_record(
        AcquisitionRequest(
            sample, make_scope(("exposure_ms = 20.0", "exposure_ms = 25.0")), plan, specimen
        )
    )
    assert sample.record().imaging_settings.exposure_ms["fluorescence"] == 25.0  # type: ignore[union-attr]
    event = json.loads((sample.path / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert (event["event"], event["exposure_ms.fluorescence"]) == (
        "imaging_settings_changed",
        [20.0, 25.0],
    )


def test_a_wrong_fluorescence_light_is_put_right_when_the_slide_is_stained_already(
    sample: Sample, make_scope: Make, specimen: SpecimenPlan
) -> None:
    plan = begun(
        sample, make_scope((GLOW, "fluorescence,LED,Label,Closed")), specimen, "brightfield"
    )
    right = make_scope()
    create_sample_record(
        AcquisitionRequest(sample, right, plan, specimen, pass_name="fluorescence")
    )
    assert sample.record().imaging_settings == imaging_settings(right)
    with pytest.raises(SampleStateError, match=r"lights\.color2\.LED-Label"):
        check_sample(
            AcquisitionRequest(
                sample,
                make_scope((COLOR2, "color2,LED,Label,Closed")),
                plan,
                specimen,
                pass_name="fluorescence",
            )
        )
    sample.raw_path("fluorescence").mkdir()
    field_path(sample.raw_path("fluorescence"), 0).touch()
    with pytest.raises(SampleStateError, match=r"lights\.fluorescence\.LED-Label"):
        check_sample(
            AcquisitionRequest(
                sample,
                make_scope((GLOW, "fluorescence,LED,Label,Closed")),
                plan,
                specimen,
                pass_name="brightfield",
            )
        )


def test_a_sample_begun_headless_goes_on_over_the_bridge_and_under_another_name(
    sample: Sample, make_scope: Make, specimen: SpecimenPlan
) -> None:
    scope = make_scope()
    plan = begun(sample, scope, specimen, "single")
    text = scope.path.read_text(encoding="utf-8").replace(
        'backend = "headless"', 'backend = "bridge"'
    )
    scope.path.with_name("bridged.toml").write_text(text, encoding="utf-8")
    create_sample_record(
        AcquisitionRequest(sample, load_scope(scope.path.with_name("bridged.toml")), plan, specimen)
    )


def test_a_sample_of_an_unreleased_version_is_refused(
    sample: Sample, make_scope: Make, specimen: SpecimenPlan
) -> None:
    scope = make_scope()
    plan = begun(sample, scope, specimen, "single")
    content: dict[str, Any] = read_json(sample.info_path)
    left_out = ("imaging_settings", "sha256")
    write_json(
        sample.info_path, {key: value for key, value in content.items() if key not in left_out}
    )
    with pytest.raises(SampleStateError, match="key 'imaging_settings' is missing"):
        create_sample_record(AcquisitionRequest(sample, scope, plan, specimen))


def test_a_scope_that_does_not_open_leaves_no_sample_behind(
    sample: Sample, make_scope: Make, specimen: SpecimenPlan
) -> None:
    wrong = make_scope(("sensor_px = [256, 256]", "sensor_px = [512, 256]"))
    with (
        pytest.raises(HardwareError, match="has 256 x 256 pixels"),
        AcquisitionSession(
            AcquisitionRequest(sample, wrong, AcquisitionPlan.from_scope(wrong, "A"), specimen)
        ),
    ):
        pass
    assert not sample.exists()
    right = make_scope()
    with AcquisitionSession(
        AcquisitionRequest(
            sample, right, AcquisitionPlan.from_scope(right, "A"), specimen, slide="G17"
        )
    ):
        assert sample.record().slide == "G17"
