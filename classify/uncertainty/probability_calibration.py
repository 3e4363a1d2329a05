"""From logits to calibrated probabilities, a predicted class, or ``unidentified``.

Each head has its own temperature (Guo et al., https://doi.org/10.48550/arXiv.1706.04599). The
heads' probabilities are averaged with weights that are fitted on validation cells and regularised
towards equal weights. The mean is underconfident where heads agree, so it has a temperature of its
own. All is fitted on cells that no network was trained on. Where cross-validation on these cells
finds `stacking` better than the mean, it replaces the mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import scipy
from pydantic import BaseModel, ConfigDict, Field

from wbcpipe.classify.uncertainty.head_disagreement import DisagreementLimits
from wbcpipe.classify.uncertainty.prevalence import CorrectionTrial
from wbcpipe.classify.uncertainty.risk_control import RiskBounds
from wbcpipe.classify.uncertainty.stacking import Stacking, fit_stacking

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "ProbabilityCalibration",
    "disagreement",
    "fit_calibration",
    "fuse",
    "fused_probability",
    "head_probability",
    "mean_probability",
    "negative_log_likelihood",
    "stratified_parts",
    "without_heads",
]

PRIOR_CELLS: Final = 25.0
"""Each head's weight is regularised towards 1 / heads as if this many cells a head had been seen.
"""
TEMPERATURES: Final = (0.05, 20.0)
_OF_ALL_HEADS: Final = (
    "stacking",
    "risk_bounds",
    "head_disagreement",
    "confusion",
    "correction",
    "f1_weighted",
    "accepted_accuracy",
)


class ProbabilityCalibration(BaseModel):
    """What was fitted on validation cells.

    Attributes:
        temperatures: one per head; its logits are divided by it.
        weights: one per head, summing to 1.
        fused_temperature: the logarithm of the fused probability is divided by it.
        threshold: cells of lower confidence are ``unidentified``.
        target_accuracy: wanted accuracy of the accepted predictions.
        accepted_accuracy: accuracy of the accepted predictions on the test cells.
        unidentified_fraction: share of the test cells below the threshold.
        cells: number of validation cells.
        nll_before: mean negative log likelihood of the plain mean of the heads.
        nll_after: the same, calibrated.
        stacking: how heads are fused; ``None`` for the weighted mean.
        risk_bounds: bounds of the error among accepted predictions.
        head_disagreement: limits of the distance between the heads.
        confusion: (K, K) counts of validation cells; row the true class, column the most probable
            one.
        correction: whether correcting the percentages helped on the test cells.
        f1_weighted: of the test cells, without a threshold.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperatures: tuple[float, ...]
    weights: tuple[float, ...]
    fused_temperature: float = Field(default=1.0, gt=0)
    threshold: float = Field(default=0.0, ge=0, le=1)
    target_accuracy: float = 0.99
    accepted_accuracy: float | None = None
    unidentified_fraction: float = 0.0
    cells: int = 0
    nll_before: float | None = None
    nll_after: float | None = None
    stacking: Stacking | None = None
    risk_bounds: RiskBounds | None = None
    head_disagreement: DisagreementLimits | None = None
    confusion: tuple[tuple[int, ...], ...] | None = None
    correction: CorrectionTrial | None = None
    f1_weighted: float | None = None


def _softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    probability: NDArray[np.float64] = scipy.special.softmax(logits.astype(np.float64), axis=-1)
    return probability


