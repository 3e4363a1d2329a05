"""A sample on disk that a request cannot use."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from wbcpipe.acquire.capture.sample_record import check_sample
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.request import AcquisitionRequest
from wbcpipe.errors import SampleStateError
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan


def test_what_is_no_folder_is_no_sample(
    tmp_path: Path, make_scope: Callable[..., Scope], specimen: SpecimenPlan
) -> None:
    scope = make_scope()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/null")
    for name in ("file", "pipe", "device"):
        request = AcquisitionRequest(
            Sample.open(tmp_path, name), scope, AcquisitionPlan.from_scope(scope, "A"), specimen
        )
        with pytest.raises(
            SampleStateError, match=f"{name}: this is no folder.*choose another sample name"
        ):
            check_sample(request)
