"""Decide what to do when the process that drives the devices dies.

Try the field again, give it up, or end the run.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wbcpipe.acquire.hardware.core_log import log_hint
from wbcpipe.errors import DeviceCrashError, DeviceTimeoutError, HardwareError

if TYPE_CHECKING:
    from wbcpipe.acquire.config.policies import Reliability
    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.system.child_process import ChildLostError

__all__ = ["Death", "RestartDecision", "RestartPolicy", "describe_death", "max_silence_s"]


@dataclass(frozen=True)
class Death:
    """How a process ended: in a few words, and as the error that ends the run if it cannot go
    on.
    """

    text: str
    error: HardwareError


def describe_death(lost: ChildLostError, exit_text: str, scope: Scope, stall_s: float) -> Death:
    """Describe how the process that drives a scope ended.

    Args:
        lost: raised for it.
        exit_text: name of the signal that ended it, or its exit code.
        scope: which microscope.
        stall_s: how long it was silent, if it was.

    Raises:
        DeviceCrashError: the process could not start, so starting it again has no use.
    """
    if lost.exit_code == 1:
        raise DeviceCrashError(
            "the acquisition process could not start or was cut off; see its messages above."
        )
    if lost.exit_code is None:
        text = f"no sign of life for {stall_s:g} s"
        advice = (
            "so its process was ended; the fields taken are kept. Check the devices and run "
            "the same command again."
        )
        return Death(text, DeviceTimeoutError(f"scope {scope.name!r}: {text}, {advice}"))
    return Death(
        f"a device driver crashed ({exit_text})",
        DeviceCrashError(
            f"scope {scope.name!r}: the process that drives it died ({exit_text}): a device "
            f"driver crashed. The fields taken are kept; run the same command again, and if it "
            f"happens again run `wbcpipe doctor {scope.option}`."
            f"{log_hint(scope.core_log) or ' --core-log FILE writes down what the driver did.'}"
        ),
    )


def max_silence_s(scope: Scope) -> float:
    """Return the longest silence of a working process: its start, a wide focus search, or a field
    with all retries.
    """
    policy = scope.reliability
    frame_s = policy.camera_timeout_s + policy.switch_timeout_s + policy.move_timeout_s
    # Starting, and loading the devices again, may take a minute each.
    return 120.0 + (policy.retries + 1) * (4 * frame_s + policy.retry_wait_s)


@dataclass(frozen=True)
class RestartDecision:
    """What follows a death.

    Attributes:
        restart: start the process again; if not, the run ends.
        field: the field that was being taken; ``None`` while focusing, opening or waiting.
        give_up: ``field`` is not tried again.
        deaths: so far at ``field``.
    """

    restart: bool
    field: int | None
    give_up: bool
    deaths: int


class RestartPolicy:
    """Counts deaths, per field and in a row, against the limits of a scope."""

    def __init__(self, limits: Reliability) -> None:
        self._limits = limits
        self._deaths: Counter[int] = Counter()
        self._consecutive = 0
        self._field: int | None = None

    def start_field(self, index: int) -> None:
        """Note that the process starts a field."""
        self._field = index

    def end_field(self, index: int, *, taken: bool) -> None:
        """Note that a field is on disk, empty or missing; ``taken`` if the process lived to take
        it.
        """
        if self._field == index:
            self._field = None
        if taken:
            self._consecutive = 0

    def idle(self) -> None:
        """Note that the process has nothing to do."""
        self._field = None

    def died(self) -> RestartDecision:
        """Decide what follows a process that died, hung or lost the core."""
        field, self._field = self._field, None
        self._consecutive += 1
        restart = self._consecutive <= self._limits.max_consecutive_restarts
        if field is None:
            return RestartDecision(restart, None, False, 0)
        self._deaths[field] += 1
        deaths = self._deaths[field]
        return RestartDecision(restart, field, deaths >= self._limits.max_crashes_per_field, deaths)
