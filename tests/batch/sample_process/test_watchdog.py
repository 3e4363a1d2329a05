"""Clocks that are compared, and limits that follow from the scope."""

from __future__ import annotations

import pytest

from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.acquire.supervise.restart_policy import max_silence_s
from wbcpipe.batch.sample_process.failures import MicroscopeFaults
from wbcpipe.batch.sample_process.watchdog import ClockWatch, phase_limits_s


@pytest.mark.parametrize(
    ("later", "events"),
    [
        ((10.0, 10.0, 10.0), []),
        (
            (3610.0, 10.0, 3610.0),
            [("computer_slept", "the computer slept, or this program did not run, for 60 min")],
        ),
        (
            (310.0, 310.0, 310.0),
            [("computer_slept", "the computer slept, or this program did not run, for 5 min")],
        ),
        ((3610.0, 10.0, 10.0), [("clock_changed", "the clock was set forward by 60 min")]),
        ((-7190.0, 10.0, 10.0), [("clock_changed", "the clock was set back by 2 h 00 min")]),
        ((12.0, 10.0, 10.0), []),
    ],
    ids=["nothing", "Linux slept", "Windows slept", "set forward", "set back", "corrected"],
)
def test_sleep_and_changed_clocks_are_told(
    later: tuple[float, float, float], events: list[tuple[str, str]]
) -> None:
    found = ClockWatch(clocks=lambda: (0.0, 0.0, 0.0)).compare(later)
    assert [(change.event, change.reason) for change in found] == events


def test_work_that_takes_long_is_no_sleep() -> None:
    clocks = iter([(0.0, 0.0, 0.0), (300.0, 300.0, 300.0), (900.0, 310.0, 900.0)])
    watch = ClockWatch(clocks=lambda: next(clocks))
    assert watch.tick(worked=True) == []
    assert [change.seconds for change in watch.tick(worked=True)] == [590.0]


def test_a_phase_may_take_longer_than_the_acquisition_waits_for_its_devices() -> None:
    scope = load_scope("demo")
    limits = phase_limits_s(scope)
    assert limits["scanning"] > max_silence_s(scope)
    assert limits["focusing"] > limits["scanning"]
    assert "waiting for the microscope" not in limits


def test_three_samples_in_a_row_with_the_same_hardware_error_stop_the_scanning() -> None:
    faults = MicroscopeFaults()
    said = [faults.failed(sample, "DeviceTimeoutError") for sample in ("a", "a", "b", "a")]
    assert said == [False] * 4
    assert not faults.failed("c", "NoCellsError")
    assert faults.failed("d", "DeviceTimeoutError")
    faults.scanned()
    assert not faults.failed("e", "DeviceTimeoutError")
    assert not faults.failed("f", "DeviceCrashError")
    assert faults.failed("g", "LoaderStateError")
