"""Stain the slide between two passes: once and never twice, whatever fails in between."""

from __future__ import annotations

import functools
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from wbcpipe.acquire.procedures.devices import DeviceProcedure, run_by_devices
from wbcpipe.acquire.procedures.program import Program, ProgramResult, run_program
from wbcpipe.errors import HardwareError, InterruptedRunError, SampleStateError
from wbcpipe.samples.records import StainingRecord
from wbcpipe.samples.staining_record import (
    read_staining,
    staining_path,
    staining_state,
    write_staining,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.acquire.config.policies import Staining
    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.samples.sample import Sample

__all__ = [
    "apply_stain",
    "is_stained",
    "mark_applied",
    "mark_stained",
    "remaining_s",
    "stain",
    "staining_procedure",
]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def is_stained(sample: Sample) -> bool:
    """Return whether the slide was stained, by `stain` or by the operator; it may still incubate.

    Raises:
        SampleStateError: staining was started and did not end: only the operator can see whether
            the slide is stained.
    """
    record, state = read_staining(sample), staining_state(sample)
    if state == "started" and record is not None:
        reason = (record.reason or "the process was stopped").rstrip(".")
        raise SampleStateError(
            f"sample {sample.name!r}: staining was started at {record.started} and did not end: "
            f"{reason}. {_advice(sample)}"
        )
    return state != ""


def _advice(sample: Sample) -> str:
    return (
        "Check the slide: if it is stained, go on with --already-stained; if it is not, delete "
        f"{staining_path(sample)} and run the same command again."
    )


def remaining_s(sample: Sample, policy: Staining) -> float:
    """Return the shortest time until fluorescence may be taken, by the scope file."""
    record = read_staining(sample)
    if record is not None and record.done:
        return 0.0
    if record is not None and record.applied:
        since_s = (datetime.now(UTC) - datetime.fromisoformat(record.applied)).total_seconds()
        return min(max(policy.incubate_s - since_s, 0.0), policy.incubate_s)
    return policy.incubate_s + sum(step.wait_s for step in policy.steps)


def mark_stained(sample: Sample) -> None:
    """Record that the operator says that the slide is stained."""
    if staining_state(sample) in ("", "started"):
        now, earlier = _now(), read_staining(sample)
        record = StainingRecord(method="operator", applied=now, done=now)
        if earlier is not None:
            record = record.model_copy(
                update={"started": earlier.started, "reason": earlier.reason}
            )
        write_staining(sample, record)
        sample.log("stained", method="operator")


def stain(
    sample: Sample,
    scope: Scope,
    *,
    ask: Callable[[str], None],
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Stain the slide as the scope file says and let it incubate, unless that was done already.

    See `apply_stain`.
    """
    apply_stain(sample, scope, ask=ask, say=say)
    _incubate(sample, scope.staining, say)


def apply_stain(
    sample: Sample,
    scope: Scope,
    *,
    ask: Callable[[str], None],
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Stain the slide as the scope file says, unless that was done already.

    Do not wait for the incubation.

    Args:
        sample: its bright-field pass is on disk.
        scope: how to stain.
        ask: shows the operator what to do and returns when it is done; raises if there is no
            operator.
        say: called with a line about the current action.

    Raises:
        SampleStateError: an earlier staining did not end.
        ConfigError: the program could not be started, or a device does not accept a step; nothing
            was done.
        HardwareError: a device or the program failed; once staining was started, the sample records
            it.
        InterruptedRunError: a stop signal arrived after it was started; the sample records it.
    """
    if not is_stained(sample):
        policy = scope.staining
        started = StainingRecord(method=policy.method, started=_now())
        if policy.method == "prompt":
            ask(policy.message)
        else:
            _by_machine(sample, scope, started, say)
        write_staining(sample, started.model_copy(update={"applied": _now()}))
        sample.log("stained", method=policy.method)


def mark_applied(sample: Sample) -> None:
    """Record that the operator has stained the slide just now; it incubates from now on."""
    if staining_state(sample) == "":
        write_staining(sample, StainingRecord(method="prompt", started=_now(), applied=_now()))
        sample.log("stained", method="prompt")


def _by_machine(
    sample: Sample, scope: Scope, started: StainingRecord, say: Callable[[str], None]
) -> None:
    policy, start = scope.staining, functools.partial(write_staining, sample, started)
    say(f"staining by {policy.method}")
    try:
        if policy.method == "devices":
            run_by_devices(scope, staining_procedure(policy), start, say)
        else:
            _by_program(sample, policy, start)
    except (HardwareError, InterruptedRunError) as error:
        if staining_state(sample) != "started":
            raise
        write_staining(sample, started.model_copy(update={"reason": str(error)}))
        sample.log("staining_failed", method=policy.method, reason=str(error))
        raise type(error)(f"sample {sample.name!r}: {error} {_advice(sample)}") from error


def staining_procedure(policy: Staining) -> DeviceProcedure:
    """Return the steps of a staining by devices."""
    safe_state = None if policy.safe_state is None else tuple(policy.keyed_safe_state())
    return DeviceProcedure("staining", tuple(policy.keyed_steps()), safe_state, policy.timeout_s)


def _by_program(sample: Sample, policy: Staining, start: Callable[[], None]) -> None:
    """Run the scope file's program; its output goes into the sample's log."""

    def log(result: ProgramResult) -> None:
        sample.log("staining_program", code=result.code, output=result.output)

    run_program(
        Program("staining", policy.command, policy.timeout_s),
        start,
        staining_path(sample).unlink,
        log,
    )


def _incubate(sample: Sample, policy: Staining, say: Callable[[str], None]) -> None:
    """Wait for the rest of the incubation time; a run that was stopped goes on."""
    record = read_staining(sample)
    if record is None or record.done:
        return
    if wait_s := remaining_s(sample, policy):
        say(f"incubating for {wait_s:.0f} s")
        time.sleep(wait_s)
    write_staining(sample, record.model_copy(update={"done": _now()}))
