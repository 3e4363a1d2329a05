"""The figures of a control slide reach the control charts, once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from wbcpipe.batch.qc.cli import qc
from wbcpipe.batch.qc.control import record_control
from wbcpipe.batch.qc.series import build_series
from wbcpipe.batch.qc.store import QcStore
from wbcpipe.errors import ConfigError, SampleStateError
from wbcpipe.report.document import read_document
from wbcpipe.samples.cell_attributes import CellAttributes
from wbcpipe.samples.cell_columns import COLUMNS, entry_shape
from wbcpipe.samples.cell_store import CellBlock, CellStore
from wbcpipe.samples.records import SampleRecord

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.samples.sample import Sample


@pytest.fixture
def control(tmp_path: Path, write_sample: Callable[..., Sample]) -> Sample:
    """A reported control slide whose store holds the light of three fields."""
    sample = write_sample(tmp_path, "CONTROL-1", fields=20, counts=(130, 60, 6, 9, 1, 5))
    scope = {"name": "mylab", "sha256": "d" * 64, "virtual": False}
    reference = {"date": "2026-11-01", "sha256": "e" * 64}
    sample.write(
        SampleRecord.model_validate(
            {"sample": sample.name, "scope": scope, "calibration": reference}
        )
    )
    attributes = CellAttributes(
        modalities=("color1", "fluorescence"),
        pixel_um=0.1,
        classes=("NEU",),
        field_quality={
            "field_index": [0, 1, 2],
            "background_percent": [[60.0, None], [61.0, None], [65.0, None]],
        },
    )
    block = CellBlock(
        images=np.zeros((1, 2, 24, 24), np.uint16),
        masks=np.zeros((1, 24, 24), np.uint8),
        columns={
            name: np.zeros((1, *entry_shape(column, 2)), column.dtype)
            for name, column in COLUMNS.items()
        },
        label=[""],
    )
    CellStore.create(sample.cells_path, [block], attributes)
    return sample


def test_a_control_slide_is_recorded_with_intervals_and_light(
    control: Sample, tmp_path: Path
) -> None:
    entry = record_control(control, "mylab", tmp_path, batch="night", slide="LOT-7")
    neu = read_document(control).classes[0]
    assert entry.figures["percent.NEU"] == neu.percent
    assert (
        entry.figures["percent_low.NEU"],
        entry.figures["percent_high.NEU"],
    ) == neu.interval_percent
    assert entry.figures["cells_per_field"] == pytest.approx(211 / 20)
    assert entry.figures["background_percent.color1"] == 61.0
    assert np.isfinite(list(entry.figures.values())).all()
    assert entry.versions["calibration"] == "e" * 64
    assert (entry.material, entry.sample, entry.batch) == ("LOT-7", "CONTROL-1", "night")
    (share,) = [series for series in build_series([entry]) if series.figure == "percent.NEU"]
    assert share.points[0].interval == neu.interval_percent
    assert share.state == "baseline is being collected, 1 of 20"


def test_a_control_slide_is_recorded_once_whatever_is_repeated(
    control: Sample, tmp_path: Path
) -> None:
    first = record_control(control, "mylab", tmp_path, batch="night")
    assert record_control(control, "mylab", tmp_path, batch="night") == first
    assert len(QcStore.of_scope(tmp_path, "mylab").entries()) == 1
    record_control(control, "mylab", tmp_path, batch="another night")
    assert len(QcStore.of_scope(tmp_path, "mylab").entries()) == 2
    assert record_control(control, "other", tmp_path, slide=control.name).material == ""


def test_the_command_records_a_slide_that_was_run_by_hand(
    control: Sample, tmp_path: Path, write_sample: Callable[..., Sample]
) -> None:
    arguments = ["control", "--data", str(tmp_path), "--sample"]
    result = CliRunner().invoke(
        qc, [*arguments, control.name, "--slide", "LOT-7"], catch_exceptions=False
    )
    assert "of CONTROL-1 recorded for mylab" in result.output
    assert QcStore.of_scope(tmp_path, "mylab").entries()[0].material == "LOT-7"
    write_sample(tmp_path, "IMPORTED")
    with pytest.raises(ConfigError, match="was imported"):
        CliRunner().invoke(qc, [*arguments, "IMPORTED"], catch_exceptions=False)
    with pytest.raises(SampleStateError, match="no sample 'NOBODY'"):
        CliRunner().invoke(qc, [*arguments, "NOBODY"], catch_exceptions=False)
