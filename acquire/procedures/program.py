"""A procedure by the laboratory's own program."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from wbcpipe.errors import ConfigError, HardwareError, InterruptedRunError
from wbcpipe.system.parent_watch import end_program_with_parent
from wbcpipe.system.signals import defer_stop_signals, stop_reason

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Program", "ProgramResult", "run_program"]

#: Time for a program to end after SIGTERM: enough to close its valves.
_END_S: Final = 10.0


@dataclass(frozen=True)
class Program:
    """A program that handles the slide.

    Attributes:
        procedure: what it does, as errors name it: ``staining``.
        command: the program and its arguments; no shell reads them.
        timeout_s: time limit.
        environment: variables that it gets on top of those of this process.
        accepted_codes: exit codes that are no failure.
    """

    procedure: str
    command: tuple[str, ...]
    timeout_s: float
    environment: dict[str, str] = field(default_factory=dict)
    accepted_codes: tuple[int, ...] = (0,)

    @property
    def title(self) -> str:
        """What errors call it."""
        return f"the {self.procedure} program {self.command[0]!r}"


@dataclass(frozen=True)
class ProgramResult:
    """How a program ended.

    Attributes:
        code: its exit code.
        output: the end of what it printed on both of its outputs.
        last_line: of its errors, or else of its output.
    """

    code: int
    output: str
    last_line: str


def run_program(
    program: Program,
    begin: Callable[[], None],
    withdraw: Callable[[], None],
    ended: Callable[[ProgramResult], None] = lambda _: None,
) -> ProgramResult:
    """Run a program to its end.

    Args:
        program: what to run.
        begin: called before the program starts.
        withdraw: called if it could not be started after all.
        ended: called when it has ended by itself, before its exit code is judged.

    Raises:
        ConfigError: it could not be started.
        HardwareError: it failed, or did not end in time and was ended.
        InterruptedRunError: a stop signal arrived, and the program was ended.
    """
    begin()
    process: subprocess.Popen[str] | None = None
    try:
        # A signal that arrives while the program starts would leave it without anybody who ends it.
        with defer_stop_signals():
            process = _start(program, withdraw)
        printed, complained = process.communicate(timeout=program.timeout_s)
    except subprocess.TimeoutExpired as error:
        assert process is not None
        how = _end(process)
        raise HardwareError(
            f"{program.title} did not end within {program.timeout_s:g} s and was ended; {how}."
        ) from error
    except KeyboardInterrupt as error:
        if process is None:
            raise
        how = _end(process)
        raise InterruptedRunError(f"{stop_reason()} while {program.title} ran; {how}.") from error
    last = (complained or printed).strip().splitlines()[-1:] or ["it printed nothing"]
    result = ProgramResult(process.returncode, (printed + complained)[-2000:], last[0])
    ended(result)
    if result.code not in program.accepted_codes:
        raise HardwareError(f"{program.title} ended with code {result.code}: {result.last_line}.")
    return result


def _start(program: Program, withdraw: Callable[[], None]) -> subprocess.Popen[str]:
    try:
        # In a session of its own, the program gets SIGTERM from here, and not the terminal's Ctrl-C
        # as well.
        return subprocess.Popen(
            program.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            # If this process is killed, Linux sends the program SIGTERM. Windows does so by the job
            # of this process.
            preexec_fn=None if sys.platform == "win32" else end_program_with_parent,
            env={**os.environ, **program.environment},
        )
    except OSError as error:
        withdraw()
        raise ConfigError(f"{program.title} could not be started: {error}.") from error


def _end(process: subprocess.Popen[str]) -> str:
    """Ask a program to end, and kill it if it takes too long; return how it ended."""
    how = "it ended by itself"
    _signal(process, by_force=False)
    try:
        process.communicate(timeout=_END_S)
    except subprocess.TimeoutExpired:
        _signal(process, by_force=True)
        process.communicate()
        how = f"it did not within {_END_S:g} s and was killed, so check its devices"
    return how


def _signal(process: subprocess.Popen[str], *, by_force: bool) -> None:
    """Send SIGTERM or SIGKILL to the program and its children; Windows has only the latter."""
    if sys.platform == "win32":
        process.kill()
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL if by_force else signal.SIGTERM)
