"""Run a batch: start the process of each sample, give it the microscope, watch it, and journal what
becomes of it.
"""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from wbcpipe.acquire.hardware.safe_dark import shutter_message
from wbcpipe.acquire.loader.record import read_loader
from wbcpipe.acquire.staining.workflow import mark_applied
from wbcpipe.batch.durations import format_seconds
from wbcpipe.batch.records import EntryDetails
from wbcpipe.batch.sample_process.failures import BUSY, DISK_FULL, MicroscopeFaults, is_permanent
from wbcpipe.batch.sample_process.messages import (
    Answer,
    MicroscopeReleased,
    OperatorNeeded,
    PhaseReport,
    SampleFailed,
    SampleFinished,
    TurnGranted,
)
from wbcpipe.batch.sample_process.process import SampleJob
from wbcpipe.batch.sample_process.watchdog import ClockWatch, phase_limits_s
from wbcpipe.batch.state.inbox import CommandRefusedError, read_inbox, refuse_old_stops
from wbcpipe.batch.supervise.background import Background
from wbcpipe.batch.supervise.batch_state import BatchState
from wbcpipe.batch.supervise.heartbeat import HeartbeatWriter
from wbcpipe.batch.supervise.leave_microscope import make_dark
from wbcpipe.batch.supervise.leftovers import end_leftovers
from wbcpipe.batch.supervise.operator_commands import OperatorCommands
from wbcpipe.batch.supervise.sample_run import SampleRun
from wbcpipe.batch.supervise.scan_checks import ScanChecks
from wbcpipe.batch.supervise.schedule import (
    AskForStain,
    BatchView,
    End,
    Finish,
    Grant,
    Quarantine,
    Start,
    decide,
    is_over,
    scanning_is_over,
)
from wbcpipe.batch.supervise.used_microscopes import UsedMicroscopes
from wbcpipe.errors import BatchCheckError, InterruptedRunError
from wbcpipe.samples.sample import Sample
from wbcpipe.system.files import make_folder
from wbcpipe.system.log_files import bound_log, rotating_log
from wbcpipe.system.semaphores import remove_abandoned_semaphores
from wbcpipe.system.signals import stop_reason

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping, Sequence

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.batch.records import JournalEntry, MicroscopeWord, ProcessStatus, RowEvent
    from wbcpipe.batch.row_status import RowStatus
    from wbcpipe.batch.sample_process.process import SamplePart
    from wbcpipe.batch.state.batch_folder import BatchFolder
    from wbcpipe.batch.supervise.night_hooks import NightHooks
    from wbcpipe.batch.supervise.options import SupervisorOptions
    from wbcpipe.batch.supervise.schedule import Decision
    from wbcpipe.cli.progress import Reporter

__all__ = ["Supervisor"]

_TICK_S: Final = 0.2
_SHORT_TICK_S: Final = 0.02
_BUSY_WAIT_S: Final = 15.0
#: A row that found the disk full is tried again once this much has been freed.
_FREED_BYTES: Final = 64 * 2**20


