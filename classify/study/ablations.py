"""Ablations of the steps beyond the published method.

Fitted on calibration cells, scored on test cells, per fold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from sklearn.metrics import roc_auc_score

from wbcpipe.classify import metrics
from wbcpipe.classify.uncertainty.confusion import class_scores, confusion_matrix
from wbcpipe.classify.uncertainty.fusion import calibrate, stacking_helps
from wbcpipe.classify.uncertainty.head_disagreement import check_heads
from wbcpipe.classify.uncertainty.prevalence import call_rates, correct_counts, true_shares
from wbcpipe.classify.uncertainty.probability_calibration import (
    ProbabilityCalibration,
    choose_threshold,
    fit_calibration,
    fused_probability,
    head_probability,
    mean_probability,
    negative_log_likelihood,
    stratified_parts,
    without_heads,
)
from wbcpipe.classify.uncertainty.risk_control import MIN_CELLS
from wbcpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["BLOOD", "FoldLogits", "Row", "ablations", "markdown"]

BLOOD: Final = {"NEU": 60.0, "LYM": 28.0, "MO": 7.0, "EOS": 3.0, "BAS": 1.0}
"""Percentage of each class in blood, for simulated samples."""
MAX_ERRORS: Final = (0.02, 0.05, 0.10)
SAMPLE_CELLS: Final = 200
SAMPLES: Final = 40


@dataclass(frozen=True)
class FoldLogits:
    """The logits of one fold's network on cells that it was not trained on.

    Attributes:
        calibration_logits: (N, H, K) of the cells to fit on.
        calibration_labels: (N,) int64.
        test_logits: (n, H, K) of the cells to score.
        test_labels: (n,) int64.
        faults: name of a fault to logits (M, n, H, K) of the test cells with this fault in modality
            m: ``zeros`` or ``typical`` planes in its place...
    """

    calibration_logits: NDArray[np.floating[Any]]
    calibration_labels: NDArray[np.int64]
    test_logits: NDArray[np.floating[Any]]
    test_labels: NDArray[np.int64]
    faults: Mapping[str, NDArray[np.floating[Any]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One figure of one variant over the folds.

    Attributes:
        ablation: the step.
        variant: how it is done.
        figure: name of the figure.
        by_fold: one value per fold; NaN if there is none.
        less_base: the difference from the ablation's first variant, per fold.
    """

    ablation: str
    variant: str
    figure: str
    by_fold: tuple[float, ...]
    less_base: tuple[float, ...]


Figures = dict[str, dict[str, float]]
"""Variant to figure to value; the others are compared with the first variant."""


def ablations(
    folds: Sequence[FoldLogits], classes: Sequence[str], modalities: Sequence[str]
) -> list[Row]:
    """Return every ablation over some folds.

    Args:
        folds: one or more.
        classes: K names.
        modalities: M names.
    """
    fitted = [calibrate(fold.calibration_logits, fold.calibration_labels)[0] for fold in folds]
    steps: dict[str, Callable[[FoldLogits, ProbabilityCalibration], Figures]] = {
        "fusion": _fusion,
        "temperature": lambda fold, _: _temperature(fold),
        "abstention": _abstention,
        "missing modality": lambda fold, chosen: _missing(fold, chosen, modalities),
        "head disagreement": lambda fold, chosen: _disagreement(fold, chosen, modalities),
        "prevalence": lambda fold, chosen: _prevalence(fold, chosen, classes),
    }
    return [
        row
        for name, step in steps.items()
        for row in _rows(
            name, [step(fold, chosen) for fold, chosen in zip(folds, fitted, strict=True)]
        )
    ]


def _rows(ablation: str, by_fold: Sequence[Figures]) -> list[Row]:
    rows = []
    variants = list(dict.fromkeys(variant for found in by_fold for variant in found))
    for variant in variants:
        figures = dict.fromkeys(figure for found in by_fold for figure in found.get(variant, {}))
        for figure in figures:
            values = [found.get(variant, {}).get(figure, np.nan) for found in by_fold]
            base = [found.get(variants[0], {}).get(figure, np.nan) for found in by_fold]
            less = tuple(value - first for value, first in zip(values, base, strict=True))
            rows.append(Row(ablation, variant, figure, tuple(values), less))
    return rows


def _f1(labels: NDArray[np.int64], probability: NDArray[np.float64]) -> float:
    return class_scores(
        confusion_matrix(labels, probability.argmax(axis=1), probability.shape[1])
    ).weighted_f1


def _probability_quality(
    labels: NDArray[np.int64], probability: NDArray[np.float64]
) -> dict[str, float]:
    return {
        "NLL": negative_log_likelihood(labels, probability),
        "ECE": metrics.expected_calibration_error(labels, probability),
    }


