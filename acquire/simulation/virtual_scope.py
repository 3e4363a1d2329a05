"""The virtual scope: every device is the core's own, only the pixels are those of a specimen."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from wbcpipe.acquire.hardware.microscope import CoreMicroscope
from wbcpipe.acquire.simulation.field_truth import write_field_truth
from wbcpipe.acquire.simulation.optics.light_path import OpticalState
from wbcpipe.acquire.simulation.optics.microscope import VirtualMicroscope
from wbcpipe.acquire.simulation.slide_history import earlier_exposures, slide_placement
from wbcpipe.acquire.simulation.specimen.slide import Specimen
from wbcpipe.errors import DiskFullError
from wbcpipe.samples.fields import fields_on_disk, read_info

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.core_link import CoreLink
    from wbcpipe.acquire.plan import PlannedPass
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
    from wbcpipe.acquire.slide_relocation.transform import SlideTransform

__all__ = ["VirtualScope"]


class VirtualScope(CoreMicroscope):
    """A microscope whose camera sees a generated specimen; its own `FrameSource`.

    Args:
        scope: a scope file with ``virtual = true``.
        plan: which specimen lies on the stage.
        planned: the pass of a sample to take: the specimen then has the light of its fields on disk, and their truth
            is written when the scope is closed.
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
        self.specimen = Specimen(plan)
        self._planned = planned
        self._placement = placement or slide_placement(plan, planned)
        self._is_aged = planned is None or not bleaches
        self._renderer = VirtualMicroscope(
            self.specimen,
            sensor_px=(height_px, width_px),
            pixel_um=camera.pixel_um,
            bit_depth=camera.bits,
            placement=self._placement,
            bleaches=bleaches,
        )
        self.camera.frames = self

    def observe(self, frame: int | None = None) -> OpticalState:
        """See `FrameSource.observe`; the exposure is 0 unless a hardware sequence stepped the camera."""
        return OpticalState(
            *self.stage.xy_um(),
            self.focus.z_um(),
            self.illumination.observed(frame),
            self.sequences.exposure_ms(frame) or 0.0,
            self.scope.camera.binning,
            self.camera.region_px,
        )

    def fill(
        self, pixels: NDArray[np.unsignedinteger], exposure_ms: float, out: NDArray[np.uint16], observed: object
    ) -> None:
        """See `FrameSource.fill`."""
        del pixels  # a test pattern; its arrival and shape were checked
        assert isinstance(observed, OpticalState)
        self._render(observed if observed.exposure_ms else replace(observed, exposure_ms=exposure_ms), out)

    def close(self) -> None:
        """See `protocols.Microscope.close`; write the truth of the fields on disk."""
        super().close()
        if self._planned is not None:
            # A full disk has ended the run already; the same command, run again, writes the truth too.
            with contextlib.suppress(DiskFullError):
                write_field_truth(self._planned, self.specimen, self.scope)
            self._planned = None

    def _render(self, state: OpticalState, out: NDArray[np.uint16]) -> None:
        """Write the specimen's frame in a state of the devices into ``out``."""
        if state.light == "fluorescence" and not self._is_aged:
            self._age()
        self._renderer.expose(state, out=out)

    def _age(self) -> None:
        """Bleach the specimen by the exposures of earlier runs.

        Done before the first fluorescence exposure: until then no field of this run is on disk, and the damaged ones of
        earlier runs have been set aside.
        """
        self._is_aged = True
        assert self._planned is not None
        paths = fields_on_disk(self._planned.sample.raw_path(self._planned.pass_name)).values()
        dx_um, dy_um = self.scope.camera.centre_offset_um()
        self._renderer.age(
            (x_um - dx_um, y_um - dy_um, exposure_ms)
            for x_um, y_um, exposure_ms in earlier_exposures(map(read_info, paths), self._placement)
        )
