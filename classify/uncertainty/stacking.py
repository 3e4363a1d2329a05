"""Fusion of several heads by stacking.

A multinomial logistic regression on their log probabilities.

Wolpert, https://doi.org/10.1016/S0893-6080(05)80023-1. The regression is regularised towards the
logarithmic opinion pool, which multiplies the heads' probabilities, each to the power of a weight
(Genest and Zidek, https://doi.org/10.1214/ss/1177013825). It fuses better than a weighted mean
where heads are unequal or dependent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import scipy
from pydantic import BaseModel, ConfigDict, model_validator

from wbcpipe.system.blas_threads import single_threaded_blas

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["Stacking", "fit_stacking"]

MIN_PROBABILITY: Final = 1e-6
"""Each head gives a class at least this probability: one head alone must not exclude a class."""
EXPONENT_PRIOR: Final = 3.0
MATRIX_PRIOR: Final = 30.0
"""Weights of the squared distance from the prior, in units of one cell's log likelihood."""


class Stacking(BaseModel):
    """A fitted regression.

    Attributes:
        matrices: (H, K, K); head h's log probability of class k adds ``matrices[h][j][k]`` times
            itself to class j.
        bias: (K,) added to each class.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    matrices: tuple[tuple[tuple[float, ...], ...], ...]
    bias: tuple[float, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        heads, classes = len(self.matrices), len(self.bias)
        if np.shape(self.matrices) != (heads, classes, classes):
            raise ValueError(
                f"{heads} heads and {classes} classes need matrices of shape "
                f"{(heads, classes, classes)}, got {np.shape(self.matrices)}"
            )
        return self

    def fuse(self, probability: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return the fused probability (N, K) of calibrated heads (N, H, K)."""
        return _regress(
            _log_probability(probability), np.asarray(self.matrices), np.asarray(self.bias)
        )


def fit_stacking(probability: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> Stacking:
    """Fit by penalised maximum likelihood.

    The target of each cell leaves one cell's worth of doubt to the wrong classes, as the
    temperatures do.

    Args:
        probability: (N, H, K), calibrated, of validation cells.
        labels: (N,) int64.
    """
    count, _, classes = probability.shape
    doubt = 1.0 / (count + 2)
    target = np.full((count, classes), doubt / (classes - 1))
    target[np.arange(count), labels] = 1 - doubt
    logs = _log_probability(probability)
    prior = _fit_exponents(logs, target)[:, None, None] * np.eye(classes)  # (H, K, K)
    size = prior.size

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        matrices, bias = flat[:size].reshape(prior.shape), flat[size:]
        fused = _regress(logs, matrices, bias)
        away = matrices - prior
        value = -(target * np.log(np.clip(fused, 1e-12, None))).sum()
        value += MATRIX_PRIOR * ((away**2).sum() + (bias**2).sum())
        by_matrix = np.einsum("nj,nhk->hjk", fused - target, logs) + 2 * MATRIX_PRIOR * away
        by_bias = (fused - target).sum(axis=0) + 2 * MATRIX_PRIOR * bias
        return float(value), np.concatenate([by_matrix.ravel(), by_bias])

    found = np.round(_minimise(loss, np.concatenate([prior.ravel(), np.zeros(classes)])), 5)
    return Stacking.model_validate(
        {"matrices": found[:size].reshape(prior.shape).tolist(), "bias": found[size:].tolist()}
    )


def _log_probability(probability: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    logs: NDArray[np.float64] = np.log(
        np.clip(probability.astype(np.float64), MIN_PROBABILITY, None)
    )
    return logs


def _regress(
    logs: NDArray[np.float64], matrices: NDArray[np.float64], bias: NDArray[np.float64]
) -> NDArray[np.float64]:
    fused: NDArray[np.float64] = scipy.special.softmax(
        np.einsum("nhk,hjk->nj", logs, matrices) + bias, axis=-1
    )
    return fused


def _fit_exponents(logs: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fit the exponents (H,) of the logarithmic pool, none negative, regularised towards 1 / H."""
    heads = logs.shape[1]
    prior = np.full(heads, 1.0 / heads)

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        fused = scipy.special.softmax(np.einsum("nhk,h->nk", logs, weights), axis=-1)
        value = (
            -(target * np.log(np.clip(fused, 1e-12, None))).sum()
            + EXPONENT_PRIOR * ((weights - prior) ** 2).sum()
        )
        slope = np.einsum("nk,nhk->h", fused - target, logs) + 2 * EXPONENT_PRIOR * (
            weights - prior
        )
        return float(value), slope

    return _minimise(loss, prior, lower=0.0)


def _minimise(
    loss: Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64]]],
    start: NDArray[np.float64],
    *,
    lower: float | None = None,
) -> NDArray[np.float64]:
    with single_threaded_blas():
        found = scipy.optimize.minimize(
            loss, start, jac=True, method="L-BFGS-B", bounds=[(lower, None)] * len(start)
        )
    return np.asarray(found.x, np.float64)
