"""Differentials with planted counts, and the results that are made of them."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from wbcpipe.exchange.message.build import ResultInputs, Review, build_message
from wbcpipe.exchange.message.codes import ResultState
from wbcpipe.exchange.message.model import Signature
from wbcpipe.laboratory.lab_file import Lab, load_lab
from wbcpipe.report.differential import Differential, Tally
from wbcpipe.samples.differential_record import DifferentialRecord
from wbcpipe.samples.order_record import OrderRecord, Sex

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.exchange.message.model import ResultMessage

CREATED = datetime(2026, 11, 30, 6, 15, tzinfo=UTC)
ALL = {"NEU": 120, "LYM": 58, "EOS": 9, "MO": 11, "BAS": 2}
NO_BASOPHILS = {"NEU": 141, "LYM": 40, "EOS": 3, "MO": 16, "BAS": 0}
SIGNATURE = Signature(
    reader="Dr. A. Müller & B|^~\\",
    signed="2026-11-30T06:10:00+00:00",
    differential_sha256="ab" * 32,
    comment="checked twice",
)
ORDER = OrderRecord(
    order="O-4711",
    specimen="T|0815",
    patient="P-1",
    birth_date="1980-02-29",
    sex=Sex.FEMALE,
    collected="2026-11-29T21:00:00+00:00",
)


def document(
    counts: dict[str, int], *, name: str = "S1", wbc: float | None = None
) -> DifferentialRecord:
    tally = Tally(counts, unidentified=4, rejected={}, counted_with_warning={})
    differential = Differential.from_tally(tally, wbc_1e9_per_l=wbc)
    none = dict.fromkeys(("debris", "border", "missing_modality", "clump", "blurred"), 0)
    warned = dict.fromkeys(("doublet", "saturated", "unregistered"), 0)
    gate = {
        "name": "cells_counted",
        "title": "Cells counted",
        "comparison": ">=",
        "unit": "cells",
        "passed": False,
    }
    missing = {"corrected_percent": None, "corrected_interval_percent": None}
    content: dict[str, Any] = {
        "created": "2026-11-30T06:00:00+00:00",
        "sample": name,
        "kind": "scope",
        "cells": {
            "found": tally.cells,
            "counted": tally.identified,
            "unidentified": {
                "count": 4,
                "percent": differential.unidentified_percent,
                "interval_percent": differential.unidentified_interval_percent,
            },
            "rejected": none,
            "counted_with_warning": warned,
        },
        "classes": [asdict(line) | missing for line in differential.classes],
        "reference_source": "test",
        "wbc_1e9_per_l": wbc,
        "fields": {"planned": 4, "wanted": 4, "taken": 4, "missing": [], "empty": []},
        "scan": None,
        "quality": {
            "passed": False,
            "gates": [gate | {"figure": float(tally.identified), "limit": 500.0}],
            "failed_fields": [],
        },
        "heads": [
            {
                "name": "a",
                "agreement_percent": 99.0,
                "class_agreement_percent": {},
                "mean_probability": 0.9,
            },
        ],
        "model_checks": {},
        "provenance": {
            "report_software": {"wbcpipe": "0.1.0"},
            "sample_software": {},
            "scope": None,
            "slot": None,
            "specimen": None,
            "plan_sha256": None,
            "modalities": [{"name": "color1", "derived": False}],
            "pixel_um": 0.1,
            "cells": {"sha256": "0" * 64, "provenance": {}},
            "bundle": {
                "name": "virtual-shufflenet",
                "sha256": "1" * 64,
                "classes": list(counts),
                "heads": ["a"],
                "threshold": 0.5,
            },
        },
    }
    return DifferentialRecord.model_validate(content)


def message(counts: dict[str, int] = ALL, **changes: Any) -> ResultMessage:
    """Return the result of counts; ``changes`` are those of `ResultInputs` and ``wbc``."""
    wbc = changes.pop("wbc", None)
    signed = Review(
        state=ResultState.FINAL, signature=SIGNATURE, readers=("a",), extra=(("smudge", 7, 3.5),)
    )
    inputs: dict[str, Any] = {
        "lab": Lab(),
        "order": ORDER,
        "review": signed,
        "created": CREATED,
    } | changes
    return build_message(ResultInputs(document=document(counts, wbc=wbc), **inputs))


def three_messages() -> dict[str, ResultMessage]:
    """All classes with concentrations; one class zero; corrected after signing."""
    correction = SIGNATURE.model_copy(update={"correction": "two cells were called by mistake"})
    return {
        "all_classes": message(ALL, wbc=6.2),
        "one_class_zero": message(NO_BASOPHILS),
        "corrected": message(
            ALL,
            review=Review(state=ResultState.CORRECTED, signature=correction),
            sequence=2,
            wbc=11.35,
        ),
    }


@pytest.fixture
def make_message() -> Callable[..., ResultMessage]:
    return message


@pytest.fixture
def make_document() -> Callable[..., DifferentialRecord]:
    return document


@pytest.fixture(params=["all_classes", "one_class_zero", "corrected"])
def result(request: pytest.FixtureRequest) -> ResultMessage:
    return three_messages()[request.param]


@pytest.fixture
def make_lab(tmp_path: Path) -> Callable[[str], Lab]:
    """Return the settings of a laboratory's file with this text below its version."""

    def load(text: str) -> Lab:
        path = tmp_path / "lab.toml"
        path.write_text(f'version = "7"\n{text}', encoding="utf-8")
        return load_lab(path)

    return load
