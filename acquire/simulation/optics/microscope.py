"""The virtual microscope: the core's true state in, the camera's frame out."""

import itertools
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wbcpipe.acquire.config.virtual_condition import Stain, VirtualCondition
from wbcpipe.acquire.simulation.optics.camera import Window, digitise, hot_pixels
from wbcpipe.acquire.simulation.optics.illumination import (
    dirty_lattice,
    illuminate,
    illumination_lattice,
)
from wbcpipe.acquire.simulation.optics.light_path import (
    BEND_LIMIT_UM,
    LIGHTS,
    Light,
    OpticalState,
    View,
    blur_sigma_um,
    sensor_view,
)
from wbcpipe.acquire.simulation.optics.projection import coarseness, enlarged, projected
from wbcpipe.acquire.simulation.specimen.biology import stained_classes
from wbcpipe.acquire.simulation.specimen.bleaching import DoseMap
from wbcpipe.acquire.simulation.specimen.cells import MARGIN_UM, RIM, Layers, cell_layers
from wbcpipe.acquire.simulation.specimen.particles import particle_layers
from wbcpipe.acquire.simulation.specimen.random_streams import Purpose, stream
from wbcpipe.acquire.simulation.specimen.red_cells import (
    add_clipped,
    draw_red_cells,
    red_cell_profiles,
)
from wbcpipe.acquire.simulation.specimen.slide import LARGEST_RADIUS_UM, Specimen, SpecimenObject
from wbcpipe.acquire.slide_relocation.transform import IDENTITY_TRANSFORM, SlideTransform

__all__ = ["SlideState", "VirtualMicroscope"]

_THREADS: Final = 2
_BAND_ROWS: Final = 512
#: Refraction at defocus, against the full transport-of-intensity value: LED light is only partly
#: coherent. Red cells are flat and bend less; more would also move the sharpest plane of a field
#: away from its true focus.
_BEND: Final = 0.25
_RED_CELL_BEND: Final = 0.04

# Kept for the next microscope of the process, which often sees the same slide.
_particle_layers = lru_cache(maxsize=160)(particle_layers)


@lru_cache(maxsize=2)
def _cell_layers_of(stain: Stain) -> Callable[[SpecimenObject], Layers]:
    return lru_cache(maxsize=64)(partial(cell_layers, classes=stained_classes(stain)))


def _limited_um(defocus_um: float) -> float:
    return float(BEND_LIMIT_UM * np.tanh(defocus_um / BEND_LIMIT_UM))


@dataclass(frozen=True)
class _Canvas:
    """A window of the sensor, and the light in which objects are drawn on it."""

    #: (rows, columns) float32, added to.
    plane: NDArray[np.float32]
    #: Row and column of the first pixel on the sensor.
    origin: tuple[int, int]
    view: View
    light: Light
    #: Standard deviation of the blur by binning.
    box_um: float


@dataclass(frozen=True)
class SlideState:
    """The slide on the stage in one pass.

    Attributes:
        placement: position of the slide on the stage.
        bleaches: whether fluorescence exposures bleach the dye.
    """

    placement: SlideTransform = IDENTITY_TRANSFORM
    bleaches: bool = True


_PLAIN_SLIDE: Final = SlideState()


