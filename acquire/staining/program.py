"""Staining by a program of the laboratory's own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from wbcpipe.errors import ConfigError, HardwareError, InterruptedRunError

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.acquire.config.scope import Staining
    from wbcpipe.samples.sample import Sample

__all__ = ["stain_by_program"]

#: How long a program that is told to end has for it: enough to close its valves.
_END_S: Final = 10.0


def stain_by_program(sample: Sample, policy: Staining, begin: Callable[[], None], withdraw: Callable[[], None]) -> None:
    """Run the scope file's program; what it prints goes into the sample's log.

    Args:
        sample: for its log.
        policy: the program and its time-out.
        begin: called before it is started.
        withdraw: called where it could not be started after all.

    Raises:
        ConfigError: it could not be started.
        HardwareError: it failed, or did not end in time; it was told to end.
        InterruptedRunError: the operator stopped it; it was told to end.
    """
    name = policy.command[0]
    begin()
    try:
        # A session of its own: it is told to end by us, once, and not by the terminal's Ctrl-C as well.
        process = subprocess.Popen(
            policy.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        withdraw()
        raise ConfigError(f"the staining program {name!r} could not be started: {error}.") from error
    try:
        printed, complained = process.communicate(timeout=policy.timeout_s)
    except subprocess.TimeoutExpired as error:
        how = _tell_to_end(process)
        raise HardwareError(
            f"the staining program {name!r} did not end within {policy.timeout_s:g} s and was told to end; {how}."
        ) from error
    except KeyboardInterrupt as error:
        how = _tell_to_end(process)
        raise InterruptedRunError(f"stopped by the operator while the staining program {name!r} ran; {how}.") from error
    sample.log("staining_program", code=process.returncode, output=(printed + complained)[-2000:])
    if process.returncode:
        last = (complained or printed).strip().splitlines()[-1:] or ["it printed nothing"]
        raise HardwareError(f"the staining program {name!r} ended with code {process.returncode}: {last[0]}.")


def _tell_to_end(process: subprocess.Popen[str]) -> str:
    """Have a program end by itself, by force if it takes too long; says which it was."""
    how = "it ended by itself"
    _signal(process, by_force=False)
    try:
        process.communicate(timeout=_END_S)
    except subprocess.TimeoutExpired:
        _signal(process, by_force=True)
        process.communicate()
        how = f"it did not within {_END_S:g} s and was killed, so look at its devices"
    return how


def _signal(process: subprocess.Popen[str], *, by_force: bool) -> None:
    """SIGTERM or SIGKILL to the program and what it started; on Windows there is only the latter."""
    if sys.platform == "win32":
        process.kill()
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL if by_force else signal.SIGTERM)
