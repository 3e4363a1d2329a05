"""Staining by devices: its steps in a process of their own, and what brings the devices to rest if they are cut short.

A driver that crashes takes nothing else down. Ctrl-C reaches the parent alone, which has the child bring the devices to
rest; a child whose parent is gone does that by itself, and another one does it for a child that died.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import wbcpipe.errors
from wbcpipe.acquire.staining.checks import check_steps
from wbcpipe.acquire.supervise.restart_policy import death_of
from wbcpipe.errors import DeviceTimeoutError, HardwareError, InterruptedRunError, WbcpipeError
from wbcpipe.system.signals import ignore_sigint_in_children

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection

    from wbcpipe.acquire.config.scope import Scope, Staining, StainingStep
    from wbcpipe.acquire.hardware.core_link import CoreLink

__all__ = ["bring_to_rest", "closing_steps", "stain_by_devices"]

#: Loading the core and its devices, and what may come on top of a step's own times.
_START_S: Final = 120.0
_MARGIN_S: Final = 30.0
#: How often a device that is waited for is left, to look whether the staining shall go on.
_LOOK_S: Final = 0.5


@dataclass(frozen=True)
class _Ready:
    """The devices are loaded; nothing was set."""


@dataclass(frozen=True)
class _Step:
    """A step is begun."""

    number: int


@dataclass(frozen=True)
class _End:
    """The staining ended.

    Attributes:
        error: class name of what went wrong; empty if nothing did.
        text: of the error.
        rest: how the devices were left, as a sentence, where they were cut short.
    """

    error: str = ""
    text: str = ""
    rest: str = ""


class _CutShortError(Exception):
    """The parent wants no more, or is gone."""


def closing_steps(policy: Staining, n_begun: int, n_sent: int) -> tuple[StainingStep, ...]:
    """What brings the devices to rest when a staining is cut short.

    Args:
        policy: its ``safe_state`` steps; where it names none, of each property that was set the last step, as far as
            that is still to come: so the staining would have left it.
        n_begun: steps that were begun.
        n_sent: steps of which the device surely took the value.
    """
    if policy.safe_state is not None:
        return policy.safe_state
    last = {(step.device, step.property): number for number, step in enumerate(policy.steps)}
    return tuple(
        policy.steps[number]
        for (device, name), number in sorted(last.items(), key=lambda item: item[1])
        if number >= n_sent
        and any((step.device, step.property) == (device, name) for step in policy.steps[: min(n_begun, number)])
    )


def bring_to_rest(link: CoreLink, steps: Sequence[StainingStep], timeout_s: float) -> str:
    """Carry out steps, each whatever became of the others; says in a sentence how the devices stand then."""
    stand, failed = [], []
    for step in steps:
        try:
            link.set_property(step.device, step.property, step.value)
            link.wait_for((step.device,), timeout_s, "bringing it to rest")
            time.sleep(step.wait_s)
            stand.append(f"{step.device}-{step.property} = {link.get_property(step.device, step.property)}")
        except HardwareError as error:
            failed.append(str(error).rstrip("."))
    if failed:
        return f"The staining devices are NOT at rest ({'; '.join(failed)}): look at them."
    if stand:
        return f"The staining devices were brought to rest: {', '.join(stand)}."
    return "The staining devices were left as they stand."


def stain_by_devices(scope: Scope, begin: Callable[[], None], say: Callable[[str], None]) -> None:
    """Carry out the steps of the scope file.

    Args:
        scope: how to stain.
        begin: called once the devices are loaded, before anything is set.
        say: told in words what is being done.

    Raises:
        ConfigError: a step names what no device has or takes; nothing was set.
        HardwareError: a device failed, or the process that drives them; they were brought to rest if that was possible.
        InterruptedRunError: the operator stopped it, and the devices were brought to rest.
        KeyboardInterrupt: the operator stopped it before anything was set.
    """
    child = _Child(_steps_main, scope)
    try:
        end = child.follow(begin, say)
    except KeyboardInterrupt:
        if not child.n_begun:
            raise
        say("stopping: bringing the staining devices to rest")
        child.tell(None)
        end = child.rest()
        rest = child.rest_elsewhere() if end is None else end.rest or "All its steps were carried out."
        end = _End(InterruptedRunError.__name__, f"stopped by the operator at {child.place}.", rest)
    finally:
        child.end()
    if end is None:
        reason = f"the process that drives the staining devices {child.fate}, at {child.place}."
        end = _End(HardwareError.__name__, reason, child.rest_elsewhere())
    if end.error:
        error_class = getattr(wbcpipe.errors, end.error)
        raise error_class(f"{end.text} {end.rest}".strip())


class _Child:
    """A process that drives the staining devices, from the parent's side.

    Attributes:
        n_begun: steps that it began.
        fate: how it ended before its time.
    """

    def __init__(self, main: Callable[..., None], scope: Scope, *more: Any) -> None:
        self.n_begun = 0
        self.fate = ""
        self._scope = scope
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=main, args=(scope, there, *more), name="wbcpipe-stain")
        with ignore_sigint_in_children():
            self._process.start()
        there.close()

    @property
    def place(self) -> str:
        """Where in the staining it is."""
        steps = self._scope.staining.steps
        if not self.n_begun:
            return "its start"
        step = steps[self.n_begun - 1]
        return f"staining step {self.n_begun} of {len(steps)}, {step.device}-{step.property} = {step.value}"

    def follow(self, begin: Callable[[], None], say: Callable[[str], None]) -> _End | None:
        """Hear what it does until it ends; ``None`` if it died or hangs."""
        policy = self._scope.staining
        limit_s = _START_S
        while True:
            match self._hear(limit_s):
                case _Ready():
                    begin()
                    self.tell("go on")
                case _Step(number):
                    self.n_begun = number + 1
                    limit_s = policy.steps[number].wait_s + policy.timeout_s + _MARGIN_S
                    say(self.place)
                case end:
                    assert end is None or isinstance(end, _End)
                    return end

    def rest(self) -> _End | None:
        """Wait for its end while it brings the devices to rest; ``None`` if it died or hangs."""
        policy = self._scope.staining
        while True:
            message = self._hear(_MARGIN_S + sum(step.wait_s + policy.timeout_s for step in self._closing))
            if not isinstance(message, _Ready | _Step):
                assert message is None or isinstance(message, _End)
                return message

    def rest_elsewhere(self) -> str:
        """Have another process bring the devices to rest after this one died; says how they stand then."""
        if not self.n_begun:
            return ""
        self.end()
        other = _Child(_rest_main, self._scope, self._closing)
        other.n_begun = self.n_begun
        end = other._hear(_START_S + _MARGIN_S + sum(step.wait_s for step in self._closing))
        other.end()
        if not isinstance(end, _End):
            return (
                f"It is not known how the staining devices stand (the process that looked {other.fate}): look at them."
            )
        return end.rest or f"It is not known how the staining devices stand ({end.text.rstrip('.')}): look at them."

    @property
    def _closing(self) -> tuple[StainingStep, ...]:
        return closing_steps(self._scope.staining, self.n_begun, self.n_begun - 1)

    def tell(self, wish: str | None) -> None:
        """``None`` cuts it short."""
        with contextlib.suppress(OSError):
            self._pipe.send(wish)

    def _hear(self, limit_s: float) -> object:
        """Its next message; ``None`` if it died or says nothing, with the reason in ``fate``."""
        with contextlib.suppress(EOFError, OSError):
            if self._pipe.poll(limit_s):
                return self._pipe.recv()
            self._process.kill()
            self.fate = f"gave no sign of life for {limit_s:g} s and was ended"
        self._process.join(_MARGIN_S)
        self.fate = self.fate or f"died ({death_of(self._process.exitcode)})"
        return None

    def end(self) -> None:
        """See that it is gone; may be called twice."""
        self._pipe.close()
        self._process.join(_MARGIN_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _steps_main(scope: Scope, pipe: Connection) -> None:
    """The child: load the devices, see that they take every step, wait for the word, carry them out."""
    from wbcpipe.acquire.hardware.core_link import CoreLink

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end = _End()
    try:
        link = CoreLink(scope)
        try:
            check_steps(scope, link)
            pipe.send(_Ready())
            if pipe.recv() is not None:
                end = carry_out(link, scope.staining, pipe)
        finally:
            link.close()
    except WbcpipeError as error:
        end = _End(type(error).__name__, str(error))
    except (EOFError, OSError):  # the parent is gone before anything was set
        return
    with contextlib.suppress(OSError):
        pipe.send(end)
    pipe.close()


def carry_out(link: CoreLink, policy: Staining, pipe: Connection) -> _End:
    """Carry out the steps; whatever comes through ``pipe`` cuts them short, as its end does."""
    begun = sent = 0
    try:
        for number, step in enumerate(policy.steps):
            begun = number + 1
            with contextlib.suppress(OSError):
                pipe.send(_Step(number))
            link.set_property(step.device, step.property, step.value)
            sent = number + 1
            _settle(link, step, policy.timeout_s, pipe)
    except (HardwareError, _CutShortError) as error:
        rest = bring_to_rest(link, closing_steps(policy, begun, sent), policy.timeout_s)
        kind = type(error) if isinstance(error, HardwareError) else InterruptedRunError
        return _End(kind.__name__, str(error), rest)
    return _End()


def _settle(link: CoreLink, step: StainingStep, timeout_s: float, pipe: Connection) -> None:
    """Wait for a step's device, and then as long as the step says."""
    deadline = time.monotonic() + timeout_s
    doing = f"staining, {step.device}-{step.property} = {step.value}"
    while True:
        try:
            link.wait_for((step.device,), min(_LOOK_S, timeout_s), doing)
        except DeviceTimeoutError as error:
            if time.monotonic() >= deadline:
                raise DeviceTimeoutError(f"{doing}: {step.device!r} is still busy after {timeout_s:g} s.") from error
        else:
            break
        _pause(pipe, 0.0)
    _pause(pipe, step.wait_s)


def _pause(pipe: Connection, seconds: float) -> None:
    """Wait, unless the parent says or shows by its end that the staining is cut short."""
    try:
        cut_short = pipe.poll(seconds)
    except OSError:
        cut_short = True
    if cut_short:
        raise _CutShortError("cut short.")


def _rest_main(scope: Scope, pipe: Connection, steps: tuple[StainingStep, ...]) -> None:
    """Another child: bring to rest what one that died may have left open."""
    from wbcpipe.acquire.hardware.core_link import CoreLink

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        link = CoreLink(scope, take_over=True)
        try:
            end = _End(rest=bring_to_rest(link, steps, scope.staining.timeout_s))
        finally:
            link.close()
    except WbcpipeError as error:
        end = _End(type(error).__name__, str(error))
    with contextlib.suppress(OSError):
        pipe.send(end)
    pipe.close()
