"""The acquisition process: what it tells, and what happens when a driver or the parent dies."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING

import numpy as np
import pytest

from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.request import AcquisitionRequest
from wbcpipe.acquire.simulation.faults import Fault, FaultyOpener
from wbcpipe.acquire.supervise.messages import FieldMissing, FieldTaken, Progress, RequestDone
from wbcpipe.acquire.supervise.worker import AcquisitionWorker
from wbcpipe.errors import DeviceCrashError, SampleStateError
from wbcpipe.samples.field_status import read_missing
from wbcpipe.samples.fields import field_path, fields_on_disk, read_field
from wbcpipe.system.signals import ignore_stop_signals_in_children

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
    from wbcpipe.samples.sample import Sample

_TWICE = "a device driver crashed (SIGSEGV) while it was taken, 2 times."


def test_wants_grow_and_fields_are_told_in_order(
    sample: Sample, small_scope: Scope, small_plan: AcquisitionPlan, specimen: SpecimenPlan
) -> None:
    request = AcquisitionRequest(sample, small_scope, small_plan, specimen)
    with AcquisitionWorker(request) as worker:
        worker.request_fields(2)
        events = list(worker.events())
        assert [event for event in events if isinstance(event, FieldTaken)] == [
            FieldTaken(0),
            FieldTaken(1),
        ]
        assert events[-1] == RequestDone(2)
        worker.request_fields(1)
        assert list(worker.events()) == []
        worker.request_fields(3)
        assert [event for event in worker.events() if isinstance(event, FieldTaken)] == [
            FieldTaken(2)
        ]
        with pytest.raises(ValueError, match="has room for 1 to 25"):
            worker.request_fields(26)
    field_path(sample.raw_path(), 1).unlink()
    with AcquisitionWorker(request) as worker:
        worker.request_fields(3)
        told = [event for event in worker.events() if isinstance(event, FieldTaken)]
    assert told == [FieldTaken(0, resumed=True), FieldTaken(1), FieldTaken(2, resumed=True)]


def test_a_crashing_driver_kills_the_child_alone_and_the_run_resumes(
    sample: Sample, make_scope: Callable[..., Scope], specimen: SpecimenPlan
) -> None:
    scope = make_scope()
    plan = AcquisitionPlan.from_scope(scope, "A")
    with AcquisitionWorker(AcquisitionRequest(sample, scope, plan, specimen)) as worker:
        worker.request_fields(1)
        list(worker.events())
    before = field_path(sample.raw_path(), 0).read_bytes()
    # Now the demo camera's driver dereferences a null pointer at each exposure.
    faults = tuple(Fault("driver crash", index, attempts=9) for index in range(1, 4))
    crashing = FaultyOpener(plan, faults, sample.path / "strikes.jsonl")
    told: list[object] = []
    with AcquisitionWorker(
        AcquisitionRequest(sample, scope, plan, specimen, microscope=crashing)
    ) as worker:
        worker.request_fields(4)
        with pytest.raises(
            DeviceCrashError, match=r"that drives it died \(SIGSEGV\).*The slide is in the dark\."
        ):
            told.extend(worker.events())
    assert list(fields_on_disk(sample.raw_path())) == [0]
    assert [event for event in told if not isinstance(event, Progress)] == [
        FieldTaken(0, resumed=True),
        FieldMissing(1, _TWICE),
    ]
    # Two crashes at field 1 and it was given up; two more at field 2, and the run ended: no field
    # between them.
    assert read_missing(sample.raw_path()) == {1: _TWICE}
    events = [
        json.loads(line)
        for line in (sample.path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [event["field"] for event in events if event["event"] == "restarted"] == [1, 1, 2]
    assert [event["shutter"] for event in events if event["event"] == "process_ended"] == ["closed"]
    with AcquisitionWorker(AcquisitionRequest(sample, make_scope(), plan, specimen)) as worker:
        worker.request_fields(2)
        assert [event.index for event in worker.events() if isinstance(event, FieldTaken)] == [0, 1]
    assert field_path(sample.raw_path(), 0).read_bytes() == before
    assert read_missing(sample.raw_path()) == {}


@pytest.mark.parametrize(
    ("moment", "n_before"),
    [
        ("multiprocessing.get_context", 0),
        ("wbcpipe.system.child_process.ignore_stop_signals_in_children", 1),
    ],
)
def test_a_ctrl_c_before_the_child_is_there_ends_the_run_and_hides_nothing(
    sample: Sample,
    make_scope: Callable[..., Scope],
    specimen: SpecimenPlan,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    n_before: int,
) -> None:
    scope = make_scope()
    plan = AcquisitionPlan.from_scope(scope, "A")
    crashing = FaultyOpener(
        plan, (Fault("driver crash", 0, attempts=1),), sample.path / "strikes.jsonl"
    )
    worker = AcquisitionWorker(
        AcquisitionRequest(sample, scope, plan, specimen, microscope=crashing)
    )
    genuine = {"multiprocessing.get_context": multiprocessing.get_context}.get(
        moment, ignore_stop_signals_in_children
    )
    n_calls = 0

    def interrupted(*given: str) -> object:
        nonlocal n_calls
        n_calls += 1
        if n_calls == n_before + 1:
            raise KeyboardInterrupt
        return genuine(*given)

    def take() -> None:
        with worker:
            worker.request_fields(1)
            list(worker.events())

    monkeypatch.setattr(moment, interrupted)
    with pytest.raises(KeyboardInterrupt):
        take()
    if n_before:
        events = [
            json.loads(line)
            for line in (sample.path / "log.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        assert [event["shutter"] for event in events if event["event"] == "process_ended"] == [
            "closed"
        ]


def test_a_ctrl_c_as_the_child_is_started_ends_the_child(
    sample: Sample,
    small_scope: Scope,
    small_plan: AcquisitionPlan,
    specimen: SpecimenPlan,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = AcquisitionWorker(AcquisitionRequest(sample, small_scope, small_plan, specimen))
    genuine = SpawnProcess.start
    started: list[SpawnProcess] = []

    def interrupted(process: SpawnProcess) -> None:
        genuine(process)
        if not started:
            started.append(process)
            raise KeyboardInterrupt

    monkeypatch.setattr(SpawnProcess, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        worker.__enter__()
    assert started[0].exitcode == 0, "it was told to end, and waited for"


def test_an_error_of_the_child_is_raised_here_with_its_class_and_text(
    sample: Sample, small_scope: Scope, small_plan: AcquisitionPlan, specimen: SpecimenPlan
) -> None:
    sample.raw_path().mkdir(parents=True)
    (sample.raw_path() / "stray").touch()
    with AcquisitionWorker(AcquisitionRequest(sample, small_scope, small_plan, specimen)) as worker:
        worker.request_fields(1)
        with pytest.raises(SampleStateError, match=r"holds raw images but no sample\.json"):
            list(worker.events())


_PARENT = """
import sys, time
from pathlib import Path
from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
from wbcpipe.acquire.request import AcquisitionRequest
from wbcpipe.acquire.supervise.messages import FieldTaken
from wbcpipe.acquire.supervise.worker import AcquisitionWorker
from wbcpipe.samples.sample import Sample

