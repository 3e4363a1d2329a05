"""A procedure by devices.

Its steps run in a child process, and the devices are set to a safe state if it is cut short.

A driver that crashes takes nothing else down. A stop signal reaches the parent alone, which has the
child set the safe state; a child whose parent is gone does that by itself, and another child does
it for one that died.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from wbcpipe.acquire.hardware.stages import CoreFocusDrive, CoreXYStage
from wbcpipe.acquire.procedures.checks import check_steps
from wbcpipe.errors import DeviceTimeoutError, HardwareError, InterruptedRunError, WbcpipeError
from wbcpipe.system.child_process import ChildLostError, ChildProcess
from wbcpipe.system.signals import stop_reason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wbcpipe.acquire.config.policies import DeviceStep
    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.core_link import CoreLink
    from wbcpipe.system.child_process import ParentLink

__all__ = [
    "DeviceProcedure",
    "StagePosition",
    "carry_out",
    "run_by_devices",
    "set_safe_state",
    "shutdown_steps",
]

#: Loading the core and its devices, and what may come on top of a step's own times.
_START_S: Final = 120.0
_MARGIN_S: Final = 30.0
#: How often the wait for a busy device is interrupted to see whether the procedure is cut short.
_POLL_S: Final = 0.5


@dataclass(frozen=True)
class StagePosition:
    """A position to which the stage goes before the first step.

    The focus drive moves first, away from the slide.
    """

    x_um: float
    y_um: float
    z_um: float | None = None


@dataclass(frozen=True)
class DeviceProcedure:
    """Steps that devices carry out one by one.

    Attributes:
        name: what they do, as messages name it: ``staining``.
        steps: each with its key in the scope file.
        safe_state: steps for when it is cut short; ``None`` for the last step of each property that
            was set.
        timeout_s: time limit of each step's device.
        position: where the stage goes first; ``None`` if it stays.
    """

    name: str
    steps: tuple[tuple[str, DeviceStep], ...]
    safe_state: tuple[tuple[str, DeviceStep], ...] | None
    timeout_s: float
    position: StagePosition | None = None


@dataclass(frozen=True)
class _Ready:
    """The devices are loaded; nothing was set."""


@dataclass(frozen=True)
class _StepStarted:
    """A step starts."""

    number: int


@dataclass(frozen=True)
class _Finished:
    """The procedure ended.

    If it was cut short, ``devices`` says in a sentence how the devices were left.
    """

    devices: str


_Message = _Ready | _StepStarted | _Finished


def shutdown_steps(
    procedure: DeviceProcedure, n_started: int, n_sent: int
) -> tuple[DeviceStep, ...]:
    """Return the steps that set the devices to a safe state when a procedure is cut short.

    Args:
        procedure: its ``safe_state`` steps; without them, the last step of each property that was
            set, unless that step was carried out: the state in which the procedure would have left
            the property.
        n_started: number of steps that had started.
        n_sent: number of steps whose value the device has accepted.
    """
    if procedure.safe_state is not None:
        return tuple(step for _, step in procedure.safe_state)
    steps = [step for _, step in procedure.steps]
    last = {(step.device, step.property): number for number, step in enumerate(steps)}
    return tuple(
        steps[number]
        for (device, name), number in sorted(last.items(), key=lambda item: item[1])
        if number >= n_sent
        and any(
            (step.device, step.property) == (device, name)
            for step in steps[: min(n_started, number)]
        )
    )


def set_safe_state(link: CoreLink, procedure: DeviceProcedure, steps: Sequence[DeviceStep]) -> str:
    """Carry out steps, each one even if another fails.

    Return the devices' final state as a sentence.
    """
    state, failed = [], []
    for step in steps:
        try:
            link.set_property(step.device, step.property, step.value)
            link.wait_for((step.device,), procedure.timeout_s, "setting the safe state")
            time.sleep(step.wait_s)
            state.append(
                f"{step.device}-{step.property} = {link.get_property(step.device, step.property)}"
            )
        except HardwareError as error:
            failed.append(str(error).rstrip("."))
    if failed:
        return (
            f"The {procedure.name} devices are NOT in a safe state ({'; '.join(failed)}): "
            f"check them."
        )
    if state:
        return f"The {procedure.name} devices were set to a safe state: {', '.join(state)}."
    return f"The {procedure.name} devices were left as they are."


def run_by_devices(
    scope: Scope, procedure: DeviceProcedure, begin: Callable[[], None], say: Callable[[str], None]
) -> None:
    """Carry out the steps of the scope file.

    Args:
        scope: the microscope.
        procedure: the steps.
        begin: called once the devices are loaded, before anything is set.
        say: called with a line about the current action.

    Raises:
        ConfigError: a step names what no device has or accepts; nothing was set.
        HardwareError: a device failed, or the process that drives them; they were set to a safe
            state if possible.
        InterruptedRunError: a stop signal arrived, and the devices were set to a safe state.
        KeyboardInterrupt: a stop signal arrived before anything was set.
    """
    with _ProcedureProcess(scope, procedure) as process:
        try:
            process.follow(begin, say)
        except KeyboardInterrupt:
            if not process.n_started:
                raise
            say(f"stopping: setting the {procedure.name} devices to a safe state")
            raise InterruptedRunError(
                f"{stop_reason()} at {process.position}. {process.cut_short()}"
            ) from None
        except ChildLostError as lost:
            reason = (
                f"the process that drives the {procedure.name} devices {lost.reason}, at "
                f"{process.position}."
            )
            raise HardwareError(f"{reason} {process.set_safe_state_elsewhere()}".strip()) from None


class _ProcedureProcess:
    """The child that drives the devices, from the parent's side.

    Attributes:
        n_started: number of steps that it has started.
    """

    def __init__(self, scope: Scope, procedure: DeviceProcedure) -> None:
        self.n_started = 0
        self._scope, self._procedure = scope, procedure
        self._process_name = f"wbcpipe-{procedure.name}"
        steps = shutdown_steps(procedure, len(procedure.steps), 0)
        self._child: ChildProcess[_Message] = ChildProcess(
            _carry_out_steps,
            scope,
            procedure,
            name=self._process_name,
            end_s=_shutdown_s(procedure, steps),
        )

    def __enter__(self) -> Self:
        self._child.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._child.close()

    @property
    def position(self) -> str:
        """The step that it has reached."""
        steps = self._procedure.steps
        if not self.n_started:
            return "its start"
        step = steps[self.n_started - 1][1]
        place = f"{self._procedure.name} step {self.n_started} of {len(steps)}"
        return f"{place}, {step.device}-{step.property} = {step.value}"

    def follow(self, begin: Callable[[], None], say: Callable[[str], None]) -> None:
        """Let it carry out the steps, and report each."""
        limit_s = _START_S
        while not isinstance(message := self._child.receive(limit_s), _Finished):
            if isinstance(message, _Ready):
                begin()
                self._child.send("start")
                limit_s = _START_S + 2 * self._scope.reliability.move_timeout_s
                continue
            self.n_started = message.number + 1
            limit_s = (
                self._procedure.steps[message.number][1].wait_s
                + self._procedure.timeout_s
                + _MARGIN_S
            )
            say(self.position)

    def cut_short(self) -> str:
        """Have it set the safe state; return the devices' state as a sentence."""
        self._child.send("stop")
        limit_s = _shutdown_s(self._procedure, self._shutdown)
        try:
            while not isinstance(message := self._child.receive(limit_s), _Finished):
                pass
        except ChildLostError:
            return self.set_safe_state_elsewhere()
        except HardwareError as error:
            return str(error)
        return message.devices or "All its steps were carried out."

    def set_safe_state_elsewhere(self) -> str:
        """Have another process set the safe state after this one died.

        Return the devices' state as a sentence.
        """
        if not self.n_started:
            return ""
        self._child.close()
        if not (shutdown := self._shutdown):
            return f"The {self._procedure.name} devices were left as they are."
        other: ChildProcess[str] = ChildProcess(
            _set_safe_state, self._scope, self._procedure, shutdown, name=self._process_name
        )
        try:
            with other:
                return other.receive(_START_S + _shutdown_s(self._procedure, shutdown))
        except ChildLostError as lost:
            reason = f"the process that checked {lost.reason}"
        except WbcpipeError as error:
            reason = str(error).rstrip(".")
        return (
            f"The state of the {self._procedure.name} devices is not known ({reason}): check them."
        )

    @property
    def _shutdown(self) -> tuple[DeviceStep, ...]:
        return shutdown_steps(self._procedure, self.n_started, self.n_started - 1)


