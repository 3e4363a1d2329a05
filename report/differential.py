"""Counts to percentages, exact intervals and flags. Pure: knows no files and no pictures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from wbcpipe.classify.uncertainty.clopper_pearson import clopper_pearson
from wbcpipe.errors import SampleStateError
from wbcpipe.samples.cell_columns import UNIDENTIFIED, QcFlag

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = [
    "ADULT",
    "COUNTED_WITH_WARNING",
    "REJECTED",
    "ClassCount",
    "Differential",
    "Flag",
    "Interval",
    "Reference",
    "Tally",
    "count_cells",
    "exclusion_reasons",
    "flag_percent",
    "interval_percent",
]

Flag = Literal["low", "normal", "high", "borderline"]
Interval = tuple[float, float]


#: What leaves a cell out of the differential, in the order in which one reason is named for a cell with several.
#: No cell, half a cell, a cell seen in three lights instead of four, or a blurred one: none tells its class reliably.
REJECTED: Final = (QcFlag.DEBRIS, QcFlag.BORDER, QcFlag.MISSING_MODALITY, QcFlag.BLURRED)
#: Counted, for leaving them out would bias the count (neutrophils touch others more often), but watched by a gate.
COUNTED_WITH_WARNING: Final = (QcFlag.DOUBLET, QcFlag.SATURATED, QcFlag.UNREGISTERED)


@dataclass(frozen=True)
class Reference:
    """Reference intervals of a laboratory.

    Attributes:
        percent: class name to lowest and highest percentage that count as normal.
        source: whose intervals they are.
    """

    percent: Mapping[str, Interval]
    source: str


#: Adults, relative counts. A laboratory replaces them by its own, for its own population (``--reference FILE``).
ADULT: Final = Reference(
    percent={"NEU": (40.0, 75.0), "LYM": (20.0, 45.0), "EOS": (1.0, 6.0), "MO": (2.0, 10.0), "BAS": (0.0, 2.0)},
    source="textbook intervals for adults (Oxford Handbook of Clinical Medicine; basophils after Dacie and Lewis, "
    "Practical Haematology)",
)


@dataclass(frozen=True)
class Tally:
    """Every cell of a sample, counted once.

    Attributes:
        counts: identified cells per class, in the bundle's class order; zero where there are none.
        unidentified: good pictures that the model was not sure of.
        rejected: cells left out, by the first reason of ``REJECTED`` that holds.
        counted_with_warning: counted or unidentified cells by flag of ``COUNTED_WITH_WARNING``; a cell can have more.
    """

    counts: Mapping[str, int]
    unidentified: int
    rejected: Mapping[str, int]
    counted_with_warning: Mapping[str, int]

    @property
    def identified(self) -> int:
        """Cells in the denominator of the percentages."""
        return sum(self.counts.values())

    @property
    def cells(self) -> int:
        """All cells: identified, unidentified and rejected."""
        return self.identified + self.unidentified + sum(self.rejected.values())


@dataclass(frozen=True)
class ClassCount:
    """One line of the differential.

    Attributes:
        name: class name.
        count: cells called so.
        percent: of the identified cells; ``None`` when there are none.
        interval_percent: 95 % Clopper-Pearson interval.
        reference_percent: the laboratory's interval; ``None`` where it has none for this class.
        flag: see `flag_percent`; ``None`` without reference or cells.
        concentration_1e9_per_l: absolute count; ``None`` when the WBC concentration is not known.
        concentration_interval_1e9_per_l: the interval above times the WBC concentration, which is taken as exact.
    """

    name: str
    count: int
    percent: float | None
    interval_percent: Interval
    reference_percent: Interval | None = None
    flag: Flag | None = None
    concentration_1e9_per_l: float | None = None
    concentration_interval_1e9_per_l: Interval | None = None


@dataclass(frozen=True)
class Differential:
    """The answer: what share of the white cells each class has.

    Attributes:
        tally: the counts it rests on.
        classes: one line per class, in the bundle's order.
        unidentified_percent: of identified and unidentified cells together; ``None`` when there are none.
        unidentified_interval_percent: its 95 % interval.
        reference: the intervals used for the flags.
        wbc_1e9_per_l: white-cell concentration given by the user.
    """

    tally: Tally
    classes: tuple[ClassCount, ...]
    unidentified_percent: float | None
    unidentified_interval_percent: Interval
    reference: Reference = field(default=ADULT)
    wbc_1e9_per_l: float | None = None

    @classmethod
    def from_tally(
        cls, tally: Tally, *, reference: Reference = ADULT, wbc_1e9_per_l: float | None = None
    ) -> Differential:
        """Percentages, intervals, flags and, with a WBC concentration, absolute counts.

        >>> tally = Tally({"NEU": 60, "LYM": 40}, unidentified=0, rejected={}, counted_with_warning={})
        >>> [(line.name, line.percent, line.flag) for line in Differential.from_tally(tally).classes]
        [('NEU', 60.0, 'normal'), ('LYM', 40.0, 'normal')]
        """
        total = tally.identified
        seen = total + tally.unidentified
        return cls(
            tally=tally,
            classes=tuple(
                _class_count(name, count, total, reference.percent.get(name), wbc_1e9_per_l)
                for name, count in tally.counts.items()
            ),
            unidentified_percent=100 * tally.unidentified / seen if seen else None,
            unidentified_interval_percent=interval_percent(tally.unidentified, seen),
            reference=reference,
            wbc_1e9_per_l=wbc_1e9_per_l,
        )


def _class_count(name: str, count: int, total: int, reference: Interval | None, wbc: float | None) -> ClassCount:
    interval = interval_percent(count, total)
    percent = 100 * count / total if total else None
    absolute = wbc if total else None
    return ClassCount(
        name=name,
        count=count,
        percent=percent,
        interval_percent=interval,
        reference_percent=reference,
        flag=None if percent is None or reference is None else flag_percent(percent, interval, reference),
        concentration_1e9_per_l=None if absolute is None else absolute * count / total,
        concentration_interval_1e9_per_l=None
        if absolute is None
        else (absolute * interval[0] / 100, absolute * interval[1] / 100),
    )


def interval_percent(count: int, total: int) -> Interval:
    """Return the 95 % Clopper-Pearson interval of a proportion, in per cent; 0 to 100 when nothing was counted.

    >>> [round(bound, 2) for bound in interval_percent(5, 10)]
    [18.71, 81.29]
    """
    low, high = clopper_pearson(count, total)
    return 100 * low, 100 * high


def flag_percent(percent: float, interval: Interval, reference: Interval) -> Flag:
    """How an estimate lies to its reference interval.

    ``low`` and ``high`` only when the whole confidence interval lies outside; ``borderline`` when the estimate does but
    the interval reaches back in: counting more cells would tell.
    """
    low, high = reference
    if interval[1] < low:
        return "low"
    if interval[0] > high:
        return "high"
    return "normal" if low <= percent <= high else "borderline"


def exclusion_reasons(quality: NDArray[np.uint16]) -> list[str]:
    """Why each cell is left out, in lower case; empty for a cell that counts.

    Args:
        quality: (N,) bit flags of `QcFlag`.
    """
    reasons = np.full(len(quality), "", dtype=object)
    for flag in reversed(REJECTED):
        reasons[(quality & flag.value) != 0] = flag_name(flag)
    return [str(reason) for reason in reasons]


def flag_name(flag: QcFlag) -> str:
    """The name of one quality flag as documents show it: lower case."""
    return str(flag.name).lower()


def count_cells(calls: Sequence[str], quality: NDArray[np.uint16], classes: Sequence[str]) -> Tally:
    """Count every cell once: as its class, as unidentified, or as rejected.

    Args:
        calls: N class names or ``unidentified``.
        quality: (N,) bit flags of `QcFlag`.
        classes: the bundle's classes.

    Raises:
        SampleStateError: a call that is neither a class nor ``unidentified``.
    """
    if strange := sorted(set(calls) - {*classes, UNIDENTIFIED}):
        raise SampleStateError(
            f"calls {strange} are not classes of the bundle ({', '.join(classes)}); run `wbcpipe classify` again."
        )
    reasons = exclusion_reasons(quality)
    used = Counter(call for call, reason in zip(calls, reasons, strict=True) if not reason)
    left_out = Counter(reason for reason in reasons if reason)
    good = np.array([not reason for reason in reasons], dtype=bool)
    return Tally(
        counts={name: used[name] for name in classes},
        unidentified=used[UNIDENTIFIED],
        rejected={flag_name(flag): left_out[flag_name(flag)] for flag in REJECTED},
        counted_with_warning={
            flag_name(flag): int(np.count_nonzero(quality[good] & flag.value)) for flag in COUNTED_WITH_WARNING
        },
    )
