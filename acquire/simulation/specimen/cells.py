"""One white cell, drawn: what it absorbs, how it bends light, and what it emits."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wbcpipe.acquire.simulation.specimen.biology import BIOLOGY, Granules, Traits
from wbcpipe.acquire.simulation.specimen.nuclei import doubled, nucleus_depth_um
from wbcpipe.acquire.simulation.specimen.random_streams import Purpose, stream
from wbcpipe.acquire.simulation.specimen.slide import SpecimenObject
from wbcpipe.acquire.simulation.specimen.textures import (
    GRID_UM,
    coordinates,
    smoothstep,
    spots,
    texture,
)

__all__ = ["MARGIN_UM", "Layers", "cell_layers"]

MARGIN_UM = 2.6
"""Free border around an object's patch, um."""

#: Refractive index of cytoplasm and of the nucleus above plasma's, times um.
_CYTOPLASM_INDEX = 0.022
_NUCLEUS_INDEX = 0.016
#: Light lost where an edge is steep (scattered past the objective), per unit slope of the optical
#: path.
RIM = 0.9


@dataclass(frozen=True)
class Layers:
    """What one object does to the light, on a grid of 0.1 um centred on it.

    ``absorbance`` (3, side, side) float32: natural-log absorbance at color1..color3, in focus, rims
    included. ``bend`` (3, side, side) float32: added absorbance per um of defocus (negative where
    light gathers). ``emission`` (side, side) float32: AO emission; a bright nucleus is 1.
    ``blur_um`` four values: extra blur in each modality.
    """

    absorbance: NDArray[np.float32]
    bend: NDArray[np.float32]
    emission: NDArray[np.float32]
    blur_um: tuple[float, float, float, float]


