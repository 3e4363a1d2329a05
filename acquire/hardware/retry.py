"""Retries after a hardware failure: recover, reload the devices, try again, or give up."""

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

#: From this attempt on, counted from 0, the devices are loaded anew.
_REINITIALISE_AFTER: Final = 1
_Result = TypeVar("_Result")


class Retries:
    """A limited number of attempts at an opened microscope, which another thread can stop.

    Args:
        scope: how many attempts, and how long to wait between them.
        sample: its log gets an event for each.
        microscope: opened.
        stop: set by another thread to end the run.
        progress: called with a message for the user.

    Attributes:
        reload_count: how often the devices were loaded anew.
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
        """Return the number of each attempt, from 0."""
        return range(self._policy.retries + 1)

    def check_stop(self) -> None:
        """Raise `InterruptedRunError` if another thread asked to stop."""
        if self._stop.is_set():
            raise InterruptedRunError(
                f"sample {self._sample.name!r}: stopped; the fields taken are kept, the same "
                f"command goes on."
            )

    def retry(self, action: Callable[[], _Result], **where: int | str) -> _Result:
        """Run an action, and again after a hardware failure, as often as the scope file allows.

        Args:
            action: moves or exposes.
            where: goes to the log.

        Raises as `recover_after` does.
        """
        for attempt in self.attempts:
            try:
                return action()
            except HardwareError as error:
                self.recover_after(error, attempt, **where)
        raise AssertionError  # pragma: no cover - the loop returns or raises

    def recover_after(self, error: HardwareError, attempt: int, **where: int | str) -> None:
        """Recover the microscope after an error, and reload its devices from the second time on.

        Args:
            error: ended the attempt.
            attempt: number of the attempt, from 0.
            where: goes to the log.

        Raises:
            CoreLostError: the devices do not come back in this process.
            HardwareError: ``error``, after the last attempt.
            InterruptedRunError: another thread asked to stop.
        """
        if isinstance(error, CoreLostError):
            raise error
        self._microscope.recover()
        if attempt == self._policy.retries:
            raise error
        self._sample.log("retry", **where, reason=str(error))
        if attempt >= _REINITIALISE_AFTER:
            self._progress(f"loading the devices anew: {error}")
            try:
                self._microscope.reinitialise()
            except CoreLostError:
                raise
            except HardwareError as changed:
                raise CoreLostError(f"after loading the devices anew: {changed}") from error
            self.reload_count += 1
            self._sample.log("reinitialised", **where)
        self._stop.wait(self._policy.retry_wait_s)
        self.check_stop()
