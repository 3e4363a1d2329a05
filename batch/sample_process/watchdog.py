"""Time limits of the phases of a sample, and a watch on the clock of the computer."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from wbcpipe.acquire.supervise.restart_policy import max_silence_s
from wbcpipe.batch.durations import format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.config.slide_policies import Loader
    from wbcpipe.batch.records import Phase

__all__ = ["ClockChange", "ClockWatch", "Clocks", "phase_limits_s", "read_clocks"]

#: The wall clock, the monotonic clock, and the time since the boot, in seconds.
Clocks = tuple[float, float, float]

#: Loading torch and compiling a network, on a slow and busy computer.
_STARTING_S: Final = 600.0
_SEGMENTING_S: Final = 600.0
#: Loading the devices, and moving the stage to where it meets the loader.
_LOADER_START_S: Final = 300.0
_CLASSIFYING_S: Final = 900.0
_REPORTING_S: Final = 300.0
#: An acquisition process that hangs is ended by the process of its sample, which needs this long to
#: do it.
_MARGIN_S: Final = 90.0


def phase_limits_s(scope: Scope) -> Mapping[Phase, float]:
    """Return the longest time without progress in each phase, from the scope's own limits.

    Progress is a new phase, a field, a cell, or a line about the phase. A phase that is not listed
    waits for the operator or another process and has no limit.
    """
    silence_s = max_silence_s(scope) + _MARGIN_S
    staining = scope.staining
    staining_s = staining.incubate_s + sum(
        step.wait_s + staining.timeout_s for step in staining.steps
    )
    return {
        "starting": _STARTING_S,
        "loading the slide": _loading_s(scope.loader),
        "opening": silence_s,
        "focusing": silence_s + scope.focus.mapping_deadline_s,
        "scanning": silence_s,
        "staining": staining_s + staining.timeout_s + _MARGIN_S,
        "segmenting": _SEGMENTING_S,
        "classifying": _CLASSIFYING_S,
        "reporting": _REPORTING_S,
    }


def _loading_s(loader: Loader) -> float:
    """Return the longest time of one step of a loader; each step is a line, and so progress."""
    wait_s = max(
        (step.wait_s for step in (*loader.load, *loader.unload, *loader.safe_state)), default=0.0
    )
    return _LOADER_START_S + loader.timeout_s + wait_s + loader.settle_s + _MARGIN_S


@dataclass(frozen=True)
class ClockChange:
    """What happened to the clock.

    Attributes:
        event: ``computer_slept`` or ``clock_changed``.
        reason: in words.
        seconds: how long it slept, or by how much the clock was set forward (negative: back).
    """

    event: Literal["computer_slept", "clock_changed"]
    reason: str
    seconds: float


class ClockWatch:
    """Notice that the computer slept, or that its clock was set; call `tick` every second or so.

    Three clocks are compared: the wall clock, which can be set; the monotonic one, which on Linux
    stands still while the computer sleeps; and on Linux the time since the boot, which goes on.
    Elsewhere the monotonic clock may go on during sleep: there a long gap between two ticks is the
    sleep.

    Args:
        sleep_s: a shorter gap is a busy computer.
        step_s: a smaller difference is a time server's correction.
        clocks: reads the clocks.
    """

    def __init__(
        self,
        *,
        sleep_s: float = 60.0,
        step_s: float = 5.0,
        clocks: Callable[[], Clocks] | None = None,
    ) -> None:
        self._sleep_s, self._step_s = sleep_s, step_s
        self._clocks = clocks or read_clocks
        self._last = self._clocks()

    def tick(self, *, worked: bool = False) -> list[ClockChange]:
        """Return what happened since the last tick.

        Args:
            worked: this program worked all the time, for example at a check: a gap is no sleep.
        """
        return self.compare(self._clocks(), worked=worked)

    def compare(self, now: Clocks, *, worked: bool = False) -> list[ClockChange]:
        """Return what happened until ``now``."""
        wall_s, awake_s, real_s = (one - other for one, other in zip(now, self._last, strict=True))
        self._last = now
        found = []
        slept_s = max(real_s - awake_s, awake_s if awake_s >= self._sleep_s and not worked else 0.0)
        if slept_s >= self._sleep_s:
            text = f"the computer slept, or this program did not run, for {format_seconds(slept_s)}"
            found.append(ClockChange("computer_slept", text, slept_s))
        step_s = wall_s - real_s
        if abs(step_s) >= self._step_s:
            way = "forward" if step_s > 0 else "back"
            found.append(
                ClockChange(
                    "clock_changed",
                    f"the clock was set {way} by {format_seconds(abs(step_s))}",
                    step_s,
                )
            )
        return found


def read_clocks() -> Clocks:
    """Read the clocks now."""
    awake_s = real_s = time.monotonic()
    if sys.platform == "linux":
        real_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.time(), awake_s, real_s