def refracted(path_um: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return rim absorbance and bend (per um of defocus) of an optical path (um), all (side, side)
    float32.
    """
    smooth = ndimage.gaussian_filter(path_um, 1.8, truncate=3.0)
    rows = (smooth[2:, 1:-1] - smooth[:-2, 1:-1]) / np.float32(2 * GRID_UM)
    columns = (smooth[1:-1, 2:] - smooth[1:-1, :-2]) / np.float32(2 * GRID_UM)
    rim = np.pad(np.float32(RIM) * np.sqrt(rows**2 + columns**2), 1)
    bend = ndimage.laplace(smooth) * np.float32(1.0 / GRID_UM**2)
    return rim, bend


@dataclass(frozen=True)
class _Body:
    """The parts of a cell that all modalities share; arrays (side, side) float32."""

    radius_um: float
    mask: NDArray[np.float32]
    dome: NDArray[np.float32]
    seed: int

    @property
    def side(self) -> int:
        return int(self.mask.shape[0])


def _body(item: SpecimenObject, irregularity: float, rng: np.random.Generator) -> _Body:
    radius = item.radius_um
    side = 2 * int(np.ceil((1.15 * radius + MARGIN_UM) / GRID_UM))
    side += side % 4
    x, y = coordinates(side)
    theta = np.arctan2(y, x)
    outline = np.ones_like(theta)
    for order in (2, 3, 5, 7):
        swing = irregularity * rng.normal(0.0, 1.0) * (2.0 / order) ** 1.9
        outline += np.float32(swing) * np.cos(
            order * theta + np.float32(rng.uniform(0.0, 2 * np.pi))
        )
    np.clip(outline, 0.85, 1.15, out=outline)
    relative = (np.sqrt(x * x + y * y) / (np.float32(radius) * outline)).astype(np.float32)
    mask = smoothstep((1.0 - relative) * np.float32(radius), 0.14)
    dome = np.sqrt(np.clip(1.0 - relative**2, 0.0, None)) ** np.float32(0.8)
    return _Body(radius, mask, dome, item.shape_seed)


def _granule_image(
    granules: Granules, body: _Body, nucleus: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Soft discs of height 1, (side, side) float32."""
    count = int(rng.integers(granules.count[0], granules.count[1] + 1))
    if count == 0:
        return np.zeros_like(nucleus)
    reach = body.radius_um * 0.93 * np.sqrt(rng.random(count))
    turn = rng.uniform(0.0, 2.0 * np.pi, count)
    x, y = reach * np.cos(turn), reach * np.sin(turn)
    column = np.rint(x / GRID_UM + (body.side - 1) / 2).astype(np.intp)
    row = np.rint(y / GRID_UM + (body.side - 1) / 2).astype(np.intp)
    free = (nucleus[row, column] < 0.4) | (rng.random(count) < granules.over_nucleus)
    x, y = x[free], y[free]
    weight = rng.uniform(0.6, 1.3, len(x))
    large = rng.random(len(x)) < 0.5
    image = spots(
        x[large], y[large], weight[large], granules.radius_um * (1 + granules.radius_cv), body.side
    )
    small = ~large
    image += spots(
        x[small], y[small], weight[small], granules.radius_um * (1 - granules.radius_cv), body.side
    )
    # Saturating turns the heaps of a Gaussian splat into discs with an edge.
    discs: NDArray[np.float32] = 1.35 * (1.0 - np.exp(-1.3 * image)) * body.mask
    return discs


def _seen_as(item: SpecimenObject, rng: np.random.Generator) -> tuple[str, ...]:
    """Return the class whose signature the cell shows in each of the four modalities.

    Nearly always its own.
    """
    others = BIOLOGY.lookalikes[item.label]
    names, weights = list(others), np.array(list(others.values()))
    shown: list[str] = []
    for rate in BIOLOGY.atypical_rate:
        is_atypical = rng.random() < rate
        other = str(rng.choice(names, p=weights / weights.sum()))
        shown.append(other if is_atypical else item.label)
    return tuple(shown)


def cell_layers(item: SpecimenObject, classes: Mapping[str, Traits] = BIOLOGY.classes) -> Layers:
    """Return the layers of a white cell; the same object gives the same layers.

    Args:
        item: the cell.
        classes: as the slide's stain shows them.
    """
    rng = stream(Purpose.SHAPE, item.shape_seed)
    shown = _seen_as(item, rng)
    body = _body(item, BIOLOGY.classes[item.label].irregularity, rng)
    nuclei: dict[str, NDArray[np.float32]] = {}
    granules: dict[str, NDArray[np.float32]] = {}
    for index, label in enumerate(("NEU", "LYM", "EOS", "MO", "BAS")):
        if label in shown:
            own = stream(Purpose.SHAPE, item.shape_seed, index)
            depth = nucleus_depth_um(label, own, item.radius_um * 0.97, body.side)
            nuclei[label] = np.minimum(depth, np.float32(2.0))
            # All modalities see the same granules at the same positions.
            appearance = stream(Purpose.APPEARANCE, body.seed, index)
            granules[label] = _granule_image(
                BIOLOGY.classes[label].granules, body, smoothstep(depth, 0.2), appearance
            )
    absorbance = np.empty((3, body.side, body.side), np.float32)
    bend = np.empty_like(absorbance)
    contents = [(nuclei[label], granules[label]) for label in shown]
    for band in range(3):
        absorbance[band], bend[band] = _bright_field(
            classes[shown[band]], band, body, contents[band], rng
        )
    emission = _fluorescence(classes[shown[3]], body, contents[3], rng)
    blur = np.abs(rng.normal(0.0, BIOLOGY.motion_um, 4))
    return Layers(
        absorbance, bend, emission, (float(blur[0]), float(blur[1]), float(blur[2]), float(blur[3]))
    )


def _bright_field(
    traits: Traits,
    band: int,
    body: _Body,
    contents: tuple[NDArray[np.float32], NDArray[np.float32]],
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Absorbance with rims, and bend, of the cell at one band."""
    depth, granules = contents
    nucleus = smoothstep(depth, 0.2) * body.mask
    thick = np.clip(depth, 0.0, 2.0) * np.float32(0.5) * body.mask
    visible = np.exp(rng.normal(0.0, BIOLOGY.granule_visibility_sd[band]))
    strength = np.exp(rng.normal(0.0, BIOLOGY.refraction_sd, 2))
    ground_glass = 1.0 + 0.25 * texture(rng, 0.3, body.side)
    absorbance = (
        traits.cytoplasm_absorbance[band] * np.exp(rng.normal(0.0, 0.3)) * body.dome * ground_glass
    )
    chromatin = 1.0 + 0.7 * traits.chromatin_contrast * texture(rng, traits.chromatin_um, body.side)
    absorbance += (
        traits.nucleus_absorbance[band] * np.exp(rng.normal(0.0, 0.25)) * nucleus * chromatin
    )
    absorbance += traits.granules.absorbance[band] * visible * granules
    path = _CYTOPLASM_INDEX * body.radius_um * body.dome * body.mask
    path += (
        _NUCLEUS_INDEX * BIOLOGY.nucleus_refraction[band] * strength[0] * 2.0 * thick * chromatin
    )
    path += traits.granules.path_um * BIOLOGY.granule_refraction[band] * strength[1] * granules
    path -= _vacuoles_um(traits.vacuoles, body, nucleus)
    rim, bend = refracted(path.astype(np.float32))
    return absorbance.astype(np.float32) + rim, bend


def _vacuoles_um(
    count: tuple[int, int], body: _Body, nucleus: NDArray[np.float32]
) -> NDArray[np.float32]:
    rng = stream(Purpose.APPEARANCE, body.seed, 9)
    n = int(rng.integers(count[0], count[1] + 1)) if count[1] else 0
    reach = body.radius_um * rng.uniform(0.55, 0.88, n)
    turn = rng.uniform(0.0, 2.0 * np.pi, n)
    holes = spots(
        reach * np.cos(turn), reach * np.sin(turn), rng.uniform(0.4, 1.0, n), 0.55, body.side
    )
    dips: NDArray[np.float32] = np.float32(0.035) * holes * body.mask * (1.0 - nucleus)
    return dips


def _fluorescence(
    traits: Traits,
    body: _Body,
    contents: tuple[NDArray[np.float32], NDArray[np.float32]],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """AO emission of the cell; a bright nucleus is 1."""
    depth, granules = contents
    nucleus = smoothstep(depth, 0.16) * body.mask
    dome = 0.62 + 0.19 * np.clip(depth, 0.0, 2.0)
    clumps = texture(rng, traits.chromatin_um, body.side) + 0.5 * texture(rng, 0.3, body.side)
    chromatin = np.clip(1.0 + traits.chromatin_contrast * clumps, 0.25, 1.7)
    uptake = np.exp(rng.normal(0.0, BIOLOGY.uptake_sd))
    rna = traits.cytoplasm_emission * np.exp(rng.normal(0.0, BIOLOGY.cytoplasm_uptake_sd))
    cytoplasm = rna * (0.35 + 0.65 * body.dome) * (1.0 + 0.2 * texture(rng, 0.5, body.side))
    cytoplasm += traits.granules.emission * np.exp(rng.normal(0.0, 0.6)) * granules
    emission = (
        traits.nucleus_emission * nucleus * dome * chromatin
        + np.clip(cytoplasm, 0.0, None) * body.mask
    )
    emission = (uptake * emission).astype(np.float32)
    # Light from above and below the focal plane: a faint wide haze.
    haze = ndimage.gaussian_filter(emission[::2, ::2], 0.7 / (2 * GRID_UM), truncate=3.0)
    above_background: NDArray[np.float32] = np.float32(0.86) * emission + np.float32(
        0.14
    ) * doubled(haze)
    return above_background
