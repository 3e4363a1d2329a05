"""An acquisition request.

Which fields of which slide to take, with which microscope, until when.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.protocols import Microscope
    from wbcpipe.acquire.loader.workflow import LoadRequest
    from wbcpipe.acquire.plan import AcquisitionPlan, PlannedPass
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
    from wbcpipe.samples.fields import Pass
    from wbcpipe.samples.sample import Sample

__all__ = ["AcquisitionRequest", "earliest_deadline_s"]


@dataclass(frozen=True)
class AcquisitionRequest:
    """One pass over a slide: what to take, with what, and where to store it.

    Attributes:
        sample: Sample that the fields belong to.
        scope, plan: Microscope and planned fields.
        specimen: On a virtual scope, the specimen on its stage.
        pass_name: Pass over the slide.
        deadline_s: Time (of `time.time`) after which no new field is started; ``None`` for no
            deadline.
        microscope: Opens the microscope, in place of `open_microscope`; sent to the child process,
            so it must pickle.
        slide: Id of the physical slide, with which its label is compared; the sample's name by
            default.
        load: Where the scope has a loader: the slide to bring to the stage before the microscope is
            opened.
    """

    sample: Sample
    scope: Scope
    plan: AcquisitionPlan
    specimen: SpecimenPlan | None = None
    pass_name: Pass = "single"
    deadline_s: float | None = None
    microscope: Callable[[Scope, SpecimenPlan | None, PlannedPass | None], Microscope] | None = None
    slide: str = ""
    load: LoadRequest | None = None

    @property
    def slide_id(self) -> str:
        """Id of the physical slide."""
        return self.slide or self.sample.name

    def in_time(self) -> bool:
        """Return whether new fields may still be started."""
        return self.deadline_s is None or time.time() < self.deadline_s


def earliest_deadline_s(scope: Scope, asked_s: float | None, started_s: float) -> float | None:
    """Return the earlier of the user's deadline and the scope file's time limit for a slide.

    Args:
        scope: For ``reliability.slide_time_limit_s``.
        asked_s: As `time.time` gives it; ``None`` if the user gave none.
        started_s: As `time.time` gives it, when the slide was started.
    """
    limit_s = scope.reliability.slide_time_limit_s
    own_s = started_s + limit_s if limit_s else None
    return min((at for at in (asked_s, own_s) if at is not None), default=None)
