"""Staining by the laboratory's own program."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from wbcpipe.errors import ConfigError, HardwareError, InterruptedRunError
from wbcpipe.system.signals import stop_reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.acquire.config.policies import Staining
    from wbcpipe.samples.sample import Sample

__all__ = ["stain_by_program"]

#: Time for a program to end after SIGTERM: enough to close its valves.
_END_S: Final = 10.0


def stain_by_program(sample: Sample, policy: Staining, begin: Callable[[], None], withdraw: Callable[[], None]) -> None:
    """Run the scope file's program; its output goes into the sample's log.

    Args:
        sample: for its log.
        policy: the program and its time limit.
        begin: called before the program starts.
        withdraw: called if it could not be started after all.

    Raises:
        ConfigError: it could not be started.
        HardwareError: it failed, or did not end in time and was ended.
        InterruptedRunError: a stop signal arrived, and the program was ended.
    """
    name = policy.command[0]
    begin()
    try:
        # In a session of its own, the program gets SIGTERM from here, and not the terminal's Ctrl-C as well.
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
        how = _end(process)
        raise HardwareError(
            f"the staining program {name!r} did not end within {policy.timeout_s:g} s and was ended; {how}."
        ) from error
    except KeyboardInterrupt as error:
        how = _end(process)
        raise InterruptedRunError(f"{stop_reason()} while the staining program {name!r} ran; {how}.") from error
    sample.log("staining_program", code=process.returncode, output=(printed + complained)[-2000:])
    if process.returncode:
        last = (complained or printed).strip().splitlines()[-1:] or ["it printed nothing"]
        raise HardwareError(f"the staining program {name!r} ended with code {process.returncode}: {last[0]}.")


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