def _shutdown_s(procedure: DeviceProcedure, steps: Sequence[DeviceStep]) -> float:
    """Return the longest time that setting the safe state may take."""
    return _MARGIN_S + sum(step.wait_s + procedure.timeout_s for step in steps)


def _carry_out_steps(scope: Scope, procedure: DeviceProcedure, parent: ParentLink) -> None:
    """Load the devices, check every step, wait for the start, carry them out.

    The target of the child process.
    """
    from wbcpipe.acquire.hardware.core_link import CoreLink

    link = CoreLink(scope)
    try:
        check_steps(scope, link, (*procedure.steps, *(procedure.safe_state or ())))
        parent.send(_Ready())
        parent.receive()
        if procedure.position is not None:
            _move_stage(scope, link, procedure.position)
        devices = carry_out(link, procedure, parent)
    finally:
        link.close()
    parent.send(_Finished(devices))


def _move_stage(scope: Scope, link: CoreLink, position: StagePosition) -> None:
    if position.z_um is not None:
        CoreFocusDrive(scope, link).move_z(position.z_um)
    CoreXYStage(scope, link).move_xy(position.x_um, position.y_um)


def carry_out(link: CoreLink, procedure: DeviceProcedure, parent: ParentLink) -> str:
    """Carry out the steps; a message from the parent, or its end, cuts them short.

    Returns:
        An empty text; if the procedure was cut short, the state of the devices as a sentence.

    Raises:
        HardwareError: a device failed; the text ends with the state of the devices.
    """
    started = sent = 0
    try:
        for number, (_, step) in enumerate(procedure.steps):
            started = number + 1
            parent.send(_StepStarted(number))
            link.set_property(step.device, step.property, step.value)
            sent = number + 1
            if _wait_for_step(link, step, procedure, parent):
                return set_safe_state(link, procedure, shutdown_steps(procedure, started, sent))
    except HardwareError as error:
        devices = set_safe_state(link, procedure, shutdown_steps(procedure, started, sent))
        raise type(error)(f"{error} {devices}") from error
    return ""


