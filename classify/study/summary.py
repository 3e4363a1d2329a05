"""The figures of a study as typed records, for the tables and for JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from wbcpipe.classify.metrics import ScoreSummary

__all__ = [
    "BackboneSummary",
    "ClaimSummary",
    "ConfidenceTable",
    "Difference",
    "HeadSummary",
    "MissingF1",
    "Recommendation",
    "RowSummary",
    "StudySummary",
]


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