def mean_probability(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the published fusion: the plain mean (N, K) of the heads' softmax, from logits (N,
    heads, K).
    """
    mean: NDArray[np.float64] = _softmax(logits).mean(axis=1)
    return mean


def head_probability(
    logits: NDArray[np.floating[Any]], calibration: ProbabilityCalibration
) -> NDArray[np.float64]:
    """Return the calibrated probabilities (N, heads, K) of logits (N, heads, K)."""
    return _softmax(logits / np.asarray(calibration.temperatures)[None, :, None])


def fuse(
    probability: NDArray[np.floating[Any]], calibration: ProbabilityCalibration
) -> NDArray[np.float64]:
    """Return the fused probability (N, K) of calibrated heads (N, heads, K)."""
    if calibration.stacking is not None:
        return _sharpen(calibration.stacking.fuse(probability), calibration.fused_temperature)
    mixed = np.einsum("nhk,h->nk", probability.astype(np.float64), np.asarray(calibration.weights))
    return _sharpen(mixed, calibration.fused_temperature)


def fused_probability(
    logits: NDArray[np.floating[Any]], calibration: ProbabilityCalibration
) -> NDArray[np.float64]:
    """Return the calibrated and fused probability (N, K) of logits (N, heads, K)."""
    return fuse(head_probability(logits, calibration), calibration)


def without_heads(
    calibration: ProbabilityCalibration, missing: Sequence[int]
) -> ProbabilityCalibration:
    """Return the calibration without some heads: the weighted mean of the others.

    What was fitted with all heads (stacking, risk bounds, limits of disagreement) is not valid any
    more and is removed.

    Args:
        calibration: of all heads.
        missing: indices of the heads to leave out; with one head, or all of them missing, none is
            left out.
    """
    weights = np.asarray(calibration.weights, np.float64)
    weights[list(missing)] = 0.0
    if not weights.any():
        weights = np.asarray(calibration.weights, np.float64)
    changes = {"weights": tuple(float(value) for value in weights / weights.sum())}
    return calibration.model_copy(update={**changes, **dict.fromkeys(_OF_ALL_HEADS)})


def _sharpen(probability: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    return _softmax(np.log(np.clip(probability, 1e-12, None)) / temperature)


def disagreement(probability: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the Jensen-Shannon divergence (N,) of the heads (N, heads, K), divided by its maximum.

    It is 0 where all heads agree and 1 where each is certain of another class. Lin,
    https://doi.org/10.1109/18.61115.
    """
    heads, classes = probability.shape[1:]
    if heads == 1:
        return np.zeros(len(probability))
    each = probability.astype(np.float64)
    divergence = _entropy(each.mean(axis=1)) - _entropy(each).mean(axis=1)
    scaled: NDArray[np.float64] = np.clip(divergence / np.log(min(heads, classes)), 0.0, 1.0)
    return scaled


