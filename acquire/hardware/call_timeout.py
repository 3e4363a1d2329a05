"""Calls that may hang inside a driver: run on a thread, so that the caller's wait can end."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_futures
from typing import TYPE_CHECKING, Any

from wbcpipe.errors import DeviceTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DaemonExecutor", "DeadlineCaller"]


class DaemonExecutor:
    """One daemon thread that runs calls in order: unlike a pool's, it does not keep the process
    alive when it hangs.
    """

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """Run a call after those before it."""
        future: Future[Any] = Future()
        self._calls.put((call, future))
        return future

    def shutdown(self, *, wait: bool) -> None:
        """End the thread after its calls."""
        self._calls.put(None)
        if wait:
            self._thread.join()

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            call, future = item
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
                    future.set_exception(error)
                else:
                    future.set_result(result)
                    del result
            del item, call, future


class DeadlineCaller:
    """One long-lived thread for calls with a deadline: to start a thread for each exposure costs
    more than the call.

    A call that does not end in time is left behind; until it returns, no other call is started.
    """

    def __init__(self) -> None:
        self._executor: DaemonExecutor | None = None
        self._stuck: Future[Any] | None = None

    def run(self, call: Callable[[], None], timeout_s: float, doing: str) -> None:
        """Run ``call`` and wait for its end; raise what it raises.

        Raises:
            DeviceTimeoutError: it did not end within ``timeout_s``, or an earlier call still hangs.
        """
        if not self.wait(timeout_s):
            raise DeviceTimeoutError(
                f"{doing}: an earlier call still hangs in the driver; restart the device."
            )
        if self._executor is None:
            self._executor = DaemonExecutor("wbcpipe-core")
        future = self._executor.submit(call)
        try:
            future.result(timeout_s)
        except TimeoutError:
            if not future.done():
                raise DeviceTimeoutError(f"{doing} did not end within {timeout_s:g} s.") from None
            future.result()  # the call's own error, or its end just after the deadline
        finally:
            # Also when the wait itself is cut short (Ctrl-C): the call is then still inside the
            # driver.
            if not future.done():
                self._stuck = future

    def wait(self, timeout_s: float) -> bool:
        """Wait for a call left behind, if there is one; return ``False`` if it still hangs."""
        if self._stuck is not None and not wait_for_futures([self._stuck], timeout_s).done:
            return False
        self._stuck = None
        return True

    def close(self) -> None:
        """End the thread; a thread that hangs is left to end by itself."""
        if self._executor is not None:
            self._executor.shutdown(wait=self._stuck is None or self._stuck.done())
            self._executor = None
