"""Samples that are under review: what was read of them, kept until their cells change."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wbcpipe.errors import SampleStateError
from wbcpipe.report.reviewed_cells import row_keys
from wbcpipe.report.rows import read_rows
from wbcpipe.review.images.cell_images import CellImages
from wbcpipe.review.images.similar import cell_features
from wbcpipe.review.images.slide_map import slide_map
from wbcpipe.review.review_session import ReviewSession
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.review.journal import Journal, journal_path
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.laboratory.lab_file import Lab
    from wbcpipe.review.images.field_images import FieldImages

__all__ = ["NoSuchSampleError", "OpenSample", "OpenSamples"]

#: A reader has few samples open, but the cells of the reference library are of several others.
_MAX_OPEN: Final = 8


class NoSuchSampleError(SampleStateError):
    """The data root has no sample of that name."""


class OpenSample:
    """A sample under review.

    Args:
        sample: a classified sample.
        lab: settings of the laboratory.

    Attributes:
        sample, store, rows: the sample, its cells, and their table in memory.
        images: of its cells.
        keys: N names of the cells, as the journal has them.
        row_of: name of a cell to its row.
        journal: what readers did.
        session: what follows from that.
        not_white: classes of the laboratory that are no white cells.

    Raises:
        SampleStateError: there is no such sample, or its cells are not classified.
    """

    def __init__(self, sample: Sample, lab: Lab) -> None:
        sample.record()
        self.sample = sample
        self.store = CellStore(sample.cells_path)
        self.rows = read_rows(self.store)
        self.images = CellImages(sample, self.store)
        self.keys = row_keys(self.rows)
        self.row_of = {key: row for row, key in enumerate(self.keys)}
        self.journal = Journal(journal_path(sample))
        self.session = ReviewSession(sample, self.store, self.rows, self.keys, self.journal, lab)
        self.not_white = tuple(extra.name for extra in lab.extra_classes if not extra.white_cell)

    def __len__(self) -> int:
        return len(self.rows)

    @functools.cached_property
    def fields(self) -> FieldImages:
        """Images of its fields."""
        from wbcpipe.review.images.field_images import (
            FieldImages,
        )  # takes a second, before the first page

        return FieldImages(self.sample, self.store, self.images.contrast)

    @functools.cached_property
    def features(self) -> NDArray[np.float32]:
        """What its cells are compared by."""
        return cell_features(self.store)

    @functools.cached_property
    def map(self) -> dict[str, Any]:
        """The map of its slide."""
        return slide_map(self.sample, self.store)

    def likely_order(self) -> list[int]:
        """Return the rows in the order in which they are likely to be looked at."""
        return [int(row) for row in np.argsort(self.rows.confidence, kind="stable")]

    def describe_field(self, index: int) -> dict[str, Any]:
        """Return a field's size and its cells with their names and outlines.

        See `FieldImages.describe`.
        """
        found = self.fields.describe(index)
        cells = [{**cell, "key": self.keys[cell["row"]]} for cell in found["cells"]]
        return {**found, "cells": cells}

    def close(self) -> None:
        """Stop making images."""
        self.images.close()


class OpenSamples:
    """The samples of a data root that were asked for last, by name.

    Args:
        root: the data root.
        lab: settings of the laboratory.
    """

    def __init__(self, root: Path, lab: Lab) -> None:
        self.root = root
        self._lab = lab
        self._open: dict[str, tuple[object, OpenSample]] = {}
        self._lock = threading.Lock()

    def get(self, name: str) -> OpenSample:
        """Return a sample; it is read again when its cells have changed.

        Raises:
            SampleNameError: the name is refused.
            NoSuchSampleError: there is no such sample.
        SampleBusyError: a stage writes its cells.
        SampleStateError: its cells are not classified, or a file is damaged.
        """
        sample = Sample.open(self.root, name)
        if not sample.exists():
            raise NoSuchSampleError(f"There is no sample {name}.")
        with self._lock:
            mark = _mark(sample)
            known = self._open.pop(name, None)
            if known is not None and known[0] != mark:
                known[1].close()
                known = None
            entry = known or (mark, self._read(sample))
            self._open[name] = entry  # the last one used is the last one
            while len(self._open) > _MAX_OPEN:
                self._open.pop(next(iter(self._open)))[1].close()
            return entry[1]

    def _read(self, sample: Sample) -> OpenSample:
        try:
            return OpenSample(sample, self._lab)
        except SampleStateError:
            with sample.lock("review"):  # a stage that holds it may be about to replace the cells
                raise

    def close(self) -> None:
        """Close all samples."""
        with self._lock:
            for _, entry in self._open.values():
                entry.close()
            self._open.clear()


def _mark(sample: Sample) -> object:
    """Return what changes whenever the cells or their predictions are written."""
    try:
        found = (sample.cells_path / "zarr.json").stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
