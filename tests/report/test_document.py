"""The documents: schema, contents, pages, and that nothing changes without a reason."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import pytest
from rich.console import Console

from wbcpipe.errors import ConfigError, SampleStateError
from wbcpipe.report.cell_thumbnails import choose_cells
from wbcpipe.report.document import document_paths, read_document
from wbcpipe.report.stage import write_report
from wbcpipe.report.status import sample_status
from wbcpipe.report.tables import print_differential
from wbcpipe.samples.cell_columns import QcFlag
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.differential_record import NOTICE, differential_schema
from wbcpipe.samples.field_status import write_skipped
from wbcpipe.samples.scan_outcome import PrecisionReached, ScanOutcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.samples.sample import Sample

    Create = Callable[..., Sample]

CALLS = ["NEU"] * 70 + ["LYM"] * 40 + ["EOS"] * 6 + ["MO"] * 7 + ["BAS"] + ["unidentified"] * 4
QUALITY = [0] * (len(CALLS) - 6) + [
    QcFlag.BORDER,
    QcFlag.DEBRIS,
    3,
    QcFlag.BLURRED,
    QcFlag.DOUBLET,
    0,
]
PLAN = {"slot": "A", "field_width_um": 100, "field_height_um": 100, "overlap": 0}
INFO: dict[str, Any] = {
    "software": {"wbcpipe": "0.1.0", "pymmcore": "12"},
    "scope": {"name": "demo", "sha256": "a" * 64, "virtual": True},
    "slot": "A",
    "plan": {**PLAN, "x_um": [0, 800], "y_um": [0, 500]},  # 40 fields
    "specimen": {"seed": 7, "preparation": "blood-film"},
    "derived": ["fluorescence"],
}


def validate(document: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(
        differential_schema(), format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    ).validate(document)


def gates(document: dict[str, Any]) -> dict[str, tuple[Any, bool | None]]:
    return {gate["name"]: (gate["figure"], gate["passed"]) for gate in document["quality"]["gates"]}


def test_schema_is_itself_valid_and_shipped() -> None:
    jsonschema.Draft202012Validator.check_schema(differential_schema())
    shipped = (
        files("wbcpipe.report").joinpath("differential.schema.json").read_text(encoding="utf-8")
    )
    assert json.loads(shipped) == differential_schema()


def test_a_damaged_document_names_the_key(create_sample: Create) -> None:
    sample = create_sample(["NEU"])
    write_report(sample)
    path = document_paths(sample)[0]
    path.write_text(
        path.read_text(encoding="utf-8").replace('"counted": 1', '"counted": -1'), encoding="utf-8"
    )
    with pytest.raises(
        SampleStateError, match=r"differential\.json: .*cells\.counted.*`wbcpipe report` again"
    ):
        read_document(sample)


def test_schema_refuses_unknown_keys_everywhere() -> None:
    def objects(part: Any) -> list[dict[str, Any]]:
        if isinstance(part, list):
            return [found for item in part for found in objects(item)]
        if not isinstance(part, dict):
            return []
        here = [part] if part.get("type") == "object" and "properties" in part else []
        return here + [found for item in part.values() for found in objects(item)]

    assert all(item["additionalProperties"] is False for item in objects(differential_schema()))


def test_document_says_everything(create_sample: Create, mark_fields: Callable[..., None]) -> None:
    sample = create_sample(CALLS, quality=QUALITY, info=INFO)
    mark_fields(sample, range(33), {"34": "camera: no image", "2": "taken after all"})
    write_report(sample, wbc_1e9_per_l=6.0)
    document = read_document(sample).content()
    validate(document)
    assert document["notice"] == NOTICE
    cells = document["cells"]
    assert cells["rejected"] == {
        "debris": 1,
        "border": 2,
        "missing_modality": 0,
        "clump": 0,
        "blurred": 1,
    }
    assert cells["found"] == len(CALLS)
    assert cells["counted"] + cells["unidentified"]["count"] + sum(
        cells["rejected"].values()
    ) == len(CALLS)
    assert sum(line["count"] for line in document["classes"]) == cells["counted"]
    assert sum(line["concentration_1e9_per_l"] for line in document["classes"]) == pytest.approx(
        6, abs=1e-3
    )
    assert document["fields"] == {
        "planned": 40,
        "wanted": 35,
        "taken": 33,
        "missing": [{"index": 34, "reason": "camera: no image"}],
        "empty": [],
    }
    assert document["scan"] is None
    origin = document["provenance"]
    assert origin["bundle"]["sha256"] == "c" * 64
    assert [item["derived"] for item in origin["modalities"]] == [False, False, False, True]
    assert [head["agreement_percent"] for head in document["heads"]] == [100.0] * 4
    assert document["quality"]["passed"]


def test_document_tells_why_the_scan_ended_and_what_was_empty(
    create_sample: Create, mark_fields: Callable[..., None]
) -> None:
    sample = create_sample(CALLS, quality=QUALITY, info=INFO)
    mark_fields(sample, [*range(20), *range(22, 33)], {"20": "camera: no image"})
    write_skipped(sample.raw_path(), {20: 1.2, 21: 0.0, 35: 3.4})
    reached = PrecisionReached("NEU", 61.2, 6.8, 5.0)
    ScanOutcome(
        reason="deadline",
        fields_done=34,
        fields_wanted=57,
        cells=108,
        cells_wanted=200,
        precision=(reached,),
    ).save(sample)
    write_report(sample)
    document = read_document(sample).content()
    validate(document)
    fields = document["fields"]
    assert (fields["wanted"], fields["taken"], fields["empty"], fields["missing"]) == (
        36,
        31,
        [20, 21, 35],
        [],
    )
    said = (
        "STOPPED BY THE DEADLINE after 34 of 57 fields: 108 cells of 200, NEU 61.2 % +- 6.8 "
        "(target 5)"
    )
    assert document["scan"]["text"] == said
    assert document["scan"]["precision"] == [
        {"name": "NEU", "percent": 61.2, "half_width_percent": 6.8, "target_percent": 5.0}
    ]
    assert not document["scan"]["met"]
    assert said in (sample.path / "report.html").read_text(encoding="utf-8")
    assert sample_status(sample).fields_empty == 3


def test_report_names_what_is_gone(
    create_sample: Create, mark_fields: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    sample = create_sample(CALLS, quality=QUALITY, info=INFO)
    mark_fields(sample, [*range(5), *range(6, 9)])
    ScanOutcome(reason="fields", fields_done=9, fields_wanted=9).save(sample)
    (sample.path / "scan.json").unlink()
    write_report(sample)
    assert "scan.json: the file is missing" in caplog.text
    assert read_document(sample).content()["fields"]["missing"] == [
        {"index": 5, "reason": "its file is missing, and no record says why"}
    ]


def test_sample_with_nothing_but_cells(create_sample: Create) -> None:
    sample = create_sample(["NEU", "NEU"], info={"kind": "stack", "software": {"wbcpipe": "0.1.0"}})
    write_report(sample)
    document = read_document(sample).content()
    validate(document)
    assert document["wbc_1e9_per_l"] is None
    assert document["fields"] == {
        "planned": None,
        "wanted": None,
        "taken": 0,
        "missing": [],
        "empty": [],
    }
    assert gates(document)["missing_fields_percent"] == (None, None)
    assert gates(document)["cells_counted"] == (2, False)
    assert not document["quality"]["passed"]


def test_nothing_countable_still_gives_documents(create_sample: Create) -> None:
    sample = create_sample(["NEU", "unidentified"], quality=[QcFlag.BORDER, QcFlag.DEBRIS])
    write_report(sample, wbc_1e9_per_l=4.0)
    document = read_document(sample).content()
    validate(document)
    assert document["classes"][0]["percent"] is None
    assert "0 <small>cells" in document_paths(sample)[2].read_text(encoding="utf-8")


def test_other_numbers_of_classes_work(create_sample: Create) -> None:
    classes = ("NEU", "blast")
    sample = create_sample(["blast", "NEU", "NEU"], classes=classes)
    write_report(sample)
    document = read_document(sample).content()
    validate(document)
    assert [(line["name"], line["count"]) for line in document["classes"]] == [
        ("NEU", 2),
        ("blast", 1),
    ]
    assert document["classes"][1]["reference_percent"] is None


@pytest.mark.parametrize(
    ("flag", "share", "gate"),
    [
        (QcFlag.BLURRED, 0.2, "blurred_percent"),
        (QcFlag.UNREGISTERED, 0.2, "unregistered_percent"),
        (QcFlag.SATURATED, 0.2, "saturated_cells_percent"),
        (QcFlag.DOUBLET, 0.4, "doublets_percent"),
    ],
)
def test_gate_fails_when_flags_pile_up(
    create_sample: Create, flag: QcFlag, share: float, gate: str
) -> None:
    bad = round(200 * share)
    sample = create_sample(["NEU"] * 200, quality=[flag] * bad + [0] * (200 - bad))
    write_report(sample)
    found = gates(read_document(sample).content())
    assert found[gate] == (pytest.approx(100 * share), False)
    assert [name for name, (_, passed) in found.items() if passed is False] == [gate]


def test_gate_on_missing_fields_and_unidentified(
    create_sample: Create, mark_fields: Callable[..., None]
) -> None:
    sample = create_sample(["NEU"] * 100 + ["unidentified"] * 20)
    mark_fields(sample, range(9), {"9": "stage"})
    write_report(sample)
    found = gates(read_document(sample).content())
    assert found["missing_fields_percent"] == (10.0, False)
    assert found["unidentified_percent"] == (pytest.approx(16.6667), False)


def contents(sample: Sample) -> list[bytes]:
    return [path.read_bytes() for path in document_paths(sample)]


def test_second_run_changes_nothing(create_sample: Create, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = create_sample(CALLS, info=INFO)
    write_report(sample)
    before = contents(sample)
    times = [path.stat().st_mtime_ns for path in document_paths(sample)]

    class Later:
        @staticmethod
        def now(_zone: object) -> Any:
            raise_time = type(
                "Time", (), {"isoformat": lambda *_, **__: "2099-01-01T00:00:00+00:00"}
            )
            return raise_time()

    monkeypatch.setattr("wbcpipe.report.reviewed_sample.datetime", Later)
    write_report(sample)
    assert contents(sample) == before
    assert [path.stat().st_mtime_ns for path in document_paths(sample)] == times
    document_paths(sample)[2].unlink()  # a lost page comes back as it was
    write_report(sample)
    assert contents(sample) == before
    write_report(sample, wbc_1e9_per_l=5.0)
    changed = read_document(sample).content()
    assert (changed["created"], changed["wbc_1e9_per_l"]) == ("2099-01-01T00:00:00+00:00", 5.0)
    assert b"2099-01-01" in document_paths(sample)[2].read_bytes()


@pytest.mark.parametrize(
    "document", [0, 1, 2], ids=["differential.json", "cells.csv", "report.html"]
)
@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied", "deleted"])
def test_a_damaged_document_comes_back_as_it_was(
    create_sample: Create, document: int, damage: str
) -> None:
    sample = create_sample(CALLS, info=INFO)
    write_report(sample)
    before = contents(sample)
    path = document_paths(sample)[document]
    content = bytearray(before[document])
    content[len(content) // 2] ^= 2
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(
            {"flipped": bytes(content), "cut": before[document][:-30], "emptied": b""}[damage]
        )
    write_report(sample)
    after = contents(sample)
    assert after[1] == before[1]
    if document:  # the time of the report is in its JSON: without that file it is another one
        assert after == before
    else:
        found, wanted = (json.loads(text) for text in (after[0], before[0]))
        assert {**found, "created": "", "sha256": ""} == {**wanted, "created": "", "sha256": ""}


def test_same_cells_elsewhere_give_the_same_bytes(create_sample: Create, tmp_path: Path) -> None:
    documents = []
    for name in ("a", "b"):
        sample = create_sample(CALLS, quality=QUALITY, info=INFO)
        sample = type(sample)(sample.name, sample.path.rename(tmp_path / name))
        write_report(sample)
        content = read_document(sample).content()
        content["created"] = ""
        documents.append((json.dumps(content), document_paths(sample)[1].read_bytes()))
    assert documents[0] == documents[1]


def test_new_calls_make_new_documents(create_sample: Create) -> None:
    sample = create_sample(CALLS)
    write_report(sample)
    before = read_document(sample).content()
    store = CellStore(sample.cells_path)
    store.write_predictions(
        store.column("probability"),
        ["LYM", *CALLS[1:]],
        store.column("confidence"),
        store.column("disagreement"),
        classification=store.classification(),
    )
    write_report(sample)
    assert (
        read_document(sample).content()["classes"][1]["count"] == before["classes"][1]["count"] + 1
    )


@pytest.mark.parametrize("wbc", [0.0, -1.0, float("nan"), float("inf"), 5000.0])
def test_wbc_that_does_not_hold(create_sample: Create, wbc: float) -> None:
    sample = create_sample(["NEU"])
    with pytest.raises(ConfigError, match=r"10\^9/L"):
        write_report(sample, wbc_1e9_per_l=wbc)


def test_unclassified_cells_are_refused(create_sample: Create) -> None:
    sample = create_sample(["NEU"], classify=False)
    with pytest.raises(SampleStateError, match="wbcpipe classify"):
        write_report(sample)


class _Loads(HTMLParser):
    """Collects what a page would load, and its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: set[str] = set()
        self.without_alt = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = dict(attrs)
        self.loads += [
            values[name] or "" for name in ("src", "href", "srcset", "data") if name in values
        ]
        self.without_alt += tag == "img" and not values.get("alt")


