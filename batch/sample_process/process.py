"""The process of one sample.

Loads everything, waits for the microscope, scans, gives it back, and reports.

It is the child of the supervisor. What it logs and prints goes to the log of the sample.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from wbcpipe.batch.sample_process.messages import (
    Answer,
    MicroscopeReleased,
    MicroscopeWanted,
    OperatorNeeded,
    SampleFailed,
    SampleFinished,
    TurnGranted,
)
from wbcpipe.batch.sample_process.progress import SampleProgress
from wbcpipe.errors import InterruptedRunError, WbcpipeError
from wbcpipe.system.log_files import redirect_output
from wbcpipe.system.logs import show_log
from wbcpipe.system.process_limits import set_background_priority
from wbcpipe.system.signals import StopRequested
from wbcpipe.system.storage import explained

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.protocols import Microscope
    from wbcpipe.acquire.plan import PlannedPass
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
    from wbcpipe.batch.records import WorklistRow
    from wbcpipe.classify.models.bundle import Bundle
    from wbcpipe.samples.sample import Sample
    from wbcpipe.scan.request import ScanRequest
    from wbcpipe.scan.turn import ScanTurn
    from wbcpipe.system.child_process import ParentLink

__all__ = ["SampleJob", "SamplePart", "run_sample_job"]

_log = logging.getLogger(__name__)

#: What one process does of a sample: all that is missing; or, of two passes over a whole list, the
#: bright field or the stain alone.
SamplePart = Literal["slide", "brightfield", "stain"]
#: Wakes the main thread when the supervisor closes the pipe. It is no stop signal, which this
#: process ignores. Windows has no such signal: there Python itself simulates SIGTERM, which ends no
#: call that waits; the supervisor then ends the process after its grace time, and the acquisition
#: process, which loses its parent, closes the shutter.
if sys.platform == "win32":
    _WAKE = signal.SIGTERM
else:
    _WAKE = signal.SIGUSR1


@dataclass(frozen=True)
class SampleJob:
    """What the process of a sample does.

    Attributes:
        row: of the worklist.
        root: data root.
        log_path: receives what the process prints.
        part: see `SamplePart`.
        microscope: opens the microscope, in place of `open_microscope`; it must pickle.
        core_log: file for the log of Micro-Manager's core; ``None`` for none.
    """

    row: WorklistRow
    root: Path
    log_path: Path
    part: SamplePart = "slide"
    microscope: Callable[[Scope, SpecimenPlan | None, PlannedPass | None], Microscope] | None = None
    core_log: Path | None = None


class SupervisorLink:
    """The supervisor, from the process of a sample: waits for its answers, and stops the run when
    it closes the pipe.

    Args:
        link: see `ParentLink`.
    """

    def __init__(self, link: ParentLink) -> None:
        self._link = link
        self._changed = threading.Condition()
        self._received: list[object] = []
        self._ended = self._waiting = self._done = False
        signal.signal(_WAKE, _raise_stop)
        threading.Thread(target=self._listen, name="wbcpipe-supervisor", daemon=True).start()

    def send(self, message: object) -> None:
        """Send a message."""
        self._link.send(message)

    def wait_for(self, kind: type[TurnGranted] | type[Answer]) -> object:
        """Wait for a message of a kind and return it.

        Raises:
            InterruptedRunError: the supervisor stops this process.
        """
        with self._changed:
            self._waiting = True
            try:
                self._changed.wait_for(
                    lambda: self._ended or any(isinstance(one, kind) for one in self._received)
                )
            finally:
                self._waiting = False
            if self._ended:
                raise InterruptedRunError("the supervisor stops this sample.")
            message = next(one for one in self._received if isinstance(one, kind))
            self._received.remove(message)
            return message

    def ask(self, text: str) -> None:
        """Pass a question on to the operator; return when it is done."""
        self.send(OperatorNeeded(text))
        self.wait_for(Answer)

    def finish(self) -> None:
        """Do not stop the process any more: it has ended its work."""
        with self._changed:
            self._done = True

    def _listen(self) -> None:
        try:
            while True:
                message = self._link.receive()
                with self._changed:
                    self._received.append(message)
                    self._changed.notify_all()
        except InterruptedRunError:
            with self._changed:
                self._ended = True
                if not (self._waiting or self._done):
                    _wake_main_thread()
                self._changed.notify_all()


def _wake_main_thread() -> None:
    if sys.platform == "win32":
        import _thread

        _thread.interrupt_main(_WAKE)
    else:
        signal.pthread_kill(threading.main_thread().ident or 0, _WAKE)


def _raise_stop(_number: int, _frame: FrameType | None) -> None:
    raise StopRequested


def run_sample_job(job: SampleJob, link: ParentLink) -> None:
    """Do a job, and report it to the supervisor; the target of the child process."""
    redirect_output(job.log_path)
    show_log(logging.INFO)
    supervisor = SupervisorLink(link)
    progress = SampleProgress(supervisor, supervisor.ask)
    try:
        _do(job, supervisor, progress)
        supervisor.finish()
        supervisor.send(SampleFinished(progress.figures))
    except (InterruptedRunError, KeyboardInterrupt):
        _log.info("stopped by the supervisor")
    except (Exception, MemoryError) as error:  # noqa: BLE001 - the process boundary: the supervisor journals it
        supervisor.finish()
        defect = not isinstance(error, WbcpipeError)
        error = explained(error)
        _log.error("%s: %s", type(error).__name__, error, exc_info=defect)
        text = (str(error) or type(error).__name__).splitlines()[0]
        supervisor.send(SampleFailed(type(error).__name__, text, progress.figures))
    atexit.register(_end_at_once)


def _end_at_once() -> None:
    """End this process without unloading its libraries, which takes seconds: all it has written is
    on disk.
    """
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)


def _do(job: SampleJob, supervisor: SupervisorLink, progress: SampleProgress) -> None:
    from wbcpipe.acquire.config.scope import load_scope
    from wbcpipe.batch.row_request import row_request
    from wbcpipe.pipeline import ModelChoice, run
    from wbcpipe.samples.sample import Sample
    from wbcpipe.scan.turn import ScanTurn

    row = job.row
    scope = load_scope(row.scope).with_core_log(job.core_log)
    sample = Sample.open(job.root, row.sample)
    request = replace(
        row_request(row, scope, job.root), microscope=job.microscope, operator_answers=True
    )
    turn = ScanTurn(lambda: _microscope(supervisor, progress))
    if job.part != "slide":
        with turn, sample.lock("batch"), sample.log_failure("batch"):
            _take_part(job.part, sample, request, progress, turn)
        return
    bundle = _find_bundle(row)
    _load_everything(bundle)
    model = ModelChoice(bundle=row.bundle)
    differential = run(sample, request, model=model, reporter=progress, turn=turn)
    progress.update("cells counted", differential.tally.identified, differential.tally.identified)


def _find_bundle(row: WorklistRow) -> Bundle:
    from wbcpipe.classify.models.bundle import find_bundle

    return find_bundle(row.bundle, kind="scope")


def _load_everything(bundle: Bundle) -> None:
    """Load what takes seconds, so that the microscope does not wait for it."""
    import torch

    import wbcpipe.acquire.supervise.worker
    import wbcpipe.report.stage
    import wbcpipe.segment.stage  # noqa: F401
    from wbcpipe.classify.inference.select_engine import select_engine
    from wbcpipe.classify.inference.torch_threads import half_of_the_cores

    with half_of_the_cores():
        threads = torch.get_num_threads()
    torch.set_num_threads(
        threads
    )  # for good: the other half drives the microscope for another sample
    select_engine(bundle)


def _take_part(
    part: Literal["brightfield", "stain"],
    sample: Sample,
    request: ScanRequest,
    progress: SampleProgress,
    turn: ScanTurn,
) -> None:
    """Take the bright field of a slide, or stain it."""
    from wbcpipe.acquire.passes import check_bright_field_complete, load_for
    from wbcpipe.acquire.staining.workflow import apply_stain
    from wbcpipe.scan.loop import take_bright_field
    from wbcpipe.scan.request import check_request

    check_request(sample, request)
    if part == "brightfield":
        n_fields = take_bright_field(sample, request, progress, turn)
        # Now, while the slide is not stained and the pass can be completed.
        check_bright_field_complete(sample, request.scope, n_fields)
        return
    turn.begin()
    load_for(request.acquisition(sample, "fluorescence"), progress)
    progress.enter("staining")
    apply_stain(sample, request.scope, ask=progress.confirm, say=progress.say)


@contextlib.contextmanager
def _microscope(supervisor: SupervisorLink, progress: SampleProgress) -> Iterator[None]:
    """Wait for the microscope, and give it back at the end."""
    progress.enter("waiting for the microscope")
    supervisor.send(MicroscopeWanted())
    supervisor.wait_for(TurnGranted)
    complete = False
    try:
        progress.enter("opening")
        yield
        complete = True
    finally:
        progress.enter("segmenting")
        supervisor.send(
            MicroscopeReleased(
                complete, progress.first_field_s, progress.last_field_s, progress.figures
            )
        )
        set_background_priority()
