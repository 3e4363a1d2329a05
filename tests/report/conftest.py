"""A small classified sample with planted cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from wbcpipe.samples import truth
from wbcpipe.samples.cell_attributes import CellAttributes
from wbcpipe.samples.cell_store import CellBlock, CellStore
from wbcpipe.samples.classification_record import Classification
from wbcpipe.samples.differential_record import RiskControl
from wbcpipe.samples.field_status import write_missing
from wbcpipe.samples.records import SampleRecord
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

CLASSES = ("NEU", "LYM", "EOS", "MO", "BAS")
MODALITIES = ("color1", "color2", "color3", "fluorescence")
SIDE = 24


def _columns(quality: Sequence[int], x_um: Sequence[float], nucleus_um2: float) -> dict[str, Any]:
    number = len(quality)
    zeros = np.zeros(number)
    return {
        "field_index": np.arange(number) // 4,
        "y_px": zeros + 3,
        "x_px": zeros + 4,
        "y_um": zeros,
        "x_um": np.asarray(x_um, dtype=np.float64),
        "area_um2": zeros + 120,
        "nucleus_area_um2": zeros + nucleus_um2,
        "sharpness": zeros + np.nan,
        "shift_px": np.zeros((number, 3, 2)),
        "shift_residual_px": np.zeros((number, 3)),
        "qc_flags": np.asarray(quality, dtype=np.uint16),
    }


def _create(  # noqa: PLR0913 - each keyword is one property of the sample
    root: Path,
    calls: Sequence[str],
    *,
    name: str = "S1",
    quality: Sequence[int] | None = None,
    labels: Sequence[str] | None = None,
    x_um: Sequence[float] | None = None,
    head_calls: Sequence[Sequence[str]] | None = None,
    classes: tuple[str, ...] = CLASSES,
    info: dict[str, Any] | None = None,
    classify: bool = True,
    field_quality: dict[str, Any] | None = None,
    nucleus_um2: float = 50.0,
) -> Sample:
    """Write sample.json and cells.zarr; ``head_calls`` gives each cell the class of each head, else
    its call.
    """
    number = len(calls)
    sample = Sample.open(root, name)
    sample.write(SampleRecord.model_validate({"sample": name, **(info or {})}))
    rng = np.random.default_rng(number)
    block = CellBlock(
        images=rng.integers(0, 4000, (number, 4, SIDE, SIDE)).astype(np.uint16),
        masks=np.zeros((number, SIDE, SIDE), dtype=np.uint8),
        columns=_columns(
            quality or [0] * number, x_um or [100.0 * i for i in range(number)], nucleus_um2
        ),
        label=list(labels or [""] * number),
    )
    attributes = CellAttributes(
        modalities=MODALITIES,
        pixel_um=0.1,
        classes=classes,
        field_quality=field_quality or {},
        provenance={"software": "test"},
    )
    store = CellStore.create(sample.cells_path, [block], attributes)
    if classify:
        probability = np.full((number, 4, len(classes)), 0.1 / (len(classes) - 1), dtype=np.float32)
        for cell, call in enumerate(calls):
            for head in range(4):
                best = head_calls[cell][head] if head_calls else call
                probability[cell, head, classes.index(best) if best in classes else 0] = 0.9
        store.write_predictions(
            probability,
            list(calls),
            np.linspace(0.4, 0.99, number, dtype=np.float32),
            np.full(number, 0.05, dtype=np.float32),
            classification=Classification(
                bundle="test-bundle",
                sha256="c" * 64,
                classes=classes,
                heads=MODALITIES,
                threshold=0.5,
                risk_control=RiskControl(
                    error_bound=0.05, confidence=0.95, cells=150, assumption="of the same kind"
                ),
            ),
        )
    return sample


@pytest.fixture
def create_sample(tmp_path: Path) -> Callable[..., Sample]:
    """Make a sample below ``tmp_path / "data"``; see ``_create``."""

    def create(calls: Sequence[str], **options: Any) -> Sample:
        return _create(tmp_path / "data", calls, **options)

    return create


@pytest.fixture
def write_truth() -> Callable[..., None]:
    """Write truth.csv: rows of (x_um, field, class, kind), all at y = 0."""

    def write(sample: Sample, rows: Sequence[tuple[float, int, str, str]]) -> None:
        truth.write_truth(
            sample.truth_path,
            [truth.TruthRow(x, 0.0, field, label, kind) for x, field, label, kind in rows],
        )

    return write


@pytest.fixture
def mark_fields() -> Callable[..., None]:
    """Put empty files for fields ``taken`` and a record of ``missing`` ones."""

    def mark(sample: Sample, taken: Sequence[int], missing: dict[str, str] | None = None) -> None:
        raw = sample.raw_path()
        raw.mkdir(parents=True)
        for index in taken:
            (raw / f"field_{index:05d}.ome.tif").touch()
        if missing is not None:
            write_missing(raw, {int(index): why for index, why in missing.items()})

    return mark
