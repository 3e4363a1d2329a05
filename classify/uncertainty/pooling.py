"""How the answers of several heads become one: pools of opinions, fitted on held-out cells.

``mixture`` adds the heads' calibrated probabilities (the linear pool, as published but with weights). Others may fuse
better where heads are unequal or depend on each other: ``class-mixture`` has a weight for each head and class;
``log-pool`` multiplies (the product of experts, Genest and Zidek, https://doi.org/10.1214/ss/1177013825), each head to
the power of its weight; ``stacked`` is a multinomial logistic regression on the heads' log probabilities (Wolpert,
https://doi.org/10.1016/S0893-6080(05)80023-1) that is drawn towards the log-pool.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator
from scipy.optimize import minimize
from threadpoolctl import ThreadpoolController

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["POOLS", "Pool", "PoolKind", "fit_pool", "log_probability"]

PoolKind = Literal["class-mixture", "log-pool", "stacked"]
POOLS: Final[tuple[PoolKind, ...]] = ("class-mixture", "log-pool", "stacked")

FLOOR: Final = 1e-6
"""Least probability that a head is taken to give a class: one head alone must not forbid it."""
LOG_PRIOR: Final = 3.0
STACK_PRIOR: Final = 30.0
CLASS_PRIOR: Final = 5.0
"""Weights of the squared distance from where parameters are drawn to, in cells' worth of log likelihood."""


class Pool(BaseModel):
    """A fitted pool.

    Attributes:
        kind: see the module.
        weights: (H, K) of ``class-mixture``, each column summing to 1; else (H, 1), each head's exponent.
        matrices: (H, K, K) of ``stacked``: what each head's log probability of class k adds to class j, [h][j][k].
        bias: (K,) of ``stacked``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: PoolKind
    weights: tuple[tuple[float, ...], ...]
    matrices: tuple[tuple[tuple[float, ...], ...], ...] = ()
    bias: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        heads, classes = len(self.weights), len(self.bias)
        if self.kind != "stacked":
            if self.matrices or self.bias:
                raise ValueError(f"a pool of kind {self.kind!r} has no matrices and no bias")
        elif np.shape(self.matrices) != (heads, classes, classes):
            raise ValueError(
                f"a stacked pool of {heads} heads and {classes} classes needs matrices of shape "
                f"{(heads, classes, classes)}, got {np.shape(self.matrices)}"
            )
        return self

    def fuse(self, probability: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Fused probability (N, K) of calibrated heads (N, H, K)."""
        weights = np.asarray(self.weights, np.float64)
        if self.kind == "class-mixture":
            mixed = np.einsum("nhk,hk->nk", probability.astype(np.float64), weights)
            result: NDArray[np.float64] = mixed / mixed.sum(axis=1, keepdims=True)
            return result
        logs = log_probability(probability)
        if self.kind == "log-pool":
            return _softmax(np.einsum("nhk,h->nk", logs, weights[:, 0]))
        return _softmax(np.einsum("nhk,hjk->nj", logs, np.asarray(self.matrices)) + np.asarray(self.bias))


def log_probability(probability: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Logarithms of probabilities of any shape, none below that of ``FLOOR``."""
    logs: NDArray[np.float64] = np.log(np.clip(probability.astype(np.float64), FLOOR, None))
    return logs


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return result


def fit_pool(kind: PoolKind, probability: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> Pool:
    """Fit a pool by penalised maximum likelihood.

    One cell's worth of doubt is spread over the wrong classes, as for the temperatures.

    Args:
        kind: which.
        probability: (N, H, K), calibrated, of held-out cells.
        labels: (N,) int64.
    """
    count, _, classes = probability.shape
    doubt = 1.0 / (count + 2)
    target = np.full((count, classes), doubt / (classes - 1))
    target[np.arange(count), labels] = 1 - doubt
    if kind == "class-mixture":
        return _fit_class_mixture(probability.astype(np.float64), target)
    logs = log_probability(probability)
    weights = _fit_exponents(logs, target)
    if kind == "log-pool":
        return Pool(kind=kind, weights=tuple((value,) for value in _rounded(weights)))
    return _fit_stacked(logs, target, weights)


def _fit_class_mixture(probability: NDArray[np.float64], target: NDArray[np.float64]) -> Pool:
    heads, classes = probability.shape[1:]

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        free = flat.reshape(heads, classes)
        weights = _softmax(free.T).T  # (H, K)
        terms = probability * weights  # (N, H, K)
        mixed = np.clip(terms.sum(axis=1), 1e-12, None)  # (N, K)
        total = mixed.sum(axis=1, keepdims=True)
        slope = -target / mixed + 1 / total  # (N, K), of the loss by the mixed value
        by_weight = np.einsum("nk,nhk->hk", slope, probability)
        by_free = weights * (by_weight - (weights * by_weight).sum(axis=0))
        value = -(target * np.log(mixed / total)).sum() + CLASS_PRIOR * (free**2).sum()
        return float(value), (by_free + 2 * CLASS_PRIOR * free).ravel()

    found = _minimise(loss, np.zeros(heads * classes)).reshape(heads, classes)
    weights = _softmax(found.T).T
    return Pool(kind="class-mixture", weights=tuple(tuple(_rounded(row)) for row in weights))


def _fit_exponents(logs: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Exponents (H,) of the log-linear pool, none negative, drawn to 1 / H."""
    heads = logs.shape[1]
    prior = np.full(heads, 1.0 / heads)

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        fused = _softmax(np.einsum("nhk,h->nk", logs, weights))
        value = -(target * np.log(np.clip(fused, 1e-12, None))).sum() + LOG_PRIOR * ((weights - prior) ** 2).sum()
        slope = np.einsum("nk,nhk->h", fused - target, logs) + 2 * LOG_PRIOR * (weights - prior)
        return float(value), slope

    return _minimise(loss, prior, lowest=0.0)


def _fit_stacked(logs: NDArray[np.float64], target: NDArray[np.float64], weights: NDArray[np.float64]) -> Pool:
    classes = logs.shape[2]
    prior = weights[:, None, None] * np.eye(classes)  # (H, K, K)
    size = prior.size

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        matrices, bias = flat[:size].reshape(prior.shape), flat[size:]
        fused = _softmax(np.einsum("nhk,hjk->nj", logs, matrices) + bias)
        away = matrices - prior
        value = -(target * np.log(np.clip(fused, 1e-12, None))).sum()
        value += STACK_PRIOR * ((away**2).sum() + (bias**2).sum())
        by_matrix = np.einsum("nj,nhk->hjk", fused - target, logs) + 2 * STACK_PRIOR * away
        by_bias = (fused - target).sum(axis=0) + 2 * STACK_PRIOR * bias
        return float(value), np.concatenate([by_matrix.ravel(), by_bias])

    found = _minimise(loss, np.concatenate([prior.ravel(), np.zeros(classes)]))
    matrices = found[:size].reshape(prior.shape)
    return Pool(
        kind="stacked",
        weights=tuple((value,) for value in _rounded(weights)),
        matrices=tuple(tuple(tuple(_rounded(row)) for row in matrix) for matrix in matrices),
        bias=tuple(_rounded(found[size:])),
    )


def _minimise(
    loss: Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64]]],
    start: NDArray[np.float64],
    *,
    lowest: float | None = None,
) -> NDArray[np.float64]:
    # Its matrices are a few numbers wide: BLAS waking its threads for them takes ten times as long as the fit.
    with _threads().limit(limits=1, user_api="blas"):
        found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(lowest, None)] * len(start))
    return np.asarray(found.x, np.float64)


@functools.cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [float(value) for value in np.round(values, 5)]
