"""The virtual scope: every device is the core's own; only the pixels are a specimen's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wbcpipe.acquire.scope import CoreMicroscope
from wbcpipe.acquire.specimen import UNMOVED, OpticalState, Specimen, VirtualMicroscope

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    from wbcpipe.acquire.config import Scope
    from wbcpipe.acquire.mmcore import CoreLink
    from wbcpipe.acquire.specimen import Seating, SpecimenPlan

__all__ = ["VirtualScope"]


@dataclass(frozen=True)
class _Observed:
    """What the devices said while the camera exposed."""

    xy_um: tuple[float, float]
    z_um: float
    light: str


class VirtualScope(CoreMicroscope):
    """A scope whose camera sees a generated specimen.

    Args:
        scope: a scope file with ``virtual = true``.
        plan: which specimen lies on the stage.
        link: a core that is open already.
        seating: how the slide lies in this pass.
    """

    def __init__(
        self, scope: Scope, plan: SpecimenPlan, link: CoreLink | None = None, *, seating: Seating = UNMOVED
    ) -> None:
        super().__init__(scope, link)
        camera = scope.camera
        width_px, height_px = camera.sensor_px
        self.specimen = Specimen(plan)
        self._renderer = VirtualMicroscope(
            self.specimen,
            sensor_px=(height_px, width_px),
            pixel_um=camera.pixel_um,
            bit_depth=camera.bits,
            seating=seating,
        )
        self._observed = _Observed((0.0, 0.0), 0.0, "")

    def _observe(self) -> None:
        self._observed = _Observed(self.link.xy_um(), self.link.z_um(), self.illumination.observed())

    def _develop(self, pixels: NDArray[np.unsignedinteger], exposure_ms: float, out: NDArray[np.uint16]) -> None:
        del pixels  # a test pattern; that it came, and its shape, was checked
        seen = self._observed
        state = OpticalState(*seen.xy_um, seen.z_um, seen.light, exposure_ms, self.scope.camera.binning, self.region_px)
        self._renderer.expose(state, out=out)

    def age(self, exposures: Iterable[tuple[float, float, float]]) -> None:
        """Bleach the specimen as the exposures of earlier runs did; positions are those of image centres."""
        dx_um, dy_um = self.scope.camera.centre_offset_um()
        self._renderer.age((x_um - dx_um, y_um - dy_um, exposure_ms) for x_um, y_um, exposure_ms in exposures)