if __name__ == "__main__":
    scope = load_scope(sys.argv[1])
    plan = AcquisitionPlan.from_scope(scope, "A")
    sample = Sample.open(Path(sys.argv[2]), "S1")
    with AcquisitionWorker(AcquisitionRequest(sample, scope, plan, SpecimenPlan(7))) as worker:
        worker.request_fields(16)
        print(worker.pid, flush=True)
        for event in worker.events():
            if isinstance(event, FieldTaken):
                print("field", event.index, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL and SIGINT to a process are POSIX")
@pytest.mark.parametrize("end", ["SIGKILL", "SIGINT"])
def test_the_child_ends_with_its_parent_and_leaves_a_beginning(
    tmp_path: Path,
    sample: Sample,
    small_scope: Scope,
    small_plan: AcquisitionPlan,
    specimen: SpecimenPlan,
    end: str,
) -> None:
    script = tmp_path / "parent.py"
    script.write_text(_PARENT, encoding="utf-8")
    arguments = [sys.executable, str(script), str(small_scope.path), str(sample.path.parent)]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        while parent.stdout.readline().strip() != "field 1":
            assert parent.poll() is None
        parent.send_signal(getattr(signal, end))
        parent.wait(30)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _alive(child):
        time.sleep(0.05)
    assert not _alive(child)
    indices = list(fields_on_disk(sample.raw_path()))
    assert indices == list(range(len(indices)))
    assert len(indices) >= 2
    # The lock is free, and the last field is as a sound run would have taken it.
    last = indices[-1]
    broken = read_field(field_path(sample.raw_path(), last))[0]
    field_path(sample.raw_path(), last).unlink()
    with AcquisitionWorker(AcquisitionRequest(sample, small_scope, small_plan, specimen)) as worker:
        worker.request_fields(last + 1)
        list(worker.events())
    np.testing.assert_array_equal(read_field(field_path(sample.raw_path(), last))[0], broken)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat", encoding="utf-8") as handle:  # noqa: PTH123 - gone between the two is gone
        return handle.read().rsplit(")", 1)[1].split()[0] != "Z"
