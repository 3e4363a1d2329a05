"""Keep the computer awake while a night runs."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["keep_awake"]

_ANSWER_S: Final = 5.0


@contextlib.contextmanager
def keep_awake() -> Iterator[str]:
    """Ask the operating system not to sleep while the block runs; the screen may still switch off.

    Yields: An empty text if it was granted, else why it was not. Even where it was granted, a
        laptop with Modern Standby (S0) on battery, a closed lid, a restart for updates or a person
        can still end the night: see `system.power_settings`.
    """
    with contextlib.ExitStack() as stack:
        refused = stack.enter_context(_by_wakepy())
        if refused and sys.platform == "linux":
            # The desktop's services are asked by wakepy; without a desktop session there is logind
            # alone.
            refused = stack.enter_context(_by_logind(refused))
        yield refused


@contextlib.contextmanager
def _by_wakepy() -> Iterator[str]:
    try:
        from wakepy import keep
    except ImportError:
        yield "the package wakepy is missing: install wbcpipe[night]"
        return
    with keep.running(on_fail="pass") as mode:
        if mode.active:
            yield ""
            return
        tried = mode.result.list_methods(ignore_platform_fails=True)
        yield (
            f"no service keeps this computer awake (asked: "
            f"{', '.join(one.method_name for one in tried) or 'none'})"
        )


@contextlib.contextmanager
def _by_logind(refused: str) -> Iterator[str]:
    """Hold an inhibitor lock of systemd-logind, which is released with the pipe to this process."""
    if shutil.which("systemd-inhibit") is None:
        yield refused
        return
    command = [
        "systemd-inhibit",
        "--what=idle:sleep",
        "--who=wbcpipe",
        "--why=a batch of slides is running",
        "cat",
    ]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    # `cat` answers once the lock is held. Without rights, systemd-inhibit ends instead, or waits
    # for a password.
    timer = threading.Timer(_ANSWER_S, process.kill)
    timer.start()
    assert process.stdin is not None
    assert process.stdout is not None
    answer = b""
    with contextlib.suppress(OSError):
        process.stdin.write(b"held\n")
        process.stdin.flush()
        answer = process.stdout.readline()
    timer.cancel()
    try:
        yield "" if answer else f"{refused}; systemd-logind refused too"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        with contextlib.suppress(OSError):  # what it did not read
            process.stdin.close()
