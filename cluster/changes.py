"""How counts changed between two results of the same samples, cell by cell where they are alike."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import scipy

from wbcpipe.report.count_comparison import paired_differ_by_chance
from wbcpipe.samples.records import Count, Part

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from wbcpipe.samples.differential_record import DifferentialRecord

__all__ = [
    "ChangeTable",
    "ClassChange",
    "ClassSummary",
    "CountedResult",
    "changes_csv",
    "compare_results",
    "make_table",
]

#: Of the mean difference over all samples.
_CONFIDENCE: Final = 0.95


class CountedResult(NamedTuple):
    """A result to compare.

    Attributes:
        result: ``current`` or an id.
        document: its ``differential.json``.
        cells: its ``cells.csv``.
    """

    result: str
    document: DifferentialRecord
    cells: bytes


class ClassChange(Part):
    """How the count of a class changed in one sample.

    Attributes:
        sample: its name.
        name: of the class, or ``unidentified``.
        earlier, later: identified cells of the class.
        earlier_percent, later_percent: of the identified cells; ``None`` without any. Of the
            identified and unidentified cells for ``unidentified``.
        only_earlier, only_later: cells of both results that only one of them has in the class;
            ``None`` where the cells are others, as after a new segmentation.
        p_value: that they differ as much by chance (McNemar's exact test); ``None`` likewise.
        reviewed: whether a reader changed the earlier result.
    """

    sample: str
    name: str
    earlier: Count
    later: Count
    earlier_percent: float | None
    later_percent: float | None
    only_earlier: Count | None
    only_later: Count | None
    p_value: float | None
    reviewed: bool = False


class ClassSummary(Part):
    """How a class changed over all samples, each of them one pair.

    Attributes:
        name: of the class, or ``unidentified``.
        samples: pairs with percentages.
        mean_points: mean difference, later minus earlier, in percentage points.
        low_points, high_points: its 95 % interval (Student's t); ``None`` for fewer than two pairs.
        largest_points: the difference of largest size.
        p_value: that it is zero (Wilcoxon's signed-rank test); ``None`` if no sample differs.
    """

    name: str
    samples: Count
    mean_points: float
    low_points: float | None
    high_points: float | None
    largest_points: float
    p_value: float | None


class ChangeTable(Part):
    """How counts changed.

    Attributes:
        earlier, later: bundles of the results, by name.
        samples: number of pairs.
        cells: cells that both results hold.
        cells_changed: those of them that have another class.
        rows: per sample and class.
        summary: per class.
    """

    earlier: tuple[str, ...]
    later: tuple[str, ...]
    samples: Count
    cells: Count
    cells_changed: Count
    rows: tuple[ClassChange, ...]
    summary: tuple[ClassSummary, ...]


class _Pair(NamedTuple):
    rows: list[ClassChange]
    cells: int
    changed: int
    earlier: str
    later: str


def make_table(pairs: Iterable[tuple[str, CountedResult, CountedResult]]) -> ChangeTable:
    """Compare the results of many samples.

    Args:
        pairs: name of the sample, its earlier result, its later one.
    """
    found = [compare_results(*pair) for pair in pairs]
    rows = tuple(row for pair in found for row in pair.rows)
    names = list(dict.fromkeys(row.name for row in rows))
    return ChangeTable(
        earlier=tuple(sorted({pair.earlier for pair in found})),
        later=tuple(sorted({pair.later for pair in found})),
        samples=len(found),
        cells=sum(pair.cells for pair in found),
        cells_changed=sum(pair.changed for pair in found),
        rows=rows,
        summary=tuple(
            _summarise(name, [row for row in rows if row.name == name]) for name in names
        ),
    )


def compare_results(sample: str, earlier: CountedResult, later: CountedResult) -> _Pair:
    """Compare two results of one sample, class by class."""
    before, after = earlier.document, later.document
    shared = _shared_classes(earlier.cells, later.cells)
    counts = [
        {entry.name: (entry.count, entry.percent) for entry in document.classes}
        | {
            "unidentified": (
                document.cells.unidentified.count,
                document.cells.unidentified.percent,
            )
        }
        for document in (before, after)
    ]
    rows = []
    for name in dict.fromkeys([*counts[0], *counts[1]]):
        only = [0, 0]
        for pair, number in (shared or {}).items():
            if (pair[0] == name) != (pair[1] == name):
                only[pair[1] == name] += number
        rows.append(
            ClassChange(
                sample=sample,
                name=name,
                earlier=counts[0].get(name, (0, None))[0],
                later=counts[1].get(name, (0, None))[0],
                earlier_percent=counts[0].get(name, (0, 0.0))[1],
                later_percent=counts[1].get(name, (0, 0.0))[1],
                only_earlier=only[0] if shared is not None else None,
                only_later=only[1] if shared is not None else None,
                p_value=paired_differ_by_chance(*only) if shared is not None else None,
                reviewed=before.verification.state == "corrected",
            )
        )
    total = sum((shared or {}).values())
    changed = sum(number for pair, number in (shared or {}).items() if pair[0] != pair[1])
    bundles = before.provenance.bundle.name, after.provenance.bundle.name
    return _Pair(rows, total, changed, *bundles)


def _shared_classes(earlier: bytes, later: bytes) -> Counter[tuple[str, str]] | None:
    """Count the pairs of classes that the cells of two results have.

    ``None`` if these are not the same cells. Classes are those of the models, without a reader's.
    """
    first, second = _classes(earlier), _classes(later)
    if first.keys() != second.keys():
        return None
    return Counter((name, second[cell]) for cell, name in first.items())


def _classes(content: bytes) -> dict[tuple[str, ...], str]:
    """Return the class of each cell that a table does not reject, by its place."""
    table = csv.DictReader(io.StringIO(content.decode("utf-8"), newline=""))
    found: dict[tuple[str, ...], str] = {}
    for row in table:
        place = row["field_index"], row["y_px"], row["x_px"], row["area_um2"]
        found[place] = row["predicted_class"]
    return found


def _summarise(name: str, rows: Sequence[ClassChange]) -> ClassSummary:
    points = np.array(
        [
            row.later_percent - row.earlier_percent
            for row in rows
            if row.later_percent is not None and row.earlier_percent is not None
        ]
    )
    if not len(points):
        return ClassSummary(
            name=name,
            samples=0,
            mean_points=0.0,
            low_points=None,
            high_points=None,
            largest_points=0.0,
            p_value=None,
        )
    mean, half = float(points.mean()), None
    if len(points) > 1:
        error = float(points.std(ddof=1)) / math.sqrt(len(points))
        half = float(scipy.stats.t.ppf(0.5 + _CONFIDENCE / 2, len(points) - 1)) * error
    return ClassSummary(
        name=name,
        samples=len(points),
        mean_points=round(mean, 4),
        low_points=None if half is None else round(mean - half, 4),
        high_points=None if half is None else round(mean + half, 4),
        largest_points=round(float(points[np.abs(points).argmax()]), 4),
        p_value=float(scipy.stats.wilcoxon(points).pvalue) if points.any() else None,
    )


def changes_csv(table: ChangeTable) -> bytes:
    """Return the rows of a table as CSV, UTF-8, with a header line."""
    text = io.StringIO(newline="")
    names = list(ClassChange.model_fields)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class" if name == "name" else name for name in names])
    for row in table.rows:
        content = row.model_dump(mode="json")
        writer.writerow(["" if content[name] is None else content[name] for name in names])
    return text.getvalue().encode()
