"""A staining that is cut short.

The devices come to rest, the sample says how it stands, and there is a way on.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from wbcpipe.acquire.config.policies import Staining
from wbcpipe.acquire.hardware.core_link import CoreLink
from wbcpipe.acquire.procedures.devices import carry_out, shutdown_steps
from wbcpipe.acquire.staining.workflow import is_stained, mark_stained, stain, staining_procedure
from wbcpipe.errors import ConfigError, HardwareError, InterruptedRunError, SampleStateError
from wbcpipe.samples.staining_record import staining_state
from wbcpipe.system.child_process import ParentLink
from wbcpipe.system.files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.samples.sample import Sample

VALVE = "Stain Valve"


def step(
    value: str, wait_s: float = 0.0, device: str = VALVE, key: str = "Label"
) -> dict[str, Any]:
    return {"device": device, "property": key, "value": value, "wait_s": wait_s}


def by_devices(*steps: dict[str, Any], **more: Any) -> Staining:
    return Staining.model_validate({"method": "devices", "steps": steps, **more})


def with_staining(scope: Scope, policy: Staining) -> Scope:
    return scope.model_copy(update={"staining": policy})


def refuse(message: str) -> None:
    raise AssertionError(message)


OPEN, SHUT = step("acridine orange", 20.0), step("closed")
PUMP, OFF, DOSE = (
    step("1", device="Pump", key="Run"),
    step("0", device="Pump", key="Run"),
    step("50", device="Syringe"),
)


@pytest.mark.parametrize(
    ("steps", "begun", "sent", "expected"),
    [
        ([OPEN, SHUT], 0, 0, []),
        ([OPEN, SHUT], 1, 0, [SHUT]),  # it may have opened or not
        ([OPEN, SHUT], 1, 1, [SHUT]),
        ([OPEN, SHUT], 2, 1, [SHUT]),  # the closing itself failed: once more
        ([OPEN, SHUT], 2, 2, []),
        ([OPEN, PUMP, OFF, SHUT], 1, 1, [SHUT]),  # the pump was never touched
        ([OPEN, PUMP, OFF, SHUT], 2, 2, [OFF, SHUT]),
        ([OPEN, DOSE, SHUT], 2, 1, [SHUT]),  # nothing is dosed twice
    ],
)
def test_what_was_opened_is_closed_and_nothing_else(
    steps: list[dict[str, Any]], begun: int, sent: int, expected: list[dict[str, Any]]
) -> None:
    policy = staining_procedure(by_devices(*steps))
    assert [one.model_dump() for one in shutdown_steps(policy, begun, sent)] == expected
    own = staining_procedure(by_devices(*steps, safe_state=[OFF]))
    assert [one.model_dump() for one in shutdown_steps(own, begun, sent)] == [OFF]
    assert shutdown_steps(staining_procedure(by_devices(*steps, safe_state=[])), begun, sent) == ()


@pytest.fixture
def link(small_scope: Scope) -> Iterator[CoreLink]:
    opened = CoreLink(small_scope)
    yield opened
    opened.close()


def test_steps_cut_short_leave_the_valve_closed(link: CoreLink) -> None:
    here, there = multiprocessing.Pipe()
    here.send("stop")
    devices = carry_out(link, staining_procedure(by_devices(OPEN, SHUT)), ParentLink(there))
    assert devices == "The staining devices were set to a safe state: Stain Valve-Label = closed."
    assert link.get_property(VALVE, "Label") == "closed"


def test_a_parent_that_is_gone_cuts_the_steps_short(link: CoreLink) -> None:
    here, there = multiprocessing.Pipe()
    here.close()
    assert "set to a safe state" in carry_out(
        link, staining_procedure(by_devices(OPEN, SHUT)), ParentLink(there)
    )
    assert link.get_property(VALVE, "Label") == "closed"


def test_a_step_that_fails_leaves_the_valve_closed(link: CoreLink) -> None:
    _here, there = multiprocessing.Pipe()
    wrong = step("Perhaps", device="LED", key="Sequence")
    with pytest.raises(
        HardwareError,
        match=r"It takes: Off, On.* set to a safe state: Stain Valve-Label = closed\.$",
    ):
        carry_out(
            link,
            staining_procedure(by_devices(step("acridine orange"), wrong, SHUT)),
            ParentLink(there),
        )
    assert link.get_property(VALVE, "Label") == "closed"
    both = by_devices(step("acridine orange"), wrong, safe_state=[wrong, SHUT])
    with pytest.raises(
        HardwareError, match=r"NOT in a safe state \(set_property\('LED', 'Sequence', 'Perhaps'\)"
    ):
        carry_out(link, staining_procedure(both), ParentLink(there))
    assert link.get_property(VALVE, "Label") == "closed", (
        "what came after the step that failed was left out"
    )


def test_ctrl_c_brings_the_devices_to_rest_and_there_is_a_way_on(
    sample: Sample, small_scope: Scope, capfd: pytest.CaptureFixture[str]
) -> None:
    scope = with_staining(small_scope, by_devices(OPEN, SHUT))

    def interrupt(text: str) -> None:
        if text.startswith("staining step 1"):
            for child in multiprocessing.active_children():
                assert child.pid is not None
                os.kill(child.pid, signal.SIGINT)  # Ctrl-C reaches it too, and must not end it
            raise KeyboardInterrupt

    closed = (
        r"step 1 of 2, Stain Valve-Label = acridine orange\. .*set to a safe state: Stain "
        r"Valve-Label = closed\. "
    )
    with pytest.raises(InterruptedRunError, match=rf"{closed}Check the slide: .*--already-stained"):
        stain(sample, scope, ask=refuse, say=interrupt)
    assert "Traceback" not in capfd.readouterr().err
    assert staining_state(sample) == "started"
    with pytest.raises(
        SampleStateError, match=rf"did not end: stopped by the operator .*{closed}Check the slide"
    ):
        stain(sample, scope, ask=refuse)
    mark_stained(sample)
    stain(sample, scope, ask=refuse)
    assert is_stained(sample)


def test_ctrl_c_before_anything_was_set_leaves_nothing_begun(
    sample: Sample, small_scope: Scope
) -> None:
    def interrupt(text: str) -> None:
        raise KeyboardInterrupt(text)

    with pytest.raises(KeyboardInterrupt):
        stain(sample, small_scope, ask=refuse, say=interrupt)
    assert staining_state(sample) == ""


def test_another_process_closes_the_valve_after_a_driver_crashed(
    sample: Sample, small_scope: Scope
) -> None:
    crash = step("Dereference Null Pointer", device="Camera", key="SimulateCrash")
    scope = with_staining(small_scope, by_devices(step("acridine orange"), crash, SHUT))
    rest = (
        r"step 2 of 3, .*\. The staining devices were set to a safe state: Stain Valve-Label = "
        r"closed\."
    )
    with pytest.raises(
        HardwareError, match=rf"died \(SIGSEGV\), at staining {rest} Check the slide"
    ):
        stain(sample, scope, ask=refuse)
    assert staining_state(sample) == "started"


def test_devices_that_do_not_load_leave_nothing_begun(
    sample: Sample, make_scope: Callable[..., Scope]
) -> None:
    with pytest.raises(HardwareError, match="could not load it"):
        stain(
            sample,
            make_scope(("Device,XY,DemoCamera,DXYStage", "Device,XY,DemoCamera,NoStage")),
            ask=refuse,
        )
    assert staining_state(sample) == ""


def test_a_program_is_told_to_end_on_ctrl_c(
    sample: Sample, small_scope: Scope, tmp_path: Path
) -> None:
    valve = tmp_path / "valve"
    program = (
        "import os, pathlib, signal, sys, time\n"
        f"def close(*_):\n    pathlib.Path({str(valve)!r}).write_text('closed')\n    sys.exit()\n"
        "signal.signal(signal.SIGTERM, close)\n"
        "os.kill(os.getppid(), signal.SIGINT)\n"
        "time.sleep(60)"
    )
    policy = Staining(method="command", command=(sys.executable, "-c", program))
    with pytest.raises(
        InterruptedRunError, match=r"stopped by the operator .*it ended by itself\. Check the slide"
    ):
        stain(sample, with_staining(small_scope, policy), ask=refuse)
    assert valve.read_text(encoding="utf-8") == "closed"
    assert staining_state(sample) == "started"


def test_ctrl_c_while_a_program_starts_ends_the_program(
    sample: Sample, small_scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[str]] = []
    real = subprocess.Popen

    def start(*words: Any, **options: Any) -> subprocess.Popen[str]:
        started.append(real(*words, **options))
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        return started[0]

    monkeypatch.setattr("wbcpipe.acquire.procedures.program.subprocess.Popen", start)
    policy = Staining(
        method="command", command=(sys.executable, "-c", "import time; time.sleep(60)")
    )
    with pytest.raises(InterruptedRunError, match="stopped by the operator"):
        stain(sample, with_staining(small_scope, policy), ask=refuse)
    assert started[0].poll() == -signal.SIGTERM
    assert staining_state(sample) == "started"


def test_a_program_that_is_not_there_leaves_nothing_begun(
    sample: Sample, small_scope: Scope, tmp_path: Path
) -> None:
    policy = Staining(method="command", command=(str(tmp_path / "nothing"),))
    with pytest.raises(ConfigError, match=r"nothing' could not be started"):
        stain(sample, with_staining(small_scope, policy), ask=refuse)
    assert staining_state(sample) == ""


def test_an_incubation_that_was_stopped_goes_on_without_another_stain(
    sample: Sample, small_scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    scope = with_staining(small_scope, Staining(method="prompt", incubate_s=300.0))
    asked: list[str] = []
    slept: list[float] = []

    def stop(seconds: float) -> None:
        raise KeyboardInterrupt(seconds)

    monkeypatch.setattr("wbcpipe.acquire.staining.workflow.time.sleep", stop)
    with pytest.raises(KeyboardInterrupt):
        stain(sample, scope, ask=asked.append)
    assert staining_state(sample) == "incubating"
    path = sample.path / "raw" / "staining.json"
    since = (datetime.now(UTC) - timedelta(seconds=100)).isoformat(timespec="seconds")
    content = {key: value for key, value in read_json(path).items() if key != "sha256"}
    write_json(path, {**content, "applied": since})
    monkeypatch.setattr("wbcpipe.acquire.staining.workflow.time.sleep", slept.append)
    for _ in range(2):
        stain(sample, scope, ask=asked.append)
    assert len(asked) == 1
    assert slept == [pytest.approx(200.0, abs=5.0)]
    assert json.loads(path.read_text(encoding="utf-8"))["done"]


def test_safe_steps_are_for_devices(make_scope: Callable[..., Scope]) -> None:
    with pytest.raises(ValueError, match="'safe_state' belongs to method 'devices'"):
        Staining.model_validate({"method": "prompt", "safe_state": [SHUT]})
    with pytest.raises(
        ConfigError,
        match=r"key 'staining\.safe_state\.0\.wat_s' is not known, did you mean 'wait_s'",
    ):
        make_scope((" },\n]\nincubate_s", ", wat_s = 1 },\n]\nincubate_s"))
