"""Progress for people: bars on a terminal, plain lines in a log, nothing where a machine reads."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any, Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

__all__ = ["Reporter", "console"]

_LINE_EVERY_S: Final = 10.0


def console() -> Console:
    """The console for progress and messages: standard error, so that standard output stays for results."""
    return Console(stderr=True, highlight=False)


class Reporter:
    """Shows how far several named tasks are.

    Args:
        quiet: show nothing (``--json``).

    On a terminal each task is a bar with the time left. Elsewhere a task prints a plain line when it begins, every ten
    seconds, and when it ends.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._console = console()
        self._bars: Progress | None = None
        self._tasks: dict[str, Any] = {}
        self._lines: dict[str, tuple[float, int]] = {}

    def __enter__(self) -> Self:
        if not self._quiet and self._console.is_terminal:
            self._start_bars()
        return self

    def _start_bars(self) -> None:
        self._tasks = {}
        self._bars = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._bars.start()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the terminal alone while a person is asked something: bars take it for markup and draw over it."""
        if self._bars is None:
            yield
            return
        self._bars.stop()
        try:
            yield
        finally:
            self._start_bars()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def update(self, task: str, done: int, total: int, *, text: str = "") -> None:
        """Task ``task`` has done ``done`` of ``total`` units; unknown tasks are begun. ``text`` is shown for it."""
        if self._quiet:
            return
        if self._bars is not None:
            if task not in self._tasks:
                self._tasks[task] = self._bars.add_task(task, total=total)
            self._bars.update(self._tasks[task], completed=done, total=total, description=text or task)
            return
        now = time.monotonic()
        last, last_done = self._lines.get(task, (-_LINE_EVERY_S, -1))
        if done != last_done and (now - last >= _LINE_EVERY_S or done >= total):
            self._lines[task] = (now, done)
            print(f"{text or task}: {done} of {total}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Print one line among the bars."""
        if self._quiet:
            return
        if self._bars is not None:
            self._bars.console.print(text)
        else:
            print(text, file=sys.stderr, flush=True)
