"""Load a slide and take it away again: once and never twice, whatever fails in between."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from wbcpipe.acquire.config.slide_policies import SlidePlace
from wbcpipe.acquire.loader.record import LoaderRecord, loader_path, read_loader, write_loader
from wbcpipe.acquire.procedures.devices import DeviceProcedure, StagePosition, run_by_devices
from wbcpipe.acquire.procedures.program import Program, run_program
from wbcpipe.errors import (
    AcquisitionError,
    ConfigError,
    HardwareBusyError,
    HardwareError,
    InterruptedRunError,
    LoaderStateError,
    StageLimitError,
)
from wbcpipe.system.files import make_folder
from wbcpipe.system.locks import exclusive_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope

__all__ = ["LoadRequest", "load_slide", "state_slide", "unload_slide"]

_MAX_ID: Final = 128
Action = Literal["load", "unload"]
_DURING: Final[dict[Action, Literal["loading", "unloading"]]] = {
    "load": "loading",
    "unload": "unloading",
}


@dataclass(frozen=True)
class LoadRequest:
    """A slide to bring to the stage.

    Attributes:
        scope: the microscope, with its loader.
        data: data root; it keeps the record of what lies on the stage.
        slide: id of the slide, as its label has it.
        number: its place in the loader, from 1; 0 where it is not known.
    """

    scope: Scope
    data: Path
    slide: str
    number: int = 0

    def place(self) -> SlidePlace:
        """Return what the loader's placeholders stand for.

        Raises:
            ConfigError: the id is not safe to give to a program, or the place is missing or not in
                the loader.
        """
        scope, policy = self.scope, self.scope.loader
        if (
            not self.slide
            or len(self.slide) > _MAX_ID
            or not self.slide.isprintable()
            or self.slide.startswith("-")
        ):
            raise ConfigError(
                f"the slide's id {self.slide!r} is refused: give 1 to {_MAX_ID} printable "
                f"characters that do not begin with '-', which a program would take for an option."
            )
        if policy.needs_number and not self.number:
            raise ConfigError(
                f"scope {scope.name!r}: the loader needs the place of slide {self.slide!r}, from "
                f"1 to {policy.capacity or 'its last'}; give it as --place, or as the slot in a "
                f"worklist."
            )
        if self.number < 0 or (policy.capacity is not None and self.number > policy.capacity):
            raise ConfigError(
                f"scope {scope.name!r}: slide {self.slide!r} is said to be at place {self.number} "
                f"of the loader, which has places 1 to {policy.capacity or '...'}."
            )
        return SlidePlace(slide=self.slide, slot=scope.loader_slot, number=self.number)


def load_slide(
    request: LoadRequest, *, ask: Callable[[str], None], say: Callable[[str], None]
) -> None:
    """Bring a slide to the stage, unless it is there already; another slide is taken away first.

    Args:
        request: which slide.
        ask: shows the operator what to do and returns when it is done; raises if there is no
            operator.
        say: called with a line about the current action.

    Raises:
        ConfigError: the request or the scope file is not valid, or the program could not be
            started; nothing moved.
        LoaderStateError: loading failed, now or earlier: a slide may be half loaded.
        AcquisitionError: the program says that the slide is not in the loader; nothing moved.
        HardwareError: the devices could not be opened; nothing moved.
        HardwareBusyError: another process loads a slide.
        InterruptedRunError: a stop signal arrived after a movement had started; a slide may be half
            loaded.
    """
    scope, data = request.scope, request.data
    if scope.loader.method == "none":
        return
    place = request.place()
    with _loader_lock(scope, data):
        record = _settled(scope, data)
        if record.place is not None:
            if record.place.slide == place.slide:
                return
            _Movement(scope, data, record.place, "unload").carry_out(ask, say)
        _Movement(scope, data, place, "load").carry_out(ask, say)
    time.sleep(scope.loader.settle_s)


def unload_slide(
    scope: Scope, data: Path, *, ask: Callable[[str], None], say: Callable[[str], None]
) -> None:
    """Take the slide on the stage away, if the loader put one there and can take it away.

    Raises as `load_slide`.
    """
    if scope.loader.method == "none":
        return
    with _loader_lock(scope, data):
        record = _settled(scope, data)
        if record.place is not None:
            _Movement(scope, data, record.place, "unload").carry_out(ask, say)


def state_slide(scope: Scope, data: Path, place: SlidePlace | None) -> None:
    """Record what the operator sees on the stage: a slide, or nothing."""
    with _loader_lock(scope, data):
        state: Literal["empty", "loaded"] = "empty" if place is None else "loaded"
        write_loader(scope, data, LoaderRecord(state=state, place=place, method="operator"))


@contextlib.contextmanager
def _loader_lock(scope: Scope, data: Path) -> Iterator[None]:
    path = loader_path(scope, data).with_suffix(".lock")
    make_folder(path.parent)

    def busy(holder: str) -> HardwareBusyError:
        return HardwareBusyError(
            f"scope {scope.name!r}: another process moves slides ({holder}). Wait for it to end, "
            f"or stop it."
        )

    with exclusive_lock(path, path.with_suffix(".holder"), "moving a slide", busy):
        yield


def _settled(scope: Scope, data: Path) -> LoaderRecord:
    """Return the record of a loader at rest.

    Raises:
        LoaderStateError: a movement was started and did not end: only a person can see where the
            slide is.
    """
    record = read_loader(scope, data)
    if record.state in ("empty", "loaded"):
        return record
    slide = "" if record.place is None else f" slide {record.place.slide!r}"
    at = f" at {record.step}" if record.step else ""
    reason = (record.reason or f"the process was stopped{at}").rstrip(".")
    raise LoaderStateError(
        f"scope {scope.name!r}: {record.state}{slide} was started at "
        f"{record.since:%Y-%m-%d %H:%M:%S} UTC and did not "
        f"end: {reason}. {_advice(scope, record.place)}"
    )


def _advice(scope: Scope, place: SlidePlace | None) -> str:
    slide = "ID" if place is None else place.slide
    return (
        "A slide may be half loaded: look at the stage and the loader, put it right, and state "
        f"what lies on the stage: `wbcpipe loader state {scope.option} --slide {slide}`, or "
        f"`--empty`."
    )


@dataclass(frozen=True)
class _Movement:
    """One movement of one slide."""

    scope: Scope
    data: Path
    place: SlidePlace
    action: Action

    def carry_out(self, ask: Callable[[str], None], say: Callable[[str], None]) -> None:
        """Move the slide and record the result."""
        policy = self.scope.loader
        if (
            self.action == "unload"
            and policy.method in ("devices", "command")
            and not (policy.unload or policy.unload_command)
        ):
            say(f"slide {self.place.slide} stays on the stage until the loader brings the next")
            return
        say(f"{_DURING[self.action]} slide {self.place.slide} by {policy.method}")
        before = read_loader(self.scope, self.data)
        try:
            self._move(before, ask, say)
        except (HardwareError, StageLimitError, InterruptedRunError) as error:
            record = read_loader(self.scope, self.data)
            if record.state != _DURING[self.action]:
                raise
            self._write(record.model_copy(update={"reason": str(error)}))
            failure = (
                InterruptedRunError if isinstance(error, InterruptedRunError) else LoaderStateError
            )
            raise failure(
                f"slide {self.place.slide!r}: {error} {_advice(self.scope, self.place)}"
            ) from error
        if self.action == "load":
            self._write(LoaderRecord(state="loaded", place=self.place, method=policy.method))
        else:
            self._write(LoaderRecord(state="empty", method=policy.method))

    def _move(
        self, before: LoaderRecord, ask: Callable[[str], None], say: Callable[[str], None]
    ) -> None:
        policy = self.scope.loader
        running = LoaderRecord(state=_DURING[self.action], place=self.place, method=policy.method)

        def report(text: str) -> None:
            self._write(running.model_copy(update={"step": text}))
            say(text)

        if policy.method == "devices":
            try:
                run_by_devices(self.scope, self._procedure(), lambda: self._write(running), report)
            except KeyboardInterrupt:  # nothing was set
                self._write(before)
                raise
            return
        if self._handover is not None:
            approach = DeviceProcedure("handover", (), (), policy.timeout_s, self._handover)
            run_by_devices(self.scope, approach, lambda: None, say)
        if policy.method == "prompt":
            text = policy.message if self.action == "load" else policy.unload_message
            ask(text.format(**self.place.model_dump()))
            return
        result = run_program(
            self._program(), lambda: self._write(running), lambda: self._write(before)
        )
        if result.code:
            self._write(before)
            raise AcquisitionError(
                f"slide {self.place.slide!r} is not in the loader: the program "
                f"{self._program().command[0]!r} ended "
                f"with code {result.code}: {result.last_line}. Nothing was moved."
            )

    @property
    def _handover(self) -> StagePosition | None:
        policy = self.scope.loader
        return (
            None
            if policy.handover_um is None
            else StagePosition(*policy.handover_um, policy.handover_z_um)
        )

    def _procedure(self) -> DeviceProcedure:
        policy = self.scope.loader
        steps, safe_state = policy.steps(self.action, self.place), policy.safe_steps(self.place)
        return DeviceProcedure(
            _DURING[self.action], steps, safe_state, policy.timeout_s, self._handover
        )

    def _program(self) -> Program:
        policy, place = self.scope.loader, self.place
        variables = {
            "ACTION": self.action,
            "SLIDE": place.slide,
            "SLOT": place.slot,
            "NUMBER": str(place.number),
        }
        return Program(
            _DURING[self.action],
            policy.command(self.action, place),
            policy.timeout_s,
            {f"WBCPIPE_{name}": value for name, value in variables.items()},
            (0, *policy.absent_codes) if self.action == "load" else (0,),
        )

    def _write(self, record: LoaderRecord) -> None:
        write_loader(self.scope, self.data, record)
