"""Work that takes seconds, done in threads.

What follows from it is done in the thread that asked for it.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Background"]

_Result = TypeVar("_Result")

_THREADS: Final = 8
_TICK_S: Final = 0.2


class Background:
    """Runs functions in threads, and calls what follows from them when `finish_ready` or
    `finish_all` is called.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="wbcpipe-background")
        self._pending: dict[Future[None], Callable[[], None]] = {}

    def __bool__(self) -> bool:
        return bool(self._pending)

    def start(
        self, work: Callable[[], _Result], then: Callable[[_Result | Exception], None]
    ) -> None:
        """Start ``work`` in a thread; ``then`` receives its result, or the error that ended it."""
        results: list[_Result | Exception] = []

        def run() -> None:
            try:
                results.append(work())
            except Exception as error:  # noqa: BLE001 - the thread's boundary: who asked for it decides
                results.append(error)

        self._pending[self._executor.submit(run)] = lambda: then(results[0])

    def finish_ready(self) -> None:
        """Call what follows from the work that has ended."""
        for done in [future for future in self._pending if future.done()]:
            self._pending.pop(done)()

    def finish_all(self, beat: Callable[[], None]) -> None:
        """Wait for all work, and call what follows from it; call ``beat`` while waiting."""
        while self._pending:
            wait(self._pending, _TICK_S)
            self.finish_ready()
            beat()

    def close(self) -> None:
        """End the threads, once nothing is left to do."""
        self._executor.shutdown(wait=False)
