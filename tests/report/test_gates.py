"""Quality gates: which limit holds, which field fails and why, and what the sample's figures
are.
"""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from wbcpipe.acquire.config.policies import QualityLimits
from wbcpipe.report.document import read_document
from wbcpipe.report.gates import LIMITS, failed_fields, limits_of
from wbcpipe.report.stage import write_report
from wbcpipe.report.tables import print_differential
from wbcpipe.segment.features.field_quality import FIELD_FIGURES, with_counts

SOUND: dict[str, Any] = {
    "blur_um": 0.4,
    "saturated_percent": [0.0, 0.0, 0.1],
    "background_percent": [60.0, 61.0, None],
    "residual_px": [0.02, 0.1, 0.0],
    "unregistered_modalities": 0,
    "nuclear_contrast_percent": 20.0,
    "nucleus_cytoplasm_contrast_ratio": 6.0,
    "red_cover_percent": 40.0,
    "cells_per_mm2": 150.0,
    "white_per_100_red": 1.1,
    "unassigned_fluorescence_percent": 0.2,
}


def table(*changes: dict[str, Any]) -> dict[str, list[Any]]:
    rows = [SOUND | change for change in changes]
    return {
        "field_index": list(range(len(rows))),
        **{name: [row[name] for row in rows] for name in FIELD_FIGURES},
    }


def test_a_scope_can_set_the_limit_of_every_gate_and_no_other() -> None:
    assert set(QualityLimits.model_fields) == set(LIMITS)


def test_limits_of_the_scope_go_before_the_usual_ones() -> None:
    usual = limits_of({})
    assert usual == {name: entry[2] for name, entry in LIMITS.items()}
    assert limits_of({"blur_um": 0.5, "unheard": 3}) == usual | {"blur_um": 0.5}


def test_a_sound_sample_has_no_failed_field() -> None:
    assert failed_fields(table({}, {}, {}), limits_of({})) == ()
    assert failed_fields({}, limits_of({})) == ()


def test_each_title_is_of_one_gate_and_refers_to_no_other() -> None:
    titles = [limit.title for limit in LIMITS.values()]
    assert len(set(titles)) == len(titles)
    assert not [title for title in titles if re.search(r"\b(same|it|they|these|those)\b", title)]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"blur_um": 0.9}, "blur (edge width of the nuclei) 0.9 (limit <= 0.6 um)"),
        ({"saturated_percent": [0.0, 5.0, 0.0]}, "saturated pixels of a field 5 (limit <= 1 %)"),
        ({"residual_px": [0.1, 2.5, 0.0]}, "estimated registration error 2.5 (limit <= 1 px)"),
        ({"unregistered_modalities": 1}, "registration failed"),
        (
            {"nuclear_contrast_percent": 0.2},
            "nuclear contrast (of the camera's full range) 0.2 (limit >= 1 %)",
        ),
        (
            {"nucleus_cytoplasm_contrast_ratio": 1.1},
            "nuclear over cytoplasmic contrast 1.1 (limit >= 1.5)",
        ),
        ({"red_cover_percent": 97.0}, "area covered by red cells 97 (limit <= 85 %)"),
        (
            {"cells_per_mm2": 5200.0},
            "white cells per mm2 (without the first of each field) 5.2e+03 (limit <= 550 /mm2)",
        ),
        (
            {"white_per_100_red": 48.0},
            "white cells per 100 red cells (without the first of each field) 48 (limit <= 2.5)",
        ),
        (
            {"unassigned_fluorescence_percent": 30.0},
            "area as bright as nuclei that belongs to no cell 30 (limit <= 2 %)",
        ),
        ({"background_percent": [60.0, 48.8, None]}, "light -20 % (limit 10 %)"),
    ],
)
def test_a_field_beyond_one_limit_says_which(change: dict[str, Any], why: str) -> None:
    (failed,) = failed_fields(table({}, {}, change, {}), limits_of({}))
    assert failed.index == 2
    assert failed.reasons == (why,)


def test_what_was_not_measured_does_not_fail() -> None:
    unknown = {
        name: [None] * 3 if FIELD_FIGURES[name].per_modality else None for name in FIELD_FIGURES
    }
    assert failed_fields(table({}, unknown), limits_of({})) == ()
    assert failed_fields(table(unknown, unknown), limits_of({})) == ()


