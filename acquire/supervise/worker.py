"""Acquisition in a process of its own: a driver that crashes takes down the child, never the run.

The parent says how many fields it wants and reads what happens; both ends close when either process dies. A child that
dies, hangs or loses the core is started again, and goes on from what is on disk.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Self

import wbcpipe.errors
from wbcpipe.acquire.supervise.reconnect import Comeback
from wbcpipe.acquire.supervise.restart_policy import (
    RestartPolicy,
    close_shutter_in_subprocess,
    death_of,
    shutter_message,
)
from wbcpipe.errors import (
    CoreLostError,
    DeviceCrashError,
    DeviceTimeoutError,
    HardwareError,
    InterruptedRunError,
    WbcpipeError,
)
from wbcpipe.system.signals import ignore_sigint_in_children

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from multiprocessing.connection import Connection

    from wbcpipe.acquire.capture.session import AcquisitionSession
    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.request import AcquisitionRequest

__all__ = [
    "AcquisitionWorker",
    "DeadlinePassed",
    "FieldEmpty",
    "FieldMissing",
    "FieldTaken",
    "Progress",
    "WantedDone",
    "WorkerEvent",
]

#: How long a child may take to end by itself: a frame, the fields in its buffers, the devices' unloading.
_END_S: Final = 20.0
_LOCK_WAIT_S: Final = 15.0
#: How often a wait for Micro-Manager is told of.
_REMIND_S: Final = 60.0


@dataclass(frozen=True)
class FieldTaken:
    """A wanted field is whole on disk; ``resumed`` if it was there before this run."""

    index: int
    resumed: bool = False


@dataclass(frozen=True)
class FieldMissing:
    """A wanted field could not be taken, and why."""

    index: int
    reason: str


@dataclass(frozen=True)
class FieldEmpty:
    """A wanted field showed bare glass and was skipped; the figure is that of `quicklook.foreground_area_um2`."""

    index: int
    figure_um2: float


@dataclass(frozen=True)
class DeadlinePassed:
    """The deadline came before every wanted field was begun; the rest of them will not be."""

    n_fields: int


@dataclass(frozen=True)
class Progress:
    """What is being done, in words."""

    text: str


@dataclass(frozen=True)
class WantedDone:
    """Every field of a ``want`` is on disk or missing."""

    n_fields: int


@dataclass(frozen=True)
class _Failed:
    """The child ended with an error: its class's name and its text."""

    name: str
    text: str


@dataclass(frozen=True)
class _Begun:
    """The child begins a field: if it dies now, this one is to blame."""

    index: int


@dataclass(frozen=True)
class _Death:
    """How a child ended: in a few words, and as the error that ends the run if there is no going on."""

    text: str
    error: HardwareError


WorkerEvent = FieldTaken | FieldMissing | FieldEmpty | Progress | DeadlinePassed | WantedDone