def _fusion(fold: FoldLogits, chosen: ProbabilityCalibration) -> Figures:
    found: dict[str, NDArray[np.float64]] = {"plain mean": mean_probability(fold.test_logits)}
    for name, stacked in (("mixture", False), ("stacked", True)):
        fitted = fit_calibration(fold.calibration_logits, fold.calibration_labels, stacked=stacked)
        found[name] = fused_probability(fold.test_logits, fitted)
    found["as bundled (half to certify)"] = fused_probability(fold.test_logits, chosen)
    return {
        name: {
            "weighted F1": _f1(fold.test_labels, probability),
            **_probability_quality(fold.test_labels, probability),
        }
        for name, probability in found.items()
    }


def _temperature(fold: FoldLogits) -> Figures:
    fitted = fit_calibration(fold.calibration_logits, fold.calibration_labels)
    heads = fold.calibration_logits.shape[1]
    equal = {"weights": (1 / heads,) * heads, "fused_temperature": 1.0}
    variants = {
        "plain mean": fitted.model_copy(update={**equal, "temperatures": (1.0,) * heads}),
        "a temperature each": fitted.model_copy(update=equal),
        "and one for the mean": fitted.model_copy(update={"weights": (1 / heads,) * heads}),
        "and weights": fitted,
    }
    figures = {}
    for name, calibration in variants.items():
        fused = fused_probability(fold.test_logits, calibration)
        figures[name] = _probability_quality(fold.test_labels, fused)
    return figures


def _abstention(fold: FoldLogits, chosen: ProbabilityCalibration) -> Figures:
    """Return the error of accepted test cells at thresholds with and without a bound.

    A broken bound counts as 1.
    """
    fused = fused_probability(fold.test_logits, chosen)
    confidence, right = fused.max(axis=1), fused.argmax(axis=1) == fold.test_labels
    held = fused_probability(fold.calibration_logits, chosen)
    figures: Figures = {}

    def add(name: str, threshold: float, limit: float) -> None:
        accepted = confidence >= threshold
        error = float((~right[accepted]).mean()) if accepted.any() else 0.0
        refused = float(1 - accepted.mean())
        figures[name] = {
            "error": error,
            "unidentified": refused,
            "over the limit": float(error > limit),
        }

    for limit in MAX_ERRORS:
        aim = choose_threshold(fold.calibration_labels, held, 1 - limit, 1.0)
        add(f"aimed at {100 * limit:g} %", aim, limit)
        if chosen.risk_bounds is not None:
            try:
                add(
                    f"guaranteed {100 * limit:g} %",
                    chosen.risk_bounds.level_for(limit).threshold,
                    limit,
                )
            except ConfigError:
                figures[f"guaranteed {100 * limit:g} %"] = {"refused to promise": 1.0}
    return figures


def _missing(
    fold: FoldLogits, chosen: ProbabilityCalibration, modalities: Sequence[str]
) -> Figures:
    """Return F1 without each modality, for each replacement of its input and each calibration.

    The calibration for the fault is fitted on half of the test cells and scored on the other half,
    both ways.
    """
    labels, heads = fold.test_labels, fold.test_logits.shape[1]
    complete = _f1(labels, fused_probability(fold.test_logits, chosen))
    figures: Figures = {"none missing": dict.fromkeys((*modalities, "mean"), complete)}
    for fault, by_modality in fold.faults.items():
        found: Figures = {"nothing changed": {}, "its head silent": {}, "own calibration": {}}
        for index, (name, logits) in enumerate(zip(modalities, by_modality, strict=True)):
            rest = without_heads(chosen, [index] if heads == len(modalities) else [])
            found["nothing changed"][name] = _f1(labels, fused_probability(logits, chosen))
            found["its head silent"][name] = _f1(labels, fused_probability(logits, rest))
            found["own calibration"][name] = _f1(labels, _refitted(logits, labels))
        for what, values in found.items():
            figures[f"{fault}, {what}"] = {**values, "mean": float(np.mean(list(values.values())))}
    return figures


def _refitted(logits: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    part = stratified_parts(labels, parts=2)
    fused = np.empty((len(labels), logits.shape[2]))
    for scored in (part == 0, part == 1):
        known, truth = logits[~scored], labels[~scored]
        # Of fewer cells a bundle has the weighted mean too; see `calibrate`.
        stacked = len(truth) >= MIN_CELLS and stacking_helps(known, truth)
        fused[scored] = fused_probability(
            logits[scored], fit_calibration(known, truth, stacked=stacked)
        )
    return fused


def _disagreement(
    fold: FoldLogits, chosen: ProbabilityCalibration, modalities: Sequence[str]
) -> Figures:
    """Return how often heads disagree in samples of test cells, intact or with one faulty
    modality.
    """
    limits = chosen.head_disagreement
    if limits is None:
        return {}
    rng = np.random.default_rng(0)
    classes = fold.test_logits.shape[2]

    def seen(logits: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float64], float]:
        probability = head_probability(logits, chosen)
        worst, exceeded = [], 0
        for _ in range(SAMPLES):
            rows = _draw(rng, fold.test_labels, rng.dirichlet(np.full(classes, 2.0)), SAMPLE_CELLS)
            checks = check_heads(probability[rows], limits)
            worst.append(max(check.share or 0.0 for check in checks))
            exceeded += any(check.exceeded for check in checks)
        return np.asarray(worst), exceeded / SAMPLES

    intact, false = seen(fold.test_logits)
    figures: Figures = {"intact": {"exceeded": false}}
    truth = np.repeat([0, 1], SAMPLES)
    for fault, logits in fold.faults.items():
        for index, name in enumerate(modalities):
            worst, exceeded = seen(logits[index])
            area = float(roc_auc_score(truth, np.concatenate([intact, worst])))
            figures[f"{fault} {name}"] = {"exceeded": exceeded, "AUC": area}
    return figures


