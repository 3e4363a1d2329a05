"""The acquisition process: takes the fields that the parent requests, and reports each."""

from __future__ import annotations

import functools
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from wbcpipe.acquire.capture.session_observer import SessionObserver
from wbcpipe.acquire.hardware.safe_dark import close_shutter_after_this_process
from wbcpipe.acquire.supervise.messages import (
    TAKING_FIELDS,
    DeadlinePassed,
    FieldEmpty,
    FieldMissing,
    FieldRequest,
    FieldStarted,
    FieldTaken,
    Progress,
    RequestDone,
)
from wbcpipe.errors import InterruptedRunError
from wbcpipe.system.storage import report_waits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wbcpipe.acquire.capture.session import AcquisitionSession
    from wbcpipe.acquire.request import AcquisitionRequest
    from wbcpipe.system.child_process import ParentLink

__all__ = ["CommandListener", "EventReporter", "take_requested_fields"]

#: How long to wait for the process of an earlier run to end: it outlives a parent that was killed
#: by one frame.
_LOCK_WAIT_S: Final = 15.0


class CommandListener:
    """Receives the parent's requests in a thread, and stops the session when the parent closes the
    pipe or ends.
    """

    def __init__(self, parent: ParentLink) -> None:
        self._parent = parent
        self._changed = threading.Condition()
        self._request = FieldRequest(0, None)
        self._ended = False
        self._session: AcquisitionSession | None = None
        threading.Thread(target=self._listen, name="wbcpipe-commands", daemon=True).start()

    def attach(self, session: AcquisitionSession) -> None:
        """Stop ``session`` when the parent ends, or now if it has ended."""
        with self._changed:
            self._session = session
            if self._ended:
                session.stop()

    def next_request(self, done: int) -> FieldRequest | None:
        """Wait until more than ``done`` fields are requested and return the request; ``None`` at
        the end.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._request.n_fields > done)
            return None if self._ended else self._request

    def _listen(self) -> None:
        try:
            while True:
                request = self._parent.receive()
                assert isinstance(request, FieldRequest)
                with self._changed:
                    self._request = replace(
                        request, n_fields=max(self._request.n_fields, request.n_fields)
                    )
                    self._changed.notify_all()
        except InterruptedRunError:
            with self._changed:
                self._ended = True
                if self._session is not None:
                    self._session.stop()  # it closes the shutter and ends within a frame
                self._changed.notify_all()


class EventReporter(SessionObserver):
    """Reports fields to the parent in the plan's order, those that were on disk before among those
    just taken.
    """

    def __init__(self, parent: ParentLink) -> None:
        self._parent = parent
        self._resumed: list[tuple[int, float | None]] = []
        self._began = False

    def resume(self, known: Mapping[int, float | None]) -> None:
        """Add fields that need not be taken: on disk already or, with their foreground area, known
        as empty.
        """
        self._resumed += sorted(known.items(), key=lambda item: item[0])

    def flush(self, below: int) -> None:
        """Report the resumed fields before index ``below``."""
        while self._resumed and self._resumed[0][0] < below:
            index, area_um2 = self._resumed.pop(0)
            self._parent.send(
                FieldTaken(index, resumed=True) if area_um2 is None else FieldEmpty(index, area_um2)
            )

    def progress(self, text: str) -> None:
        """Report the current work."""
        self._parent.send(Progress(text))

    def started(self, index: int) -> None:
        """Report that a field starts, and before the first one that the preparations are over."""
        if not self._began:
            self._began = True
            self.progress(TAKING_FIELDS)
        self._parent.send(FieldStarted(index))

    def taken(self, index: int) -> None:
        """Report a field that is complete on disk."""
        self.flush(index)
        self._parent.send(FieldTaken(index))

    def missing(self, index: int, reason: str) -> None:
        """Report a field that could not be taken."""
        self.flush(index)
        self._parent.send(FieldMissing(index, reason))

    def empty(self, index: int, foreground_um2: float) -> None:
        """Report a field that was skipped as empty."""
        self.flush(index)
        self._parent.send(FieldEmpty(index, foreground_um2))


def take_requested_fields(
    request: AcquisitionRequest, given_up: dict[int, str], parent: ParentLink
) -> None:
    """Take fields until the parent requests no more; the target of the child process.

    The microscope opens at the first request, after everything slow is loaded: the parent may start
    this process while another one still uses the microscope.
    """
    from wbcpipe.acquire.capture.session import AcquisitionSession
    from wbcpipe.acquire.open_microscope import load_driver

    parent.if_hung = functools.partial(close_shutter_after_this_process, request.scope)
    commands = CommandListener(parent)
    events = EventReporter(parent)
    report_waits(events.progress)  # a sign of life, whichever thread waits for a disk
    session = AcquisitionSession(request, events, given_up=given_up)
    commands.attach(session)
    load_driver(request.specimen)
    if commands.next_request(0) is None:
        return
    with request.sample.lock("acquire", name="acquire", wait_s=_LOCK_WAIT_S), session:
        done = 0
        while (asked := commands.next_request(done)) is not None:
            requested = asked.n_fields
            session.request = replace(session.request, deadline_s=asked.deadline_s)
            # A field given up stays so for this process: the fields a run takes must not depend on
            # when it is asked.
            known: dict[int, float | None] = {
                **dict.fromkeys(session.inventory.taken),
                **session.inventory.empty,
            }
            todo = [index for index in range(done, requested) if index not in known]
            events.resume(
                {index: known[index] for index in range(done, requested) if index in known}
            )
            events.flush(todo[0] if todo else requested)
            in_time = session.take(todo)
            events.flush(requested)
            done = requested
            parent.send(RequestDone(done) if in_time else DeadlinePassed(done))
