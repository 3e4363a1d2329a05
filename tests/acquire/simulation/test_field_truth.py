"""``truth.csv`` of a virtual slide whose process was killed before it wrote the file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from wbcpipe.acquire.capture.session import AcquisitionSession
from wbcpipe.acquire.open_microscope import restore_truth
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.request import AcquisitionRequest
from wbcpipe.samples.fields import field_path
from wbcpipe.samples.sample import Sample
from wbcpipe.samples.truth import read_truth

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan


@pytest.fixture
def request_(
    tmp_path: Path, make_scope: Callable[..., Scope], specimen: SpecimenPlan
) -> AcquisitionRequest:
    """A request of which two fields were taken."""
    scope = make_scope()
    plan = AcquisitionPlan.from_scope(scope, "A")
    request = AcquisitionRequest(Sample.open(tmp_path, "demo"), scope, plan, specimen)
    with AcquisitionSession(request) as session:
        session.take(range(2))
    return request


def test_a_truth_that_was_never_written_is_written_at_the_next_start(
    request_: AcquisitionRequest,
) -> None:
    truth = request_.sample.truth_path
    before = truth.read_bytes()
    truth.unlink()
    restore_truth(request_)
    assert truth.read_bytes() == before
    assert read_truth(truth)


def test_a_truth_older_than_a_field_is_written_again_and_a_newer_one_stays(
    request_: AcquisitionRequest,
) -> None:
    truth = request_.sample.truth_path
    before = truth.read_bytes()
    truth.write_bytes(b"of one field")
    restore_truth(request_)
    assert truth.read_bytes() == b"of one field"
    newer_s = truth.stat().st_mtime + 10
    os.utime(field_path(request_.sample.raw_path(), 1), (newer_s, newer_s))
    restore_truth(request_)
    assert truth.read_bytes() == before


def test_nothing_is_written_without_a_field_or_a_specimen(
    request_: AcquisitionRequest, tmp_path: Path, specimen: SpecimenPlan
) -> None:
    empty = Sample.open(tmp_path, "empty")
    restore_truth(AcquisitionRequest(empty, request_.scope, request_.plan, specimen))
    assert not empty.path.exists()
    request_.sample.truth_path.unlink()
    restore_truth(AcquisitionRequest(request_.sample, request_.scope, request_.plan, None))
    assert not request_.sample.truth_path.exists()
