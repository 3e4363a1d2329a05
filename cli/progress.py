"""Progress for people: bars on a terminal, plain lines in a log, nothing where a machine reads."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import TYPE_CHECKING, Final, Self

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from wbcpipe.system.storage import report_waits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

__all__ = ["Reporter", "console"]

#: A task prints a plain line after this time, and a phase without any line says that it still runs.
_LINE_EVERY_S: Final = 8.0


def console() -> Console:
    """Return the console for progress and messages: standard error.

    Standard output is for results.
    """
    return Console(stderr=True, highlight=False)


class Reporter:
    """Show the progress of several named tasks.

    Args:
        quiet: show nothing (``--json``).
        line_every_s: seconds between plain lines.

    On a terminal each task is a bar with the time left. Elsewhere a task prints a plain line when
    it starts, every eight seconds, and when it ends. A phase that reports nothing for eight seconds
    is named with its duration.
    """

    def __init__(self, *, quiet: bool = False, line_every_s: float = _LINE_EVERY_S) -> None:
        self._quiet = quiet
        self._line_every_s = line_every_s
        self._console = console()
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._waiting: TaskID | None = None
        self._lines: dict[str, tuple[float, int]] = {}
        self._closed = threading.Event()
        self._watch: threading.Thread | None = None
        self._phase, self._phase_began_s, self._printed_s = (
            "starting",
            time.monotonic(),
            time.monotonic(),
        )

    def __enter__(self) -> Self:
        if self._quiet:
            return self
        report_waits(self.say)
        if self._console.is_terminal:
            self._start_bars()
        else:
            self._watch = threading.Thread(
                target=self._report_silence, name="wbcpipe-progress", daemon=True
            )
            self._watch.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._quiet:
            report_waits(None)
        self._closed.set()
        if self._watch is not None:
            self._watch.join()
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _start_bars(self) -> None:
        self._tasks = {}
        text, bar, left = (
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=32),
            TextColumn("left"),
        )
        columns = (
            SpinnerColumn(),
            text,
            bar,
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            left,
            TimeRemainingColumn(),
        )
        self._bars = Progress(*columns, console=self._console)
        self._waiting = self._bars.add_task(self._phase[:28], total=None)
        self._bars.start()

    def _report_silence(self) -> None:
        # A little later than the line of a task that progresses, which says more.
        while not self._closed.wait(self._line_every_s / 16):
            now_s = time.monotonic()
            if now_s - self._printed_s >= 1.1 * self._line_every_s:
                lasted_s = now_s - self._phase_began_s
                self._print(f"still running: {self._phase} for {lasted_s:.0f} s")

    def _print(self, text: str) -> None:
        self._printed_s = time.monotonic()
        # click.echo would write UTF-8 to a console that has none of it.
        print(text, file=sys.stderr, flush=True)  # noqa: T201

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the terminal to a question: bars read it as markup and draw over it."""
        self._printed_s = float("inf")
        if self._bars is not None:
            self._bars.stop()
        try:
            yield
        finally:
            self._printed_s = time.monotonic()
            if self._bars is not None:
                self._start_bars()

    def confirm(self, message: str) -> None:
        """Ask at the terminal; see `ProgressReporter.confirm`."""
        with self.paused():
            click.confirm(f"{message} Done?", abort=True, err=True)

    def update(self, task: str, done: int, total: int, *, text: str = "") -> None:
        """Report that ``task`` has finished ``done`` of ``total`` units; ``text`` is shown in place
        of its name.
        """
        if self._quiet:
            return
        if self._bars is not None:
            if self._waiting is not None:
                self._bars.remove_task(self._waiting)
                self._waiting = None
            if task not in self._tasks:
                self._tasks[task] = self._bars.add_task(task, total=total)
            self._bars.update(
                self._tasks[task], completed=done, total=total, description=text or task
            )
            return
        line = f"{text or task}: {done} of {total}"
        self._phase, now_s = line, time.monotonic()
        last_s, last_done = self._lines.get(task, (-self._line_every_s, -1))
        if done == last_done:
            return
        self._phase_began_s = now_s
        if now_s - last_s >= self._line_every_s or done >= total:
            self._lines[task] = (now_s, done)
            self._print(line)

    def remove(self, task: str) -> None:
        """Remove the bar of a task; it may begin again."""
        self._lines.pop(task, None)
        if self._bars is not None and task in self._tasks:
            self._bars.remove_task(self._tasks.pop(task))

    def start_phase(self, text: str, *, lasted_s: float = 0.0) -> None:
        """Name what happens now, and how long it has lasted; it is printed only if it takes
        long.
        """
        self._phase, self._phase_began_s = text, time.monotonic() - lasted_s

    def say(self, text: str) -> None:
        """Print one line among the bars, and name the phase that begins with it."""
        if self._quiet:
            return
        self.start_phase(text)
        if self._bars is None:
            self._print(text)
            return
        self._bars.console.print(text, markup=False)
        if self._waiting is not None:
            self._bars.update(self._waiting, description=text[:28])
        elif self._bars.finished:
            self._waiting = self._bars.add_task(text[:28], total=None)
