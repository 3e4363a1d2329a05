"""Acquisition in a child process: a driver that crashes ends the child, never the run.

The parent requests fields and receives events. The child opens the microscope at the first request.
A child that dies, hangs or loses the core is started again, and goes on from what is on disk.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self

from wbcpipe.acquire.hardware.device_adapters import require_core
from wbcpipe.acquire.hardware.safe_dark import close_shutter_in_subprocess, shutter_message
from wbcpipe.acquire.supervise.messages import (
    DeadlinePassed,
    FieldEmpty,
    FieldMissing,
    FieldRequest,
    FieldStarted,
    FieldTaken,
    Progress,
    RequestDone,
)
from wbcpipe.acquire.supervise.reconnect import MicroManagerReconnect
from wbcpipe.acquire.supervise.restart_policy import (
    Death,
    RestartPolicy,
    describe_death,
    max_silence_s,
)
from wbcpipe.acquire.supervise.worker_child import take_requested_fields
from wbcpipe.errors import CoreLostError, HardwareError
from wbcpipe.system.child_process import ChildLostError, ChildProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wbcpipe.acquire.request import AcquisitionRequest
    from wbcpipe.acquire.supervise.messages import WorkerEvent

__all__ = ["AcquisitionWorker"]

#: How often the operator is reminded that the run waits for Micro-Manager.
_REMIND_S: Final = 60.0


class AcquisitionWorker:
    """A child process that takes fields.

    Use it as a context manager; call `request_fields` and `events` as often as needed while it is
    open.

    Args:
        request: what to take.
        stall_s: a child that sends nothing for this long counts as hung and is killed; by default
            it follows from the scope's time limits.
    """

    def __init__(self, request: AcquisitionRequest, *, stall_s: float | None = None) -> None:
        self.request = request
        self.stall_s = stall_s or max_silence_s(request.scope)
        self._requested = 0
        self._done = 0
        self._policy = RestartPolicy(request.scope.reliability)
        self._started: set[int] = set()
        self._reported: set[int] = set()
        #: Fields that this run gave up, with the reason: no later child tries them again.
        self._given_up: dict[int, str] = {}
        self._is_dark = False
        #: The core was lost and no field has started since.
        self._lost: Death | None = None
        #: The wait for a Micro-Manager that is gone, and the death that revealed it.
        self._reconnect: tuple[MicroManagerReconnect, Death] | None = None

    def __enter__(self) -> Self:
        if self.request.microscope is None:
            require_core(self.request.scope)
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._child.close()
        self._darken_after(self._child)

    def _start(self) -> None:
        name = f"wbcpipe-acquire-{self.request.sample.name}"
        child: ChildProcess[WorkerEvent | FieldStarted] = ChildProcess(
            take_requested_fields, self.request, dict(self._given_up), name=name
        )
        try:
            child.start()
        except BaseException:
            self._darken_after(child)
            raise
        self._child = child

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return int(self._child.pid or 0)

    def request_fields(self, n_fields: int) -> None:
        """Request the first ``n_fields`` planned fields; a later call may request more.

        Raises:
            ValueError: fewer than 1, or more than the plan has.
        """
        available = self.request.plan.n_fields
        if not 1 <= n_fields <= available:
            raise ValueError(
                f"{n_fields} fields are requested; slot {self.request.plan.slot!r} has room for 1 "
                f"to {available}."
            )
        self._requested = max(self._requested, n_fields)
        self._child.send(FieldRequest(n_fields, self.request.deadline_s))

    def set_deadline(self, deadline_s: float | None) -> None:
        """Start no field after this time (of `time.time`), from the next request on."""
        self.request = replace(self.request, deadline_s=deadline_s)

    def events(self) -> Iterator[WorkerEvent]:
        """Yield events until every requested field is done.

        The last event is `RequestDone` or `DeadlinePassed`.

        Each requested field is reported once, in order, however often the child was started again.

        Raises:
            DeviceCrashError: the child died too often: a driver crashed. The fields taken are
                complete; the same command goes on.
            DeviceTimeoutError: the child sent nothing for ``stall_s`` too often, and was killed.
            CoreLostError: the core was lost too often.
            WbcpipeError: the error that ended the child, by its class and text.
        """
        while self._done < self._requested:
            yield self._next_event()

    def _next_event(self) -> WorkerEvent:
        if self._reconnect is not None:
            return self._wait_for_micromanager(*self._reconnect)
        while True:
            try:
                event = self._account(self._child.receive(self.stall_s))
            except ChildLostError as lost:
                if lost.exit_code == 1:
                    self._is_dark = True  # no device was reached
                return self._restart(
                    describe_death(lost, self._child.exit_text, self.request.scope, self.stall_s)
                )
            except HardwareError as error:
                if isinstance(error, CoreLostError):
                    self._lost = Death(f"the core was lost: {str(error).rstrip('.')}", error)
                # A child started after a lost core may find none to go on with.
                if self._lost is None:
                    raise
                return self._restart(self._lost)
            if event is not None:
                return event

    def _account(self, message: WorkerEvent | FieldStarted) -> WorkerEvent | None:
        """Keep account of a message.

        Return it unless the caller knows it already or does not need it.
        """
        match message:
            case FieldStarted(index):
                self._lost = None
                self._started.add(index)
                self._policy.start_field(index)
                return None
            case RequestDone(n_fields) | DeadlinePassed(n_fields):
                self._done = max(self._done, n_fields)
                self._policy.idle()
            case FieldTaken(index, resumed):
                self._policy.end_field(index, taken=not resumed)
                if index in self._started:  # by an earlier child, which died before it could report
                    message = replace(message, resumed=False)
            case FieldEmpty(index=index):
                self._policy.end_field(index, taken=False)
            case FieldMissing(index, reason):
                self._policy.end_field(index, taken=False)
                self._given_up[index] = reason
        if isinstance(message, FieldTaken | FieldMissing | FieldEmpty):
            if message.index in self._reported:
                return None
            self._reported.add(message.index)
        return message

    def _restart(self, death: Death) -> Progress:
        """Start the child again, without the field that crashed it too often.

        Raise if it died too often.
        """
        self._child.close()
        decision = self._policy.died()
        field = decision.field
        at_field, consequence = "", ""
        if field is not None:
            at_field = f" at field {field}"
            consequence = "; it is recorded missing" if decision.give_up else "; it is tried again"
            if decision.give_up:
                times = f", {decision.deaths} times" if decision.deaths > 1 else ""
                self._given_up[field] = f"{death.text} while it was taken{times}."
        if not decision.restart:
            raise self._final_error(death)
        self._log("restarted", field=field, reason=death.text)
        if self.request.scope.micromanager.backend == "bridge":
            reconnect = MicroManagerReconnect(self.request.scope, self.request.deadline_s)
            if not reconnect.try_connect():
                self._log("waiting_for_micromanager", reason=reconnect.failure_reason)
                self._reconnect = reconnect, death
                if not reconnect.remaining_s:
                    return self._wait_for_micromanager(reconnect, death)
                taken = "" if field is None else f". Field {field} was being taken{consequence}"
                return Progress(reconnect.operator_message + taken)
        self._start_again()
        return Progress(f"{death.text}{at_field}: started again{consequence}")

    def _start_again(self) -> None:
        self._start()  # it closes the shutter first of all
        if self._requested:
            self.request_fields(self._requested)

    def _wait_for_micromanager(self, reconnect: MicroManagerReconnect, death: Death) -> Progress:
        """Wait for Micro-Manager to answer again, and go on.

        Raise when the time for that is over.
        """
        if reconnect.wait(_REMIND_S):
            self._reconnect = None
            self._log("micromanager_is_back")
            self._start_again()
            return Progress("Micro-Manager answers again: going on")
        if reconnect.remaining_s:
            return Progress(reconnect.operator_message)
        self._reconnect = None
        raise self._final_error(death)

    def _final_error(self, death: Death) -> HardwareError:
        error = type(death.error)(f"{death.error} {self._darken(death.text)}")
        error.__cause__ = death.error
        return error

    def _darken_after(self, child: ChildProcess[Any]) -> None:
        if child.exit_code not in (0, None) and not self._is_dark:
            self._darken(child.exit_text)

    def _darken(self, reason: str) -> str:
        """Close the shutter that a dead child may have left open.

        Return the result as a sentence.
        """
        self._is_dark = True
        failure = close_shutter_in_subprocess(self.request.scope)
        self._log(
            "process_ended",
            reason=reason,
            shutter="closed" if not failure else f"not known to be closed: {failure}",
        )
        return shutter_message(failure)

    def _log(self, event: str, **details: Any) -> None:
        with contextlib.suppress(
            FileNotFoundError
        ):  # a child that died before it made the sample's folder
            self.request.sample.log(event, **details)
