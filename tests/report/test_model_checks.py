"""Corrected percentages, warnings and the error bound, from the calibration to the page."""

from __future__ import annotations

import html
import io
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import pytest
from rich.console import Console

from wbcpipe.classify.uncertainty.applicability import unidentified_excess
from wbcpipe.classify.uncertainty.head_disagreement import fit_disagreement_limits
from wbcpipe.classify.uncertainty.prevalence import CorrectionTrial
from wbcpipe.classify.uncertainty.probability_calibration import ProbabilityCalibration
from wbcpipe.classify.uncertainty.risk_control import ASSUMPTION
from wbcpipe.errors import SampleStateError
from wbcpipe.report.document import document_paths, read_document
from wbcpipe.report.evaluate import evaluate_sample
from wbcpipe.report.stage import write_report
from wbcpipe.report.tables import print_differential, print_evaluation
from wbcpipe.samples.cell_attributes import LabelImport
from wbcpipe.samples.cell_columns import QcFlag
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.classification_record import Classification
from wbcpipe.samples.differential_record import differential_schema
from wbcpipe.system.files import read_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.samples.sample import Sample

CLASSES = ("NEU", "LYM", "EOS", "MO", "BAS")
RISK = {"error_bound": 0.05, "confidence": 0.95, "cells": 150, "assumption": "of the same kind"}
HEADS = ("color1", "color2", "color3", "fluorescence")


def heads(labels: np.ndarray, seed: int) -> np.ndarray:
    """Probabilities (N, 4, 5) of heads that share what they see of cells."""
    rng = np.random.default_rng(seed)
    shared = np.eye(5)[labels] * 3 + rng.normal(size=(len(labels), 5))
    powers = np.exp(shared[:, None] * 3 + 0.2 * rng.normal(size=(len(labels), 4, 5)))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)


def fitted() -> ProbabilityCalibration:
    labels = np.arange(400) % 5
    found = heads(labels, 0)
    confusion = np.zeros((5, 5), np.int64)
    np.add.at(confusion, (labels, found.mean(axis=1).argmax(axis=1)), 1)
    return ProbabilityCalibration(
        temperatures=(1,) * 4,
        weights=(0.25,) * 4,
        cells=len(labels),
        head_disagreement=fit_disagreement_limits(found),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
        correction=CorrectionTrial(raw_points=2, corrected_points=1),
    )


def reported(
    sample: Sample, probability: np.ndarray, **more: Any
) -> tuple[dict[str, Any], str, str]:
    """The document, the page, and what the terminal shows, of a sample whose calls are the heads'
    mean.
    """
    mean = probability.mean(axis=1)
    threshold = more.get("threshold", 0.0)
    CellStore(sample.cells_path).write_predictions(
        probability,
        [
            CLASSES[k] if sure else "unidentified"
            for k, sure in zip(mean.argmax(1), mean.max(1) > threshold, strict=True)
        ],
        mean.max(axis=1),
        np.zeros(len(mean), np.float32),
        classification=Classification.model_validate(
            {
                "bundle": "b",
                "sha256": "c" * 64,
                "classes": CLASSES,
                "heads": HEADS,
                "threshold": 0.0,
                "calibration": fitted().model_dump(mode="json", exclude_none=True),
                **more,
            }
        ),
    )
    write_report(sample)
    document = read_document(sample).content()
    jsonschema.Draft202012Validator(differential_schema()).validate(document)
    console = Console(file=io.StringIO(), width=140)
    print_differential(read_document(sample), document_paths(sample), console)
    return document, document_paths(sample)[2].read_text(encoding="utf-8"), console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture
def blood(create_sample: Callable[..., Sample]) -> tuple[Sample, np.ndarray]:
    labels = np.repeat(np.arange(5), (180, 86, 9, 22, 3))
    return create_sample(["NEU"] * len(labels), classify=False), labels


def test_rare_classes_are_corrected_beside_the_counts(blood: tuple[Sample, np.ndarray]) -> None:
    sample, labels = blood
    document, page, shown = reported(sample, heads(labels, 1))
    truth = 100 * np.bincount(labels) / len(labels)
    lines = document["classes"]
    raw = np.abs([line["percent"] - share for line, share in zip(lines, truth, strict=True)])
    corrected = np.abs(
        [line["corrected_percent"] - share for line, share in zip(lines, truth, strict=True)]
    )
    assert corrected.mean() < raw.mean()
    assert sum(line["corrected_percent"] for line in lines) == pytest.approx(100, abs=0.01)
    for line, share in zip(lines, truth, strict=True):
        low, high = line["corrected_interval_percent"]
        assert low <= share <= high
    assert 'data-name="corrected"' in page
    assert f"{lines[4]['corrected_percent']:.1f} (" in shown
    assert not any(check["exceeded"] for check in document["model_checks"]["head_disagreement"])
    assert document["model_checks"]["doubts"] == []
    assert "error is not known" not in page


