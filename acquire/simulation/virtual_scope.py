"""The virtual scope: every device is the core's own, only the pixels are those of a specimen."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from wbcpipe.acquire.hardware.microscope import CoreMicroscope
from wbcpipe.acquire.simulation.field_truth import write_field_truth
from wbcpipe.acquire.simulation.label import label_image, seen_through_the_objective
from wbcpipe.acquire.simulation.optics.light_path import OpticalState
from wbcpipe.acquire.simulation.optics.microscope import SlideState, VirtualMicroscope
from wbcpipe.acquire.simulation.specimen.random_streams import Purpose, stream
from wbcpipe.acquire.simulation.specimen.slide import Specimen
from wbcpipe.acquire.slide_relocation.transform import IDENTITY_TRANSFORM, SlideTransform
from wbcpipe.errors import DiskFullError
from wbcpipe.samples.fields import fields_on_disk, read_info

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.core_link import CoreLink
    from wbcpipe.acquire.plan import PlannedPass
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
    from wbcpipe.samples.fields import FieldInfo

__all__ = ["VirtualScope", "earlier_exposures", "slide_placement"]

#: A field that lies farther from where it was taken than the relocation may err: the slide was
#: moved since.
_MOVED_UM: Final = 5.0
#: Side of the label's image that the scan camera looks at.
_LABEL_PX: Final = 400


@lru_cache(maxsize=2)
def _specimen(plan: SpecimenPlan) -> Specimen:
    """Return the specimen of a plan, with the tiles that were generated before."""
    return Specimen(plan)


class VirtualScope(CoreMicroscope):
    """A microscope whose camera sees a generated specimen; its own `FrameSource`.

    Args:
        scope: a scope file with ``virtual = true``.
        plan: which specimen lies on the stage.
        planned: the pass of a sample to take: the specimen then has the light of its fields on
            disk, and their truth is written when the scope is closed.
        link: a core that is open already.
        placement: how the slide lies; by default as in ``planned``.
        bleaches: whether fluorescence bleaches the specimen.
    """

    slow = True

    def __init__(
        self,
        scope: Scope,
        plan: SpecimenPlan,
        planned: PlannedPass | None = None,
        *,
        link: CoreLink | None = None,
        placement: SlideTransform | None = None,
        bleaches: bool = True,
    ) -> None:
        super().__init__(scope, link)
        camera = scope.camera
        width_px, height_px = camera.sensor_px
        self.specimen = _specimen(plan)
        self._planned = planned
        self._placement = placement or slide_placement(plan, planned)
        self._labels: dict[tuple[int, int], NDArray[np.uint8]] = {}
        self._is_aged = planned is None or not bleaches
        self._renderer = VirtualMicroscope(
            self.specimen,
            sensor_px=(height_px, width_px),
            pixel_um=camera.pixel_um,
            bit_depth=camera.bits,
            slide=SlideState(self._placement, bleaches=bleaches),
            condition=scope.virtual_condition,
        )
        self.camera.frames = self
        self.label_camera.render = self._label

    def observe(self, frame: int | None = None) -> OpticalState:
        """See `FrameSource.observe`.

        The exposure is 0 unless a hardware sequence stepped the camera.
        """
        return OpticalState(
            *self.stage.xy_um(),
            self.focus.z_um(),
            self.illumination.observed(frame),
            self.sequences.exposure_ms(frame) or 0.0,
            self.scope.camera.binning,
            self.camera.region_px,
        )

    def fill(
        self,
        pixels: NDArray[np.unsignedinteger],
        exposure_ms: float,
        out: NDArray[np.uint16],
        observed: object,
    ) -> None:
        """See `FrameSource.fill`."""
        del pixels  # a test pattern; its arrival and shape were checked
        assert isinstance(observed, OpticalState)
        self._render(
            observed if observed.exposure_ms else replace(observed, exposure_ms=exposure_ms), out
        )

    def close(self) -> None:
        """See `protocols.Microscope.close`; write the truth of the fields on disk."""
        super().close()
        if self._planned is not None:
            # A full disk has ended the run already; the same command, run again, writes the truth
            # too.
            with contextlib.suppress(DiskFullError):
                write_field_truth(self._planned, self.specimen, self.scope)
            self._planned = None

    def _render(self, state: OpticalState, out: NDArray[np.uint16]) -> None:
        """Write the specimen's frame in a state of the devices into ``out``."""
        if state.light == "fluorescence" and not self._is_aged:
            self._age()
        if (
            self.scope.label.method == "scan"
            and state.light
            and seen_through_the_objective(
                lambda: self._label((_LABEL_PX, _LABEL_PX)), self.scope, state, out
            )
        ):
            return
        self._renderer.expose(state, out=out)

    def label_text(self) -> str:
        """Return what is printed on the label of the slide; empty for a blank one."""
        return "" if self._planned is None else self._planned.slide

    def _label(self, shape: tuple[int, int]) -> NDArray[np.uint8]:
        """Return an image (y, x) of the label."""
        if shape not in self._labels:
            self._labels[shape] = label_image(self.label_text(), shape, self.specimen.plan.seed)
        return self._labels[shape]

    def _age(self) -> None:
        """Bleach the specimen by the exposures of earlier runs.

        Done before the first fluorescence exposure: until then no field of this run is on disk, and
        the damaged ones of earlier runs have been set aside.
        """
        self._is_aged = True
        assert self._planned is not None
        paths = fields_on_disk(self._planned.sample.raw_path(self._planned.pass_name)).values()
        dx_um, dy_um = self.scope.camera.centre_offset_um()
        self._renderer.age(
            (x_um - dx_um, y_um - dy_um, exposure_ms)
            for x_um, y_um, exposure_ms in earlier_exposures(map(read_info, paths), self._placement)
        )


def slide_placement(specimen: SpecimenPlan, planned: PlannedPass | None) -> SlideTransform:
    """Return how a virtual slide lies in a pass: for fluorescence it was taken off, stained and put
    back.

    The insert holds it near the middle of its slot: within 300 um and 2 degrees.
    """
    if planned is None or planned.pass_name != "fluorescence":
        return IDENTITY_TRANSFORM
    plan = planned.plan
    rng = stream(Purpose.SLIDE_PLACEMENT, specimen.seed)
    dx_um, dy_um = rng.uniform(-300.0, 300.0, 2)
    pivot_um = (sum(plan.x_um) / 2, sum(plan.y_um) / 2)
    return SlideTransform.about(pivot_um, float(rng.uniform(-2.0, 2.0)), float(dx_um), float(dy_um))


def earlier_exposures(
    fields: Iterable[FieldInfo], placement: SlideTransform
) -> Iterator[tuple[float, float, float]]:
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
