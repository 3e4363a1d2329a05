"""A thread that copies the camera's frames while the next exposure runs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

__all__ = ["FrameCopier"]


class FrameCopier:
    """Runs jobs in order on one thread; some wait until they are released."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="wbcpipe-copy")
        self._running: list[Future[None]] = []
        self._held: list[Callable[[], None]] = []

    def run(self, job: Callable[[], None]) -> None:
        """Run a job after those before it."""
        self._running.append(self._pool.submit(job))

    def hold(self, job: Callable[[], None]) -> None:
        """Keep a job until `release`."""
        self._held.append(job)

    def release(self) -> None:
        """Run the jobs that were held."""
        for job in self._held:
            self.run(job)
        self._held.clear()

    def drop_held(self) -> None:
        """Forget the jobs that were held."""
        self._held.clear()

    def wait(self) -> None:
        """Wait for all jobs that run; raise what one of them raised."""
        while self._running:
            self._running.pop().result()

    def close(self) -> None:
        """End the thread after its jobs."""
        self._pool.shutdown()
