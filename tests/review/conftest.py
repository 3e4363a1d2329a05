"""A classified sample of planted cells, ready for review."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from wbcpipe.classify.uncertainty.probability_calibration import ProbabilityCalibration
from wbcpipe.laboratory.lab_file import Lab
from wbcpipe.report.reviewed_cells import row_keys
from wbcpipe.report.rows import read_rows
from wbcpipe.review.review_session import ReviewSession
from wbcpipe.samples.cell_attributes import CellAttributes
from wbcpipe.samples.cell_columns import UNIDENTIFIED, QcFlag
from wbcpipe.samples.cell_store import CellBlock, CellStore
from wbcpipe.samples.classification_record import Classification
from wbcpipe.samples.differential_record import RiskControl
from wbcpipe.samples.records import SampleRecord
from wbcpipe.samples.review.journal import Journal, journal_path
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

CLASSES = ("NEU", "LYM", "EOS", "MO", "BAS")
MODALITIES = ("color1", "color2", "color3", "fluorescence")
#: 120 cells: the last but five are unidentified, blurred, and debris.
CALLS = (
    ["NEU"] * 70
    + ["LYM"] * 36
    + ["EOS"] * 3
    + ["MO"] * 5
    + ["BAS"]
    + [UNIDENTIFIED] * 3
    + ["NEU"] * 2
)
FLAGS = [0] * 118 + [QcFlag.BLURRED, QcFlag.DEBRIS]


def plant(
    root: Path,
    name: str = "S1",
    calls: Sequence[str] = CALLS,
    flags: Sequence[int] = FLAGS,
    confidence: float = 0.9999,
) -> Sample:
    """Write ``sample.json`` and ``cells.zarr`` of cells that the model is sure of, but for the
    unidentified ones.
    """
    number, side = len(calls), 16
    sample = Sample.open(root, name)
    sample.write(SampleRecord(sample=name, modalities=MODALITIES))
    zeros = np.zeros(number)
    columns = {
        "field_index": np.arange(number) // 4,
        "y_px": zeros + 3,
        "x_px": zeros + 4,
        "y_um": zeros + 12.34,
        "x_um": np.arange(number) * 20.0 - 100,
        "area_um2": zeros + 120,
        "nucleus_area_um2": zeros + 50,
        "sharpness": zeros + 1,
        "shift_px": np.zeros((number, 3, 2)),
        "shift_residual_px": np.zeros((number, 3)),
        "qc_flags": np.asarray(flags, np.uint16),
    }
    images = np.random.default_rng(1).integers(0, 4000, (number, 4, side, side)).astype(np.uint16)
    block = CellBlock(images, np.zeros((number, side, side), np.uint8), columns, [""] * number)
    attributes = CellAttributes(modalities=MODALITIES, pixel_um=0.1, classes=CLASSES)
    store = CellStore.create(sample.cells_path, [block], attributes)
    classify(store, calls, confidence)
    return sample


def classify(store: CellStore, calls: Sequence[str], confidence: float = 0.9999) -> None:
    """Write classes, as `wbcpipe classify` does, with a calibration under which nothing speaks
    against the model.
    """
    number = len(calls)
    probability = np.full((number, 4, 5), (1 - confidence) / 4, np.float32)
    for row, call in enumerate(calls):
        probability[row, :, CLASSES.index(call) if call in CLASSES else 0] = (
            confidence if call in CLASSES else 0.4
        )
        if call not in CLASSES:
            probability[row, :, 1:] = 0.15
    calibration = ProbabilityCalibration(
        temperatures=(1.0,) * 4, weights=(0.25,) * 4, threshold=0.5, cells=400
    )
    store.write_predictions(
        probability,
        list(calls),
        probability.mean(axis=1).max(axis=1),
        np.full(number, 0.02, np.float32),
        classification=Classification(
            bundle="planted",
            sha256="c" * 64,
            classes=CLASSES,
            heads=MODALITIES,
            threshold=0.5,
            risk_control=RiskControl(
                error_bound=0.05, confidence=0.95, cells=150, assumption="of the same kind"
            ),
            calibration=calibration.model_dump(mode="json"),
        ),
    )


def open_session(sample: Sample, lab: Lab | None = None) -> ReviewSession:
    store = CellStore(sample.cells_path)
    rows = read_rows(store)
    return ReviewSession(
        sample, store, rows, row_keys(rows), Journal(journal_path(sample)), lab or Lab()
    )


@pytest.fixture
def planted(tmp_path: Path) -> Sample:
    """The sample ``S1`` of `CALLS` below ``tmp_path / "data"``."""
    return plant(tmp_path / "data")


@pytest.fixture(scope="session")
def plant_sample() -> Callable[..., Sample]:
    """Write a sample: see `plant`."""
    return plant


@pytest.fixture
def classify_again() -> Callable[..., None]:
    """Write other classes: see `classify`."""
    return classify


@pytest.fixture
def review() -> Callable[..., ReviewSession]:
    """Open a sample for review, with settings of the laboratory."""
    return open_session
