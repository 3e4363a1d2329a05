"""From counts to percentages, exact intervals and flags; reads no files."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from wbcpipe.classify.uncertainty.clopper_pearson import clopper_pearson
from wbcpipe.errors import SampleStateError
from wbcpipe.samples.cell_columns import REJECTED, UNIDENTIFIED, QcFlag, flag_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from wbcpipe.samples.differential_record import Flag

__all__ = [
    "ADULT",
    "Differential",
    "Reference",
    "Tally",
    "count_cells",
    "exclusion_reasons",
    "flag_percent",
    "interval_percent",
    "tally_cells",
]

Interval = tuple[float, float]

#: Flags of cells that count, with a warning and a gate: excluding them would bias the count, since
#: neutrophils touch other cells more often.
COUNTED_WITH_WARNING: Final = (QcFlag.DOUBLET, QcFlag.SATURATED, QcFlag.UNREGISTERED)


@dataclass(frozen=True)
class Reference:
    """Reference intervals of a laboratory.

    Attributes:
        percent: class name to the lowest and highest normal percentage.
        source: of the intervals.
    """

    percent: Mapping[str, Interval]
    source: str


#: Adults, relative counts. A laboratory replaces them by those of its own population (``--reference
#: FILE``).
ADULT: Final = Reference(
    percent={
        "NEU": (40.0, 75.0),
        "LYM": (20.0, 45.0),
        "EOS": (1.0, 6.0),
        "MO": (2.0, 10.0),
        "BAS": (0.0, 2.0),
    },
    source="textbook intervals for adults (Oxford Handbook of Clinical Medicine; basophils after "
    "Dacie and Lewis, Practical Haematology)",
)


@dataclass(frozen=True)
class Tally:
    """Every cell of a sample, counted once.

    Attributes:
        counts: identified cells per class, in the bundle's class order; zero where there are none.
        unidentified: cells whose class the model is not sure of.
        rejected: excluded cells by reason: the first flag of ``REJECTED`` that they carry.
        counted_with_warning: counted or unidentified cells by flag of ``COUNTED_WITH_WARNING``; a
            cell can have more.
        excluded_by_reader: cells that a person excluded: ``not_classed``, ``artefact``, or by the
            name of a class of what is no white cell.
    """

    counts: Mapping[str, int]
    unidentified: int
    rejected: Mapping[str, int]
    counted_with_warning: Mapping[str, int]
    excluded_by_reader: Mapping[str, int] = field(default_factory=dict)

    @property
    def identified(self) -> int:
        """Cells in the denominator of the percentages."""
        return sum(self.counts.values())

    @property
    def cells(self) -> int:
        """All cells: identified, unidentified, rejected and excluded by a reader."""
        return (
            self.identified
            + self.unidentified
            + sum((*self.rejected.values(), *self.excluded_by_reader.values()))
        )


@dataclass(frozen=True)
class ClassCount:
    """One line of the differential.

    Attributes:
        name: class name.
        count: identified cells of the class.
        percent: of the identified cells; ``None`` when there are none.
        interval_percent: 95 % Clopper-Pearson interval.
        reference_percent: the laboratory's interval; ``None`` where it has none for this class.
        flag: see `flag_percent`; ``None`` without reference or cells.
        concentration_1e9_per_l: absolute count; ``None`` when the WBC concentration is not known.
        concentration_interval_1e9_per_l: the interval above times the WBC concentration, which is
            taken as exact.
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
    """The share of each class among the white cells.

    Attributes:
        tally: the counts.
        classes: one line per class, in the bundle's order.
        unidentified_percent: of identified and unidentified cells together; ``None`` when there are
            none.
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
        """Compute percentages, intervals, flags and, with a WBC concentration, absolute counts.

        >>> counts = {"NEU": 60, "LYM": 40}
        >>> tally = Tally(counts, unidentified=0, rejected={}, counted_with_warning={})
        >>> classes = Differential.from_tally(tally).classes
        >>> [(line.name, line.percent, line.flag) for line in classes]
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