class VirtualMicroscope:
    """A microscope with a four-light source and a monochrome camera over a :class:`Specimen`.

    A frame depends on the specimen, the state and the fluorescence dose received so far, and on
    nothing else: the same exposure gives the same bytes, noise included, in any process and in any
    order.

    Args:
        specimen: the objects on the stage.
        sensor_px: rows and columns of the camera.
        pixel_um: size of an unbinned pixel in the specimen, um.
        bit_depth: of the camera's converter; frames are uint16 whatever it is.
        slide: where the slide lies in this pass, and whether it bleaches.
        condition: how far lamps, optics and camera have drifted; not at all by default. With
            ``flicker`` two exposures of one state differ.
    """

    def __init__(
        self,
        specimen: Specimen,
        *,
        sensor_px: tuple[int, int] = (2048, 2048),
        pixel_um: float = 0.1,
        bit_depth: int = 16,
        slide: SlideState = _PLAIN_SLIDE,
        condition: VirtualCondition | None = None,
    ) -> None:
        if not 8 <= bit_depth <= 16:
            raise ValueError(f"bit_depth is {bit_depth}: 8 to 16 are possible")
        if pixel_um <= 0:
            raise ValueError(f"pixel_um is {pixel_um}: it must be above 0 um")
        self.specimen = specimen
        self.sensor_px = sensor_px
        self.pixel_um = pixel_um
        self.bit_depth = bit_depth
        self.placement = slide.placement
        self._bleaches = slide.bleaches
        self._condition = condition or VirtualCondition()
        self._exposures = itertools.count()
        self._dose = DoseMap(sensor_px[1] * pixel_um, sensor_px[0] * pixel_um)
        self._hot = hot_pixels(specimen.plan.seed, sensor_px)
        self._cell_layers = _cell_layers_of(self._condition.stain)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="specimen")
        self._lock = threading.Lock()

    def age(self, exposures: Iterable[tuple[float, float, float]]) -> None:
        """Bleach the slide by fluorescence exposures already made on it: stage x (um), y (um),
        exposure (ms) each.
        """
        with self._lock:
            for x_um, y_um, exposure_ms in exposures:
                self._dose.add(x_um, y_um, exposure_ms)

    def true_transform(self, light: str, x_um: float, y_um: float) -> NDArray[np.float64]:
        """Return the (3, 3) affine map from ideal pixels to ``light``'s, acting on (column, row,
        1).

        Ideal pixels are those of a field taken at the stage position without chromatic shift; the
        slide's placement is included in neither.
        """
        state = OpticalState(x_um, y_um, 0.0, light, 0.0)
        view = sensor_view(
            state, self.specimen.plan.seed, IDENTITY_TRANSFORM, self.sensor_px, self.pixel_um
        )
        centre = np.array([(self.sensor_px[1] - 1) / 2.0, (self.sensor_px[0] - 1) / 2.0])
        scale = view.matrix * self.pixel_um
        offset = view.to_px(np.array([x_um]), np.array([y_um]))[0] - scale @ centre
        transform = np.eye(3)
        transform[:2, :2] = scale
        transform[:2, 2] = offset
        return transform

    def expose(
        self, state: OpticalState, out: NDArray[np.uint16] | None = None
    ) -> NDArray[np.uint16]:
        """Return the frame (y, x) uint16 the camera gives in this state.

        x grows with the column and y with the row; the stage position is the image centre. A ROI is
        the crop of the full frame; a bin is the mean of its pixels. ``out``, when given, is filled
        and returned.
        """
        window = self._window(state)
        frame = np.empty(window.shape, np.uint16) if out is None else out
        if frame.shape != window.shape or frame.dtype != np.uint16:
            raise ValueError(
                f"out is {frame.dtype} {frame.shape}: this state needs uint16 {window.shape}"
            )
        with self._lock:
            faded = (
                self._dose.faded(state.x_um, state.y_um) if state.light == "fluorescence" else []
            )
        tops = range(window.top, window.bottom, _BAND_ROWS)
        bands = [
            Window(top, window.left, min(top + _BAND_ROWS, window.bottom), window.right)
            for top in tops
        ]
        frame_key = self._frame_key(state)

        power = self._lamp_power(state.light)

        def develop(band: Window) -> None:
            electrons = self._electrons(state, band, faded, power)
            rows = frame[band.top - window.top : band.bottom - window.top]
            digitise(
                electrons,
                band,
                frame_key,
                rows,
                pixels_averaged=state.binning**2,
                bit_depth=self.bit_depth,
            )

        if len(bands) == 1:
            develop(bands[0])
        else:
            list(self._pool.map(develop, bands))
        if state.light == "fluorescence" and self._bleaches:
            with self._lock:
                self._dose.add(state.x_um, state.y_um, state.exposure_ms)
        return frame

    def _window(self, state: OpticalState) -> Window:
        rows, columns = self.sensor_px
        x, y, width, height = state.roi or (0, 0, columns, rows)
        if state.light and state.light not in LIGHTS:
            raise ValueError(
                f"light is {state.light!r}: allowed are {', '.join(LIGHTS)}, or '' for darkness"
            )
        if state.binning < 1:
            raise ValueError(f"binning is {state.binning}: it must be 1 or more")
        if x < 0 or y < 0 or width < 1 or height < 1 or x + width > columns or y + height > rows:
            raise ValueError(f"roi is {state.roi}: the sensor has {columns} x {rows} pixels")
        b = state.binning
        return Window(y // b, x // b, y // b + height // b, x // b + width // b)

    def _frame_key(self, state: OpticalState) -> tuple[int, ...]:
        lights = ("", *LIGHTS)
        return (
            self.specimen.plan.seed,
            round(state.x_um * 100),
            round(state.y_um * 100),
            round(state.z_um * 100),
            lights.index(state.light),
            round(state.exposure_ms * 1000),
            state.binning,
        )

    def _lamp_power(self, light: str) -> float:
        if not light:
            return 0.0
        power = float(getattr(self._condition.lamp_power, light))
        if not self._condition.flicker:
            return power
        noise = stream(
            Purpose.FLICKER, self.specimen.plan.seed, next(self._exposures)
        ).standard_normal()
        return max(power * (1.0 + self._condition.flicker * float(noise)), 0.0)

    def _blur_um(self, defocus_um: float) -> float:
        return float(np.hypot(blur_sigma_um(defocus_um), self._condition.haze_um))

    def _electrons(
        self,
        state: OpticalState,
        window: Window,
        faded: list[tuple[float, float, float]],
        power: float,
    ) -> NDArray[np.float32]:
        """Expected electrons per unbinned pixel, (rows, columns) float32."""
        if not state.light:
            electrons = np.zeros(window.shape, np.float32)
        else:
            light = LIGHTS[state.light]
            electrons = self._scene(state, light, window)
            if light.glow:
                self._fade(electrons, state, window, faded)
            electrons *= np.float32(
                power * light.electrons_per_ms * state.exposure_ms * (self.pixel_um / 0.1) ** 2
            )
            lattice = illumination_lattice(self.specimen.plan.seed, state.light, self.sensor_px)
            illuminate(
                electrons, dirty_lattice(lattice, self._condition.dirt), window, state.binning
            )
        b = state.binning
        rows, columns = (
            (self._hot[:, 0] // b).astype(np.intp),
            (self._hot[:, 1] // b).astype(np.intp),
        )
        here = (
            (rows >= window.top)
            & (rows < window.bottom)
            & (columns >= window.left)
            & (columns < window.right)
        )
        dark = (self._hot[here, 2] * state.exposure_ms / 1000.0 / b**2).astype(np.float32)
        np.add.at(electrons, (rows[here] - window.top, columns[here] - window.left), dark)
        if self._condition.dark_electrons:
            electrons += np.float32(self._condition.dark_electrons)
        return electrons

    def _scene(self, state: OpticalState, light: Light, window: Window) -> NDArray[np.float32]:
        """Transmission (bright-field) or emission relative to a bright nucleus, (rows, columns)
        float32.
        """
        centre_um = self.placement.to_slide_um(state.x_um, state.y_um)
        defocus_um = (
            state.z_um - self.specimen.focus_um(*centre_um) - self._condition.focus_shift_um
        )
        view = sensor_view(
            state, self.specimen.plan.seed, self.placement, self.sensor_px, self.pixel_um
        )
        view = view.reduced(state.binning)
        box_um = view.um_per_px / np.sqrt(12.0) if state.binning > 1 else 0.0
        coarse = coarseness(self._blur_um(defocus_um) / view.um_per_px)
        if coarse == 1:
            plane = np.zeros(window.shape, np.float32)
            self._draw(_Canvas(plane, (window.top, window.left), view, light, box_um), defocus_um)
        else:
            # One coarse pixel more on every side, so that interpolation never sees the edge of the
            # window.
            top, left = window.top // coarse - 1, window.left // coarse - 1
            bottom, right = -(-window.bottom // coarse) + 1, -(-window.right // coarse) + 1
            small = np.zeros((bottom - top, right - left), np.float32)
            self._draw(_Canvas(small, (top, left), view.reduced(coarse), light, box_um), defocus_um)
            plane = enlarged(small, (top, left), window, coarse)
        if light.glow:
            plane += np.float32(light.glow)
            return plane
        np.negative(plane, out=plane)
        np.exp(plane, out=plane)
        return plane

    def _draw(self, canvas: _Canvas, defocus_um: float) -> None:
        """Add the absorbance (bright-field) or emission of all objects in the window to the
        canvas.
        """
        plane, origin, view, light, box_um = (
            canvas.plane,
            canvas.origin,
            canvas.view,
            canvas.light,
            canvas.box_um,
        )
        margin_um = 5.0 + 4.0 * self._blur_um(defocus_um)
        x0, y0, x1, y1 = _slide_bounds(view, origin, plane.shape)
        reds = self.specimen.red_cells_in(
            x0 - margin_um, y0 - margin_um, x1 + margin_um, y1 + margin_um
        )
        sigma_um = round(float(np.hypot(self._blur_um(defocus_um), box_um)), 3)
        tables = []
        for variant in range(4):
            rim, bend = (0.0, 0.0) if light.glow else (RIM, _RED_CELL_BEND)
            table = red_cell_profiles(
                variant, sigma_um, round(_limited_um(defocus_um), 2), rim, bend
            )
            weight = np.float32(light.haemoglobin_per_um - light.red_cell_shadow_per_um)
            tables.append((table[0] * weight, table[1], table[2]))
        centres = view.to_px(reds.x_um, reds.y_um)
        draw_red_cells(plane, origin, reds, centres, view, tables)
        reach_um = margin_um + LARGEST_RADIUS_UM
        for item in self.specimen.objects_in(
            x0 - reach_um, y0 - reach_um, x1 + reach_um, y1 + reach_um
        ):
            self._draw_object(canvas, item, defocus_um - item.height_um)

    def _draw_object(self, canvas: _Canvas, item: SpecimenObject, defocus_um: float) -> None:
        plane, origin, view, light = canvas.plane, canvas.origin, canvas.view, canvas.light
        sigma_um = self._blur_um(defocus_um)
        centre = view.to_px(np.array([item.x_um]), np.array([item.y_um]))[0]
        widest_um = LARGEST_RADIUS_UM if item.kind == "debris" else 1.2 * item.radius_um
        half = int(np.ceil((widest_um + MARGIN_UM + 3.0 * sigma_um) / view.um_per_px)) + 2
        column, row = centre[0] - origin[1], centre[1] - origin[0]
        if not (-half <= column <= plane.shape[1] + half and -half <= row <= plane.shape[0] + half):
            return
        layers: Layers = self._cell_layers(item) if item.label else _particle_layers(item)
        sigma_um = float(np.hypot(np.hypot(sigma_um, canvas.box_um), layers.blur_um[light.index]))
        if light.glow:
            image = layers.emission
        else:
            bend = np.float32(_BEND * _limited_um(defocus_um))
            image = layers.absorbance[light.index] + bend * layers.bend[light.index]
        patch, corner = projected(image, sigma_um, view, centre)
        add_clipped(plane, patch, corner[0] - origin[0], corner[1] - origin[1])

    def _fade(
        self,
        emission: NDArray[np.float32],
        state: OpticalState,
        window: Window,
        faded: list[tuple[float, float, float]],
    ) -> None:
        """Bleach the parts of the window that earlier exposures have lit."""
        rows, columns = self.sensor_px
        for dx_um, dy_um, remaining in faded:
            row = round(dy_um / self.pixel_um / state.binning) - window.top
            column = round(dx_um / self.pixel_um / state.binning) - window.left
            bottom, right = row + rows // state.binning, column + columns // state.binning
            emission[max(row, 0) : max(bottom, 0), max(column, 0) : max(right, 0)] *= np.float32(
                remaining
            )


def _slide_bounds(
    view: View, origin: tuple[int, int], shape: tuple[int, ...]
) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 on the slide (um) that enclose a window of the sensor."""
    inverse = np.linalg.inv(view.matrix)
    corners = np.array(
        [(origin[1] + c, origin[0] + r) for c in (0, shape[1]) for r in (0, shape[0])]
    )
    um = (corners - view.offset) @ inverse.T
    (x0, y0), (x1, y1) = um.min(axis=0), um.max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)
