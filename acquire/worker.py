"""Acquisition in a process of its own: a driver that crashes takes down the child, never the run.

The parent says how many fields it wants and reads what happens; both ends close when either process dies.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import wbcpipe.errors
from wbcpipe.errors import DeviceCrashError, DeviceTimeoutError, InterruptedRunError, WbcpipeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from multiprocessing.connection import Connection

    from wbcpipe.acquire.config import Scope
    from wbcpipe.acquire.frames import Pass
    from wbcpipe.acquire.plan import AcquisitionPlan
    from wbcpipe.acquire.session import AcquisitionSession
    from wbcpipe.acquire.specimen import SpecimenPlan
    from wbcpipe.samples import Sample

__all__ = [
    "AcquisitionRequest",
    "AcquisitionWorker",
    "FieldMissing",
    "FieldTaken",
    "Progress",
    "WantedDone",
    "WorkerEvent",
]

#: How long a child may take to end by itself: a frame, the fields in its buffers, the devices' unloading.
_END_S: Final = 20.0
_LOCK_WAIT_S: Final = 15.0


@dataclass(frozen=True)
class AcquisitionRequest:
    """What a worker shall do.

    Attributes:
        sample: where the fields go.
        scope, plan: which microscope and which fields.
        specimen: on a virtual scope, what lies on the stage.
        pass_name: which pass over the slide.
    """

    sample: Sample
    scope: Scope
    plan: AcquisitionPlan
    specimen: SpecimenPlan | None = None
    pass_name: Pass = "single"


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


WorkerEvent = FieldTaken | FieldMissing | Progress | WantedDone


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

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        self._pipe, child_end = context.Pipe()
        self._process = context.Process(
            target=_child_main, args=(self.request, child_end), name=f"wbcpipe-acquire-{self.request.sample.name}"
        )
        self._process.start()
        child_end.close()
        return self

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
        """What happens, until all that was wanted is done; the last is `WantedDone`.

        Raises:
            DeviceCrashError: the child died: a driver crashed. The fields taken are whole; the same command goes on.
            DeviceTimeoutError: nothing was heard of the child for ``stall_s``; it was ended.
            WbcpipeError: what the child met, of the same class and text.
        """
        while self._done < self._wanted:
            event = self.next_event(self.stall_s)
            if event is None:
                self._process.kill()
                raise DeviceTimeoutError(
                    f"scope {self.request.scope.name!r}: no sign of life for {self.stall_s:g} s, so its process was "
                    "ended; the fields taken are kept. Check the devices and run the same command again."
                )
            yield event

    def next_event(self, timeout_s: float) -> WorkerEvent | None:
        """The next thing that happens, or ``None`` after ``timeout_s``. Raises as `events` does."""
        if not self._pipe.poll(timeout_s):
            return None
        try:
            event = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._crash() from error
        if isinstance(event, _Failed):
            raise _rebuilt(event)
        if isinstance(event, WantedDone):
            self._done = max(self._done, event.n_fields)
        assert isinstance(event, WorkerEvent)
        return event

    def _crash(self) -> DeviceCrashError:
        self._process.join(_END_S)
        code = self._process.exitcode
        how = f"exit code {code}"
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                how = signal.Signals(-code).name
        if code == 1:
            return DeviceCrashError("the acquisition process could not start or was cut off; see its messages above.")
        return DeviceCrashError(
            f"scope {self.request.scope.name!r}: the process that drives it died ({how}): a device driver crashed. The "
            "fields taken are kept; run the same command again, and if it comes back run `wbcpipe doctor`."
        )


def _stall_s(scope: Scope) -> float:
    """The longest silence of a sound child: starting, a wide search of focus, or a field with all its retries."""
    policy = scope.reliability
    frame_s = policy.camera_timeout_s + policy.switch_timeout_s + policy.move_timeout_s
    return 60.0 + (policy.retries + 1) * (4 * frame_s + policy.retry_wait_s)


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

    def send(self, event: WorkerEvent | _Failed) -> None:
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


def _child_main(request: AcquisitionRequest, pipe: Connection) -> None:
    """The child: a session, served until the parent wants no more."""
    # Ctrl-C at the terminal reaches both processes; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    desk = _Desk(pipe)
    try:
        with request.sample.lock("acquire", name="acquire", wait_s=_LOCK_WAIT_S):
            _serve(request, desk)
    except InterruptedRunError:
        pass
    except Exception as error:  # noqa: BLE001 - the process boundary: the parent raises it
        desk.send(_Failed(type(error).__name__, str(error)))


def _serve(request: AcquisitionRequest, desk: _Desk) -> None:
    from wbcpipe.acquire.session import AcquisitionSession

    session = AcquisitionSession(
        request.sample,
        request.scope,
        request.plan,
        request.specimen,
        pass_name=request.pass_name,
        progress=lambda text: desk.send(Progress(text)),
    )
    desk.attach(session)
    teller = _Teller(desk)
    with session:
        done = 0
        while (wanted := desk.wanted_above(done)) is not None:
            # A field given up stays so for this process: which fields a run takes must not hang on when it is asked.
            todo = [index for index in range(done, wanted) if index not in session.taken]
            teller.resume(index for index in range(done, wanted) if index in session.taken)
            teller.flush(todo[0] if todo else wanted)
            session.take(todo, teller.taken, teller.missing)
            teller.flush(wanted)
            done = wanted
            desk.send(WantedDone(done))


class _Teller:
    """Tells the parent of fields in the plan's order, those that were on disk before among those just taken."""

    def __init__(self, desk: _Desk) -> None:
        self._desk = desk
        self._resumed: list[int] = []

    def resume(self, indices: Iterable[int]) -> None:
        self._resumed += sorted(indices)

    def flush(self, below: int) -> None:
        while self._resumed and self._resumed[0] < below:
            self._desk.send(FieldTaken(self._resumed.pop(0), resumed=True))

    def taken(self, index: int) -> None:
        self.flush(index)
        self._desk.send(FieldTaken(index))

    def missing(self, index: int, reason: str) -> None:
        self.flush(index)
        self._desk.send(FieldMissing(index, reason))
