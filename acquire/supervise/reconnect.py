"""Waiting for a running Micro-Manager that is gone: whoever uses it starts it again, this program does not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from wbcpipe.acquire.supervise.restart_policy import close_shutter_in_subprocess

if TYPE_CHECKING:
    from wbcpipe.acquire.config.scope import Scope

__all__ = ["Comeback"]

#: How often it is looked for, and how long one that hangs may take to answer.
_LOOK_EVERY_S: Final = 0.5
_ANSWER_S: Final = 2.0


class Comeback:
    """Looks whether the Micro-Manager of a ``bridge`` scope answers, with the scope's devices and in the dark.

    Args:
        scope: for the port, and for how long to wait.
        deadline_s: of `time.time`: no field would be begun after it, so it ends the waiting too.

    Attributes:
        hindrance: why it did not answer when it was looked for last, in a few words; empty if it did.
    """

    def __init__(self, scope: Scope, deadline_s: float | None = None) -> None:
        self._scope = scope
        wait_s = scope.reliability.reconnect_timeout_s
        if deadline_s is not None:
            wait_s = min(wait_s, deadline_s - time.time())
        self._until_s = time.monotonic() + wait_s
        self.hindrance = ""

    @property
    def left_s(self) -> float:
        """How long it is waited for still; 0 when that is over."""
        return max(self._until_s - time.monotonic(), 0.0)

    def look(self) -> bool:
        """Whether it answers; if so, a burst that a dead process left running is ended and the shutter closed."""
        from wbcpipe.acquire.hardware.java_bridge import failure_reason

        self.hindrance = failure_reason(self._scope.micromanager.port, _ANSWER_S)
        if not self.hindrance:
            self.hindrance = close_shutter_in_subprocess(self._scope).rstrip(".")
        return not self.hindrance

    def wait(self, timeout_s: float) -> bool:
        """Look for it until it answers, for ``timeout_s`` at most and no longer than the scope allows."""
        until_s = min(self._until_s, time.monotonic() + timeout_s)
        while not self.look():
            if time.monotonic() >= until_s:
                return False
            time.sleep(_LOOK_EVERY_S)
        return True

    @property
    def request(self) -> str:
        """What its user is to do, as a sentence."""
        return (
            f"Micro-Manager on port {self._scope.micromanager.port} does not answer ({self.hindrance}). Look whether "
            "the lamp is dark, then start Micro-Manager again with its configuration and its server: the run goes on "
            f"by itself when it answers, and waits {_span(self.left_s)} for that"
        )


def _span(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
