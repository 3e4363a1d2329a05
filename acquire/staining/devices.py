"""Staining by devices: its steps run in a child process, and the devices are set to a safe state if it is cut short.

A driver that crashes takes nothing else down. A stop signal reaches the parent alone, which has the child set the safe
state; a child whose parent is gone does that by itself, and another child does it for one that died.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from wbcpipe.acquire.staining.checks import check_steps
from wbcpipe.errors import DeviceTimeoutError, HardwareError, InterruptedRunError, WbcpipeError
from wbcpipe.system.child_process import ChildLostError, ChildProcess
from wbcpipe.system.signals import stop_reason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wbcpipe.acquire.config.policies import Staining, StainingStep
    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.core_link import CoreLink
    from wbcpipe.system.child_process import ParentLink

__all__ = ["carry_out", "set_safe_state", "shutdown_steps", "stain_by_devices"]

#: Loading the core and its devices, and what may come on top of a step's own times.
_START_S: Final = 120.0
_MARGIN_S: Final = 30.0
#: How often the wait for a busy device is interrupted to see whether the staining is cut short.
_POLL_S: Final = 0.5


@dataclass(frozen=True)
class _Ready:
    """The devices are loaded; nothing was set."""


@dataclass(frozen=True)
class _StepStarted:
    """A step starts."""

    number: int


@dataclass(frozen=True)
class _Finished:
    """The staining ended; if it was cut short, ``devices`` says in a sentence how the devices were left."""

    devices: str


_Message = _Ready | _StepStarted | _Finished


def shutdown_steps(policy: Staining, n_started: int, n_sent: int) -> tuple[StainingStep, ...]:
    """Return the steps that set the devices to a safe state when a staining is cut short.

    Args:
        policy: its ``safe_state`` steps; without them, the last step of each property that was set, unless that step
            was carried out: the state in which the staining would have left the property.
        n_started: number of steps that had started.
        n_sent: number of steps whose value the device has accepted.
    """
    if policy.safe_state is not None:
        return policy.safe_state
    last = {(step.device, step.property): number for number, step in enumerate(policy.steps)}
    return tuple(
        policy.steps[number]
        for (device, name), number in sorted(last.items(), key=lambda item: item[1])
        if number >= n_sent
        and any((step.device, step.property) == (device, name) for step in policy.steps[: min(n_started, number)])
    )


def set_safe_state(link: CoreLink, steps: Sequence[StainingStep], timeout_s: float) -> str:
    """Carry out steps, each one even if another fails; return the devices' final state as a sentence."""
    state, failed = [], []
    for step in steps:
        try:
            link.set_property(step.device, step.property, step.value)
            link.wait_for((step.device,), timeout_s, "setting the safe state")
            time.sleep(step.wait_s)
            state.append(f"{step.device}-{step.property} = {link.get_property(step.device, step.property)}")
        except HardwareError as error:
            failed.append(str(error).rstrip("."))
    if failed:
        return f"The staining devices are NOT in a safe state ({'; '.join(failed)}): check them."
    if state:
        return f"The staining devices were set to a safe state: {', '.join(state)}."
    return "The staining devices were left unchanged."


def stain_by_devices(scope: Scope, begin: Callable[[], None], say: Callable[[str], None]) -> None:
    """Carry out the steps of the scope file.

    Args:
        scope: how to stain.
        begin: called once the devices are loaded, before anything is set.
        say: called with a line about the current action.

    Raises:
        ConfigError: a step names what no device has or accepts; nothing was set.
        HardwareError: a device failed, or the process that drives them; they were set to a safe state if possible.
        InterruptedRunError: a stop signal arrived, and the devices were set to a safe state.
        KeyboardInterrupt: a stop signal arrived before anything was set.
    """
    with _StainingProcess(scope) as process:
        try:
            process.follow(begin, say)
        except KeyboardInterrupt:
            if not process.n_started:
                raise
            say("stopping: setting the staining devices to a safe state")
            raise InterruptedRunError(f"{stop_reason()} at {process.position}. {process.cut_short()}") from None
        except ChildLostError as lost:
            reason = f"the process that drives the staining devices {lost.reason}, at {process.position}."
            raise HardwareError(f"{reason} {process.set_safe_state_elsewhere()}".strip()) from None