class Supervisor:
    """Runs a batch until nothing is left to do.

    Args:
        folder: with its ``batch.json``.
        options: see `SupervisorOptions`.
        hooks: what else a night does.
        reporter: shows progress.
    """

    def __init__(
        self, folder: BatchFolder, options: SupervisorOptions, hooks: NightHooks, reporter: Reporter
    ) -> None:
        self._folder, self._options, self._hooks, self._reporter = folder, options, hooks, reporter
        self._runs: dict[str, SampleRun] = {}
        self._background = Background()
        self._faults = MicroscopeFaults()
        self._stopped = self._stopping = self._waits_for = ""
        self._asked: tuple[str, ...] = ()
        self._disk_needed: int | None = None
        self._disk_due_s, self._disk_waits = 0.0, 0
        self._check_failure: BatchCheckError | None = None
        self._last_field_s: float | None = None
        self._measured_s = 0.0
        self._heartbeat = HeartbeatWriter(folder, hooks.alive, options.free_bytes)
        self._clock = ClockWatch()
        self._logs = folder.path / "logs"
        self._log: logging.Logger
        self._state: BatchState
        self._commands: OperatorCommands
        self._used: UsedMicroscopes
        self._checks: ScanChecks

    def run(self) -> dict[str, RowStatus]:
        """Run the batch; return the status of each row.

        Raises:
            BatchBusyError: another process runs it.
            BatchCheckError: the check before the first slide failed; nothing was scanned.
            InterruptedRunError: a signal, or `batch stop --now`, stopped it; the same command
                resumes.
        """
        with (
            self._folder.lock(),
            rotating_log(self._folder.path / "batch.log") as self._log,
            self._hooks.running(self._folder) as night_risk,
        ):
            left = end_leftovers(self._folder, self._reporter.say)
            self._state = BatchState(self._folder, self._told, self._wait_for_disk)
            self._commands = OperatorCommands(self._state, self)
            self._used = UsedMicroscopes(
                self._state, self._background, self._tell_lit, self._reporter.say
            )
            self._checks = ScanChecks(self._state, self._hooks)
            try:
                self._begin(left, night_risk)
                self._loop()
            except (KeyboardInterrupt, InterruptedRunError) as stop:
                raise self._interrupted(stop) from None
            finally:
                self._clean_up()
                self._background.close()
            self._state.journal("batch_ended", reason=self._outcome())
        if self._check_failure is not None and not any(
            one.state == "finished" for one in self._state.status.values()
        ):
            raise self._check_failure
        return self._state.status

    # Begin and end.

    def _begin(self, left: Sequence[ProcessStatus], night_risk: str) -> None:
        """Resume from the journal and the disk."""
        make_folder(self._logs)
        self._folder.mark_started()
        refuse_old_stops(self._folder)
        self._state.journal("batch_resumed" if self._state.was_started else "batch_started")
        if night_risk:
            self._state.journal("may_sleep", reason=night_risk)
        cut_off = {
            sample
            for sample, one in self._state.status.items()
            if one.state in ("scanning", "staining")
        }
        for sample in {process.sample for process in left}.intersection(
            self._state.status
        ) | cut_off:
            if (scope := self._state.scope(sample)) is not None:
                self._used.note(self._state.status[sample].row.scope, scope)
        self._used.leave(unload=False, park=False)
        for sample, status in self._state.status.items():
            if status.state in ("scanning", "staining", "processing"):
                self._state.journal("interrupted", sample, reason="the batch was stopped or killed")
            if not status.done and self._state.content[sample].stage == "finished":
                self._complete(sample)
            elif not status.done and status.attempts > self._options.retries:
                self._state.journal("quarantined", sample, error=status.error, reason=status.reason)

    def _interrupted(self, stop: BaseException) -> InterruptedRunError:
        """End all processes and journal why; return the error that ends the command."""
        reason = str(stop) if isinstance(stop, InterruptedRunError) else stop_reason()
        self._stopping = "at once"
        working = list(self._runs)
        self._clean_up()
        self._state.journal("stop_requested", reason=reason)
        for sample in working:
            if self._state.status[sample].state in ("scanning", "staining", "processing"):
                self._state.journal("interrupted", sample, reason=reason)
        return InterruptedRunError(f"{reason}; run the same command again to resume.")

    def _clean_up(self) -> None:
        """End the processes, close the shutters, take the slide away and park the stages.

        Semaphores of processes that were killed are removed. May be called twice.
        """
        idle = not self._stopped and all(run.microscope != "using" for run in self._runs.values())
        for sample in list(self._runs):
            self._end(self._runs[sample])
        self._background.finish_all(self.beat)
        self._used.leave(unload=idle, park=True)
        self._background.finish_all(self.beat)
        remove_abandoned_semaphores()
        self._heartbeat.make_due()
        self.beat()

    def _end(self, run: SampleRun) -> None:
        """End a process in the background; until it is gone, its sample is not started again."""
        if run.ending:
            return
        run.ending, run.waits_for = True, ""
        self._background.start(
            lambda: self._end_and_darken(run, run.close), lambda lit: self._ended(run, lit)
        )

    def _end_and_darken(self, run: SampleRun, end: Callable[[], None]) -> str:
        """End a process, and close the shutter if it used the microscope.

        Return why that is not certain.
        """
        with contextlib.suppress(OSError):
            end()
        return make_dark(run.scope) if run.microscope == "using" and run.scope is not None else ""

    def _ended(self, run: SampleRun, lit: str | Exception) -> None:
        self._tell_lit(str(lit))
        self._remove(run)

    def _tell_lit(self, lit: str) -> None:
        if lit:
            self._log.warning("%s", lit)
            self._reporter.say(lit)

    # The loop.

    def _loop(self) -> None:
        while True:
            self._take_messages()
            self._background.finish_ready()
            self._watch()
            read_inbox(self._folder, self._commands.apply)
            view = self._view()
            for decision in decide(view):
                self._carry_out(decision)
            self.beat()
            view = self._view()
            if self._used and scanning_is_over(view):
                self._used.leave(unload=not self._stopped, park=True)
            if is_over(view):
                return

    def _carry_out(self, decision: Decision) -> None:
        match decision:
            case Start(sample, part):
                self._start(sample, part)
            case Grant(sample):
                self._grant(self._runs[sample])
            case End(sample):
                self.end(sample)
            case Finish(sample):
                self._complete(sample)
            case Quarantine(sample, reason):
                self._state.journal("quarantined", sample, error="DeadlineError", reason=reason)
            case AskForStain(samples):
                self._ask_for_stain(samples)

    def _view(self) -> BatchView:
        return BatchView(
            self._state.views(),
            [run.view() for run in self._runs.values()],
            now_s=time.monotonic(),
            max_processing=self._options.max_processing,
            scanning_stopped=bool(self._stopped),
            stopping=bool(self._stopping),
            disk_is_full=self._disk_needed is not None,
            asked=bool(self._asked),
            leaving=self._used.leaving,
        )

    def _take_messages(self) -> None:
        """Wait a little for messages, and handle them."""
        by_connection = {run.connection: run for run in self._runs.values() if not run.ending}
        if not by_connection:
            time.sleep(_SHORT_TICK_S if self._background else _TICK_S)
            return
        for ready in multiprocessing.connection.wait(list(by_connection), _TICK_S):
            self._take_message(by_connection[ready])

    def _take_message(self, run: SampleRun) -> None:
        match run.receive():
            case PhaseReport() as report:
                self._show(run, report)
            case MicroscopeReleased() as released:
                self._released(run, released)
            case OperatorNeeded(text):
                self._reporter.say(f"{run.sample} waits for the operator: {text}")
                self._log.info("%s waits for the operator: %s", run.sample, text)
                self._hooks.operator_needed(self._folder, f"{run.sample}: {text}")
            case SampleFinished(figures):
                self._finished(run, figures)
            case SampleFailed() as failed:
                self._failed(run, failed)

    def _start(self, sample: str, part: SamplePart) -> None:
        status = self._state.status[sample]
        scope = self._state.scope(sample)
        job = SampleJob(
            status.row,
            self._folder.root,
            self._logs / f"{sample}.log",
            part,
            self._options.openers.get(sample),
            self._options.core_log,
        )
        bound_log(job.log_path)
        limits = {} if scope is None else {**phase_limits_s(scope), **self._options.limits_s}
        run = SampleRun(job, scope, status.attempts + 1, limits)
        if self._state.content[sample].stage == "scanned":
            run.microscope = "done"
            self._state.journal("processing_started", sample, attempt=run.attempt)
        run.start(self._options.target)
        self._runs[sample] = run
        self._heartbeat.make_due()  # a heartbeat names it at once: it must be found after a kill

    def _grant(self, run: SampleRun) -> None:
        """Give the microscope to a process, after the check that is due before it."""
        if not self._check(run):
            return
        row, scope = run.job.row, run.scope
        assert scope is not None
        if (applied := self._state.content[run.sample].stained_at) is not None:
            self._tell_incubation(run, scope, (datetime.now(UTC) - applied).total_seconds())
        event: RowEvent = "stain_started" if run.job.part == "stain" else "scan_started"
        self._state.journal(event, row.sample, attempt=run.attempt)
        self._used.note(row.scope, scope)
        run.microscope = "using"
        run.send(TurnGranted())

    def _tell_incubation(self, run: SampleRun, scope: Scope, incubated_s: float) -> None:
        limit_s = scope.staining.max_incubate_s
        if limit_s is not None and incubated_s > limit_s:
            self._state.journal(
                "incubation_exceeded",
                run.sample,
                reason=f"the stain has acted for {format_seconds(incubated_s)}, and "
                f"'staining.max_incubate_s' allows {format_seconds(limit_s)}",
                figures={"incubated_s": round(incubated_s, 1)},
            )

    def _check(self, run: SampleRun) -> bool:
        """Run the check that is due before a scan; return whether to go on."""
        row, scope = run.job.row, run.scope
        assert scope is not None
        self._heartbeat.make_due()
        self._reporter.start_phase(f"{row.scope}: checking the microscope")
        try:
            measured = self._checks.check(row, scope, self.beat)
        except BatchCheckError as error:
            self._check_failure = error
            self.stop_scanning("BatchCheckError", f"the check of the microscope failed: {error}")
            return False
        finally:
            self._note_clock(worked=True)
        if measured:
            self._last_field_s = None  # a check is no idle time
            self._used.note(row.scope, scope)
        return True

    # What becomes of a process.

    def _released(self, run: SampleRun, released: MicroscopeReleased) -> None:
        idle_s = self._idle_s(released)
        # Between two passes over a list the microscope waits for the stain.
        self._last_field_s = released.last_field_s if run.job.part == "slide" else None
        if not released.complete or run.job.part == "stain":
            return
        self._checks.scanned(run.job.row)
        self._faults.scanned()
        figures = {**released.figures, **({} if idle_s is None else {"idle_s": round(idle_s, 2)})}
        self._state.journal("scan_finished", run.sample, attempt=run.attempt, figures=figures)
        if run.job.part == "slide":
            self._state.journal("processing_started", run.sample, attempt=run.attempt)

    def _idle_s(self, released: MicroscopeReleased) -> float | None:
        """Return the time between the fields of two slides in which the microscope neither focused
        nor loaded one.
        """
        if self._last_field_s is None or released.first_field_s is None:
            return None
        figures = released.figures
        worked_s = figures.get("focusing_s", 0.0) + figures.get("loading_the_slide_s", 0.0)
        return max(released.first_field_s - self._last_field_s - worked_s, 0.0)

    def _complete(self, sample: str) -> None:
        """Count a row as finished that another program, or an earlier attempt, has finished."""
        self._state.journal("finished", sample, reason="its files were complete already")

    def _finished(self, run: SampleRun, figures: Mapping[str, float]) -> None:
        figures = {**figures, "memory_bytes": run.peak_bytes}
        match run.job.part:
            case "slide":
                self._state.journal("finished", run.sample, attempt=run.attempt, figures=figures)
                self._hooks.sample_finished(self._folder, run.job.row)
            case "brightfield":
                pass  # journalled when it gave the microscope back
            case "stain":
                self._state.journal(
                    "stain_finished", run.sample, attempt=run.attempt, figures=figures
                )
        self._remove(run)
        self._background.start(run.close, lambda _: None)

    def _failed(self, run: SampleRun, failed: SampleFailed) -> None:
        """End the process of a row that failed, and close the shutter; `_after_failure` follows."""
        run.ending, run.waits_for = True, ""
        self._background.start(
            lambda: self._end_and_darken(run, run.kill),
            lambda lit: self._after_failure(run, failed, lit),
        )

    def _after_failure(self, run: SampleRun, failed: SampleFailed, lit: str | Exception) -> None:
        """Journal the failure of a row, and decide what follows."""
        reason = failed.text
        if run.microscope == "using" and run.scope is not None:
            self._tell_lit(str(lit))
            reason = f"{reason} {lit or shutter_message('')}"
        self._remove(run)
        if self._state.status[run.sample].done:
            return  # the operator skipped it meanwhile
        figures = {**failed.figures, "memory_bytes": float(run.peak_bytes)}
        if failed.error == DISK_FULL:
            self._state.journal("interrupted", run.sample, attempt=run.attempt, reason=reason)
            self._disk_is_full(reason)
            return
        entry = EntryDetails(attempt=run.attempt, error=failed.error, reason=reason)
        self._state.journal("attempt_failed", run.sample, **entry | {"figures": figures})
        if self._faults.failed(run.sample, failed.error):
            self.stop_scanning(
                failed.error, f"the microscope has a fault, at the last sample: {reason}"
            )
        elif is_permanent(failed.error) or run.attempt > self._options.retries:
            self._state.journal("quarantined", run.sample, **entry)
        elif failed.error in BUSY:
            self._state.delay(run.sample, _BUSY_WAIT_S)

    def _remove(self, run: SampleRun) -> None:
        self._runs.pop(run.sample, None)
        self._reporter.remove(run.sample)
        if not self._state.status[run.sample].done:
            self._state.refresh(run.sample)

    # What the operator's commands need; see `OperatorCommands`.

    def end(self, sample: str, reason: str = "") -> None:
        """End the process of a sample, if it has one, without counting an attempt."""
        run = self._runs.get(sample)
        if run is None or run.ending:
            return
        self._end(run)
        if self._state.status[sample].state in ("scanning", "staining", "processing"):
            self._state.journal("interrupted", sample, attempt=run.attempt, reason=reason)

    def stop_scanning(self, error: str, reason: str) -> None:
        """Scan nothing more; what is scanned is still processed."""
        self._stopped = reason
        self._state.journal("scanning_stopped", error=error, reason=reason)

    def stop_after_sample(self) -> None:
        """Start nothing more."""
        self._stopping = "after this sample"

    def confirm(self) -> str:
        """Go on after the operator did what the batch waits for.

        Return what that was, empty if nothing.

        Raises:
            CommandRefusedError: a slide may be half loaded; first the operator must say where it
                is.
        """
        if self._asked:
            slides, self._asked = self._asked, ()
            for sample in slides:
                mark_applied(Sample.open(self._folder.root, sample))
                self._state.journal("stain_finished", sample)
                self._state.refresh(sample)
            return f"stained: {', '.join(slides)}"
        for run in self._runs.values():
            if run.waits_for:
                text = run.waits_for
                run.send(Answer())
                return f"{run.sample}: {text}"
        if self._stopped:
            self._check_loaders()
            text, self._stopped = self._stopped, ""
            self._faults = MicroscopeFaults()
            self._check_failure = None
            self._state.journal("scanning_resumed", reason=text)
            return text
        return ""

    def _check_loaders(self) -> None:
        """Refuse to go on while a loader has a slide that it neither put down nor took away."""
        for one in self._state.views():
            scope = self._state.scope(one.row.sample)
            if scope is None or not scope.loader_slot:
                continue
            if read_loader(scope, self._folder.root).state in ("loading", "unloading"):
                raise CommandRefusedError(
                    f"a slide may be half loaded on scope {scope.name!r}: put it right, say what "
                    f"lies on the stage (`wbcpipe loader state {scope.option} --slide "
                    f"ID`, or `--empty`), then confirm again"
                )

    # Watch.

    def _watch(self) -> None:
        """Look at the time limits, the memory, the disk and the clock."""
        due = time.monotonic() - self._measured_s >= 1.0
        if due:
            self._measured_s = time.monotonic()
            # Before the time limits: a process that slept too is not to blame for it.
            self._note_clock()
        for run in self._living():
            if (failed := run.overdue()) is not None:
                self._failed(run, failed)
        if not due:
            return
        for run in self._living():
            bound_log(run.job.log_path)
            if (failed := run.measure_memory(self._options.memory_limit_bytes)) is not None:
                self._failed(run, failed)
        self._look_at_disk()

    def _note_clock(self, *, worked: bool = False) -> None:
        """Journal what happened to the clock; see `ClockWatch.tick`."""
        for change in self._clock.tick(worked=worked):
            self._state.journal(
                change.event, reason=change.reason, figures={"seconds": round(change.seconds, 1)}
            )
            for run in self._runs.values():
                run.slept()

    def _living(self) -> list[SampleRun]:
        return [run for run in self._runs.values() if not run.ending]

    def _look_at_disk(self) -> None:
        """Go on once there is space; or, where it may have been freed unseen, after a while."""
        if self._disk_needed is None:
            return
        free = self._options.free_bytes(self._folder.root)
        if free >= self._disk_needed:
            reason, self._disk_waits = "there is space on the disk again", 0
        elif free >= _FREED_BYTES and time.monotonic() >= self._disk_due_s:
            reason = f"{free / 1e9:.3g} GB are free on the disk, which may be enough"
        else:
            return
        self._disk_needed = None
        self._state.journal("disk_freed", reason=reason)

    def _disk_is_full(self, reason: str) -> None:
        free = self._options.free_bytes(self._folder.root)
        # Of two rows, the first one may have found less: the rest was freed in between.
        self._disk_needed = min(free + _FREED_BYTES, self._disk_needed or sys.maxsize)
        pause_s = self._options.disk_retry_s * 2 ** min(self._disk_waits, 4)
        self._disk_due_s = time.monotonic() + pause_s
        self._disk_waits += 1
        self._state.journal("disk_low", reason=reason, figures={"free_bytes": free})

    def _wait_for_disk(self) -> None:
        """Wait a second for space for the journal itself."""
        self._reporter.say(f"{self._folder.journal_path}: the disk is full; waiting for space")
        self.beat()
        self._clock.tick()  # nothing can be journaled now, and the wait itself is no sleep
        time.sleep(1.0)

    def _ask_for_stain(self, samples: tuple[str, ...]) -> None:
        self._asked = samples
        scope = self._state.scope(samples[0])
        message = "" if scope is None else scope.staining.message
        self._waits_for = (
            f"{message} Slides: {', '.join(samples)}. Then: wbcpipe batch confirm "
            f"{self._folder.name}"
        )
        for sample in samples:
            self._state.journal("stain_started", sample, reason=message)
        self._hooks.operator_needed(self._folder, self._waits_for)
        self._reporter.say(self._waits_for)

    # Tell.

    def _told(self, entry: JournalEntry) -> None:
        words = " ".join(filter(None, (entry.sample, entry.event.replace("_", " "))))
        text = f"{words}: {entry.reason}" if entry.reason else words
        self._log.info("%s", text)
        self._reporter.say(text)
        self._hooks.told(self._folder, entry)

    def _show(self, run: SampleRun, report: PhaseReport) -> None:
        cells = "" if report.cells is None else f", {report.cells} cells"
        text = f"{run.sample}: {report.phase}{cells}"
        if report.total:
            self._reporter.update(run.sample, report.done, report.total, text=text)
        else:
            self._reporter.start_phase(text, lasted_s=run.phase_s)

    def beat(self) -> None:
        """Write the heartbeat, if it is due."""
        self._heartbeat.beat(self._runs.values(), self._microscope, self._stopping)

    def _microscope(self) -> tuple[MicroscopeWord, str, str]:
        """Return the state of the microscope, the sample that uses it, and the reason of the
        state.
        """
        using = next((run for run in self._runs.values() if run.microscope == "using"), None)
        asking = next((run for run in self._runs.values() if run.waits_for), None)
        sample = "" if using is None else using.sample
        if self._asked:
            return "waiting", sample, self._waits_for
        if asking is not None:
            return "waiting", sample, f"{asking.sample}: {asking.waits_for}"
        if self._checks.running:
            return "checking", sample, ""
        if using is not None:
            return "staining" if using.report.phase == "staining" else "scanning", sample, ""
        if self._stopped:
            return "stopped", sample, self._stopped
        if self._disk_needed is not None:
            return "waiting", sample, "the disk is full"
        return "idle", sample, ""

    def _outcome(self) -> str:
        counts: dict[str, int] = {}
        for status in self._state.status.values():
            counts[status.state] = counts.get(status.state, 0) + 1
        return ", ".join(f"{count} {state}" for state, count in counts.items())
