"""A classified sample whose cells are small, and a journal to which readers write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from wbcpipe.review.readers.calls import open_read_sample
from wbcpipe.samples.cell_attributes import CellAttributes
from wbcpipe.samples.cell_store import CellBlock, CellStore
from wbcpipe.samples.classification_record import Classification
from wbcpipe.samples.records import SampleRecord
from wbcpipe.samples.review.entries import (
    Adjudicate,
    Assign,
    Call,
    Change,
    Look,
    Reading,
    Sign,
)
from wbcpipe.samples.review.journal import Journal, journal_path
from wbcpipe.samples.review.sign_basis import ReferenceUsed, SignBasis
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from wbcpipe.review.readers.calls import ReadSample
    from wbcpipe.samples.review.entries import Action

CLASSES = ("NEU", "LYM", "EOS", "MO", "BAS")
MODALITIES = ("color1", "color2", "color3", "fluorescence")
SIDE = 8
TIME = "2026-11-30T08:00:00+00:00"


def create_sample(
    root: Path, calls: Sequence[str], *, name: str = "S1", flags: Mapping[int, int] | None = None
) -> Sample:
    """Write a sample with one cell per call, 100 um apart, four to a field."""
    number = len(calls)
    sample = Sample.open(root, name)
    sample.write(SampleRecord.model_validate({"sample": name}))
    zeros = np.zeros(number)
    quality = np.zeros(number, np.uint16)
    for row, value in (flags or {}).items():
        quality[row] = value
    columns: dict[str, Any] = {
        **{
            column: zeros + 50
            for column in ("y_px", "x_px", "area_um2", "nucleus_area_um2", "sharpness", "y_um")
        },
        "field_index": np.arange(number) // 4,
        "x_um": 100.0 * np.arange(number),
        "shift_px": np.zeros((number, 3, 2)),
        "shift_residual_px": np.zeros((number, 3)),
        "qc_flags": quality,
    }
    images = (
        np.random.default_rng(number).integers(0, 4000, (number, 4, SIDE, SIDE)).astype(np.uint16)
    )
    block = CellBlock(images, np.zeros((number, SIDE, SIDE), np.uint8), columns, [""] * number)
    attributes = CellAttributes(
        modalities=MODALITIES, pixel_um=0.1, classes=CLASSES, provenance={"software": "test"}
    )
    store = CellStore.create(sample.cells_path, [block], attributes)
    probability = np.full((number, 4, 5), 0.025, np.float32)
    for row, call in enumerate(calls):
        probability[row, :, CLASSES.index(call) if call in CLASSES else 0] = 0.9
    store.write_predictions(
        probability,
        list(calls),
        np.full(number, 0.9, np.float32),
        np.full(number, 0.05, np.float32),
        classification=Classification(
            bundle="test",
            sha256="c" * 64,
            classes=CLASSES,
            heads=MODALITIES,
            threshold=0.5,
            risk_control=None,
        ),
    )
    return sample


class Desk:
    """A sample and what its readers do."""

    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        self.journal = Journal(journal_path(sample))
        self._readings = 0

    @property
    def read(self) -> ReadSample:
        return open_read_sample(self.sample)

    @property
    def keys(self) -> tuple[str, ...]:
        return self.read.keys

    def write(self, reader: str, *actions: Action) -> None:
        self.journal.append(actions, reader=reader, base=self.journal.head())

    def blind(self, reader: str, calls: Mapping[int, str], *, finish: bool = True) -> None:
        """Read cells blind, given by their row."""
        self._readings += 1
        name, keys = f"r{self._readings}", self.keys
        start = Reading(
            event="start", reading=name, seed=1, cells=tuple(keys[row] for row in calls)
        )
        called = [Call(reading=name, cell=keys[row], to=to) for row, to in calls.items()]
        self.write(
            reader, start, *called, *([Reading(event="finish", reading=name)] if finish else [])
        )

    def assign(self, reader: str, row: int, to: str) -> None:
        self.write(reader, Assign(cells=(Change(cell=self.keys[row], before="", to=to),)))

    def look(self, reader: str, *rows: int) -> None:
        self.write(reader, Look(cells=tuple(self.keys[row] for row in rows)))

    def sign(self, reader: str) -> None:
        basis = SignBasis(
            cells_sha256=self.read.rows.digest(),
            reference=ReferenceUsed(percent={}, source="test"),
            created=TIME,
        )
        self.write(reader, Sign(differential="d" * 64, counts={}, basis=basis))

    def adjudicate(self, reader: str, row: int, to: str) -> None:
        self.write(
            reader, Adjudicate(cell=self.keys[row], to=to, between=("ann", "ben"), why="nucleus")
        )


@pytest.fixture
def create(tmp_path: Path) -> Callable[..., Desk]:
    """Make a sample below ``tmp_path / "data"`` with these classes of the machine."""

    def make(calls: Sequence[str], **options: Any) -> Desk:
        return Desk(create_sample(tmp_path / "data", calls, **options))

    return make