def test_a_correction_that_did_not_help_is_not_shown(blood: tuple[Sample, np.ndarray]) -> None:
    sample, labels = blood
    useless = fitted().model_copy(
        update={"correction": CorrectionTrial(raw_points=1, corrected_points=1)}
    )
    document, page, _ = reported(
        sample, heads(labels, 1), calibration=useless.model_dump(mode="json", exclude_none=True)
    )
    assert {line["corrected_percent"] for line in document["classes"]} == {None}
    assert 'data-name="corrected"' not in page


def test_disagreeing_heads_are_reported(blood: tuple[Sample, np.ndarray]) -> None:
    sample, labels = blood
    probability = heads(labels, 1)
    probability[:, 1] = probability[np.random.default_rng(0).permutation(len(labels)), 1]
    document, page, shown = reported(sample, probability)
    check = {item["head"]: item for item in document["model_checks"]["head_disagreement"]}["color2"]
    assert check["exceeded"]
    assert check["beyond_percent"] > check["limit_percent"] == 20
    assert "Check the registration and the lamp of" in page
    assert "Warning: Against the other heads, color" in shown


def scrambled(labels: np.ndarray, seed: int) -> np.ndarray:
    """Heads of which each sees another cell: images that the bundle does not know."""
    probability = heads(labels, seed)
    for head in range(4):
        probability[:, head] = probability[
            np.random.default_rng(head).permutation(len(labels)), head
        ]
    return probability


def flat(labels: np.ndarray, seed: int) -> np.ndarray:
    """Heads that agree, and are sure of 8 cells alone."""
    probability = heads(labels, seed).mean(axis=1, keepdims=True).repeat(4, axis=1)
    probability[8:] = 0.5 * probability[8:] + 0.1
    return np.asarray(probability / probability.sum(axis=2, keepdims=True), np.float32)


@pytest.mark.parametrize(
    ("images", "kind", "reasons"),
    [
        (scrambled, "stained-rgb", {"heads_disagree"}),
        (scrambled, "stack", {"heads_disagree"}),
        (scrambled, "scope", {"heads_disagree"}),
        (flat, "stained-rgb", {"unidentified", "few_identified"}),
        (flat, "scope", {"unidentified", "few_identified"}),
    ],
)
def test_no_promise_stands_beside_a_doubt(
    create_sample: Callable[..., Sample],
    images: Callable[[np.ndarray, int], np.ndarray],
    kind: str,
    reasons: set[str],
) -> None:
    labels = np.repeat(np.arange(5), (60, 30, 10, 10, 5))
    sample = create_sample(["NEU"] * len(labels), classify=False, info={"kind": kind})
    probability = images(labels, 1)
    document, page, shown = reported(
        sample, probability, risk_control=RISK, threshold=0.75 if images is flat else 0.0
    )
    checks = document["model_checks"]
    assert {doubt["reason"] for doubt in checks["doubts"]} == reasons
    assert checks["risk_control"] is None
    assert {line["corrected_percent"] for line in document["classes"]} == {None}
    gate = {item["name"]: item for item in document["quality"]["gates"]}["error_bound_percent"]
    assert (gate["figure"], gate["passed"], document["quality"]["passed"]) == (None, False, False)
    evaluated = print_of(sample)
    for text in (page, shown, evaluated):
        flat_text = " ".join(text.split())
        assert "At most 5.0 %" not in flat_text
        assert "wbcpipe labels export --sample S1" in flat_text
        assert "does not know" in flat_text
        assert ("registration and the lamp" in flat_text) == (
            kind == "scope" and images is scrambled
        )
    if kind != "scope":
        doubts = " ".join(doubt["text"] for doubt in checks["doubts"])
        assert "lamp" not in doubts
        assert "registration" not in doubts
    assert "error: not known" in " ".join(shown.split())


@pytest.mark.parametrize("trained", [True, False])
def test_a_bundle_that_learned_from_the_sample_is_told(
    blood: tuple[Sample, np.ndarray], trained: bool
) -> None:
    sample, labels = blood
    document, page, shown = reported(sample, heads(labels, 1), trained_on_sample=trained)
    assert document["model_checks"]["trained_on_sample"] is trained
    warning = (
        f"his bundle was trained on cells of sample '{sample.name}'; figures on them are too good."
    )
    assert (f"T{warning}" in html.unescape(page)) is trained
    assert (f"Warning: t{warning}" in shown) is trained
    assert (f"Warning: t{warning}" in print_of(sample)) is trained


