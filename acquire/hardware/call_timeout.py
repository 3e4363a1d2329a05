"""Calls that may hang inside a driver: run on a thread, so that the caller's wait can end."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

from wbcpipe.errors import DeviceTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DeadlineCaller"]


class _Job:
    """A call under way, and the error that it raised."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call
        self.done = threading.Event()
        self.error: BaseException | None = None


class DeadlineCaller:
    """One long-lived thread for calls with a deadline: to start a thread for each exposure costs more than the call.

    A call that does not end in time is left behind; until it returns, no other call is started.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stuck: _Job | None = None

    def run(self, call: Callable[[], None], timeout_s: float, doing: str) -> None:
        """Run ``call`` and wait for its end; raise what it raises.

        Raises:
            DeviceTimeoutError: it did not end within ``timeout_s``, or an earlier call still hangs.
        """
        if not self.wait(timeout_s):
            raise DeviceTimeoutError(f"{doing}: an earlier call still hangs in the driver; restart the device.")
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="wbcpipe-core", daemon=True)
            self._thread.start()
        job = _Job(call)
        self._jobs.put(job)
        try:
            in_time = job.done.wait(timeout_s)
        finally:
            # Also when the wait itself is cut short (Ctrl-C): the call is then still inside the driver.
            if not job.done.is_set():
                self._stuck = job
        if not in_time:
            raise DeviceTimeoutError(f"{doing} did not end within {timeout_s:g} s.")
        if job.error is not None:
            raise job.error

    def wait(self, timeout_s: float) -> bool:
        """Wait for a call left behind, if there is one; return ``False`` if it still hangs."""
        if self._stuck is not None and not self._stuck.done.wait(timeout_s):
            return False
        self._stuck = None
        return True

    def close(self) -> None:
        """End the thread; a thread that hangs is left to end by itself."""
        if self._thread is None:
            return
        self._jobs.put(None)
        if self._stuck is None or self._stuck.done.is_set():
            self._thread.join()
        self._thread = None

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job.call()
            except BaseException as error:  # noqa: BLE001 - handed over to the caller's thread
                job.error = error
            finally:
                job.done.set()
