"""Between the passes: the stain, once and never twice, whatever breaks in between."""

from __future__ import annotations

import functools
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from wbcpipe.acquire.staining.devices import stain_by_devices
from wbcpipe.acquire.staining.program import stain_by_program
from wbcpipe.errors import HardwareError, InterruptedRunError, SampleStateError
from wbcpipe.system.files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope, Staining
    from wbcpipe.samples.sample import Sample

__all__ = ["is_stained", "left_s", "mark_stained", "stain", "staining_state"]


def _path(sample: Sample) -> Path:
    return sample.path / "raw" / "staining.json"


def _read(sample: Sample) -> dict[str, Any]:
    return dict(read_json(_path(sample))) if _path(sample).is_file() else {}


def _write(sample: Sample, **content: Any) -> None:
    _path(sample).parent.mkdir(parents=True, exist_ok=True)
    write_json(_path(sample), content)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def staining_state(sample: Sample) -> Literal["", "begun", "incubating", "stained"]:
    """How far the staining of a slide is: ``begun`` if it did not end, as far as was noted; empty before it."""
    noted = _read(sample)
    if noted.get("done"):
        return "stained"
    if noted.get("applied"):
        return "incubating"
    return "begun" if noted else ""


def is_stained(sample: Sample) -> bool:
    """Whether the slide was stained by `stain`, or `mark_stained` said so; it may incubate still.

    Raises:
        SampleStateError: staining was begun and did not end: nobody but the operator knows what is on the slide.
    """
    state = staining_state(sample)
    if state == "begun":
        noted = _read(sample)
        reason = str(noted.get("reason") or "the process was stopped").rstrip(".")
        raise SampleStateError(
            f"sample {sample.name!r}: staining was begun at {noted.get('begun')} and did not end: {reason}. "
            f"{_advice(sample)}"
        )
    return state != ""


def _advice(sample: Sample) -> str:
    return (
        "Look at the slide: if it is stained, go on with --already-stained; if it is not, delete "
        f"{_path(sample)} and run the same command again."
    )


def left_s(sample: Sample, policy: Staining) -> float:
    """How long it takes at least until fluorescence may be taken, as far as the scope file says."""
    noted = _read(sample)
    if noted.get("done"):
        return 0.0
    if noted.get("applied"):
        since_s = (datetime.now(UTC) - datetime.fromisoformat(noted["applied"])).total_seconds()
        return min(max(policy.incubate_s - since_s, 0.0), policy.incubate_s)
    return policy.incubate_s + sum(step.wait_s for step in policy.steps)


def mark_stained(sample: Sample) -> None:
    """Note that the operator says that the slide is stained."""
    if staining_state(sample) in ("", "begun"):
        now = _now()
        _write(sample, **{**_read(sample), "method": "operator", "applied": now, "done": now})
        sample.log("stained", method="operator")


def stain(
    sample: Sample, scope: Scope, *, ask: Callable[[str], None], say: Callable[[str], None] = lambda _: None
) -> None:
    """Stain the slide as the scope file says, and let it incubate, as far as that was not done.

    Args:
        sample: its bright-field pass is on disk.
        scope: how to stain.
        ask: shows the operator what to do and comes back when it is done; raises if there is no operator.
        say: told in words what is being done.

    Raises:
        SampleStateError: an earlier staining did not end.
        ConfigError: the program could not be started, or a device does not take a step; nothing was done.
        HardwareError: a device or the program failed; once staining was begun, the sample remembers it.
        InterruptedRunError: the operator stopped it after it was begun; the sample remembers it.
    """
    if not is_stained(sample):
        policy = scope.staining
        note = functools.partial(_write, sample, method=policy.method, begun=_now())
        if policy.method == "prompt":
            ask(policy.message)
        else:
            _by_machine(sample, scope, note, say)
        note(applied=_now())
        sample.log("stained", method=policy.method)
    _incubate(sample, scope.staining, say)


def _by_machine(sample: Sample, scope: Scope, note: Callable[..., None], say: Callable[[str], None]) -> None:
    policy = scope.staining
    say(f"staining by {policy.method}")
    try:
        if policy.method == "devices":
            stain_by_devices(scope, note, say)
        else:
            stain_by_program(sample, policy, note, _path(sample).unlink)
    except (HardwareError, InterruptedRunError) as error:
        if staining_state(sample) != "begun":
            raise
        note(reason=str(error))
        sample.log("staining_failed", method=policy.method, reason=str(error))
        raise type(error)(f"sample {sample.name!r}: {error} {_advice(sample)}") from error


def _incubate(sample: Sample, policy: Staining, say: Callable[[str], None]) -> None:
    """Let the stain that is on the slide incubate for as long as is left of that; a run that was stopped goes on."""
    noted = _read(sample)
    if noted.get("done"):
        return
    if wait_s := left_s(sample, policy):
        say(f"incubating for {wait_s:.0f} s")
        time.sleep(wait_s)
    _write(sample, **{**noted, "done": _now()})
