"""Leave a microscope that no sample needs any more.

In the dark, without a slide, its stage parked.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wbcpipe.acquire.hardware.safe_dark import close_shutter_in_subprocess, shutter_message
from wbcpipe.acquire.loader.record import read_loader
from wbcpipe.acquire.loader.workflow import unload_slide
from wbcpipe.errors import ConfigError, WbcpipeError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope

__all__ = ["Left", "leave_microscope", "make_dark"]

#: One process at a time drives the devices.
_one_at_a_time: Final = threading.Lock()


@dataclass(frozen=True)
class Left:
    """How a microscope was left.

    Attributes:
        lit: why it is not certain that the slide is in the dark, as a sentence; empty if it is.
        unloaded: id of the slide that the loader took away; empty if none.
        error, reason: why the slide could not be taken away: the class of the error, and its text.
    """

    lit: str = ""
    unloaded: str = ""
    error: str = ""
    reason: str = ""


def make_dark(scope: Scope, *, park: bool = False) -> str:
    """Close the shutter; return why that is not certain, as a sentence, or an empty text."""
    with _one_at_a_time:
        failure = close_shutter_in_subprocess(scope, park=park)
    return shutter_message(failure) if failure else ""


def leave_microscope(
    scope: Scope, data: Path, *, unload: bool, park: bool, say: Callable[[str], None]
) -> Left:
    """Close the shutter, take the slide away by the loader, and park the stage. It takes seconds.

    Args:
        scope: the microscope; no process uses it.
        data: data root, with the record of what lies on the stage.
        unload: take the slide away, if the scope has a loader that needs no operator.
        park: move the stage to ``stage.park_um``, if the scope file gives it.
        say: called with lines about the loader.
    """
    unload = unload and scope.loader.method in ("devices", "command")
    lit = make_dark(scope, park=park and not unload)
    if not unload:
        return Left(lit)
    left = _unload(scope, data, lit, say)
    if park and scope.stage.park_um is not None and not left.error:
        lit = make_dark(
            scope, park=True
        )  # where the slide was taken away is not where the stage is parked
    return Left(lit, left.unloaded, left.error, left.reason)


def _unload(scope: Scope, data: Path, lit: str, say: Callable[[str], None]) -> Left:
    try:
        before = read_loader(scope, data).place
        with _one_at_a_time:
            unload_slide(scope, data, ask=_no_operator, say=say)
        after = read_loader(scope, data).place
    except WbcpipeError as error:
        return Left(lit, error=type(error).__name__, reason=str(error))
    return Left(lit, unloaded=before.slide if before is not None and after is None else "")


def _no_operator(message: str) -> None:
    raise ConfigError(f"the slide must be taken away by an operator: {message}")
