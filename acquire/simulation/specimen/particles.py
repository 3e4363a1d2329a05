"""Drawing of platelets and debris."""

import numpy as np
from numpy.typing import NDArray

from wbcpipe.acquire.simulation.specimen.cells import MARGIN_UM, Layers, refracted
from wbcpipe.acquire.simulation.specimen.random_streams import Purpose, stream
from wbcpipe.acquire.simulation.specimen.slide import LARGEST_RADIUS_UM, SpecimenObject
from wbcpipe.acquire.simulation.specimen.textures import (
    GRID_UM,
    coordinates,
    smoothstep,
    spots,
    texture,
)

__all__ = ["particle_layers"]

_UNBLURRED = (0.0, 0.0, 0.0, 0.0)


def _side(radius_um: float) -> int:
    side = 2 * int(np.ceil((min(radius_um, LARGEST_RADIUS_UM) + MARGIN_UM) / GRID_UM))
    return side + side % 4


def _bands(image: NDArray[np.float32], weights: tuple[float, float, float]) -> NDArray[np.float32]:
    return np.stack([image * np.float32(weight) for weight in weights])


def _layers(
    absorbance: NDArray[np.float32], path_um: NDArray[np.float32], emission: NDArray[np.float32]
) -> Layers:
    rim, bend = refracted(path_um)
    return Layers(absorbance + rim, np.stack([bend] * 3), emission, _UNBLURRED)


def _blob(
    rng: np.random.Generator, radius_um: float, side: int, roughness: float
) -> NDArray[np.float32]:
    """Depth (um) inside an irregular elongated blob, (side, side) float32."""
    x, y = coordinates(side)
    turn, stretch = rng.uniform(0.0, np.pi), rng.uniform(1.0, 1.8)
    u = (np.cos(turn) * x + np.sin(turn) * y) / np.float32(np.sqrt(stretch))
    v = (np.cos(turn) * y - np.sin(turn) * x) * np.float32(np.sqrt(stretch))
    wobble = 1.0 + roughness * texture(rng, 1.0, side)
    depth: NDArray[np.float32] = (
        np.float32(0.75 * radius_um) * wobble - np.sqrt(u * u + v * v)
    ).astype(np.float32)
    return depth


def _platelet(item: SpecimenObject, rng: np.random.Generator) -> Layers:
    side = _side(item.radius_um)
    body = smoothstep(_blob(rng, 1.25 * item.radius_um, side, 0.10), 0.15)
    n = int(rng.integers(3, 9))
    reach, turn = item.radius_um * 0.6 * np.sqrt(rng.random(n)), rng.uniform(0, 2 * np.pi, n)
    grains = (
        spots(reach * np.cos(turn), reach * np.sin(turn), rng.uniform(0.5, 1.0, n), 0.25, side)
        * body
    )
    emission = np.float32(rng.lognormal(np.log(0.11), 0.4)) * (body + np.float32(0.8) * grains)
    absorbance = _bands(body + grains, (0.022, 0.014, 0.012))
    return _layers(
        absorbance,
        np.float32(0.045) * body + np.float32(0.012) * grains,
        emission.astype(np.float32),
    )


def _dust(item: SpecimenObject, rng: np.random.Generator) -> Layers:
    """Draw a dark speck: mineral dust, dye precipitate.

    Opaque at every band, often autofluorescent.
    """
    side = _side(item.radius_um)
    depth = _blob(rng, 0.8 * item.radius_um, side, 0.22)
    body = smoothstep(depth, 0.2) * np.clip(1.0 + 0.3 * texture(rng, 0.5, side), 0.2, 2.0)
    emission = body * np.float32(rng.choice([0.0, 0.04, 0.3], p=[0.5, 0.3, 0.2]))
    density = float(rng.uniform(0.15, 0.7))
    tint = (1.1 * density, density, 0.9 * density)
    return _layers(_bands(body, tint), np.float32(0.08) * body, emission.astype(np.float32))


def _fibre(_item: SpecimenObject, rng: np.random.Generator) -> Layers:
    """Draw a thread of fibrin or cellulose, 10 to 45 um long."""
    length = float(min(rng.uniform(10.0, 45.0), 2 * LARGEST_RADIUS_UM - 8.0))
    side = _side(length / 2)
    steps = int(length / 0.12)
    heading = rng.uniform(0.0, 2 * np.pi) + np.cumsum(rng.normal(0.0, 0.035, steps))
    x = np.cumsum(0.12 * np.cos(heading))
    y = np.cumsum(0.12 * np.sin(heading))
    thread = spots(
        x - x.mean(), y - y.mean(), np.full(steps, 0.22), float(rng.uniform(0.35, 0.6)), side
    )
    thread = (1.0 - np.exp(-thread)).astype(np.float32)
    emission = thread * np.float32(rng.uniform(0.03, 0.25))
    return _layers(_bands(thread, (0.06, 0.05, 0.04)), np.float32(0.07) * thread, emission)


def _smear(item: SpecimenObject, rng: np.random.Generator) -> Layers:
    """Draw a smudged nucleus: diffuse DNA without an outline, dim in AO and all but invisible in
    bright-field.
    """
    radius = 1.6 * item.radius_um
    side = _side(1.3 * radius)
    veil = smoothstep(_blob(rng, radius, side, 0.3), 1.6)
    strands = np.clip(0.8 + 0.45 * texture(rng, 1.0, side), 0.0, None)
    emission = veil * strands * np.float32(rng.uniform(0.08, 0.22))
    return _layers(
        _bands(veil * strands, (0.006, 0.009, 0.008)),
        np.float32(0.004) * veil,
        emission.astype(np.float32),
    )


def particle_layers(item: SpecimenObject) -> Layers:
    """Return the layers of a platelet or a piece of debris.

    The same object gives the same layers.
    """
    rng = stream(Purpose.SHAPE, item.shape_seed)
    if item.kind == "platelet":
        return _platelet(item, rng)
    maker = (_dust, _fibre, _smear)[int(rng.choice(3, p=[0.6, 0.2, 0.2]))]
    return maker(item, rng)
