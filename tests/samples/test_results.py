"""Further results: their ids, their markers, and damage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from wbcpipe.errors import SampleStateError
from wbcpipe.samples.records import SampleRecord
from wbcpipe.samples.results import (
    MARKER,
    ResultBasis,
    check_result,
    completed_results,
    find_result,
    publish_folder,
    result_path,
    seal_result,
)
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BASIS = ResultBasis(
    inputs_sha256="ab" * 32,
    bundle="mine",
    bundle_sha256="cd" * 32,
    calibration_digest="0123",
    pixel_um=0.1,
    detector="own",
    software="wbcpipe 1",
)


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    sample = Sample.open(tmp_path, "S1")
    sample.write(SampleRecord(sample="S1", created="2026-11-30T10:00:00+00:00"))
    return sample


def publish(sample: Sample, basis: ResultBasis = BASIS) -> bool:
    target = result_path(sample, basis.result_id)
    aside = target.with_name(f".{target.name}.partial")
    (aside / "cells.zarr").mkdir(parents=True)
    (aside / "cells.zarr" / "c.0").write_bytes(b"cells")
    (aside / "differential.json").write_bytes(b"{}")
    seal_result(aside, sample, basis, "2026-11-30T11:00:00+00:00")
    return publish_folder(aside, target)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"bundle": "renamed"}, True),
        ({"bundle_sha256": "ef" * 32}, False),
        ({"calibration_digest": "9"}, False),
        ({"inputs_sha256": "00" * 32}, False),
        ({"pixel_um": 0.2}, False),
        ({"software": "wbcpipe 2"}, False),
        ({"lab_sha256": "11" * 32}, False),
    ],
)
def test_the_id_follows_from_what_the_result_rests_on(
    change: dict[str, str | float], same: bool
) -> None:
    assert (BASIS.model_copy(update=change).result_id == BASIS.result_id) is same


def test_a_result_is_there_once_its_marker_is(sample: Sample) -> None:
    folder = result_path(sample, BASIS.result_id)
    folder.mkdir(parents=True)
    assert completed_results(sample) == []
    folder.rmdir()
    assert publish(sample)
    (record,) = completed_results(sample)
    assert record.basis == BASIS
    assert [file.path for file in record.files] == ["cells.zarr/c.0", "differential.json"]
    check_result(folder, record)


def test_a_result_that_is_there_is_not_replaced(sample: Sample) -> None:
    assert publish(sample)
    marker = result_path(sample, BASIS.result_id) / MARKER
    before = marker.read_bytes(), marker.stat().st_mtime_ns
    assert not publish(sample)
    assert (marker.read_bytes(), marker.stat().st_mtime_ns) == before


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "differential.json").write_bytes(b"[]"), "was changed"),
        (lambda folder: (folder / "cells.zarr" / "c.0").unlink(), "is missing"),
        (lambda folder: (folder / "more.csv").write_bytes(b""), "is not of the result"),
    ],
    ids=["changed", "missing", "added"],
)
def test_damage_is_found(sample: Sample, damage: Callable[[Path], object], reason: str) -> None:
    publish(sample)
    record = find_result(sample, BASIS.result_id)
    assert record is not None
    damage(result_path(sample, BASIS.result_id))
    with pytest.raises(SampleStateError, match=reason):
        check_result(result_path(sample, BASIS.result_id), record)


def test_a_result_of_another_sample_is_refused(sample: Sample, tmp_path: Path) -> None:
    publish(sample)
    other = Sample.open(tmp_path, "S2")
    other.write(SampleRecord(sample="S2", created="2026-11-30T10:30:00+00:00"))
    (sample.path / "results").rename(other.path / "results")
    with pytest.raises(SampleStateError, match="which is not this one"):
        completed_results(other)


@pytest.mark.parametrize("name", ["../S2", "", "XYZ", "0123456789ABCDEF", "0" * 15])
def test_other_names_are_no_id(sample: Sample, name: str) -> None:
    with pytest.raises(SampleStateError, match="is no id of a result"):
        find_result(sample, name)
