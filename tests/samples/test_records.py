"""Records read back as they were written, and a damaged or edited file is refused in one line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from wbcpipe.errors import SampleStateError
from wbcpipe.samples.records import (
    DriftCheck,
    FocusNode,
    FocusPoint,
    FocusRecord,
    MissingFields,
    PlanRecord,
    Record,
    SampleRecord,
    ScanArea,
    ScopeReference,
    SkippedFields,
    SlideTransformEntry,
    SlideTransformRecord,
    SpecimenRecord,
    StainingRecord,
    TransformMatch,
)
from wbcpipe.samples.scan_outcome import PrecisionReached, ScanOutcome

if TYPE_CHECKING:
    from pathlib import Path

PLAN = PlanRecord(
    slot="A", field_width_um=100, field_height_um=50, overlap=0, x_um=(0, 300), y_um=(0, 200)
)
MATCH = TransformMatch(
    field=3, x_um=1.0, y_um=2.0, found_x_um=3.0, found_y_um=4.0, agreement=0.9, residual_um=0.1
)
RECORDS: list[Record] = [
    SampleRecord(
        sample="S1",
        scope=ScopeReference(name="demo", sha256="a", virtual=True),
        plan=PLAN,
        specimen=SpecimenRecord(seed=7, preparation="blood-film"),
        quality={"blur_um": 0.5},
    ),
    MissingFields(reasons={3: "the lamp was dark.", 12: "time-out"}),
    SkippedFields(foreground_area_um2={4: 1.5}),
    StainingRecord(method="devices", started="2026-01-01T00:00:00+00:00"),
    SlideTransformRecord(
        transforms=(
            SlideTransformEntry(
                created="now",
                rotation_deg=1.5,
                dx_um=10,
                dy_um=-20,
                rms_um=0.2,
                frames=9,
                matches=(MATCH,),
            ),
        )
    ),
    FocusRecord(
        policy={"method": "surface"},
        area=ScanArea(x_um=(0, 1), y_um=(2, 3)),
        coarse=(FocusPoint(0.0, 1.0, None),),
        fine=(FocusNode(0, 1, 2.0, 3.0, -4.5),),
        drift=(DriftCheck(25, None, 0.1),),
    ),
    ScanOutcome(
        reason="precision",
        fields_done=5,
        fields_wanted=9,
        precision=(PrecisionReached("NEU", None, 3.0, 5.0),),
    ),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_reads_back_as_it_was_written(tmp_path: Path, record: Record) -> None:
    path = tmp_path / "record.json"
    record.write(path)
    assert type(record).read(path) == record
    assert json.loads(path.read_text(encoding="utf-8"))["format_version"] == 1


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_every_unknown_key_is_refused(tmp_path: Path, record: Record) -> None:
    path = tmp_path / "record.json"

    def misspelled(content: Any) -> list[Any]:
        """The content with one more key, in each of its tables in turn."""
        if isinstance(content, dict):
            inside = [
                {**content, key: one} for key, value in content.items() for one in misspelled(value)
            ]
            return [{**content, "mispelled": 1}, *inside]
        if isinstance(content, list):
            return [
                [*content[:k], one, *content[k + 1 :]]
                for k, v in enumerate(content)
                for one in misspelled(v)
            ]
        return []

    free = (
        "quality",
        "segment",
        "reasons",
        "foreground_area_um2",
        "policy",
        "software",
    )  # tables whose keys are not fixed
    for content in misspelled(record.content()):
        if any("mispelled" in content.get(name, ()) for name in free):
            continue
        path.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(
            SampleStateError, match=r"record\.json: key '[\w.]*mispelled' is not known"
        ) as caught:
            type(record).read(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            '{"format_version": 1, "method": "devises"}',
            r"key 'method': input should be 'prompt', .*\(got 'devises'\)",
        ),
        (
            '{"format_version": 1, "methd": "devices"}',
            "key 'methd' is not known, did you mean 'method'",
        ),
        ('{"format_version": 1}', "key 'method' is missing"),
        (
            '{"format_version": 2, "method": "devices"}',
            r"key 'format_version': input should be 1 \(got 2\)",
        ),
        ('{"method": "devices"}', r"key 'format_version' is missing \(allowed: 1\)"),
        ('["devices"]', "key 'format_version' is missing"),
        ("{", "not readable as JSON"),
    ],
)
def test_a_damaged_file_is_refused_with_its_key_and_what_to_do(
    tmp_path: Path, content: str, words: str
) -> None:
    path = tmp_path / "staining.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(
        SampleStateError, match=rf"staining\.json: .*{words}.*move it away"
    ) as caught:
        StainingRecord.read(path)
    assert "\n" not in str(caught.value)


def test_an_absent_file_is_no_record(tmp_path: Path) -> None:
    assert StainingRecord.read_if_present(tmp_path / "staining.json") is None
    with pytest.raises(SampleStateError, match="not there"):
        StainingRecord.read(tmp_path / "staining.json")


def test_a_plan_counts_its_fields() -> None:
    assert (PLAN.columns, PLAN.rows) == (3, 4)
    assert PLAN.model_copy(update={"overlap": 0.5}).columns == 5


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe{}", "byte 0 is not UTF-8"),
        (b"[]", "'format_version' is missing"),
        (b"[" * 100_000, "nested more than 64 levels"),
        (
            b'{"format_version": 1, "reasons": ' + b"[" * 70 + b"]" * 70 + b"}",
            "nested more than 64 levels",
        ),
        (b'{"format_version": 1, "reasons": {"1": NaN}}', "NaN is not a number of JSON"),
        (b'{"format_version": 1, "reasons": 1e999}', "too large"),
        (b'{"format_version": 1, "reasons": {"1": "\\ud800"}}', "surrogates not allowed"),
    ],
    ids=["bytes", "list", "open", "deep", "nan", "large", "surrogate"],
)
def test_a_file_of_another_shape_is_refused_in_one_line(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "missing.json"
    path.write_bytes(content)
    with pytest.raises(SampleStateError, match=words) as caught:
        MissingFields.read_if_present(path)
    assert "\n" not in str(caught.value)
    assert "missing.json" in str(caught.value)


def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "missing.json").mkdir()
    with pytest.raises(SampleStateError, match="a folder has this name"):
        MissingFields.read_if_present(tmp_path / "missing.json")


def test_a_changed_value_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "missing.json"
    MissingFields(reasons={3: "no light"}).write(path)
    assert MissingFields.read(path).reasons == {3: "no light"}
    path.write_text(path.read_text(encoding="utf-8").replace("light", "lamps"), encoding="utf-8")
    with pytest.raises(SampleStateError, match="changed since it was written"):
        MissingFields.read(path)
