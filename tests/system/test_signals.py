"""The first stop signal stops gracefully, a second one ends the process, and neither leaves a
traceback.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from wbcpipe.system.signals import (
    STOP_SIGNALS,
    ignore_stop_signals_in_children,
    install_stop_handlers,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="SIGHUP, and signals to a process, are POSIX"
)


@pytest.fixture(autouse=True)
def default_handlers() -> Iterator[None]:
    """Start from Python's own handlers, whatever shell or test set them before."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number in STOP_SIGNALS:
        signal.signal(
            number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        )
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


# In a process of its own: a signal that comes too late for the same request ends the process.
_TWICE = """
import signal, time
from wbcpipe.system import signals
signals._ONE_REQUEST_S = 60.0
signals.install_stop_handlers()
try:
    signal.raise_signal({0})
    raise AssertionError("nothing was raised")
except signals.StopRequested:
    print(signals.stop_reason(), signals.stop_exit_code(), flush=True)
signal.raise_signal({0})  # a key held down, or a wrapper that forwards the same signal
time.sleep(0.2)
print("after the repeated signal")
"""


@pytest.mark.parametrize(
    ("number", "reason", "code"),
    [
        (signal.SIGINT, "stopped by the operator", 130),
        (signal.SIGTERM, "stopped by SIGTERM", 143),
        (signal.SIGHUP, "stopped by SIGHUP", 129),
    ],
)
def test_the_first_signal_raises_and_gives_reason_and_exit_code(
    number: signal.Signals, reason: str, code: int
) -> None:
    script = _TWICE.format(number.value)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT.parent, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"{reason} {code}\nafter the repeated signal\n"), (
        done.stderr
    )


_BUSY = """
import hashlib
from wbcpipe.system.signals import install_stop_handlers
install_stop_handlers()
print("ready", flush=True)
hashlib.pbkdf2_hmac("sha512", b"", b"", 200_000_000)  # minutes inside a library
"""


def test_a_second_signal_ends_at_once_a_process_that_is_inside_a_library() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _BUSY],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT.parent,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)  # it is inside by then
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 143
        assert process.stderr is not None
        assert process.stderr.read().splitlines() == [
            "wbcpipe: stopping; a second Ctrl-C ends it at once.",
            "wbcpipe: ended at once; run the same command again to resume.",
        ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_is_ignored_stays_so(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_IGN)
    install_stop_handlers()
    assert signal.getsignal(number) is signal.SIG_IGN


def test_a_signal_that_another_thread_receives_waits_until_a_started_process_is_known() -> None:
    over = threading.Event()
    other = threading.Thread(target=over.wait)
    other.start()
    seen: list[str] = []

    def start() -> None:
        with ignore_stop_signals_in_children():
            signal.pthread_kill(int(other.ident or 0), signal.SIGINT)
            time.sleep(0.05)
            seen.append("started")
        seen.append("went on")

    try:
        with pytest.raises(KeyboardInterrupt):
            start()
        assert seen == ["started"]
        with ignore_stop_signals_in_children():
            pass
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        over.set()
        other.join()


_EXITING = """
import atexit, os, signal, threading, time
from wbcpipe.pipeline import main

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.5)

def later():
    threading.main_thread().join(5.0)
    interrupt()

{}
main(["scopes"])
"""


@pytest.mark.parametrize(
    "at", ["threading.Thread(target=later).start()", "atexit.register(interrupt)"]
)
def test_ctrl_c_while_the_interpreter_exits_shows_no_traceback(at: str) -> None:
    script = _EXITING.format(at)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT.parent, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "demo" in done.stdout


_ON_TERMINAL = """
import os, signal, sys, time
os.login_tty({descriptor})
from wbcpipe.system.signals import install_stop_handlers, stop_reason
install_stop_handlers()
try:
    print("ready", flush=True)
    while True:  # a signal just before a call that sleeps is seen only after it
        time.sleep(0.1)
except KeyboardInterrupt:
    print("a message for a terminal that is gone", flush=True)
    with open({path!r}, "w") as handle:
        handle.write(stop_reason())
"""


def test_a_terminal_that_closes_stops_gracefully(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    path = tmp_path / "reason"
    script = _ON_TERMINAL.format(descriptor=theirs, path=str(path))
    with subprocess.Popen(
        [sys.executable, "-c", script], pass_fds=(theirs,), start_new_session=True, cwd=ROOT.parent
    ) as process:
        os.close(theirs)
        assert b"ready" in os.read(ours, 100)
        os.close(ours)
        assert process.wait(30) == 0
    assert path.read_text(encoding="utf-8") == "stopped by SIGHUP"
