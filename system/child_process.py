"""Supervised child processes.

Started, spoken to over a pipe, watched for silence, and ended with their parent.

Both ends of the pipe are processes of this package on this computer, connected by an anonymous pipe
that no other program can write to. `multiprocessing` pickles what goes through it; nothing from a
file or a network is unpickled.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import multiprocessing.connection
import signal
import threading
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

import wbcpipe.errors
from wbcpipe.errors import InterruptedRunError, WbcpipeError
from wbcpipe.system.job_object import ProcessJob, hold_jobs_in
from wbcpipe.system.logs import LogLine, forward_log, log_level
from wbcpipe.system.parent_watch import Creator, ParentWatch
from wbcpipe.system.semaphores import remove_abandoned_semaphores
from wbcpipe.system.signals import ignore_stop_signals, ignore_stop_signals_in_children
from wbcpipe.system.storage import explained

if TYPE_CHECKING:
    import sys
    from collections.abc import Callable, Iterator
    from multiprocessing.context import SpawnProcess

    # What is used here, the two have in common.
    if sys.platform == "win32":
        from multiprocessing.connection import PipeConnection as Pipe
    else:
        from multiprocessing.connection import Connection as Pipe

__all__ = ["ChildLostError", "ChildProcess", "ParentLink", "worker_pool"]

MessageT = TypeVar("MessageT")
#: For Python to end, with torch loaded and on a busy computer.
_EXIT_S: Final = 20.0


class ChildLostError(Exception):
    """A child process ended, or was killed because it was silent for too long.

    Attributes:
        reason: how it ended, to follow "the process".
        exit_code: its exit code, or minus the number of the signal that ended it; ``None`` if it
            was silent.
    """

    def __init__(self, reason: str, exit_code: int | None) -> None:
        super().__init__(reason)
        self.reason, self.exit_code = reason, exit_code


@dataclass(frozen=True)
class _Failure:
    """The error that ended a child."""

    error: str
    text: str
    traceback: str

    def rebuild(self) -> Exception:
        if self.error in wbcpipe.errors.__all__:
            error_class: type[WbcpipeError] = getattr(wbcpipe.errors, self.error)
            return error_class(self.text)
        failure = RuntimeError(f"a child process failed: {self.error}: {self.text}")
        failure.add_note(self.traceback)
        return failure


class ChildProcess(Generic[MessageT]):
    """A child process, from the parent's side. Use it as a context manager.

    The child ignores stop signals (Ctrl-C, SIGTERM, SIGHUP) from its start: the parent decides, and
    closes the pipe.

    Args:
        target: function of a module, called in the child as ``target(*arguments, link)`` with a
            `ParentLink`.
        arguments: pickled to the child.
        name: of the process, as the operating system and the microscope lock show it.
        end_s: how long the child may live on once the pipe is closed or the parent is gone; then it
            is killed. Until its arguments are unpickled it is killed with the parent. With 0 it
            always is.
        outlives_parent: it has ``end_s`` from its very start: for what a process starts in its own
            last moment.
        memory_limit_bytes: of the child and its children. Windows refuses more; elsewhere use
            `tree_memory`.
        forwards_log: what the child logs, from this process's level on, is logged here when
            `receive` is called. A parent that waits for `connection` needs a child without.
    """

    def __init__(
        self,
        target: Callable[..., None],
        *arguments: object,
        name: str,
        end_s: float = 20.0,
        memory_limit_bytes: int | None = None,
        outlives_parent: bool = False,
        forwards_log: bool = True,
    ) -> None:
        self._target, self._arguments, self._name, self._end_s = target, arguments, name, end_s
        self._early_end_s = end_s if outlives_parent else 0.0
        self._memory_limit_bytes = memory_limit_bytes
        self._forwards_log = forwards_log
        self._job: ProcessJob | None = None
        self._pipe: Pipe | None = None
        self._process: SpawnProcess | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the child. If a signal stops the start, a child that is there already is ended."""
        context = multiprocessing.get_context("spawn")
        self._job = ProcessJob(self._memory_limit_bytes)
        try:
            with ignore_stop_signals_in_children():
                self._pipe, child_end = context.Pipe()
                later = _Later((self._target, self._arguments))
                creator = Creator.here(self._job.name, end_s=self._early_end_s)
                level = log_level() if self._forwards_log else None
                arguments = (creator, later, child_end, self._end_s, level)
                self._process = context.Process(target=_child_main, args=arguments, name=self._name)
                self._process.start()
                if self._early_end_s:
                    hold_jobs_in(self._process.sentinel, creator.jobs)
            child_end.close()
        except BaseException:
            self.close()
            raise

    @property
    def connection(self) -> Pipe:
        """The pipe, for `multiprocessing.connection.wait`: ready when `receive` would not wait."""
        assert self._pipe is not None
        return self._pipe

    @property
    def pid(self) -> int | None:
        """Process id; ``None`` if the child was not started."""
        return None if self._process is None else self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Exit code, or minus the number of a signal; ``None`` while the child runs or if it was
        not started.
        """
        return None if self._process is None else self._process.exitcode

    @property
    def exit_text(self) -> str:
        """How the child ended: the name of a signal, or the exit code."""
        code = self.exit_code
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                return signal.Signals(-code).name
        return f"exit code {code}"

    def send(self, message: object) -> None:
        """Send a message. A child that is gone is reported by the next `receive`."""
        assert self._pipe is not None
        with contextlib.suppress(OSError):
            self._pipe.send(message)

    def receive(self, timeout_s: float) -> MessageT:
        """Return the child's next message.

        Raises:
            ChildLostError: the child has ended, or sent nothing for ``timeout_s`` and was killed.
            WbcpipeError: the error that ended the child's target, by its class and text.
            RuntimeError: the target raised another error; a note holds the child's traceback.
        """
        assert self._pipe is not None
        message: Any
        deadline_s = time.monotonic() + timeout_s
        try:
            while True:
                # A line of the log is no sign of life: a loop that never ends may write it.
                if not self._pipe.poll(max(0.0, deadline_s - time.monotonic())):
                    self._kill()
                    raise ChildLostError(
                        f"gave no sign of life for {timeout_s:g} s and was ended", None
                    )
                message = self._pipe.recv()
                if not isinstance(message, LogLine):
                    break
                message.log()
        except (EOFError, OSError):
            self._join(max(self._end_s, _EXIT_S))  # it has closed its pipe: Python ends in it
            raise ChildLostError(f"died ({self.exit_text})", self.exit_code) from None
        if isinstance(message, _Failure):
            raise message.rebuild()
        return message  # type: ignore[no-any-return]

    def messages(self, timeout_s: float) -> Iterator[MessageT]:
        """Yield the child's messages until it has ended with exit code 0; `receive` lists the
        errors.
        """
        while True:
            try:
                message = self.receive(timeout_s)
            except ChildLostError as lost:
                if lost.exit_code == 0:
                    return
                raise
            yield message

    def close(self) -> None:
        """Close the pipe and wait for the child to end; kill it after ``end_s``.

        May be called twice.
        """
        if self._pipe is not None:
            self._pipe.close()
        self._join(self._end_s)
        if self._job is not None:
            self._job.close()

    def _join(self, wait_s: float) -> None:
        if self._process is None or self._process.pid is None:
            return
        self._process.join(wait_s)
        if self._process.is_alive():
            self._kill()

    def _kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        if self._job is not None:
            self._job.kill()  # and its children; elsewhere they watch their parent
        self._process.join()


class ParentLink:
    """The child's end of the pipe.

    Attributes:
        if_hung: called if this process has not ended within its ``end_s`` after its parent, before
            it is ended; it may start another process, one that ``outlives_parent``.
    """

    def __init__(self, pipe: Pipe) -> None:
        self.if_hung: Callable[[], None] | None = None
        self._pipe = pipe
        self._sending = threading.Lock()

    def send(self, message: object) -> None:
        """Send a message; any thread may. It is lost if the parent is gone."""
        with self._sending, contextlib.suppress(OSError):
            self._pipe.send(message)

    def receive(self) -> Any:
        """Wait for the parent's next message and return it.

        Raises:
            InterruptedRunError: the parent has closed the pipe or is gone.
        """
        self.stop_requested(None)
        with contextlib.suppress(EOFError, OSError):
            if self._pipe.poll(0):
                return self._pipe.recv()
        raise InterruptedRunError("the process that started this one has ended.")

    def stop_requested(self, wait_s: float | None = 0.0) -> bool:
        """Return whether the parent has sent a message, closed the pipe or ended.

        Args:
            wait_s: how long to wait for that; ``None`` for ever.
        """
        parent = multiprocessing.parent_process()
        watched: list[Any] = [self._pipe, *([] if parent is None else [parent.sentinel])]
        return bool(multiprocessing.connection.wait(watched, wait_s))


class _Later:
    """Arguments that the child unpickles when it asks for them, after it has begun to watch its
    parent.
    """

    def __init__(self, content: object) -> None:
        self._content = content

    def __getstate__(self) -> bytes:
        # In the midst of the process's own pickling, so that what belongs to it (locks, pipes) is
        # duplicated for it.
        return bytes(ForkingPickler.dumps(self._content))

    def __setstate__(self, pickled: bytes) -> None:
        self._content = pickled

    def load(self) -> Any:
        """Unpickle the content, in the child."""
        assert isinstance(self._content, bytes)
        return ForkingPickler.loads(self._content)


def _child_main(
    creator: Creator, later: _Later, pipe: Pipe, end_s: float, log_level: int | None
) -> None:
    """Run the target in the child, and send the parent the error that ends it."""
    watch = ParentWatch(creator)
    ignore_stop_signals()
    link = ParentLink(pipe)
    if log_level is not None:
        forward_log(log_level, link.send)
    watch.if_hung = lambda: link.if_hung() if link.if_hung is not None else None
    try:
        target, arguments = later.load()
        watch.allow(end_s)
        target(*arguments, link)
    except InterruptedRunError:
        pass  # the parent asked for it, or is gone
    except Exception as error:  # noqa: BLE001 - the process boundary: the parent raises it
        error = explained(error)
        link.send(_Failure(type(error).__name__, str(error), traceback.format_exc()))
    finally:
        pipe.close()


@contextlib.contextmanager
def worker_pool(
    jobs: int, initializer: Callable[..., None], *arguments: object
) -> Iterator[ProcessPoolExecutor]:
    """Open a pool of processes that compute; they ignore Ctrl-C, and end at once with this process.

    Args:
        jobs: number of processes.
        initializer: function of a module, called in each process with ``arguments``.
        arguments: pickled to each process.
    """
    with ProcessJob() as job:
        remove_abandoned_semaphores()
        with ignore_stop_signals_in_children():  # its semaphores start a process too
            context = multiprocessing.get_context("spawn")
            prepare = functools.partial(
                _start_worker, Creator.here(job.name), _Later((initializer, arguments))
            )
            executor = ProcessPoolExecutor(jobs, mp_context=context, initializer=prepare)
        try:
            yield executor
        finally:
            executor.shutdown(wait=True, cancel_futures=True)


def _start_worker(creator: Creator, later: _Later) -> None:
    ParentWatch(creator)
    ignore_stop_signals(but_sigterm=True)
    initializer, arguments = later.load()
    initializer(*arguments)
