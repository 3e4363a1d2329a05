"""The figures of a study: means over folds, paired differences, and the confidence of heads.

Plain numbers for JSON.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypedDict

import numpy as np
from scipy import stats
from scipy.special import softmax

from wbcpipe.classify import metrics
from wbcpipe.classify.uncertainty.fusion import calibrate
from wbcpipe.classify.uncertainty.probability_calibration import fused_probability, mean_probability

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wbcpipe.classify.metrics import Scores, ScoreSummary
    from wbcpipe.classify.study.results import FoldResult

__all__ = [
    "Candidate",
    "ClaimSummary",
    "HeadSummary",
    "RowSummary",
    "StudySummary",
    "class_intervals",
    "confidence_table",
    "paired_difference",
    "recommend",
    "reliability_bins",
    "summarise_study",
]

#: The paper's claims: a row, the row that it is compared with, and the text.
CLAIMS: Final = (
    ("mm-mimo-kd", "late-fusion", "MM-MIMO + KD reaches late fusion"),
    ("mm-mimo-kd", "mm-mimo", "distillation helps MM-MIMO"),
    ("mm-mimo", "early-fusion", "MM-MIMO beats early fusion"),
    ("early-fusion-kd", "early-fusion", "distillation helps early fusion"),
)
_CONFIDENCE: Final = 0.95
_DRAWS: Final = 4000


class Difference(TypedDict):
    """A mean difference, its 95 % interval and p; None with fewer than two folds."""

    mean: float
    low: float | None
    high: float | None
    p: float | None


class ClaimSummary(TypedDict):
    """One of the paper's claims on the folds that both rows have."""

    claim: str
    row: str
    against: str
    folds: list[int]
    difference: Difference | None
    cost_ratio: float | None


class ConfidenceTable(TypedDict):
    """The paper's Figure 4: for each of M + 1 inputs, figures of each of H heads."""

    inputs: list[str]
    confidence: list[list[float]]
    low: list[list[float]]
    high: list[list[float]]
    accuracy: list[list[float]]


class MissingF1(TypedDict):
    """Weighted F1 with a modality's planes zero, or typical."""

    missing: float
    typical: float


class HeadSummary(TypedDict):
    """The heads of a network with several inputs."""

    heads: list[str]
    inputs: list[str]
    confidence: ConfidenceTable
    jacobian: list[list[float]]
    missing: dict[str, MissingF1]


class RowSummary(TypedDict):
    """One row of the table over its folds."""

    method: str
    derived: bool
    folds: list[int]
    expected: int
    mean: ScoreSummary
    f1_by_fold: list[float]
    f1_interval: dict[str, tuple[float, float] | None]
    f1_calibrated: float
    f1_calibrated_by_fold: list[float]
    calibration_error: float
    calibrated_error: float
    parameters: int
    flops: int | None
    seconds: list[float]
    side: int
    epochs: int
    inputs: HeadSummary | None


class Recommendation(TypedDict):
    """The row of highest weighted F1, and the cheapest within a standard error of it."""

    best: str
    cheapest: str


class BackboneSummary(TypedDict):
    """The table of one backbone."""

    rows: dict[str, RowSummary]
    claims: list[ClaimSummary]
    recommended: Recommendation


class StudySummary(TypedDict):
    """All figures of a study, as plain numbers."""

    backbones: dict[str, BackboneSummary]
    classes: list[str]
    versions: dict[str, str]


def paired_difference(
    first: Sequence[float], second: Sequence[float], trained: int, tested: int
) -> Difference:
    """Return the mean difference of two rows on the same folds, its 95 % interval and p (corrected
    resampled t-test).

    Folds share training cells, so their scatter is too small: the variance of the mean is taken as
    (1 / folds + tested / trained) times that of the differences. Nadeau and Bengio,
    https://doi.org/10.1023/A:1024068626366.

    Args:
        first, second: a figure for each fold.
        trained, tested: cells of a fold.
    """
    difference = np.subtract(first, second)
    folds = len(difference)
    mean = float(difference.mean())
    if folds < 2:
        return {"mean": mean, "low": None, "high": None, "p": None}
    error = float(np.sqrt((1 / folds + tested / max(1, trained)) * difference.var(ddof=1)))
    if error == 0:
        return {"mean": mean, "low": mean, "high": mean, "p": 1.0 if mean == 0 else 0.0}
    reach = float(stats.t.ppf((1 + _CONFIDENCE) / 2, folds - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, folds - 1))
    return {"mean": mean, "low": mean - reach, "high": mean + reach, "p": p}


