"""What follows a failure of the hardware: rest, the devices loaded anew, another attempt, or the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from wbcpipe.errors import CoreLostError, HardwareError, InterruptedRunError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.protocols import Microscope
    from wbcpipe.samples.sample import Sample

__all__ = ["Retries"]

#: From this attempt on, counted from 0, bringing to rest was not enough: the devices are loaded anew.
_REINITIALISE_AFTER: Final = 1
_Result = TypeVar("_Result")


class Retries:
    """Bounded attempts at an opened microscope, and the wish of another thread to stop.

    Args:
        scope: how many attempts, and how long to wait between them.
        sample: whose log tells of them.
        microscope: opened.
        stop: set when the run shall end.
        progress: told in words what is being done.

    Attributes:
        reload_count: how often the devices were set up anew.
    """

    def __init__(
        self,
        scope: Scope,
        sample: Sample,
        microscope: Microscope,
        stop: threading.Event,
        progress: Callable[[str], None],
    ) -> None:
        self._policy = scope.reliability
        self._sample, self._microscope = sample, microscope
        self._stop, self._progress = stop, progress
        self.reload_count = 0

    @property
    def attempts(self) -> range:
        """Number of each attempt, from 0."""
        return range(self._policy.retries + 1)

    def check_stop(self) -> None:
        """Raise `InterruptedRunError` if the run shall end."""
        if self._stop.is_set():
            raise InterruptedRunError(
                f"sample {self._sample.name!r}: stopped; the fields taken are kept, the same command goes on."
            )

    def retry(self, action: Callable[[], _Result], **where: int | str) -> _Result:
        """Try something at the hardware, and again after a failure, as often as the scope allows."""
        for attempt in self.attempts:
            try:
                return action()
            except HardwareError as error:
                self.recover_after(error, attempt, **where)
        raise AssertionError  # pragma: no cover - the loop returns or raises

    def recover_after(self, error: HardwareError, attempt: int, **where: int | str) -> None:
        """Bring the hardware to rest after ``error``, load it anew if that was tried; raise after the last attempt.

        Args:
            error: that ended the attempt.
            attempt: its number, from 0.
            where: goes to the log.

        Raises:
            CoreLostError: the devices do not come back in this process.
            HardwareError: ``error``, after the last attempt.
            InterruptedRunError: the run shall end.
        """
        if isinstance(error, CoreLostError):
            raise error
        self._microscope.recover()
        if attempt == self._policy.retries:
            raise error
        self._sample.log("retry", **where, reason=str(error))
        if attempt >= _REINITIALISE_AFTER:
            self._progress(f"setting the devices up anew: {error}")
            try:
                self._microscope.reinitialise()
            except CoreLostError:
                raise
            except HardwareError as changed:
                raise CoreLostError(f"after setting the devices up anew: {changed}") from error
            self.reload_count += 1
            self._sample.log("reinitialised", **where)
        self._stop.wait(self._policy.retry_wait_s)
        self.check_stop()
