"""Write the verified cells of samples as a training set.

One ``cells.zarr`` a sample, and what each class lacks.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import numpy as np

from wbcpipe.errors import ImportDataError
from wbcpipe.labels.verified_cells import verified_cells
from wbcpipe.laboratory.lab_file import find_lab
from wbcpipe.report.reviewed_cells import row_keys
from wbcpipe.report.rows import read_rows
from wbcpipe.samples.cell_attributes import LabelImport
from wbcpipe.samples.cell_store import CELLS_PER_CHUNK, HALF, PREDICTIONS, CellBlock, CellStore
from wbcpipe.samples.review.carry_over import carry_over
from wbcpipe.samples.review.journal import Journal, journal_path
from wbcpipe.samples.training_set import TrainingSample, TrainingSet, training_set_path
from wbcpipe.segment.importers.find_files import order_classes
from wbcpipe.system.files import make_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from wbcpipe.labels.verified_cells import VerifiedCell, VerifiedCells
    from wbcpipe.report.rows import CellRows
    from wbcpipe.samples.review.replay import ReviewState
    from wbcpipe.samples.sample import Sample

__all__ = ["TARGET_CELLS", "SampleReview", "copy_cells", "export_verified", "read_sample_review"]

TARGET_CELLS: Final = 25
"""Cells of each class with which a fine-tuned model called 91 % of a new laboratory's cells right,
against 86 % with 10 (docs/results/own-model.md).
"""


@dataclass(frozen=True)
class SampleReview:
    """A sample, its review, and the cells whose class a person gave."""

    store: CellStore
    rows: CellRows
    state: ReviewState
    verified: VerifiedCells


def read_sample_review(sample: Sample) -> SampleReview:
    """Read a sample's cells and journal.

    Raises:
        SampleStateError: no such sample, cells that are not classified, or a damaged file.
        ConfigError: the laboratory's file is not valid.
    """
    sample.record()
    store = CellStore(sample.cells_path)
    rows = read_rows(store)
    keys = row_keys(rows)
    journal = Journal(journal_path(sample))
    carry_over(journal, keys, rows.digest())
    state = journal.state()
    lab = find_lab(sample.path.parent)
    return SampleReview(
        store, rows, state, verified_cells(rows, keys, state, lab.per_100_white_cells())
    )


def export_verified(
    samples: Sequence[Sample],
    out: Path,
    *,
    target: int = TARGET_CELLS,
    progress: Callable[[str, int, int], None] = lambda _task, _done, _total: None,
) -> TrainingSet:
    """Write the verified cells of samples into a folder that `wbcpipe train` and `study` take.

    Each sample keeps its own ``cells.zarr``, so that folds by slide or field stay what they are.
    The same command again writes the folder anew; ``training_set.json`` says that it is complete,
    and is written last.

    Args:
        samples: reviewed samples.
        out: the folder.
        target: cells wanted of each class.
        progress: called with (task, samples done, samples in all).

    Raises:
        ImportDataError: the folder holds something else, or no cell is verified.
        SampleStateError: see `read_sample_review`.
    """
    reviews = {sample.name: read_sample_review(sample) for sample in samples}
    if not any(review.verified.cells for review in reviews.values()):
        raise ImportDataError(
            f"{', '.join(reviews)}: no cell has a class that a person gave; review the cells "
            f"(`wbcpipe review`) and sign."
        )
    _check_folder(out, list(reviews))
    make_folder(out)
    record = training_set_path(out)
    TrainingSet(complete=False).write(record)
    entries = []
    for done, (name, review) in enumerate(reviews.items(), 1):
        cells = review.verified.cells
        if cells:
            copy_cells(review.store, cells, out / name / "cells.zarr", f"review of {name}")
        entries.append(_entry(name, review))
        progress("samples exported", done, len(reviews))
    found = TrainingSet(complete=True, samples=tuple(entries), target=target)
    found.write(record)
    return found


def _check_folder(out: Path, names: Sequence[str]) -> None:
    """Refuse a folder whose samples are not those of a training set, such as a data root."""
    for name in names:
        if (out / name / "sample.json").exists() or (
            (out / name).exists() and not training_set_path(out).exists()
        ):
            raise ImportDataError(
                f"{out}: holds a folder {name!r} that is no training set's; give another --out."
            )


def _entry(name: str, review: SampleReview) -> TrainingSample:
    cells = review.verified.cells
    labels = Counter(cell.label for cell in cells)
    return TrainingSample(
        sample=name,
        journal=review.state.head,
        state=review.state.state,
        readers=tuple(dict.fromkeys(reader for cell in cells for reader in cell.readers)),
        classes={label: labels[label] for label in order_classes({*labels, *review.rows.classes})},
        sources=dict(Counter(cell.source for cell in cells)),
        left_out=dict(review.verified.left_out),
    )


def copy_cells(
    store: CellStore, cells: Sequence[VerifiedCell], path: Path, source: str
) -> CellStore:
    """Write some cells of a store into another one, with the classes that people gave them as
    labels.

    Args:
        store: where the cells are.
        cells: in the order of the new store.
        path: of the new store.
        source: of the labels, for its attributes.
    """
    make_folder(path.parent)
    labels = [cell.label for cell in cells]
    told = LabelImport(
        source=source,
        sha256=hashlib.sha256(
            repr([(cell.key, cell.label) for cell in cells]).encode()
        ).hexdigest(),
        cells=len(cells),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    attributes = store.attributes.model_copy(
        update={"classes": tuple(order_classes(labels)), "labelled": (told,), "classified": None}
    )
    return CellStore.create(path, _blocks(store, cells), attributes)


def _blocks(store: CellStore, cells: Sequence[VerifiedCell]) -> Iterator[CellBlock]:
    names = [
        name for name in store.names if name not in ("images", HALF, "masks", "label", *PREDICTIONS)
    ]
    columns = {name: store.column(name) for name in names}
    for start in range(0, len(cells), CELLS_PER_CHUNK):
        some = cells[start : start + CELLS_PER_CHUNK]
        rows = [cell.row for cell in some]
        yield CellBlock(
            images=store.images_at(rows),
            masks=np.concatenate([store.masks(row, row + 1) for row in rows]),
            columns={name: values[rows] for name, values in columns.items()},
            label=[cell.label for cell in some],
        )