def test_a_failed_field_is_in_the_document_on_the_page_and_in_the_terminal(
    create_sample: Any,
) -> None:
    limits = {"quality": {"blur_um": 0.3, "failed_fields_percent": 60}}
    table_of_fields = table({"blur_um": 0.2}, {"blur_um": 0.2}, {"blur_um": 0.5})
    sample = create_sample(["NEU"] * 120, info=limits, field_quality=table_of_fields)
    write_report(sample)
    document = read_document(sample).content()
    assert document["quality"]["passed"] is True
    (failed,) = document["quality"]["failed_fields"]
    assert failed == {
        "index": 2,
        "reasons": ["blur (edge width of the nuclei) 0.5 (limit <= 0.3 um)"],
    }
    gates = {gate["name"]: gate for gate in document["quality"]["gates"]}
    assert (gates["blur_um"]["figure"], gates["blur_um"]["limit"]) == (0.2, 0.3)
    assert gates["failed_fields_percent"]["figure"] == pytest.approx(33.3333)
    page = (sample.path / "report.html").read_text(encoding="utf-8")
    assert "Field 2: blur (edge width of the nuclei) 0.5" in page
    said = io.StringIO()
    print_differential(read_document(sample), [], Console(file=said, width=200))
    assert (
        "Fields beyond a limit: 2: blur (edge width of the nuclei) 0.5 (limit <= 0.3 um)."
        in said.getvalue()
    )


def test_a_sample_out_of_focus_as_a_whole_fails(create_sample: Any) -> None:
    sample = create_sample(
        ["NEU"] * 120, field_quality=table({"blur_um": 0.9}, {"blur_um": 0.8}, {})
    )
    write_report(sample)
    document = read_document(sample).content()
    assert document["quality"]["passed"] is False
    failed = {
        gate["name"]: gate["figure"]
        for gate in document["quality"]["gates"]
        if gate["passed"] is False
    }
    assert failed == {"blur_um": 0.8, "failed_fields_percent": pytest.approx(66.6667)}
    assert "Do not rely on this count" in (sample.path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("nucleus_um2", "cells", "failed"),
    [
        (170.0, 120, {"max_nucleus_um2"}),
        (500.0, 12, {"max_nucleus_um2"}),
        (9.0, 120, {"min_nucleus_um2"}),
        (45.0, 120, set()),
        (110.0, 120, set()),
        (170.0, 9, set()),
    ],
    ids=["pixel size x 1.8", "x 3", "x 0.4", "lymphocytes", "monocytes", "too few to tell"],
)
def test_a_wrong_pixel_size_shows_in_the_size_of_nuclei(
    create_sample: Any, nucleus_um2: float, cells: int, failed: set[str]
) -> None:
    sample = create_sample(["NEU"] * cells, nucleus_um2=nucleus_um2)
    write_report(sample)
    gates = {gate["name"]: gate for gate in read_document(sample).content()["quality"]["gates"]}
    names = {"min_nucleus_um2", "max_nucleus_um2"}
    assert {name for name in names if gates[name]["passed"] is False} == failed
    assert all(gates[name]["figure"] == (nucleus_um2 if cells >= 10 else None) for name in names)


#: White cells found in a field, its sides in um, and the share of it that red cells cover.
BLOOD: dict[str, tuple[int, tuple[float, float], float]] = {
    "a healthy film": (2, (200.0, 200.0), 0.45),
    "a virtual film of the demo": (3, (205.0, 205.0), 0.41),
    "leukaemia, 90 in 10^9/L": (9, (200.0, 200.0), 0.45),
    "a field photographed for its white cell": (1, (48.0, 36.0), 0.6),
    "the 17 white cells of chula/fields": (1, (144.0, 90.0), 0.35),
}
NO_BLOOD: dict[str, tuple[int, tuple[float, float], float]] = {
    "the 81 finds in chula/fields of a detector that takes red cells for white ones": (
        5,
        (144.0, 90.0),
        0.35,
    ),
    "every tenth red cell": (40, (200.0, 200.0), 0.45),
    "pixels taken for twice as large": (25, (400.0, 400.0), 0.1),
    "dirt on a thin film": (30, (200.0, 200.0), 0.3),
}


@pytest.mark.parametrize(
    ("finds", "passes"),
    [
        *((finds, True) for finds in BLOOD.values()),
        *((finds, False) for finds in NO_BLOOD.values()),
    ],
    ids=[*BLOOD, *NO_BLOOD],
)
def test_more_white_cells_than_blood_has_fail(
    finds: tuple[int, tuple[float, float], float], passes: bool
) -> None:
    white_cells, (width_um, height_um), cover = finds
    found = with_counts(
        {"red_cover_percent": np.asarray(100 * cover, np.float32)},
        white_cells=white_cells,
        white_um2=120.0 * white_cells,
        field_um2=width_um * height_um,
        unassigned_um2=0.0,
    )
    names = ("cells_per_mm2", "white_per_100_red")
    # A sample's figure is the median of its fields, so that of fields alike is this one.
    change = {name: float(found[name]) for name in names if np.isfinite(found[name])}
    failed = failed_fields(table(change), limits_of({}))
    assert bool(failed) != passes
