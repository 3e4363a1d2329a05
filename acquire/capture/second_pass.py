"""The fluorescence pass.

Finds the slide of the bright-field pass again, and the positions of its fields.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict
from typing import TYPE_CHECKING

from wbcpipe.acquire.plan import PlannedField
from wbcpipe.acquire.slide_relocation.alignment import (
    SlideFinder,
    first_fields,
    save_transform,
    stored_transforms,
)
from wbcpipe.acquire.slide_relocation.transform import SlideTransform
from wbcpipe.acquire.throttled_progress import ThrottledProgress

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.acquire.focus.manager import FocusManager
    from wbcpipe.acquire.hardware.protocols import Microscope
    from wbcpipe.acquire.hardware.retry import Retries
    from wbcpipe.acquire.request import AcquisitionRequest

__all__ = ["relocate_fields"]


def relocate_fields(
    request: AcquisitionRequest,
    microscope: Microscope,
    retries: Retries,
    focus: FocusManager,
    progress: Callable[[str], None],
) -> tuple[SlideTransform, dict[int, PlannedField]]:
    """Find the slide of the bright-field pass on the stage.

    A slide that is where ``slide_transforms.json`` says is not searched for. One that was moved
    gets a new focus surface.

    Returns:
        The position of the slide, and of each field of the first pass by index.

    Raises:
        AcquisitionError: The slide is not found.
        HardwareError: A device failed at every attempt.
    """
    first, raw = request.sample.raw_path("brightfield"), request.sample.raw_path(request.pass_name)
    fields = first_fields(first)
    still_searching, frames = ThrottledProgress(progress), itertools.count(1)

    def before_frame() -> None:
        retries.check_stop()
        still_searching(f"finding the slide: frame {next(frames)}")

    def focus_um(x_um: float, y_um: float) -> float:
        return focus.surface.z_um(
            x_um, y_um
        )  # the surface may be measured again while the slide is searched for

    finder = SlideFinder(microscope, request.scope, first, focus_um, before_frame)
    focus.measure([])
    progress("finding the slide of the bright-field pass")
    unmoved = False
    if known := stored_transforms(raw):
        last = known[-1]
        transform = SlideTransform(last.rotation_deg, last.dx_um, last.dy_um)
        unmoved = retries.retry(
            lambda: finder.is_unmoved(transform, last.matches), doing="finding the slide"
        )
    if not unmoved:
        if known:
            progress("the slide was moved since; searching for it again")
            focus.discard_surface()
            focus.measure([])
        found = retries.retry(lambda: finder.find(fields), doing="finding the slide")
        transform = save_transform(raw, found)
        request.sample.log(
            "slide_found",
            **asdict(transform),
            rms_um=round(found.rms_um, 3),
            matches=len(found.matches),
        )
    planned = {}
    for index, info in fields.items():
        x_um, y_um = transform.to_stage_um(info.x_um, info.y_um)
        planned[index] = PlannedField(index, round(x_um, 3), round(y_um, 3))
    return transform, planned
