"""The light path: blur, chromatic shifts, illumination, and the geometry from slide to sensor."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wbcpipe.acquire.simulation.specimen.random_streams import Purpose, stream
from wbcpipe.acquire.slide_relocation.transform import SlideTransform

__all__ = [
    "BLEACH_MS",
    "LIGHTS",
    "Light",
    "OpticalState",
    "View",
    "blur_sigma_um",
    "sensor_view",
]

PSF_UM: Final = 0.27
"""Standard deviation of the in-focus point spread."""

DEFOCUS_BLUR: Final = 0.12
"""Added blur (um, standard deviation) per um of defocus."""

BEND_LIMIT_UM: Final = 1.5
"""Beyond this defocus refraction adds no more contrast: the condenser's cone averages it out."""

BLEACH_MS: Final = 650.0
"""AO fades to 1/e after this much exposure: 3 % in 20 ms."""

FLUORESCENCE_JITTER_PX: Final = 1.5
"""Greatest shift at a field: the filter cube never returns to exactly the same position."""


@dataclass(frozen=True)
class OpticalState:
    """The core's true state when the camera exposes.

    ``x_um``, ``y_um`` are the stage position: the point of the stage's frame on the optical axis,
    which is the image centre. ``light`` names the modality, empty for darkness. ``roi`` is x, y,
    width, height in unbinned pixels.
    """

    x_um: float
    y_um: float
    z_um: float
    light: str
    exposure_ms: float
    binning: int = 1
    roi: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Light:
    """One illumination as built into the virtual microscope."""

    #: Index among the modalities.
    index: int
    #: Image displacement against the ideal (column, row), pixels of 0.1 um, and magnification.
    shift_px: tuple[float, float]
    scale: float
    #: Electrons per ms and pixel of 0.1 um: bright-field background, or a bright AO nucleus.
    electrons_per_ms: float
    #: Fraction of light missing in the corners, and the position of the brightest point (fraction
    #: of half the sensor).
    vignetting: float
    brightest: tuple[float, float]
    #: Natural-log absorbance of a red cell per um of thickness.
    haemoglobin_per_um: float
    #: How much less AO background shines where a red cell lies, per um of thickness.
    red_cell_shadow_per_um: float = 0.0
    #: AO background relative to a bright nucleus.
    glow: float = 0.0


LIGHTS: Final[Mapping[str, Light]] = MappingProxyType(
    {
        # Haem absorbs about 125, 12 and 0.5 per mM and cm at 415, 550 and 635 nm (Prahl,
        # omlc.org/spectra/hemoglobin) at 20 mM in the cell; strong bands are a little flattened by
        # the LED's width.
        "color1": Light(0, (0.0, 0.0), 1.0, 3930.0, 0.21, (0.05, -0.03), 0.42),
        "color2": Light(1, (0.6, -0.4), 1.0008, 3930.0, 0.19, (-0.02, 0.04), 0.070),
        "color3": Light(2, (-0.9, 0.7), 0.9990, 3930.0, 0.17, (0.03, 0.06), 0.004),
        "fluorescence": Light(
            3, (11.0, -6.0), 1.002, 480.0, 0.24, (-0.06, -0.05), 0.0, 0.0045, 0.045
        ),
    }
)


def blur_sigma_um(defocus_um: float) -> float:
    """Return the standard deviation of the blur at a defocus, um."""
    return float(np.hypot(PSF_UM, DEFOCUS_BLUR * defocus_um))


@dataclass(frozen=True)
class View:
    """The affine map from the slide (um) to pixels: ``(column, row) = matrix @ (x, y) +
    offset``.
    """

    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]

    def to_px(self, x_um: NDArray[np.float64], y_um: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return columns and rows (N, 2) float64 of N points of the slide."""
        m, o = self.matrix, self.offset
        return np.column_stack(
            [m[0, 0] * x_um + m[0, 1] * y_um + o[0], m[1, 0] * x_um + m[1, 1] * y_um + o[1]]
        )

    def reduced(self, factor: int) -> "View":
        """Return the view onto a grid whose pixels are ``factor`` by ``factor`` of this one's."""
        return View(self.matrix / factor, (self.offset + 0.5) / factor - 0.5)

    @property
    def um_per_px(self) -> float:
        """Size of a pixel on the slide."""
        return float(1.0 / np.sqrt(np.linalg.det(self.matrix)))

    @property
    def rotation_rad(self) -> float:
        """Angle by which the slide is turned in the image."""
        return float(np.arctan2(self.matrix[1, 0], self.matrix[0, 0]))


def sensor_view(
    state: OpticalState,
    seed: int,
    placement: SlideTransform,
    sensor_px: tuple[int, int],
    pixel_um: float,
) -> View:
    """Return the map from the slide to unbinned pixels of the full sensor; ``sensor_px`` is (rows,
    columns).
    """
    light = LIGHTS.get(state.light, LIGHTS["color1"])
    jitter = np.zeros(2)  # the field's own shift (column, row)
    if state.light == "fluorescence":
        rng = stream(Purpose.JITTER, seed, round(state.x_um * 10), round(state.y_um * 10))
        jitter = rng.uniform(-FLUORESCENCE_JITTER_PX, FLUORESCENCE_JITTER_PX, 2)
    # Shifts are given in pixels of 0.1 um: they are lengths in the specimen, whatever the camera.
    shift = (np.array(light.shift_px) + jitter) * (0.1 / pixel_um)
    centre = np.array([(sensor_px[1] - 1) / 2.0, (sensor_px[0] - 1) / 2.0])
    rotation = placement.matrix()
    stage_offset = np.array([placement.dx_um - state.x_um, placement.dy_um - state.y_um])
    factor = light.scale / pixel_um
    return View(factor * rotation, factor * stage_offset + centre + shift)
