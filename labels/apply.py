"""Give labels to the cells of a sample."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np

from wbcpipe.errors import ImportDataError
from wbcpipe.labels.read import GivenLabel, read_labels
from wbcpipe.samples.cell_attributes import LabelImport
from wbcpipe.samples.cell_columns import CLASSES, REJECTED
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.fields import complete_fields, read_passes_info
from wbcpipe.samples.freed import refuse_if_freed
from wbcpipe.segment.importers.find_files import nearest_class, order_classes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.samples.sample import Sample

__all__ = ["LabelResult", "import_labels"]


@dataclass(frozen=True)
class LabelResult:
    """The result of `import_labels`.

    Attributes:
        sample: its name.
        changed: cells whose label is another one now.
        labelled: cells of the sample that have a label.
        classes: class name to the number of cells that have it.
        rejected: labelled cells that a quality flag excludes.
        unmatched: file and line of labels for which there is no cell.
        new_classes: classes that neither the sample nor its bundle had, to the known class that is
            most like each; empty if none is.
    """

    sample: str
    changed: int
    labelled: int
    classes: dict[str, int]
    rejected: int
    unmatched: tuple[str, ...]
    new_classes: dict[str, str]


def import_labels(sample: Sample, path: Path) -> LabelResult:
    """Write labels from a folder or a file into the cells of a sample; the caller holds its lock.

    Args:
        sample: a segmented or imported sample.
        path: see `read_labels`.

    Raises:
        ImportDataError: see `read_labels`; or a box names a field that the sample does not have.
        SampleStateError: the sample has no cells.
    """
    store = CellStore(sample.cells_path)
    given = read_labels(path, sample.name)
    labels, unmatched = _assign(store, given, _field_names(sample, given))
    before, known = store.labels(), _known_classes(store)
    changed = sum(old != new for old, new in zip(before, labels, strict=True))
    if changed:
        record = LabelImport(
            source=path.name or str(path),
            sha256=hashlib.sha256(
                repr([(item.label, item.field, item.box_px) for item in given]).encode()
            ).hexdigest(),
            cells=changed,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        store.write_labels(labels, order_classes([*store.attributes.classes, *labels]), record)
        if sample.exists():
            sample.log("labels_imported", cells=changed, source=record.source)
    flags = store.column("qc_flags")
    rejected = (flags & sum(flag.value for flag in REJECTED)) != 0
    counts = Counter(label for label in labels if label)
    return LabelResult(
        sample=sample.name,
        changed=changed,
        labelled=sum(counts.values()),
        classes={name: counts[name] for name in order_classes(counts)},
        rejected=sum(
            bool(label) and bool(bad) for label, bad in zip(labels, rejected, strict=True)
        ),
        unmatched=tuple(unmatched),
        new_classes={
            name: nearest_class(name, known) for name in order_classes(counts) if name not in known
        },
    )


def _known_classes(store: CellStore) -> tuple[str, ...]:
    """Return the classes of the sample's labels and of the bundle that classified it, those of
    wbcpipe before that.
    """
    of_bundle = store.classification().classes if store.is_classified() else CLASSES
    return tuple(dict.fromkeys((*store.attributes.classes, *of_bundle)))


def _field_names(sample: Sample, given: Sequence[GivenLabel]) -> dict[str, int]:
    """Return the index of each field by the name of the file that it was imported from, if a label
    names one.
    """
    if not any(isinstance(item.field, str) for item in given):
        return {}
    refuse_if_freed(sample, "find cells by the file of their field")
    raw = sample.path / "raw"
    found: dict[str, int] = {}
    for index in complete_fields(raw):
        source = read_passes_info(raw, index).source
        found[source] = found[PurePath(source).name] = index
    return found


def _assign(
    store: CellStore, given: Sequence[GivenLabel], field_names: dict[str, int]
) -> tuple[list[str], list[str]]:
    """Return the label of each cell, and which labels met none.

    A cell gets the label of the nearest box.
    """
    labels, unmatched = store.labels(), []
    fields = store.column("field_index").astype(np.int64)
    points = np.column_stack([store.column("x_px"), store.column("y_px")]).astype(np.float64)
    by_field: dict[int, list[GivenLabel]] = {}
    for item in given:
        index = field_names.get(item.field) if isinstance(item.field, str) else item.field
        if index is None:
            raise ImportDataError(
                f"{item.where}: no field of the sample was imported from {item.field!r}; give the "
                f"file's name as it was imported, or a column `field` with its index."
            )
        by_field.setdefault(index, []).append(item)
    for index, items in by_field.items():
        rows = np.flatnonzero(fields == index)
        partner = _nearest(points[rows], items)
        for item, row in zip(items, partner, strict=True):
            if row is None:
                unmatched.append(item.where)
            else:
                labels[int(rows[row])] = item.label
    return labels, unmatched


def _nearest(points: NDArray[np.float64], items: Sequence[GivenLabel]) -> list[int | None]:
    """Return for each box the cell (x, y) inside it, one to one, the nearest to a box's centre
    first.
    """
    pairs = []
    for number, item in enumerate(items):
        x0, y0, x1, y1 = item.box_px
        inside = (points >= (x0, y0)).all(axis=1) & (points <= (x1, y1)).all(axis=1)
        distance = np.hypot(*(points - ((x0 + x1) / 2, (y0 + y1) / 2)).T)
        pairs += [(float(distance[row]), number, int(row)) for row in np.flatnonzero(inside)]
    found: list[int | None] = [None] * len(items)
    used: set[int] = set()
    for _, number, row in sorted(pairs):
        if found[number] is None and row not in used:
            found[number] = row
            used.add(row)
    return found