class AcquisitionWorker:
    """A child process that takes fields.

    Use as a context manager; `want` and `events` may be called again and again while it is open.

    Args:
        request: what to do.
        stall_s: without any word from the child for so long, it is taken for hung and ended; by default worked out
            from the scope's deadlines.
    """

    def __init__(self, request: AcquisitionRequest, *, stall_s: float | None = None) -> None:
        self.request = request
        self.stall_s = stall_s or _stall_s(request.scope)
        self._wanted = 0
        self._done = 0
        self._policy = RestartPolicy(request.scope.reliability)
        self._begun: set[int] = set()
        self._told: set[int] = set()
        #: Fields not to be tried again in this run, with the reason: no child takes up what an earlier one gave up.
        self._given_up: dict[int, str] = {}
        self._is_dark = False
        self._is_started = False
        #: The core was lost and no field was begun since.
        self._lost: _Death | None = None
        #: A running Micro-Manager that is gone, with the death that told of it, while it is waited for.
        self._awaited: tuple[Comeback, _Death] | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            # Ctrl-C while it was being started: if it is there, nobody else would end it.
            if self._is_started:
                self.__exit__()
            raise
        return self

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        with ignore_sigint_in_children():
            pipe, child_end = context.Pipe()
            process = context.Process(
                target=_child_main,
                args=(self.request, dict(self._given_up), child_end),
                name=f"wbcpipe-acquire-{self.request.sample.name}",
            )
            try:
                process.start()
            finally:
                if process.pid is not None:
                    self._pipe, self._process, self._is_started = pipe, process, True
        child_end.close()

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        deadline = time.monotonic() + _END_S
        # Read on, so that a child in the middle of a message is not held up.
        while self._process.is_alive() and time.monotonic() < deadline:
            with contextlib.suppress(EOFError, OSError):
                if self._pipe.poll(0.05):
                    self._pipe.recv()
                    continue
            self._process.join(0.05)
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._pipe.close()
        if self._process.exitcode != 0 and not self._is_dark:
            self._end_in_the_dark(death_of(self._process.exitcode))

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return int(self._process.pid or 0)

    def want(self, n_fields: int) -> None:
        """Want the first ``n_fields`` planned fields; a later call may want more.

        Raises:
            ValueError: fewer than 1, or more than the plan has.
        """
        most = len(self.request.plan.fields())
        if not 1 <= n_fields <= most:
            raise ValueError(f"{n_fields} fields are wanted; slot {self.request.plan.slot!r} has room for 1 to {most}.")
        self._wanted = max(self._wanted, n_fields)
        with contextlib.suppress(OSError):  # a dead child is reported by the next event
            self._pipe.send(n_fields)

    def events(self) -> Iterator[WorkerEvent]:
        """What happens, until all that was wanted is done; the last is `WantedDone`, or `DeadlinePassed`.

        Each wanted field is told once, in order, however often the child had to be started again.

        Raises:
            DeviceCrashError: the child died too often: a driver crashed. The fields taken are whole; the same command
                goes on.
            DeviceTimeoutError: nothing was heard of the child for ``stall_s``, too often; it was ended.
            CoreLostError: the core was lost too often.
            WbcpipeError: what the child met, of the same class and text.
        """
        while self._done < self._wanted:
            event = self.next_event(self.stall_s)
            if event is None:
                self._process.kill()
                event = self._restart(self._stall())
            yield event

    def next_event(self, timeout_s: float) -> WorkerEvent | None:
        """The next thing that happens, or ``None`` after ``timeout_s`` of silence. Raises as `events` does."""
        if self._awaited is not None:
            return self._await(*self._awaited)
        while self._pipe.poll(timeout_s):
            try:
                message = self._pipe.recv()
            except (EOFError, OSError):
                return self._restart(self._crash())
            if isinstance(message, _Failed):
                error = _rebuilt(message)
                if isinstance(error, CoreLostError):
                    self._lost = _Death(f"the core was lost: {str(error).rstrip('.')}", error)
                elif not isinstance(error, HardwareError):
                    raise error
                # A process started for one that lost its core may find none to go on with.
                if self._lost is None:
                    raise error
                return self._restart(self._lost)
            event = self._heard(message)
            if event is not None:
                return event
        return None

    def _heard(self, message: WorkerEvent | _Begun) -> WorkerEvent | None:
        """Keep account of what the child says; ``None`` for what concerns nobody else, or was told before."""
        match message:
            case _Begun(index):
                self._lost = None
                self._begun.add(index)
                self._policy.begin(index)
                return None
            case WantedDone(n_fields) | DeadlinePassed(n_fields):
                self._done = max(self._done, n_fields)
                self._policy.idle()
            case FieldTaken(index, resumed):
                self._policy.settled(index, taken=not resumed)
                if index in self._begun:  # by an earlier child, which died before it could tell
                    message = replace(message, resumed=False)
            case FieldEmpty(index=index):
                self._policy.settled(index, taken=False)
            case FieldMissing(index, reason):
                self._policy.settled(index, taken=False)
                self._given_up[index] = reason
        assert isinstance(message, WorkerEvent)
        if isinstance(message, FieldTaken | FieldMissing | FieldEmpty):
            if message.index in self._told:
                return None
            self._told.add(message.index)
        return message

    def _crash(self) -> _Death:
        self._process.join(_END_S)
        how = death_of(self._process.exitcode)
        if self._process.exitcode == 1:
            self._is_dark = True  # no device was reached
            raise DeviceCrashError("the acquisition process could not start or was cut off; see its messages above.")
        return _Death(
            f"a device driver crashed ({how})",
            DeviceCrashError(
                f"scope {self.request.scope.name!r}: the process that drives it died ({how}): a device driver crashed. "
                "The fields taken are kept; run the same command again, and if it comes back run `wbcpipe doctor`."
            ),
        )

    def _stall(self) -> _Death:
        return _Death(
            f"no sign of life for {self.stall_s:g} s",
            DeviceTimeoutError(
                f"scope {self.request.scope.name!r}: no sign of life for {self.stall_s:g} s, so its process was ended; "
                "the fields taken are kept. Check the devices and run the same command again."
            ),
        )

    def _restart(self, death: _Death) -> Progress:
        """Start the child again, without the field that took it down too often; raise if it died too often."""
        self._process.join(_END_S)
        if self._process.is_alive():  # one that lost the core may hang in its driver on the way out
            self._process.kill()
            self._process.join()
        verdict = self._policy.died()
        where = "" if verdict.field is None else f" at field {verdict.field}"
        if verdict.field is not None and verdict.give_up:
            times = f", {verdict.deaths} times" if verdict.deaths > 1 else ""
            self._given_up[verdict.field] = f"{death.text} while it was taken{times}."
        if not verdict.restart:
            raise type(death.error)(f"{death.error} {self._end_in_the_dark(death.text)}") from death.error
        self._log("restarted", field=verdict.field, reason=death.text)
        self._pipe.close()
        fate = "" if verdict.field is None else "; it is recorded missing" if verdict.give_up else "; it is tried again"
        if self.request.scope.micromanager.backend == "bridge":
            comeback = Comeback(self.request.scope, self.request.deadline_s)
            if not comeback.look():
                self._log("waiting_for_micromanager", reason=comeback.hindrance)
                self._awaited = comeback, death
                at_field = "" if verdict.field is None else f". Field {verdict.field} was being taken{fate}"
                return Progress(comeback.request + at_field) if comeback.left_s else self._await(comeback, death)
        self._begin_again()
        return Progress(f"{death.text}{where}: started again{fate}")

    def _begin_again(self) -> None:
        self._start()  # on opening it closes the shutter before all else
        if self._wanted:
            self.want(self._wanted)

    def _await(self, comeback: Comeback, death: _Death) -> Progress:
        """Wait for Micro-Manager to come back, and go on; raise when it was waited for long enough."""
        if comeback.wait(_REMIND_S):
            self._awaited = None
            self._log("micromanager_is_back")
            self._begin_again()
            return Progress("Micro-Manager answers again: going on")
        if comeback.left_s:
            return Progress(comeback.request)
        self._awaited = None
        raise type(death.error)(f"{death.error} {self._end_in_the_dark(death.text)}") from death.error

    def _end_in_the_dark(self, reason: str) -> str:
        """Close the shutter that a dead child may have left open; says in words whether that was done."""
        self._is_dark = True
        hindrance = close_shutter_in_subprocess(self.request.scope)
        self._log("ended", reason=reason, shutter="closed" if not hindrance else f"not known to be closed: {hindrance}")
        return shutter_message(hindrance)

    def _log(self, event: str, **details: Any) -> None:
        with contextlib.suppress(FileNotFoundError):  # a child that died before it made the sample's folder
            self.request.sample.log(event, **details)


