"""Figures of a study: means over folds, paired differences, and the confidence of heads, as plain numbers."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import stats
from scipy.special import softmax

from wbcpipe.classify import metrics
from wbcpipe.classify.uncertainty.fusion import calibrate
from wbcpipe.classify.uncertainty.probability_calibration import fuse, head_probability, mean_probability

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wbcpipe.classify.metrics import Scores
    from wbcpipe.classify.study.results import FoldResult

__all__ = [
    "CLAIMS",
    "class_intervals",
    "confidence_table",
    "paired_difference",
    "recommend",
    "reliability_bins",
    "summarise_study",
]

#: The paper's claims: a row, the row it is held against, and the words.
CLAIMS: Final = (
    ("mm-mimo-kd", "late-fusion", "MM-MIMO + KD reaches late fusion"),
    ("mm-mimo-kd", "mm-mimo", "distillation helps MM-MIMO"),
    ("mm-mimo", "early-fusion", "MM-MIMO beats early fusion"),
    ("early-fusion-kd", "early-fusion", "distillation helps early fusion"),
)
_CONFIDENCE: Final = 0.95
_DRAWS: Final = 4000


def paired_difference(
    first: Sequence[float], second: Sequence[float], learned: int, tested: int
) -> dict[str, float | None]:
    """Mean difference of two rows on the same folds, its 95 % interval and p, by the corrected resampled t-test.

    Folds share what they learned from, so their scatter says too little: the variance of the mean is taken as
    (1 / folds + tested / learned) times that of the differences. Nadeau and Bengio,
    https://doi.org/10.1023/A:1024068626366.

    Args:
        first, second: a figure for each fold.
        learned, tested: cells of a fold.
    """
    difference = np.subtract(first, second)
    folds = len(difference)
    mean = float(difference.mean())
    if folds < 2:
        return {"mean": mean, "low": None, "high": None, "p": None}
    error = float(np.sqrt((1 / folds + tested / max(1, learned)) * difference.var(ddof=1)))
    if error == 0:
        return {"mean": mean, "low": mean, "high": mean, "p": 1.0 if mean == 0 else 0.0}
    reach = float(stats.t.ppf((1 + _CONFIDENCE) / 2, folds - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, folds - 1))
    return {"mean": mean, "low": mean - reach, "high": mean + reach, "p": p}


def class_intervals(confusion: Sequence[Sequence[int]], *, seed: int = 0) -> list[tuple[float, float] | None]:
    """95 % interval of each class's F1, by resampling the tested cells of all folds; None for a class without cells.

    F1 depends on how many cells are hits, false calls, misses and neither: these four counts are drawn anew, which is
    what a bootstrap over cells does (Efron, https://doi.org/10.1214/aos/1176344552). Cells are taken as independent:
    where few patients gave many cells each, the truth is wider.

    Args:
        confusion: (K, K); rows are the true class.
        seed: of the draws.
    """
    matrix = np.asarray(confusion)
    total, random = matrix.sum(), np.random.default_rng(seed)
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


def summarise_study(results: Mapping[str, Mapping[str, Sequence[FoldResult]]]) -> dict[str, Any]:
    """All figures of a study, as plain numbers; rows in the order of the paper's table."""
    summary: dict[str, Any] = {"backbones": {}}
    for backbone, rows in results.items():
        table = {name: _row(rows[name]) for name in sorted(rows, key=lambda name: _rank(name, rows[name][0]))}
        summary["backbones"][backbone] = {
            "rows": table,
            "claims": [_claim(rows, *claim) for claim in CLAIMS if claim[0] in rows and claim[1] in rows],
            "recommended": recommend(table),
        }
    first = next(iter(next(iter(results.values())).values()))[0]
    summary["classes"] = list(first.classes)
    summary["versions"] = first.info["versions"]
    return summary


def _rank(name: str, result: FoldResult) -> tuple[int, str]:
    order = ("single", "early-fusion", "late-fusion", "mm-mimo", "early-fusion-kd", "mm-mimo-kd")
    method = result.info["recipe"]["method"]
    own_name = method == "single" or name == method
    return (order.index(method) if own_name else len(order), name if not own_name else "")


def _row(folds: Sequence[FoldResult]) -> dict[str, Any]:
    first = folds[0]
    scores = [fold.info["scores"] for fold in folds]
    row: dict[str, Any] = {
        "method": first.info["recipe"]["method"],
        "derived": first.info["row"] in first.info["derived"],
        "folds": [fold.info["fold"] for fold in folds],
        "expected": first.info["folds"],
        "mean": metrics.summarise(scores),
        "f1_by_fold": [score["f1_weighted"] for score in scores],
        "calibration_error": float(np.mean([fold.info["calibration_error"] for fold in folds])),
        "parameters": first.info["parameters"],
        "flops": first.info["flops"],
        "seconds": [fold.info["seconds"] for fold in folds],
        "side": first.info["recipe"]["side"],
        "epochs": first.info["recipe"]["epochs"],
    }
    row["f1_interval"] = dict(zip(first.classes, class_intervals(row["mean"]["confusion"]), strict=True))
    fused = [_calibrated(fold) for fold in folds]
    row["f1_calibrated_by_fold"] = [score["f1_weighted"] for score, _ in fused]
    row["f1_calibrated"] = float(np.mean(row["f1_calibrated_by_fold"]))
    row["calibrated_error"] = float(np.mean([error for _, error in fused]))
    if "alone_logits" in first.arrays:
        row["confidence"] = confidence_table(folds)
        row["jacobian"] = np.mean([fold.arrays["jacobian"] for fold in folds], axis=0).tolist()
        row["heads"] = list(first.modalities) if first.arrays["test_logits"].shape[1] > 1 else ["fused"]
        row["inputs"] = list(first.modalities)
        row["missing"] = {name: _f1_without(folds, index) for index, name in enumerate(first.modalities)}
    return row


def _calibrated(fold: FoldResult) -> tuple[Scores, float]:
    """Scores of the heads fused as a bundle would, by what the held cells prefer, and their calibration error."""
    chosen, _ = calibrate(fold.arrays["held_logits"], fold.arrays["held_labels"])
    fused = fuse(head_probability(fold.arrays["test_logits"], chosen), chosen)
    truth = fold.arrays["test_labels"]
    return metrics.scores(truth, fused, fold.classes), metrics.expected_calibration_error(truth, fused)


def _f1_without(folds: Sequence[FoldResult], index: int) -> dict[str, float]:
    """Weighted F1 of the plain mean with one modality's planes zero, or typical."""
    found = {}
    for kind in ("missing", "typical"):
        scores = []
        for fold in folds:
            probability = mean_probability(fold.arrays[f"{kind}_logits"][index])
            scores.append(metrics.scores(fold.arrays["test_labels"], probability, fold.classes)["f1_weighted"])
        found[kind] = float(np.mean(scores))
    return found


def _claim(rows: Mapping[str, Sequence[FoldResult]], name: str, other: str, words: str) -> dict[str, Any]:
    one, two = ({fold.info["fold"]: fold for fold in rows[row]} for row in (name, other))
    both = sorted(set(one) & set(two))
    cells = one[both[0]].info["cells"] if both else {"fit": 1, "test": 1}
    f1 = [[part[fold].info["scores"]["f1_weighted"] for fold in both] for part in (one, two)]
    costs = [part[both[0]].info["flops"] for part in (one, two)] if both else [None, None]
    return {
        "claim": words,
        "row": name,
        "against": other,
        "folds": both,
        "difference": paired_difference(f1[0], f1[1], cells["fit"], cells["test"]) if both else None,
        "cost_ratio": costs[1] / costs[0] if costs[0] and costs[1] else None,
    }


def confidence_table(folds: Sequence[FoldResult]) -> dict[str, Any]:
    """The paper's Figure 4: for M + 1 inputs, each head's mean confidence, its quartiles, and how often it is right.

    Returns:
        ``inputs``: names, ``all`` first; ``confidence``, ``low``, ``high``, ``accuracy``: (M + 1, H) lists.
    """
    modalities = folds[0].modalities
    logits = [np.concatenate([fold.arrays["test_logits"] for fold in folds])]
    logits += [np.concatenate([fold.arrays["alone_logits"][m] for fold in folds]) for m in range(len(modalities))]
    labels = np.concatenate([fold.arrays["test_labels"] for fold in folds])
    stacked = np.stack([softmax(part.astype(np.float64), axis=-1) for part in logits])  # (M + 1, N, H, K)
    most = stacked.max(axis=-1)
    low, high = np.quantile(most, (0.25, 0.75), axis=1)
    right = (stacked.argmax(axis=-1) == labels[None, :, None]).mean(axis=1)
    return {
        "inputs": ["all", *modalities],
        "confidence": most.mean(axis=1).tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
        "accuracy": right.tolist(),
    }


def reliability_bins(folds: Sequence[FoldResult], bins: int = 10) -> list[tuple[float, float, int]]:
    """Mean confidence, accuracy and cells in equal bins of the plain mean's confidence; empty bins left out."""
    probability = np.concatenate([mean_probability(fold.arrays["test_logits"]) for fold in folds])
    labels = np.concatenate([fold.arrays["test_labels"] for fold in folds])
    confidence, right = probability.max(axis=1), probability.argmax(axis=1) == labels
    index = np.clip((confidence * bins).astype(int), 0, bins - 1)
    return [
        (float(confidence[index == b].mean()), float(right[index == b].mean()), int((index == b).sum()))
        for b in range(bins)
        if (index == b).any()
    ]


def recommend(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The row of highest weighted F1, and the cheapest that is within a standard error of it.

    While a study runs some rows are ahead: they are compared on the folds that all have, for folds differ in difficulty
    (where there is none, on the one that most have).
    """
    f1 = {name: dict(zip(row["folds"], row["f1_calibrated_by_fold"], strict=True)) for name, row in rows.items()}
    shared = set.intersection(*(set(by_fold) for by_fold in f1.values()))
    if not shared:
        shared = {Counter(fold for by_fold in f1.values() for fold in by_fold).most_common(1)[0][0]}
    compared = {name: [by_fold[k] for k in sorted(shared)] for name, by_fold in f1.items() if shared <= set(by_fold)}
    mean = {name: float(np.mean(values)) for name, values in compared.items()}
    best = max(mean, key=lambda name: mean[name])
    error = float(np.std(compared[best], ddof=1) / np.sqrt(len(shared))) if len(shared) > 1 else 0.0
    near = [name for name in mean if mean[name] >= mean[best] - error]
    cheap = min(near, key=lambda name: (rows[name]["flops"] or rows[name]["parameters"], -mean[name]))
    return {"best": best, "cheapest": cheap}
