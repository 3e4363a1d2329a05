"""The virtual scope: every device is the core's own; only the pixels are a specimen's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from wbcpipe.acquire.hardware.microscope import CoreMicroscope
from wbcpipe.acquire.simulation.optics.light_path import OpticalState
from wbcpipe.acquire.simulation.optics.microscope import VirtualMicroscope
from wbcpipe.acquire.simulation.specimen.slide import Specimen
from wbcpipe.acquire.slide_relocation.transform import IDENTITY_TRANSFORM

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.core_link import CoreLink
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
        link: a core that is open already.
        placement: how the slide lies in this pass.
    """

    #: Rendering would take the processor from the burst, and the shutter would stay open longer.
    _develops_at_once: ClassVar[bool] = False

    def __init__(
        self,
        scope: Scope,
        plan: SpecimenPlan,
        link: CoreLink | None = None,
        *,
        placement: SlideTransform = IDENTITY_TRANSFORM,
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
            placement=placement,
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
        self._renderer.expose(state, out=out)

    def age(self, exposures: Iterable[tuple[float, float, float]]) -> None:
        """Bleach the specimen as the exposures of earlier runs did; positions are those of image centres."""
        dx_um, dy_um = self.scope.camera.centre_offset_um()
        self._renderer.age((x_um - dx_um, y_um - dy_um, exposure_ms) for x_um, y_um, exposure_ms in exposures)