def _stall_s(scope: Scope) -> float:
    """The longest silence of a sound child: starting, a wide search of focus, or a field with all its retries."""
    policy = scope.reliability
    frame_s = policy.camera_timeout_s + policy.switch_timeout_s + policy.move_timeout_s
    # Starting and loading the devices anew may take a minute each.
    return 120.0 + (policy.retries + 1) * (4 * frame_s + policy.retry_wait_s)


def _rebuilt(failed: _Failed) -> Exception:
    error_class = getattr(wbcpipe.errors, failed.name, None)
    if isinstance(error_class, type) and issubclass(error_class, WbcpipeError):
        return error_class(failed.text)
    return RuntimeError(f"the acquisition process failed: {failed.name}: {failed.text}")


class _Desk:
    """The child's end: receives wishes in a thread, ends the process when the parent is gone."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._sending = threading.Lock()
        self._changed = threading.Condition()
        self._wanted = 0
        self._ended = False
        self._session: AcquisitionSession | None = None
        threading.Thread(target=self._listen, name="wbcpipe-desk", daemon=True).start()

    def send(self, event: WorkerEvent | _Begun | _Failed) -> None:
        """Tell the parent; one that is gone is noticed elsewhere."""
        with self._sending, contextlib.suppress(OSError):
            self._pipe.send(event)

    def attach(self, session: AcquisitionSession) -> None:
        """The session to stop when the parent says so or dies."""
        with self._changed:
            self._session = session
            if self._ended:
                session.stop()

    def wanted_above(self, done: int) -> int | None:
        """Wait for a wish beyond ``done``; ``None`` when there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._wanted > done)
            return None if self._ended else self._wanted

    def _listen(self) -> None:
        parent = multiprocessing.parent_process()
        watched: list[Any] = [self._pipe, *([parent.sentinel] if parent else [])]
        while True:
            ready = multiprocessing.connection.wait(watched)
            wish: Any = None
            if self._pipe in ready:
                with contextlib.suppress(EOFError, OSError):
                    wish = self._pipe.recv()
            if wish is None:
                break
            with self._changed:
                self._wanted = max(self._wanted, int(wish))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            if self._session is not None:
                self._session.stop()
            self._changed.notify_all()
        # The session closes the shutter and ends within a frame; should a driver hang, leave all the same.
        time.sleep(_END_S / 2)
        os._exit(1)


