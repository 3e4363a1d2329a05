"""Close the shutter from a process of its own, after the one that drove the microscope died or
hung.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from typing import TYPE_CHECKING, Final

from wbcpipe.errors import WbcpipeError
from wbcpipe.system.child_process import ChildLostError, ChildProcess

if TYPE_CHECKING:
    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.system.child_process import ParentLink

__all__ = ["close_shutter_after_this_process", "close_shutter_in_subprocess", "shutter_message"]

#: How long a process may take to load the core and close the shutter.
_CLOSE_S: Final = 60.0


def close_shutter_in_subprocess(scope: Scope, *, park: bool = False) -> str:
    """Close the shutter from a process that lives for this alone, so that a driver that crashes
    again ends only it.

    Args:
        scope: which microscope.
        park: then move the stage to the scope's ``stage.park_um``, if it has one.

    Returns:
        An empty text once the shutter is closed, else the reason why that is not known.
    """
    child: ChildProcess[None] = ChildProcess(_close_shutter, scope, park, name="wbcpipe-dark")
    try:
        with child:
            list(child.messages(_CLOSE_S))
    except ChildLostError as lost:
        return f"the process {lost.reason}"
    except WbcpipeError as error:
        return str(error)
    return ""


def close_shutter_after_this_process(scope: Scope) -> None:
    """Start a process that closes the shutter once this one, whose driver hangs, is gone."""
    ChildProcess[None](
        _close_shutter_after_parent,
        scope,
        name="wbcpipe-dark",
        end_s=_CLOSE_S,
        outlives_parent=True,
    ).start()


def shutter_message(failure_reason: str) -> str:
    """Return the result of `close_shutter_in_subprocess` as a sentence for the operator."""
    if not failure_reason:
        return "The slide is in the dark."
    return (
        f"It is not certain that the slide is in the dark ({failure_reason.rstrip('.')}): "
        f"check the lamp."
    )


def _close_shutter(scope: Scope, park: bool, _parent: ParentLink) -> None:
    from wbcpipe.acquire.hardware.core_link import CoreLink
    from wbcpipe.acquire.hardware.stages import CoreXYStage

    with contextlib.closing(
        CoreLink(scope, take_over=True)
    ) as link:  # opening closes the shutter, and so does closing
        if park and scope.stage.park_um is not None:
            CoreXYStage(scope, link).move_xy(*scope.stage.park_um)


def _close_shutter_after_parent(scope: Scope, link: ParentLink) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    _close_shutter(scope, False, link)
