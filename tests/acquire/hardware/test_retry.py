"""Retries after injected faults: recover first, reload from the second failure on, then give up."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, cast

import pytest

from wbcpipe.acquire.hardware.retry import Retries
from wbcpipe.errors import CoreLostError, HardwareError, InterruptedRunError

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.protocols import Microscope
    from wbcpipe.samples.sample import Sample


class FailingMicroscope:
    """Notes what is done to it; `reinitialise` raises ``fault``."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.fault, self.calls = fault, list[str]()

    def recover(self) -> None:
        self.calls.append("recover")

    def reinitialise(self) -> None:
        self.calls.append("reinitialise")
        if self.fault is not None:
            raise self.fault


@pytest.fixture
def make_retries(small_scope: Scope, sample: Sample) -> Callable[..., Retries]:
    sample.path.mkdir(parents=True)

    def make(microscope: FailingMicroscope, stop: threading.Event | None = None) -> Retries:
        return Retries(
            small_scope,
            sample,
            cast("Microscope", microscope),
            stop or threading.Event(),
            lambda _: None,
        )

    return make


def failing(times: int) -> Callable[[], str]:
    """An action that fails so many times, then succeeds."""
    left = [times]

    def act() -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise HardwareError("the lamp is out.")
        return "done"

    return act


def test_the_second_failure_reloads_the_devices(make_retries: Callable[..., Retries]) -> None:
    microscope = FailingMicroscope()
    retries = make_retries(microscope)
    assert retries.retry(failing(1), doing="testing") == "done"
    assert (microscope.calls, retries.reload_count) == (["recover"], 0)
    assert retries.retry(failing(2), doing="testing") == "done"
    assert (microscope.calls[1:], retries.reload_count) == (
        ["recover", "recover", "reinitialise"],
        1,
    )


def test_the_last_failure_is_raised_after_recovery(make_retries: Callable[..., Retries]) -> None:
    microscope = FailingMicroscope()
    with pytest.raises(HardwareError, match="the lamp is out"):
        make_retries(microscope).retry(failing(3), doing="testing")
    assert microscope.calls == ["recover", "recover", "reinitialise", "recover"]


@pytest.mark.parametrize(
    "fault", [HardwareError("another camera."), CoreLostError("gone.")], ids=["changed", "lost"]
)
def test_devices_that_do_not_come_back_end_the_process(
    make_retries: Callable[..., Retries], fault: Any
) -> None:
    with pytest.raises(CoreLostError):
        make_retries(FailingMicroscope(fault)).retry(failing(2), doing="testing")


def test_a_stop_ends_the_attempts(make_retries: Callable[..., Retries]) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(InterruptedRunError, match="the same command goes on"):
        make_retries(FailingMicroscope(), stop).retry(failing(1), doing="testing")
