"""The virtual scope: every device is the core's own; only the pixels are a specimen's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from wbcpipe.acquire.hardware.microscope import CoreMicroscope
from wbcpipe.acquire.simulation.field_truth import write_field_truth
from wbcpipe.acquire.simulation.optics.light_path import OpticalState
from wbcpipe.acquire.simulation.optics.microscope import VirtualMicroscope
from wbcpipe.acquire.simulation.slide_history import earlier_exposures, slide_placement
from wbcpipe.acquire.simulation.specimen.slide import Specimen
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


@dataclass(frozen=True)
class _Observed:
    """What the devices said while the camera exposed; ``told_ms`` is the camera's step in a burst."""

    xy_um: tuple[float, float]
    z_um: float
    light: str
    told_ms: float | None


class VirtualScope(CoreMicroscope):
    """A scope whose camera sees a generated specimen.

    Args:
        scope: a scope file with ``virtual = true``.
        plan: which specimen lies on the stage.
        planned: the pass of a sample to take: the specimen then has the light of its fields on disk, and their truth
            is written when the scope is closed.
        link: a core that is open already.
        placement: how the slide lies; by default as in ``planned``.
    """

    #: Rendering would take the processor from the burst, and the shutter would stay open longer.
    _develops_at_once: ClassVar[bool] = False

    def __init__(
        self,
        scope: Scope,
        plan: SpecimenPlan,
        planned: PlannedPass | None = None,
        *,
        link: CoreLink | None = None,
        placement: SlideTransform | None = None,
    ) -> None:
        super().__init__(scope, link)
        camera = scope.camera
        width_px, height_px = camera.sensor_px
        self.specimen = Specimen(plan)
        self._planned = planned
        self._placement = placement or slide_placement(plan, planned)
        self._has_history = planned is None
        self._renderer = VirtualMicroscope(
            self.specimen,
            sensor_px=(height_px, width_px),
            pixel_um=camera.pixel_um,
            bit_depth=camera.bits,
            placement=self._placement,
        )

    def _observe(self, frame: int | None = None) -> _Observed:
        return _Observed(
            self.link.xy_um(),
            self.link.z_um(),
            self.illumination.observed(frame),
            self.link.sequences.exposure_ms(frame),
        )

    def _develop(
        self, pixels: NDArray[np.unsignedinteger], exposure_ms: float, out: NDArray[np.uint16], seen: object
    ) -> None:
        self._fill(pixels, exposure_ms, out, seen)

    def _fill(
        self, pixels: NDArray[np.unsignedinteger], exposure_ms: float, out: NDArray[np.uint16], seen: object
    ) -> None:
        del pixels  # a test pattern; that it came, and its shape, was checked
        assert isinstance(seen, _Observed)
        lit_ms = exposure_ms if seen.told_ms is None else seen.told_ms
        state = OpticalState(*seen.xy_um, seen.z_um, seen.light, lit_ms, self.scope.camera.binning, self.region_px)
        if state.light == "fluorescence":
            self._bleach()
        self._renderer.expose(state, out=out)

    def _bleach(self) -> None:
        """Bleach the specimen as the exposures of earlier runs did.

        Read before the first fluorescence exposure: then no field of this run is on disk, and the damaged ones of
        earlier runs are set aside.
        """
        if self._has_history:
            return
        self._has_history = True
        assert self._planned is not None
        paths = fields_on_disk(self._planned.sample.raw_path(self._planned.pass_name)).values()
        dx_um, dy_um = self.scope.camera.centre_offset_um()
        self._renderer.age(
            (x_um - dx_um, y_um - dy_um, exposure_ms)
            for x_um, y_um, exposure_ms in earlier_exposures(map(read_info, paths), self._placement)
        )

    def close(self) -> None:
        """See `hardware.Microscope.close`; writes the truth of the fields on disk."""
        super().close()
        if self._planned is not None:
            write_field_truth(self._planned, self.specimen, self.scope)
            self._planned = None