def _wait_for_step(
    link: CoreLink, step: DeviceStep, procedure: DeviceProcedure, parent: ParentLink
) -> bool:
    """Wait for a step's device, and then as long as the step says.

    Return whether the parent cuts it short.
    """
    deadline_s = time.monotonic() + procedure.timeout_s
    action = f"{procedure.name}, {step.device}-{step.property} = {step.value}"
    while True:
        try:
            link.wait_for((step.device,), min(_POLL_S, procedure.timeout_s), action)
        except DeviceTimeoutError as error:
            if time.monotonic() >= deadline_s:
                raise DeviceTimeoutError(
                    f"{action}: {step.device!r} is still busy after {procedure.timeout_s:g} s."
                ) from error
        else:
            return parent.stop_requested(step.wait_s)
        if parent.stop_requested():
            return True


def _set_safe_state(
    scope: Scope, procedure: DeviceProcedure, steps: tuple[DeviceStep, ...], parent: ParentLink
) -> None:
    """Set the safe state that a child that died could not set.

    The target of another child process.
    """
    from wbcpipe.acquire.hardware.core_link import CoreLink

    link = CoreLink(scope, take_over=True)
    try:
        devices = set_safe_state(link, procedure, steps)
    finally:
        link.close()
    parent.send(devices)
