"""The slide of a virtual scope between runs: how it lies in each pass, and the light it had."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from wbcpipe.acquire.simulation.optics.light_path import random_placement
from wbcpipe.acquire.slide_relocation.transform import IDENTITY_TRANSFORM

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from wbcpipe.acquire.plan import PlannedPass
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
    from wbcpipe.acquire.slide_relocation.transform import SlideTransform
    from wbcpipe.samples.fields import FieldInfo

__all__ = ["earlier_exposures", "slide_placement"]

#: A field that lies farther from where it was taken than the relocation may err: the slide was moved since.
_MOVED_UM: Final = 5.0


def slide_placement(specimen: SpecimenPlan, planned: PlannedPass | None) -> SlideTransform:
    """Return how a virtual slide lies in a pass: for fluorescence it was taken off, stained and put back."""
    if planned is None or planned.pass_name != "fluorescence":
        return IDENTITY_TRANSFORM
    plan = planned.plan
    return random_placement(specimen.seed, (sum(plan.x_um) / 2, sum(plan.y_um) / 2))


def earlier_exposures(fields: Iterable[FieldInfo], placement: SlideTransform) -> Iterator[tuple[float, float, float]]:
    """Yield the fluorescence exposures of the fields on disk as (x_um, y_um, exposure_ms).

    The position is that of the image centre on the stage, where the slide lies now.

    Args:
        fields: on disk.
        placement: how the slide lies now; a field may have been taken while it lay elsewhere.
    """
    for info in fields:
        position_um = info.x_um, info.y_um
        if info.slide_transform is not None:
            now_um = placement.to_stage_um(info.slide_transform.x_um, info.slide_transform.y_um)
            if math.dist(now_um, position_um) > _MOVED_UM:
                position_um = now_um
        for frame in info.frames:
            if frame.modality == "fluorescence":
                yield *position_um, frame.exposure_ms
