"""Wait for a running Micro-Manager that is gone.

Its user starts it again, this program does not.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from wbcpipe.acquire.hardware.safe_dark import close_shutter_in_subprocess

if TYPE_CHECKING:
    from wbcpipe.acquire.config.scope import Scope

__all__ = ["MicroManagerReconnect"]

_RETRY_EVERY_S: Final = 0.5
#: How long a Micro-Manager that hangs may take to answer.
_ANSWER_S: Final = 2.0


class MicroManagerReconnect:
    """Tries to reach the Micro-Manager of a ``bridge`` scope again, with its devices, and closes
    the shutter.

    Args:
        scope: gives the port and `reconnect_timeout_s`.
        deadline_s: of `time.time`: no field starts after it, so the wait ends with it too.

    Attributes:
        failure_reason: why the last attempt failed; empty if it succeeded.
    """

    def __init__(self, scope: Scope, deadline_s: float | None = None) -> None:
        self._scope = scope
        wait_s = scope.reliability.reconnect_timeout_s
        if deadline_s is not None:
            wait_s = min(wait_s, deadline_s - time.time())
        self._until_s = time.monotonic() + wait_s
        self.failure_reason = ""

    @property
    def remaining_s(self) -> float:
        """Time left to wait; 0 when it is over."""
        return max(self._until_s - time.monotonic(), 0.0)

    def try_connect(self) -> bool:
        """Return whether Micro-Manager answers.

        If so, end a running hardware sequence and close the shutter.
        """
        from wbcpipe.acquire.hardware.java_bridge import failure_reason

        self.failure_reason = failure_reason(self._scope.micromanager.port, _ANSWER_S)
        if not self.failure_reason:
            self.failure_reason = close_shutter_in_subprocess(self._scope).rstrip(".")
        return not self.failure_reason

    def wait(self, timeout_s: float) -> bool:
        """Try until Micro-Manager answers, for ``timeout_s`` at most and no longer than the scope
        allows.
        """
        until_s = min(self._until_s, time.monotonic() + timeout_s)
        while not self.try_connect():
            if time.monotonic() >= until_s:
                return False
            time.sleep(_RETRY_EVERY_S)
        return True

    @property
    def operator_message(self) -> str:
        """What the operator must do, as a sentence."""
        return (
            f"Micro-Manager on port {self._scope.micromanager.port} does not answer "
            f"({self.failure_reason}). Check that the lamp is dark, then start Micro-Manager again "
            "with its configuration and its server: the run goes "
            f"on by itself when it answers, and waits {_duration(self.remaining_s)} for that"
        )


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