def class_intervals(confusion: Sequence[Sequence[int]]) -> list[tuple[float, float] | None]:
    """Return the 95 % interval of each class's F1 over the tested cells of all folds; None for a
    class without cells.

    F1 depends on the numbers of true and false positives and negatives. These four counts are
    resampled, as a bootstrap over cells does (Efron, https://doi.org/10.1214/aos/1176344552). Cells
    are taken as independent: if few patients gave many cells each, the true interval is wider.

    Args:
        confusion: (K, K); rows are the true class.
    """
    matrix = np.asarray(confusion)
    total, random = matrix.sum(), np.random.default_rng(0)
    found: list[tuple[float, float] | None] = []
    for index, hits in enumerate(np.diag(matrix)):
        missed, false = matrix[index].sum() - hits, matrix[:, index].sum() - hits
        if hits + missed == 0:
            found.append(None)
            continue
        drawn = random.multinomial(
            total, np.array([hits, missed, false, total - hits - missed - false]) / total, _DRAWS
        )
        hit, all_three = drawn[:, 0], drawn[:, :3].sum(axis=1)
        f1 = 2 * hit / np.maximum(1, hit + all_three)
        low, high = np.quantile(f1, ((1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2))
        found.append((float(low), float(high)))
    return found


def summarise_study(results: Mapping[str, Mapping[str, Sequence[FoldResult]]]) -> StudySummary:
    """Return all figures of a study; rows are in the order of the paper's table."""
    first = next(iter(next(iter(results.values())).values()))[0].info
    backbones: dict[str, BackboneSummary] = {}
    for backbone, rows in results.items():
        table = {
            name: _row(rows[name])
            for name in sorted(rows, key=lambda name: _rank(name, rows[name][0]))
        }
        backbones[backbone] = {
            "rows": table,
            "claims": [
                _claim(rows, *claim) for claim in CLAIMS if claim[0] in rows and claim[1] in rows
            ],
            "recommended": recommend(
                {
                    name: Candidate(
                        dict(zip(row["folds"], row["f1_calibrated_by_fold"], strict=True)),
                        row["flops"] or row["parameters"],
                    )
                    for name, row in table.items()
                }
            ),
        }
    return {"backbones": backbones, "classes": list(first.classes), "versions": first.versions}


def _rank(name: str, result: FoldResult) -> tuple[int, str]:
    order = ("single", "early-fusion", "late-fusion", "mm-mimo", "early-fusion-kd", "mm-mimo-kd")
    method = result.info.recipe.method
    own_name = method == "single" or name == method
    return (order.index(method) if own_name else len(order), name if not own_name else "")


def _row(folds: Sequence[FoldResult]) -> RowSummary:
    first = folds[0].info
    scores = [fold.info.scores for fold in folds]
    mean = metrics.summarise(scores)
    fused = [_calibrated(fold) for fold in folds]
    f1_calibrated = [score["f1_weighted"] for score, _ in fused]
    return {
        "method": first.recipe.method,
        "derived": first.row in first.derived,
        "folds": [fold.info.fold for fold in folds],
        "expected": first.folds,
        "mean": mean,
        "f1_by_fold": [score["f1_weighted"] for score in scores],
        "f1_interval": dict(zip(first.classes, class_intervals(mean["confusion"]), strict=True)),
        "f1_calibrated": float(np.mean(f1_calibrated)),
        "f1_calibrated_by_fold": f1_calibrated,
        "calibration_error": float(np.mean([fold.info.calibration_error for fold in folds])),
        "calibrated_error": float(np.mean([error for _, error in fused])),
        "parameters": first.parameters,
        "flops": first.flops,
        "seconds": [fold.info.seconds for fold in folds],
        "side": first.recipe.side,
        "epochs": first.recipe.epochs,
        "inputs": _heads(folds) if "single_logits" in folds[0].arrays else None,
    }


def _heads(folds: Sequence[FoldResult]) -> HeadSummary:
    modalities = list(folds[0].info.modalities)
    return {
        "heads": modalities if folds[0].arrays["test_logits"].shape[1] > 1 else ["fused"],
        "inputs": modalities,
        "confidence": confidence_table(folds),
        "jacobian": np.mean([fold.arrays["jacobian"] for fold in folds], axis=0).tolist(),
        "missing": {name: _f1_without(folds, index) for index, name in enumerate(modalities)},
    }


def _calibrated(fold: FoldResult) -> tuple[Scores, float]:
    """Return scores and calibration error of the heads fused as in a bundle, fitted on the
    calibration cells.
    """
    chosen, _ = calibrate(fold.arrays["calibration_logits"], fold.arrays["calibration_labels"])
    fused = fused_probability(fold.arrays["test_logits"], chosen)
    truth = fold.arrays["test_labels"]
    return metrics.scores(truth, fused, fold.info.classes), metrics.expected_calibration_error(
        truth, fused
    )


def _f1_without(folds: Sequence[FoldResult], index: int) -> MissingF1:
    """Return the weighted F1 of the plain mean with one modality's planes zero, or typical."""

    def f1(key: str) -> float:
        parts = [
            (fold.arrays["test_labels"], mean_probability(fold.arrays[key][index]))
            for fold in folds
        ]
        scores = [metrics.scores(*part, folds[0].info.classes) for part in parts]
        return float(np.mean([score["f1_weighted"] for score in scores]))

    return {"missing": f1("missing_logits"), "typical": f1("typical_logits")}


def _claim(
    rows: Mapping[str, Sequence[FoldResult]], name: str, other: str, words: str
) -> ClaimSummary:
    one, two = ({fold.info.fold: fold.info for fold in rows[row]} for row in (name, other))
    both = sorted(set(one) & set(two))
    difference, cost_ratio = None, None
    if both:
        f1 = [[part[fold].scores["f1_weighted"] for fold in both] for part in (one, two)]
        cells, costs = one[both[0]].cells, (one[both[0]].flops, two[both[0]].flops)
        difference = paired_difference(f1[0], f1[1], cells.train, cells.test)
        cost_ratio = costs[1] / costs[0] if costs[0] and costs[1] else None
    return {
        "claim": words,
        "row": name,
        "against": other,
        "folds": both,
        "difference": difference,
        "cost_ratio": cost_ratio,
    }


def confidence_table(folds: Sequence[FoldResult]) -> ConfidenceTable:
    """Return the paper's Figure 4: each head's mean confidence, its quartiles and its accuracy for
    M + 1 inputs.

    Returns: ``inputs``: names, ``all`` first; ``confidence``, ``low``, ``high``, ``accuracy``: (M +
        1, H) lists.
    """
    modalities = folds[0].info.modalities
    logits = [np.concatenate([fold.arrays["test_logits"] for fold in folds])]
    logits += [
        np.concatenate([fold.arrays["single_logits"][m] for fold in folds])
        for m in range(len(modalities))
    ]
    labels = np.concatenate([fold.arrays["test_labels"] for fold in folds])
    stacked = np.stack(
        [softmax(part.astype(np.float64), axis=-1) for part in logits]
    )  # (M + 1, N, H, K)
    confidence = stacked.max(axis=-1)
    low, high = np.quantile(confidence, (0.25, 0.75), axis=1)
    right = (stacked.argmax(axis=-1) == labels[None, :, None]).mean(axis=1)
    return {
        "inputs": ["all", *modalities],
        "confidence": confidence.mean(axis=1).tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
        "accuracy": right.tolist(),
    }


def reliability_bins(folds: Sequence[FoldResult], bins: int = 10) -> list[tuple[float, float, int]]:
    """Return confidence, accuracy and number of cells of the plain mean, in equal bins of
    confidence with cells.
    """
    probability = np.concatenate([mean_probability(fold.arrays["test_logits"]) for fold in folds])
    labels = np.concatenate([fold.arrays["test_labels"] for fold in folds])
    confidence, right = probability.max(axis=1), probability.argmax(axis=1) == labels
    index = np.clip((confidence * bins).astype(int), 0, bins - 1)
    return [
        (
            float(confidence[index == b].mean()),
            float(right[index == b].mean()),
            int((index == b).sum()),
        )
        for b in range(bins)
        if (index == b).any()
    ]


@dataclass(frozen=True)
class Candidate:
    """A row that may be recommended.

    Attributes:
        f1: calibrated weighted F1 by fold.
        cost: multiply-adds, or parameters if those are not known.
    """

    f1: Mapping[int, float]
    cost: int


def recommend(rows: Mapping[str, Candidate]) -> Recommendation:
    """Return the row of highest weighted F1, and the cheapest within a standard error of it.

    In an unfinished study some rows have more folds than others. All are compared on the folds that
    they share, because folds differ in difficulty; if they share none, on the fold that most rows
    have.
    """
    shared = set.intersection(*(set(row.f1) for row in rows.values()))
    if not shared:
        shared = {Counter(fold for row in rows.values() for fold in row.f1).most_common(1)[0][0]}
    compared = {
        name: [row.f1[fold] for fold in sorted(shared)]
        for name, row in rows.items()
        if shared <= set(row.f1)
    }
    mean = {name: float(np.mean(values)) for name, values in compared.items()}
    best = max(mean, key=lambda name: mean[name])
    error = float(np.std(compared[best], ddof=1) / np.sqrt(len(shared))) if len(shared) > 1 else 0.0
    near = [name for name in mean if mean[name] >= mean[best] - error]
    return {"best": best, "cheapest": min(near, key=lambda name: (rows[name].cost, -mean[name]))}