def _draw(
    rng: np.random.Generator, labels: NDArray[np.int64], share: NDArray[np.float64], number: int
) -> NDArray[np.int64]:
    """Draw rows of cells with replacement, with given class shares.

    Classes without cells are skipped.
    """
    count = np.bincount(labels, minlength=len(share))
    wanted = np.where(count > 0, share, 0.0)
    numbers = rng.multinomial(number, wanted / wanted.sum())
    parts = [
        rng.choice(np.flatnonzero(labels == k), number)
        for k, number in enumerate(numbers)
        if number
    ]
    return np.concatenate(parts).astype(np.int64)


def _prevalence(
    fold: FoldLogits, chosen: ProbabilityCalibration, classes: Sequence[str]
) -> Figures:
    """Return the mean absolute error, in points, of each class's percentage in simulated samples of
    blood.
    """
    if chosen.confusion is None:
        return {}
    natural = np.array([BLOOD.get(name, 0.0) for name in classes])
    if not (natural > 0).all():  # other classes: each is half as frequent as the one before it
        natural = 0.5 ** np.arange(len(classes))
    share = natural / natural.sum()
    confusion = np.asarray(chosen.confusion)
    rates = call_rates(confusion)
    probability = fused_probability(fold.test_logits, chosen)
    best = probability.argmax(axis=1)
    sure = probability.max(axis=1) >= chosen.threshold
    rng = np.random.default_rng(0)
    errors: dict[str, list[NDArray[np.float64]]] = {}
    inside, widths = [], []
    for _ in range(SAMPLES):
        rows = _draw(rng, fold.test_labels, share, SAMPLE_CELLS)
        truth = np.bincount(fold.test_labels[rows], minlength=len(classes)) / len(rows)
        calls = np.bincount(best[rows], minlength=len(classes)).astype(float)
        identified = np.bincount(best[rows][sure[rows]], minlength=len(classes)).astype(float)
        corrected = correct_counts(probability[rows], confusion)
        estimates = {
            "identified cells": identified / identified.sum(),
            "likeliest classes": calls / calls.sum(),
            "maximum likelihood by confusion": true_shares(calls, rates),
            "Saerens, as reported": corrected.share,
        }
        for name, estimate in estimates.items():
            errors.setdefault(name, []).append(100 * np.abs(estimate - truth))
        inside.append((corrected.low <= truth + 1e-9) & (truth <= corrected.high + 1e-9))
        widths.append(100 * (corrected.high - corrected.low))
    figures: Figures = {}
    for name, found in errors.items():
        mean = np.mean(found, axis=0)
        figures[name] = {
            "MAE": float(mean.mean()),
            **dict(zip(classes, map(float, mean), strict=True)),
        }
    figures["Saerens, as reported"] |= {
        "truth in 95 % interval": float(np.mean(inside)),
        "width": float(np.mean(widths)),
    }
    return figures


def markdown(rows: Sequence[Row]) -> str:
    """Return a table for each ablation: folds, mean and deviation, and the paired difference from
    its first variant.
    """
    lines: list[str] = []
    for ablation in dict.fromkeys(row.ablation for row in rows):
        some = [row for row in rows if row.ablation == ablation]
        folds = [f"fold {number + 1}" for number in range(len(some[0].by_fold))]
        table = [
            [
                *(row.variant, row.figure),
                *("-" if np.isnan(value) else f"{value:.4f}" for value in row.by_fold),
                *(_mean_sd(row.by_fold), _mean_sd(row.less_base)),
            ]
            for row in some
        ]
        header = ("variant", "figure", *folds, "mean ± sd", "less the first")
        lines += [f"## {ablation.capitalize()}", "", *metrics.table_lines(header, table), ""]
    return "\n".join(lines)


def _mean_sd(values: Sequence[float]) -> str:
    known = [value for value in values if not np.isnan(value)]
    if not known:
        return "-"
    spread = f" ± {np.std(known, ddof=1):.4f}" if len(known) > 1 else ""
    return f"{np.mean(known):.4f}{spread}"