class _StainingProcess:
    """The child that drives the staining devices, from the parent's side.

    Attributes:
        n_started: number of steps that it has started.
    """

    def __init__(self, scope: Scope) -> None:
        self.n_started = 0
        self._scope = scope
        steps = shutdown_steps(scope.staining, len(scope.staining.steps), 0)
        self._child: ChildProcess[_Message] = ChildProcess(
            _carry_out_steps, scope, name="wbcpipe-stain", end_s=_shutdown_s(scope.staining, steps)
        )

    def __enter__(self) -> Self:
        self._child.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._child.close()

    @property
    def position(self) -> str:
        """The step that it has reached."""
        steps = self._scope.staining.steps
        if not self.n_started:
            return "its start"
        step = steps[self.n_started - 1]
        return f"staining step {self.n_started} of {len(steps)}, {step.device}-{step.property} = {step.value}"

    def follow(self, begin: Callable[[], None], say: Callable[[str], None]) -> None:
        """Let it carry out the steps, and report each."""
        policy = self._scope.staining
        limit_s = _START_S
        while not isinstance(message := self._child.receive(limit_s), _Finished):
            if isinstance(message, _Ready):
                begin()
                self._child.send("start")
                continue
            self.n_started = message.number + 1
            limit_s = policy.steps[message.number].wait_s + policy.timeout_s + _MARGIN_S
            say(self.position)

    def cut_short(self) -> str:
        """Have it set the safe state; return the devices' state as a sentence."""
        self._child.send("stop")
        limit_s = _shutdown_s(self._scope.staining, self._shutdown)
        try:
            while not isinstance(message := self._child.receive(limit_s), _Finished):
                pass
        except ChildLostError:
            return self.set_safe_state_elsewhere()
        except HardwareError as error:
            return str(error)
        return message.devices or "All its steps were carried out."

    def set_safe_state_elsewhere(self) -> str:
        """Have another process set the safe state after this one died; return the devices' state as a sentence."""
        if not self.n_started:
            return ""
        self._child.close()
        other: ChildProcess[str] = ChildProcess(_set_safe_state, self._scope, self._shutdown, name="wbcpipe-stain")
        try:
            with other:
                return other.receive(_START_S + _shutdown_s(self._scope.staining, self._shutdown))
        except ChildLostError as lost:
            reason = f"the process that checked {lost.reason}"
        except WbcpipeError as error:
            reason = str(error).rstrip(".")
        return f"The state of the staining devices is not known ({reason}): check them."

    @property
    def _shutdown(self) -> tuple[StainingStep, ...]:
        return shutdown_steps(self._scope.staining, self.n_started, self.n_started - 1)


def _shutdown_s(policy: Staining, steps: Sequence[StainingStep]) -> float:
    """Return the longest time that setting the safe state may take."""
    return _MARGIN_S + sum(step.wait_s + policy.timeout_s for step in steps)


def _carry_out_steps(scope: Scope, parent: ParentLink) -> None:
    """Load the devices, check every step, wait for the start, carry them out; the target of the child process."""
    from wbcpipe.acquire.hardware.core_link import CoreLink

    link = CoreLink(scope)
    try:
        check_steps(scope, link)
        parent.send(_Ready())
        parent.receive()
        devices = carry_out(link, scope.staining, parent)
    finally:
        link.close()
    parent.send(_Finished(devices))


def carry_out(link: CoreLink, policy: Staining, parent: ParentLink) -> str:
    """Carry out the steps; a message from the parent, or its end, cuts them short.

    Returns:
        An empty text; if the staining was cut short, the state of the devices as a sentence.

    Raises:
        HardwareError: a device failed; the text ends with the state of the devices.
    """
    started = sent = 0
    try:
        for number, step in enumerate(policy.steps):
            started = number + 1
            parent.send(_StepStarted(number))
            link.set_property(step.device, step.property, step.value)
            sent = number + 1
            if _wait_for_step(link, step, policy.timeout_s, parent):
                return set_safe_state(link, shutdown_steps(policy, started, sent), policy.timeout_s)
    except HardwareError as error:
        devices = set_safe_state(link, shutdown_steps(policy, started, sent), policy.timeout_s)
        raise type(error)(f"{error} {devices}") from error
    return ""


def _wait_for_step(link: CoreLink, step: StainingStep, timeout_s: float, parent: ParentLink) -> bool:
    """Wait for a step's device, and then as long as the step says; return whether the parent cuts it short."""
    deadline_s = time.monotonic() + timeout_s
    action = f"staining, {step.device}-{step.property} = {step.value}"
    while True:
        try:
            link.wait_for((step.device,), min(_POLL_S, timeout_s), action)
        except DeviceTimeoutError as error:
            if time.monotonic() >= deadline_s:
                raise DeviceTimeoutError(f"{action}: {step.device!r} is still busy after {timeout_s:g} s.") from error
        else:
            return parent.stop_requested(step.wait_s)
        if parent.stop_requested():
            return True


def _set_safe_state(scope: Scope, steps: tuple[StainingStep, ...], parent: ParentLink) -> None:
    """Set the safe state that a child that died could not set; the target of another child process."""
    from wbcpipe.acquire.hardware.core_link import CoreLink

    link = CoreLink(scope, take_over=True)
    try:
        devices = set_safe_state(link, steps, scope.staining.timeout_s)
    finally:
        link.close()
    parent.send(devices)