def _child_main(request: AcquisitionRequest, given_up: dict[int, str], pipe: Connection) -> None:
    """The child: a session, served until the parent wants no more."""
    # Ctrl-C at the terminal reaches both processes; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    desk = _Desk(pipe)
    try:
        with request.sample.lock("acquire", name="acquire", wait_s=_LOCK_WAIT_S):
            _serve(request, given_up, desk)
    except InterruptedRunError:
        pass
    except Exception as error:  # noqa: BLE001 - the process boundary: the parent raises it
        desk.send(_Failed(type(error).__name__, str(error)))


def _serve(request: AcquisitionRequest, given_up: dict[int, str], desk: _Desk) -> None:
    from wbcpipe.acquire.capture.session import AcquisitionSession

    session = AcquisitionSession(
        request.sample,
        request.scope,
        request.plan,
        request.specimen,
        pass_name=request.pass_name,
        microscope=request.microscope,
        progress=lambda text: desk.send(Progress(text)),
        given_up=given_up,
        slide=request.slide,
    )
    desk.attach(session)
    teller = _Teller(desk)
    with session:
        done = 0
        while (wanted := desk.wanted_above(done)) is not None:
            # A field given up stays so for this process: which fields a run takes must not hang on when it is asked.
            known: dict[int, float | None] = {**dict.fromkeys(session.taken), **session.empty}
            todo = [index for index in range(done, wanted) if index not in known]
            teller.resume({index: known[index] for index in range(done, wanted) if index in known})
            teller.flush(todo[0] if todo else wanted)
            whole = session.take(
                todo,
                teller.taken,
                teller.missing,
                teller.empty,
                on_begin=lambda index: desk.send(_Begun(index)),
                go_on=request.in_time,
            )
            teller.flush(wanted)
            done = wanted
            desk.send(WantedDone(done) if whole else DeadlinePassed(done))


class _Teller:
    """Tells the parent of fields in the plan's order, those that were on disk before among those just taken."""

    def __init__(self, desk: _Desk) -> None:
        self._desk = desk
        self._resumed: list[tuple[int, float | None]] = []

    def resume(self, known: Mapping[int, float | None]) -> None:
        """Fields that need not be taken: on disk already, or, with a figure, known as empty."""
        self._resumed += sorted(known.items(), key=lambda item: item[0])

    def flush(self, below: int) -> None:
        while self._resumed and self._resumed[0][0] < below:
            index, figure_um2 = self._resumed.pop(0)
            taken = FieldTaken(index, resumed=True)
            self._desk.send(taken if figure_um2 is None else FieldEmpty(index, figure_um2))

    def taken(self, index: int) -> None:
        self.flush(index)
        self._desk.send(FieldTaken(index))

    def missing(self, index: int, reason: str) -> None:
        self.flush(index)
        self._desk.send(FieldMissing(index, reason))

    def empty(self, index: int, figure_um2: float) -> None:
        self.flush(index)
        self._desk.send(FieldEmpty(index, figure_um2))
