from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from wbcpipe.samples.records import Record
from wbcpipe.segment.work_files import read_work_file, write_work_file

if TYPE_CHECKING:
    from pathlib import Path


class Measurement(Record):
    name: str


class OtherMeasurement(Record):
    name: str
    pixel_um: float


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "work" / "a.npz"
    write_work_file(path, Measurement(name="blur"), {"values": np.arange(3, dtype=np.uint16)})
    return path


def test_record_and_arrays_come_back(path: Path) -> None:
    found = read_work_file(path, Measurement)
    assert found is not None
    record, arrays = found
    assert record == Measurement(name="blur")
    assert list(arrays) == ["values"]
    assert arrays["values"].dtype == np.uint16
    assert arrays["values"].tolist() == [0, 1, 2]


def test_no_file_and_a_record_of_another_model_give_nothing(path: Path) -> None:
    assert read_work_file(path, OtherMeasurement) is None
    assert read_work_file(path.with_name("b.npz"), Measurement) is None


@pytest.mark.parametrize("size", [0, 10, 200, -1])
def test_a_damaged_file_gives_nothing(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])
    assert read_work_file(path, Measurement) is None


def test_an_archive_without_record_gives_nothing(path: Path) -> None:
    np.savez(path, values=np.arange(3))
    assert read_work_file(path, Measurement) is None