def print_of(sample: Sample) -> str:
    """What `evaluate` prints of a sample whose first cell has a label."""
    store = CellStore(sample.cells_path)
    labels = ["NEU", *[""] * (len(store) - 1)]
    given = LabelImport(source="test", sha256="", cells=1, date="")
    store.write_labels(labels, store.attributes.classes, given)
    console = Console(file=io.StringIO(), width=200)
    print_evaluation(evaluate_sample(sample), console)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("unidentified", "cells", "expected", "test_cells", "beyond"),
    [
        (110, 115, 0.06, 150, True),
        (20, 115, 0.06, 150, False),  # slides differ
        (60, 200, 0.018, 280, True),
        (40, 115, 0.35, 150, False),  # a threshold that refuses a third by choice
        (100, 115, 0.35, 150, True),
        (1, 5, 0.0, 60, False),
    ],
)
def test_a_share_of_unidentified_cells_is_compared_with_that_of_the_test_cells(
    unidentified: int, cells: int, expected: float, test_cells: int, beyond: bool
) -> None:
    assert (unidentified_excess(unidentified, cells, expected, test_cells) > 0.056) is beyond


def test_a_model_whose_error_is_not_known_does_not_pass(
    create_sample: Callable[..., Sample],
) -> None:
    sample = create_sample(["NEU"] * 120)
    write_report(sample)
    assert read_document(sample).quality.passed
    document, page, shown = reported(sample, heads(np.zeros(120, np.int64), 1))
    failed = [gate["name"] for gate in document["quality"]["gates"] if gate["passed"] is False]
    assert failed == ["error_bound_percent"]
    assert "all gates passed" not in shown
    assert "Upper bound of the model&#39;s error: not known" in page
    document, _, _ = reported(
        sample, heads(np.zeros(120, np.int64), 1), risk_control={**RISK, "error_bound": 0.2}
    )
    assert not document["quality"]["passed"]


def test_an_excluded_modality_and_the_error_bound_are_reported(
    blood: tuple[Sample, np.ndarray],
) -> None:
    sample, labels = blood
    bound = {"error_bound": 0.034, "confidence": 0.95, "cells": 200, "assumption": ASSUMPTION}
    loss = {"all_modalities": 0.97, "remaining_modalities": 0.913}
    more = {"excluded_modalities": ["color2"], "f1_weighted": loss, "risk_control": bound}
    document, page, shown = reported(sample, heads(labels, 1), **more)
    assert document["model_checks"] == {
        "head_disagreement": [],
        "doubts": [],
        "remedy": "",
        "risk_control": bound,
        "excluded_modalities": ["color2"],
        "f1_weighted": loss,
        "trained_on_sample": False,
    }
    assert "Classified without color2." in page
    assert "weighted F1 is 91.3 % without and 97.0 % with" in page
    assert "At most 3.4 % of the counted cells have a wrong class" in page
    assert "Classified without color2" in shown


def test_cells_classified_without_their_dead_modality_count(
    create_sample: Callable[..., Sample],
) -> None:
    labels = np.arange(40) % 5
    sample = create_sample(["NEU"] * 40, quality=[QcFlag.MISSING_MODALITY] * 40, classify=False)
    document, _, _ = reported(sample, heads(labels, 2))
    assert document["cells"]["counted"] == 0
    assert document["classes"][0]["corrected_percent"] is None
    document, _, _ = reported(
        sample, heads(labels, 2), excluded_modalities=["color2"], dead_modalities=["color2"]
    )
    assert document["cells"]["counted"] == 40


def test_a_model_without_calibration_has_no_checks(create_sample: Callable[..., Sample]) -> None:
    sample = create_sample(["NEU"] * 30)
    write_report(sample)
    document = read_document(sample).content()
    assert document["model_checks"] == {
        "head_disagreement": [],
        "doubts": [],
        "remedy": "",
        "risk_control": RISK,
        "excluded_modalities": [],
        "f1_weighted": None,
        "trained_on_sample": False,
    }
    assert {line["corrected_percent"] for line in document["classes"]} == {None}
    assert "Corrected" not in document_paths(sample)[2].read_text(encoding="utf-8")
    assert read_json(document_paths(sample)[0])["format_version"] == 1


def test_a_damaged_calibration_is_one_line(blood: tuple[Sample, np.ndarray]) -> None:
    sample, labels = blood
    with pytest.raises(
        SampleStateError, match=r"the calibration cannot be read .*run `wbcpipe classify`"
    ):
        reported(sample, heads(labels, 1), calibration={"weights": "heavy"})
