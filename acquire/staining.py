"""Between the passes: the stain, once and never twice, whatever breaks in between."""

from __future__ import annotations

import contextlib
import multiprocessing
import subprocess
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from wbcpipe.errors import HardwareError, SampleStateError, WbcpipeError
from wbcpipe.samples import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from pathlib import Path

    from wbcpipe.acquire.config import Scope
    from wbcpipe.samples import Sample

__all__ = ["is_stained", "mark_stained", "stain"]

#: Beyond the steps' own times: loading the core and its devices.
_START_S: Final = 120.0


def _path(sample: Sample) -> Path:
    return sample.path / "raw" / "staining.json"


def is_stained(sample: Sample) -> bool:
    """Whether the slide was stained by `stain`, or `mark_stained` said so.

    Raises:
        SampleStateError: staining was begun and did not end: nobody but the operator knows what is on the slide.
    """
    if not _path(sample).is_file():
        return False
    content = read_json(_path(sample))
    if content.get("done"):
        return True
    raise SampleStateError(
        f"sample {sample.name!r}: staining was begun at {content.get('begun')} and did not end ("
        f"{content.get('reason') or 'the process was stopped'}). Look at the slide: if it is stained, go on with "
        f"--stained; if it is not, delete {_path(sample)} and run the same command again."
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write(sample: Sample, **content: Any) -> None:
    _path(sample).parent.mkdir(parents=True, exist_ok=True)
    write_json(_path(sample), content)


def mark_stained(sample: Sample) -> None:
    """Note that the operator says that the slide is stained."""
    if not _path(sample).is_file() or not read_json(_path(sample)).get("done"):
        _write(sample, method="operator", done=_now())
        sample.log("stained", method="operator")


def stain(
    sample: Sample, scope: Scope, *, ask: Callable[[str], None], say: Callable[[str], None] = lambda _: None
) -> None:
    """Stain the slide as the scope file says, unless that was done.

    Args:
        sample: its bright-field pass is on disk.
        scope: how to stain.
        ask: shows the operator what to do and comes back when it is done; raises if there is no operator.
        say: told in words what is being done.

    Raises:
        SampleStateError: an earlier staining did not end.
        HardwareError: a device or the program failed; the sample remembers that staining was begun.
    """
    if is_stained(sample):
        return
    policy = scope.staining
    begun = _now()
    if policy.method == "prompt":
        ask(policy.message)
    else:
        _write(sample, method=policy.method, begun=begun)
        say(f"staining by {policy.method}")
        try:
            _by_devices(scope) if policy.method == "devices" else _by_command(sample, scope)
        except HardwareError as error:
            _write(sample, method=policy.method, begun=begun, reason=str(error))
            sample.log("staining_failed", method=policy.method, reason=str(error))
            raise
    if policy.incubate_s:
        say(f"incubating for {policy.incubate_s:g} s")
        time.sleep(policy.incubate_s)
    _write(sample, method=policy.method, begun=begun, done=_now())
    sample.log("stained", method=policy.method)


def _by_command(sample: Sample, scope: Scope) -> None:
    """Run the scope file's program; what it prints goes into the log."""
    command = scope.staining.command
    try:
        done = subprocess.run(
            command,
            timeout=scope.staining.timeout_s,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise HardwareError(
            f"the staining program {command[0]!r} did not end within {scope.staining.timeout_s:g} s and was stopped."
        ) from error
    except OSError as error:
        raise HardwareError(f"the staining program {command[0]!r} could not be started: {error}.") from error
    sample.log("staining_program", code=done.returncode, output=(done.stdout + done.stderr)[-2000:])
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["it printed nothing"]
        raise HardwareError(f"the staining program {command[0]!r} ended with code {done.returncode}: {last[0]}.")


def _by_devices(scope: Scope) -> None:
    """Set the steps' properties, in a process of its own: a driver that crashes takes nothing else down."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_devices_main, args=(scope, there), name="wbcpipe-stain")
    process.start()
    there.close()
    steps = scope.staining.steps
    limit_s = _START_S + sum(step.wait_s for step in steps) + len(steps) * scope.staining.timeout_s
    answer: str | None = None
    with contextlib.suppress(EOFError):
        if here.poll(limit_s):
            answer = here.recv()
    if process.is_alive() and answer is None:
        process.kill()
    process.join()
    here.close()
    if answer is None:
        raise HardwareError(f"the process that drives the staining devices died (exit code {process.exitcode}).")
    if answer:
        raise HardwareError(answer)


def _devices_main(scope: Scope, pipe: Connection) -> None:
    from wbcpipe.acquire.mmcore import CoreLink

    try:
        link = CoreLink(scope)
        try:
            for number, step in enumerate(scope.staining.steps):
                link.set_property(step.device, step.property, step.value)
                link.wait_for((step.device,), scope.staining.timeout_s, f"staining step {number}")
                time.sleep(step.wait_s)
        finally:
            link.close()
    except WbcpipeError as error:
        pipe.send(str(error))
    else:
        pipe.send("")
    pipe.close()
