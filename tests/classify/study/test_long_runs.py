"""Records of long runs come back as written, and the tables follow from them alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.special import softmax

from wbcpipe.classify import metrics
from wbcpipe.classify.study.long_runs import (
    LOG_STEP,
    CurvePoint,
    Predictions,
    RunRecord,
    first_flat_step,
    read_runs,
)
from wbcpipe.classify.study.long_tables import (
    calibrated_scores,
    chosen_on_held_out,
    curve_plot,
    dataset_tables,
)
from wbcpipe.classify.study.results import CellCounts
from wbcpipe.classify.training.recipe import Recipe
from wbcpipe.classify.uncertainty.probability_calibration import mean_probability
from wbcpipe.errors import TrainingDataError
from wbcpipe.system.files import write_json

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = ("NEU", "LYM", "MO")


def record(variant: str, fold: int, *, right: float, held_out: float, **changes: Any) -> RunRecord:
    """A run whose first head is right for a share of the test cells; its second one knows less."""
    rng = np.random.default_rng(fold)
    labels = np.arange(90) % 3
    wrong = np.arange(90) >= round(90 * right)
    first = np.where(wrong, (labels + 1) % 3, labels)
    logits = np.stack([3.0 * np.eye(3)[first], rng.normal(size=(90, 3))], axis=1)
    packed = Predictions.pack(np.arange(90) + 7, labels, logits.astype(np.float32))
    content: dict[str, Any] = {
        "dataset": "smears",
        "variant": variant,
        "length": 1000,
        "fold": fold,
        "folds": 3,
        "seed": 0,
        "classes": CLASSES,
        "modalities": ("color1", "color2"),
        "cells": CellCounts(train=180, calibration=90, test=90),
        "recipe": Recipe(method="mm-mimo"),
        "teachers": (),
        "epochs": 177.8,
        "parameters": 10,
        "flops": 2_000_000,
        "cpu_s": 90.0,
        "seconds": 100.0,
        "curve": tuple(
            CurvePoint(
                step=step,
                calibration_f1=held_out,
                test_f1=value,
                test_nll=1.0,
                head_accuracy=(value, 0.3),
            )
            for step, value in ((500, right / 2), (1000, right))
        ),
        "scores": metrics.scores(labels, mean_probability(logits[:, :1]), CLASSES),
        "test": packed,
        "calibration": packed,
        "versions": {"torch": "2"},
        "machine": "x86_64",
    }
    return RunRecord.model_validate(content | changes)


def test_predictions_come_back_within_half_a_step() -> None:
    logits = np.random.default_rng(0).normal(scale=3, size=(50, 4, 5)).astype(np.float32)
    labels, rows = np.arange(50) % 5, np.arange(50) * 70_000
    found_rows, found_labels, logs = Predictions.pack(rows, labels, logits).unpack()
    assert (found_rows == rows).all()
    assert (found_labels == labels).all()
    expected = np.maximum(np.log(softmax(logits, axis=-1)), -255 * LOG_STEP)
    assert np.abs(logs - expected).max() <= LOG_STEP / 2 + 1e-6


def test_a_record_is_read_as_written(tmp_path: Path) -> None:
    one = record("mm-mimo", 2, right=0.8, held_out=0.7)
    path = tmp_path / one.file_name
    assert path.name == "mm-mimo.steps-1000.fold-2.seed-0.json"
    path.parent.mkdir()
    write_json(path, one.model_dump(mode="json"))
    assert read_runs(tmp_path) == [one]
    path.write_text('{"format_version": 2}')
    with pytest.raises(TrainingDataError, match="remove it and run again"):
        read_runs(tmp_path)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.2, 0.7, 0.9, 0.91], 3), ([0.2, 0.5, 0.7, 0.9], None), ([0.9, 0.9, 0.9, 0.9], 1)],
    ids=["flat at last", "still rising", "flat at once"],
)
def test_where_a_curve_is_flat(values: list[float], expected: int | None) -> None:
    assert first_flat_step([1, 2, 3, 4], values, within=0.02) == expected


def test_the_tables_show_lengths_claims_and_folds() -> None:
    rights = {"mm-mimo": (0.7, 0.8, 0.75), "early-fusion": (0.8, 0.9, 0.85)}
    records = [
        record(name, fold, right=right, held_out=0.5)
        for name, folds in rights.items()
        for fold, right in enumerate(folds)
    ]
    text = dataset_tables(records, {})
    claim, _ = (line for line in text.splitlines() if "MM-MIMO beats early fusion" in line)
    cells = [cell.strip() for cell in claim.strip("|").split("|")]
    differences = [
        100 * (records[fold].scores["f1_weighted"] - records[3 + fold].scores["f1_weighted"])
        for fold in range(3)
    ]
    assert cells[1:4] == ["1000", "3", f"{np.mean(differences):+.2f}"]
    assert cells[-1] == ", ".join(f"{value:+.1f}" for value in differences)
    [row] = [line for line in text.splitlines() if line.startswith("| mm-mimo | 1000")]
    assert "| 178 | 3 of 3 |" in row
    assert "not flat" in row
    assert curve_plot(records, "smears").axes[0].get_legend() is not None


def test_claims_are_tested_with_plain_and_with_fused_heads() -> None:
    # The second modality is the better one on held-out cells, the first one on test cells.
    shares = {"color1": (0.9, 0.5), "color2": (0.6, 0.8), "late-fusion": (0.8, 0.7)}
    records = [
        record(name, fold, right=right - 0.1 * fold, held_out=held_out, teachers=teachers)
        for name, (right, held_out) in shares.items()
        for teachers in [("color1", "color2") if name == "late-fusion" else ()]
        for fold in range(2)
    ]
    plain, fused = dataset_tables(records, {}).split("heads: fused by held-out cells")
    late, second = records[4:], records[2:4]
    for text, score in ((plain, lambda run: run.scores), (fused, calibrated_scores)):
        assert "; the best modality by held-out cells is color2:" in text
        [claim] = [line for line in text.splitlines() if "late fusion beats the best" in line]
        differences = [
            100 * (score(one)["f1_weighted"] - score(other)["f1_weighted"])
            for one, other in zip(late, second, strict=True)
        ]
        assert f"| {np.mean(differences):+.2f} |" in claim
    [claim] = [line for line in fused.splitlines() if "better than the plain mean" in line]
    gains = [
        100 * (calibrated_scores(one)["f1_weighted"] - one.scores["f1_weighted"]) for one in late
    ]
    assert f"| {np.mean(gains):+.2f} |" in claim


def test_held_out_cells_choose_and_test_cells_do_not() -> None:
    good = {0: record("a", 0, right=0.6, held_out=0.9), 1: record("a", 1, right=0.6, held_out=0.2)}
    other = {0: record("b", 0, right=0.9, held_out=0.5), 1: record("b", 1, right=0.9, held_out=0.5)}
    chosen = chosen_on_held_out([good, other])
    assert {fold: run.variant for fold, run in chosen.items()} == {0: "a", 1: "b"}
    assert chosen_on_held_out([]) == {}


def test_heads_are_fused_as_held_out_cells_decide() -> None:
    one = record("late-fusion", 0, right=0.9, held_out=0.5)
    _, labels, logs = one.test.unpack()
    plain = metrics.scores(labels, mean_probability(logs), CLASSES)["f1_weighted"]
    assert calibrated_scores(one)["f1_weighted"] >= plain