HOSTILE = '<script>alert(1)</script>"><img src=http://evil.example/x onerror=alert(2)>'


def test_page_is_self_contained_and_escapes(
    create_sample: Create, mark_fields: Callable[..., None]
) -> None:
    classes = ("NEU", HOSTILE)
    calls = ["NEU"] * 20 + [HOSTILE] * 3 + ["unidentified"] * 2
    sample = create_sample(
        calls,
        classes=classes,
        labels=[HOSTILE] * 25,
        info={"slot": HOSTILE, "scope": {"name": HOSTILE, "sha256": "", "virtual": False}},
    )
    mark_fields(sample, [], {"3": HOSTILE})
    write_report(sample)
    page = document_paths(sample)[2].read_text(encoding="utf-8")
    parser = _Loads()
    parser.feed(page)
    assert parser.loads
    assert all(load.startswith("data:image/jpeg;base64,") for load in parser.loads)
    assert parser.without_alt == 0
    assert not {"script", "link", "iframe", "object"} & parser.tags
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"url\(|@import", page)
    assert "Not for diagnostic use" in page
    assert len(page) < 4_000_000


def test_full_galleries_of_noise_stay_below_the_limit(create_sample: Create) -> None:
    sample = create_sample(
        [*("NEU", "LYM", "EOS", "MO", "BAS", "unidentified")] * 15, quality=[0] * 75 + [1] * 15
    )
    write_report(sample)
    path = document_paths(sample)[2]
    assert path.stat().st_size < 4_000_000
    assert path.read_text(encoding="utf-8").count("<figure>") == 8 * 12


