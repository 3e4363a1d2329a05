"""An acquisition request: which fields of which slide to take, with which microscope, until when."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.protocols import Microscope
    from wbcpipe.acquire.plan import AcquisitionPlan, PlannedPass
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
    from wbcpipe.samples.fields import Pass
    from wbcpipe.samples.sample import Sample

__all__ = ["AcquisitionRequest", "MicroscopeOpener"]


class MicroscopeOpener(Protocol):
    """Any function that opens a microscope as `open_microscope.open_microscope` does."""

    def __call__(
        self, scope: Scope, specimen: SpecimenPlan | None = None, planned: PlannedPass | None = None, /
    ) -> Microscope:
        """Open it."""
        ...


@dataclass(frozen=True)
class AcquisitionRequest:
    """One pass over a slide: what to take, with what, and where to store it.

    Attributes:
        sample: Sample that the fields belong to.
        scope, plan: Microscope and planned fields.
        specimen: On a virtual scope, the specimen on its stage.
        pass_name: Pass over the slide.
        deadline_s: Time (of `time.time`) after which no new field is started; ``None`` for no deadline.
        microscope: Opens the microscope, in place of the scope's own; sent to the child process, so it must pickle.
        slide: Id of the physical slide; the sample's name by default.
    """

    sample: Sample
    scope: Scope
    plan: AcquisitionPlan
    specimen: SpecimenPlan | None = None
    pass_name: Pass = "single"
    deadline_s: float | None = None
    microscope: MicroscopeOpener | None = None
    slide: str = ""

    def in_time(self) -> bool:
        """Return whether new fields may still be started."""
        return self.deadline_s is None or time.time() < self.deadline_s