def _class_count(
    name: str, count: int, total: int, reference: Interval | None, wbc: float | None
) -> ClassCount:
    interval = interval_percent(count, total)
    percent = 100 * count / total if total else None
    absolute = wbc if total else None
    return ClassCount(
        name=name,
        count=count,
        percent=percent,
        interval_percent=interval,
        reference_percent=reference,
        flag=None
        if percent is None or reference is None
        else flag_percent(percent, interval, reference),
        concentration_1e9_per_l=None if absolute is None else absolute * count / total,
        concentration_interval_1e9_per_l=None
        if absolute is None
        else (absolute * interval[0] / 100, absolute * interval[1] / 100),
    )


def interval_percent(count: int, total: int) -> Interval:
    """Return the 95 % Clopper-Pearson interval of a proportion, in per cent; 0 to 100 when nothing
    was counted.

    >>> [round(bound, 2) for bound in interval_percent(5, 10)]
    [18.71, 81.29]
    """
    low, high = clopper_pearson(count, total)
    return 100 * low, 100 * high


def flag_percent(percent: float, interval: Interval, reference: Interval) -> Flag:
    """Compare a percentage with its reference interval.

    ``low`` and ``high`` only if the confidence interval lies outside; ``borderline`` if the
    percentage does but the intervals overlap: counting more cells would decide.
    """
    low, high = reference
    if interval[1] < low:
        return "low"
    if interval[0] > high:
        return "high"
    return "normal" if low <= percent <= high else "borderline"


def exclusion_reasons(qc_flags: NDArray[np.uint16]) -> list[str]:
    """Return the reason why each cell is excluded, in lower case; empty for a cell that is not.

    Args:
        qc_flags: (N,) bit flags of `QcFlag`.
    """
    reasons = np.full(len(qc_flags), "", dtype=object)
    for flag in reversed(REJECTED):
        reasons[(qc_flags & flag.value) != 0] = flag_names(flag)[0]
    return [str(reason) for reason in reasons]


def count_cells(
    predicted: Sequence[str], qc_flags: NDArray[np.uint16], classes: Sequence[str]
) -> Tally:
    """Count every cell once: as its class, as unidentified, or as rejected.

    Args:
        predicted: N class names or ``unidentified``.
        qc_flags: (N,) bit flags of `QcFlag`.
        classes: the bundle's classes.

    Raises:
        SampleStateError: a predicted class is neither a class of the bundle nor ``unidentified``.
    """
    if unknown := sorted(set(predicted) - {*classes, UNIDENTIFIED}):
        raise SampleStateError(
            f"predicted classes {unknown} are not classes of the bundle ({', '.join(classes)}); "
            f"run `wbcpipe classify` again."
        )
    return tally_cells(predicted, exclusion_reasons(qc_flags), qc_flags, classes)


def tally_cells(
    names: Sequence[str],
    reasons: Sequence[str],
    qc_flags: NDArray[np.uint16],
    classes: Sequence[str],
) -> Tally:
    """Count every cell once.

    Args:
        names: N class names or ``unidentified``; of a cell that a reader excluded, what it is.
        reasons: N reasons why a cell is excluded, empty for one that is not; those that are none of
            `REJECTED` were given by a reader.
        qc_flags: (N,) bit flags of `QcFlag`.
        classes: of the differential.
    """
    counted = Counter(name for name, reason in zip(names, reasons, strict=True) if not reason)
    by_flag = [name for flag in REJECTED for name in flag_names(flag)]
    excluded = Counter(reason for reason in reasons if reason)
    good = np.array([not reason for reason in reasons], dtype=bool)
    return Tally(
        counts={name: counted[name] for name in classes},
        unidentified=counted[UNIDENTIFIED],
        rejected={name: excluded[name] for name in by_flag},
        counted_with_warning={
            name: int(np.count_nonzero(qc_flags[good] & flag.value))
            for flag in COUNTED_WITH_WARNING
            for name in flag_names(flag)
        },
        excluded_by_reader={
            name: count for name, count in sorted(excluded.items()) if name not in by_flag
        },
    )