def test_cells_table_has_a_line_a_cell(create_sample: Create) -> None:
    sample = create_sample(CALLS, quality=QUALITY, labels=["=cmd|x"] + ["NEU"] * (len(CALLS) - 1))
    write_report(sample)
    lines = list(csv.DictReader(io.StringIO(document_paths(sample)[1].read_text(encoding="utf-8"))))
    assert len(lines) == len(CALLS)
    assert lines[0]["label"] == "'=cmd|x"
    assert [line["exclusion_reason"] for line in lines[-6:]] == [
        "border",
        "debris",
        "border",
        "blurred",
        "",
        "",
    ]
    assert [line["counted"] for line in lines[-6:]] == ["false"] * 4 + ["true"] * 2
    assert lines[-4]["qc_flags"] == "border|blurred"
    assert float(lines[0]["fluorescence_probability"]) == pytest.approx(0.9)
    assert lines[0]["sharpness"] == ""


def test_chosen_cells_span_the_confidence_range() -> None:
    confidence = np.linspace(0, 1, 101, dtype=np.float32)
    chosen = choose_cells(range(101), confidence, 5)
    assert chosen == [100, 75, 50, 25, 0]


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_terminal_table(create_sample: Create, encoding: str) -> None:
    sample = create_sample(CALLS[:60], info=INFO)
    write_report(sample, wbc_1e9_per_l=6.2)
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    print_differential(
        read_document(sample), document_paths(sample), Console(file=stream, width=80)
    )
    stream.flush()
    lines = raw.getvalue().decode(encoding).splitlines()
    assert lines[-1] == "Not for diagnostic use."
    assert any("report.html" in line for line in lines)
    assert any("Quality: cells counted: 60 (limit >= 100 cells)" in line for line in lines)
    assert max(map(len, (line for line in lines if "/" not in line or "10^9/L" in line))) <= 80


@pytest.mark.parametrize("virtual", [True, False])
def test_a_virtual_specimen_is_named_at_the_top_of_the_page_and_on_the_terminal(
    create_sample: Create, virtual: bool
) -> None:
    sample = create_sample(CALLS[:60], info=INFO if virtual else {**INFO, "specimen": None})
    write_report(sample)
    notice = "Virtual slide: no patient&#39;s blood."
    page = (sample.path / "report.html").read_text(encoding="utf-8")
    assert (f'<p class="notice">{notice}</p>' in page.partition("</header>")[0]) is virtual
    said = io.StringIO()
    print_differential(read_document(sample), [], Console(file=said, width=80))
    assert ("Virtual slide: no patient's blood.\n" in said.getvalue()) is virtual