def _entropy(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = -(probability * np.log(np.clip(probability, 1e-12, None))).sum(
        axis=-1
    )
    return total


def negative_log_likelihood(
    labels: NDArray[np.int64], probability: NDArray[np.floating[Any]]
) -> float:
    """Return the mean over cells of minus the log of the probability (N, K) given to the true
    class.
    """
    return float(-np.log(np.clip(probability[np.arange(len(labels)), labels], 1e-12, None)).mean())


def _best_temperature(logits: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> float:
    """Return the temperature of logits (N, K) that fits best.

    One cell's worth of doubt is spread over the wrong classes, as Platt does: cells that are all
    predicted right would otherwise lead to certainty, which N cells cannot show.
    """
    doubt = 1.0 / (len(labels) + 2)

    def loss(log_t: float) -> float:
        log_p = np.log(np.clip(_softmax(logits / np.exp(log_t)), 1e-12, None))
        right = log_p[np.arange(len(labels)), labels]
        wrong = (log_p.sum(axis=1) - right) / (log_p.shape[1] - 1)
        return float(-((1 - doubt) * right + doubt * wrong).mean())

    low, high = np.log(TEMPERATURES)
    found = scipy.optimize.minimize_scalar(loss, bounds=(low, high), method="bounded")
    return round(float(np.exp(found.x)), 4)


def fit_calibration(
    logits: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    *,
    target_accuracy: float = 0.99,
    max_unidentified_fraction: float = 0.05,
    stacked: bool = False,
) -> ProbabilityCalibration:
    """Fit temperatures, weights and threshold on validation cells.

    Args:
        logits: (N, heads, K).
        labels: (N,) int64.
        target_accuracy: wanted accuracy of the accepted predictions.
        max_unidentified_fraction: largest share of these cells that may be unidentified to reach
            it.
        stacked: fuse by stacking instead of the weighted mean.
    """
    heads = logits.shape[1]
    temperatures = tuple(_best_temperature(logits[:, head], labels) for head in range(heads))
    each = _softmax(logits / np.asarray(temperatures)[None, :, None])
    weights = _mixture_weights(each, labels)
    mixed = (
        _cross_fitted(each, labels)
        if stacked
        else np.einsum("nhk,h->nk", each, np.asarray(weights))
    )
    fused_temperature = _best_temperature(np.log(np.clip(mixed, 1e-12, None)), labels)
    fused = _sharpen(mixed, fused_temperature)
    threshold = choose_threshold(labels, fused, target_accuracy, max_unidentified_fraction)
    accepted = fused.max(axis=1) >= threshold
    right = (fused.argmax(axis=1) == labels)[accepted]
    return ProbabilityCalibration(
        temperatures=temperatures,
        weights=weights,
        fused_temperature=fused_temperature,
        threshold=threshold,
        target_accuracy=target_accuracy,
        accepted_accuracy=float(right.mean()) if right.size else None,
        unidentified_fraction=float(1 - accepted.mean()),
        cells=len(labels),
        nll_before=negative_log_likelihood(labels, mean_probability(logits)),
        nll_after=negative_log_likelihood(labels, fused),
        stacking=fit_stacking(each, labels) if stacked else None,
    )


def _cross_fitted(each: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return each cell's stacked probability (N, K), fitted on the other cells to avoid
    overconfidence.
    """
    part = stratified_parts(labels)
    fused = np.empty((len(labels), each.shape[2]))
    for number in np.unique(part):
        held_out = part == number
        fused[held_out] = fit_stacking(each[~held_out], labels[~held_out]).fuse(each[held_out])
    return fused


def stratified_parts(labels: NDArray[np.int64], parts: int = 5) -> NDArray[np.int64]:
    """Return the part (N,), 0 to ``parts - 1``, of each cell.

    Each part has its share of each class.
    """
    rng = np.random.default_rng(0)
    part = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        part[rows] = (np.arange(len(rows)) + rng.integers(parts)) % parts
    return part


def _mixture_weights(
    probability: NDArray[np.float64], labels: NDArray[np.int64]
) -> tuple[float, ...]:
    """Return the maximum a posteriori weights of the mixture of heads, by expectation maximisation.

    The likelihood is concave in the weights, so it has one maximum; a Dirichlet prior regularises
    them to equal shares.
    """
    heads = probability.shape[1]
    likelihood = probability[np.arange(len(labels)), :, labels]  # (N, heads)
    weights = np.full(heads, 1.0 / heads)
    for _ in range(200):
        joint = likelihood * weights + 1e-15
        share = (joint / joint.sum(axis=1, keepdims=True)).sum(axis=0) + PRIOR_CELLS
        weights = share / share.sum()
    rounded = np.round(weights, 4)
    return tuple(float(value) for value in rounded / rounded.sum())


def choose_threshold(
    labels: NDArray[np.int64],
    probability: NDArray[np.floating[Any]],
    target_accuracy: float,
    max_unidentified_fraction: float,
) -> float:
    """Return the lowest threshold at which the accepted predictions reach the target accuracy.

    Args:
        labels: (N,) int64.
        probability: (N, K), fused.
        target_accuracy: wanted accuracy of the accepted predictions.
        max_unidentified_fraction: largest share of the cells that may be unidentified.

    Returns: The threshold, rounded down to 4 digits; if the target cannot be reached, the threshold
        at which the largest allowed share is unidentified.
    """
    confidence = probability.max(axis=1)
    order = np.argsort(confidence, kind="stable")
    right = (probability.argmax(axis=1) == labels)[order].astype(np.float64)
    kept = np.arange(len(labels), 0, -1)
    accuracy = np.cumsum(right[::-1])[::-1] / kept  # of the cells from this rank on
    last = min(int(np.floor(max_unidentified_fraction * len(labels))), len(labels) - 1)
    enough = np.flatnonzero(accuracy[: last + 1] >= target_accuracy)
    rank = int(enough[0]) if enough.size else last
    if rank == 0:
        return 0.0
    return float(np.floor(confidence[order[rank]] * 1e4) / 1e4)
