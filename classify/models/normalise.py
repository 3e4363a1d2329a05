"""From 16-bit crops to the input of a network.

Resizing and normalisation of each cell, in training and inference.

Exposure, lamp and stain strength change from day to day, so each plane of each cell is scaled by
its own values:

- a *bright* plane (bright-field: light background, dark cell) is divided by its background. The
  result is the transmission of Beer-Lambert's law, independent of the lamp.
- a *stained* plane is a bright one that is scaled between its darkest stain and its background. The
  result is the distribution of the stain, independent of its strength, which differs between
  laboratories.
- *separated* planes are red, green and blue ones of one photograph, brought to one colour of the
  nucleus and one of the red cells (``stain_separation``).
- a *dark* plane (fluorescence: dark background, bright cell) has its background subtracted and is
  divided by its bright level. The result is the pattern, independent of exposure and bleaching.

Where the intensity itself distinguishes classes (the DNA content in the cell cycle), planes are
*fixed*: grey levels are not changed, which requires a constant exposure and lamp.

Each is one offset and one gain per plane. Fixed means and standard deviations of the training cells
then standardise the values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from wbcpipe.classify.models.stain_separation import (
    BACKGROUND_LEVEL,
    separate_stain,
)
from wbcpipe.errors import TrainingDataError
from wbcpipe.imaging.arrays import bin_2x2

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "CLIP",
    "Normalisation",
    "Normalise",
    "fit_normalisation",
    "resize",
    "row_scale",
    "scaled",
]

BACKGROUND_BRIGHT: Final = 0.90
"""Quantile of the light background of a bright plane: red cells may cover most of a crop."""
BACKGROUND_DARK: Final = 0.10
STAIN: Final = 0.02
"""Quantile of the darkest stain of a stained plane."""
SIGNAL_DARK: Final = 0.99
GRID_PX: Final = 28
"""Quantiles are taken on about this many rows and columns of pixels, for speed."""
MIN_RANGE: Final = 64.0
"""In grey levels; an empty plane divided by its own range would be amplified noise."""
CLIP: Final = 8.0
SEPARATED_PLANES: Final = 3
CACHE_BYTES: Final = 1 << 18
"""Size that fits into a core's cache."""


Normalise = Literal["cell", "stain", "separate", "fixed"]
_LIGHT: Final = {"stain": "stained", "separate": "separated"}
Polarity = Literal["bright", "stained", "separated", "dark", "fixed"]


class Normalisation(BaseModel):
    """Normalisation of a bundle's input.

    Attributes:
        polarity: per plane (M * c), how it is scaled; see the module.
        mean: per plane, the mean of the scaled values over the training cells.
        std: per plane, their standard deviation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    polarity: tuple[Polarity, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not len(self.polarity) == len(self.mean) == len(self.std):
            raise ValueError("polarity, mean and std must have one entry a plane")
        if min(self.std, default=1.0) <= 0:
            raise ValueError("std must be positive")
        return self

    @property
    def separates(self) -> bool:
        """Whether the stain of the nucleus is separated before planes are scaled."""
        return self.polarity.count("separated") == SEPARATED_PLANES

    def separate(self, images: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """Return planes (N, M * c, side, side) whose stain is separated, or the same ones if this
        normalisation does not separate it.
        """
        if not self.separates:
            return images
        planes = [index for index, name in enumerate(self.polarity) if name == "separated"]
        found = images.copy()
        found[:, planes] = separate_stain(images[:, planes], _grid_step(images.shape[-1]))
        return found

    def affine(self, images: NDArray[np.uint16]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return gain and offset (N, M * c) of each plane, so that ``image * gain + offset`` is
        normalised.

        Args:
            images: (N, M * c, side, side) uint16, of `separate`.
        """
        scale, shift = row_scale(images, self.polarity)
        std = np.asarray(self.std, np.float32)
        mean = np.asarray(self.mean, np.float32)
        return (scale / std).astype(np.float32), ((shift - mean) / std).astype(np.float32)

    def apply(
        self, images: NDArray[np.uint16], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return the normalised planes (N, M * c, side, side) float32 of raw ones, in ``out`` (C
        order) if given.
        """
        separated = self.separate(images)
        return scaled(separated, *self.affine(separated), out)

    def modality(self, index: int, planes: int) -> Normalisation:
        """Return the normalisation of one modality of some planes, of images that are separated."""
        part = slice(index * planes, (index + 1) * planes)
        return Normalisation(polarity=self.polarity[part], mean=self.mean[part], std=self.std[part])


def scaled(
    images: NDArray[np.uint16],
    gain: NDArray[np.float32],
    offset: NDArray[np.float32],
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Return ``image * gain + offset`` of each plane, clipped to -``CLIP`` and ``CLIP``.

    Args:
        images: (N, M * c, side, side) uint16.
        gain, offset: (N, M * c) of `Normalisation.affine`.
        out: array for the result, (N, M * c, side, side) float32 in C order; a new one by default.
    """
    gain, offset = gain.reshape(-1, 1), offset.reshape(-1, 1)
    found = np.empty(images.shape, np.float32) if out is None else out
    rows = images.reshape(len(gain), -1)
    results = found.reshape(rows.shape)
    # A few planes at a time, so that all steps find them in the processor's cache.
    planes = max(1, CACHE_BYTES // max(1, 4 * rows.shape[1]))
    for start in range(0, len(rows), planes):
        some = slice(start, start + planes)
        values = results[some]
        np.copyto(values, rows[some])
        values *= gain[some]
        values += offset[some]
        np.clip(values, -CLIP, CLIP, out=values)
    return found


def row_scale(
    images: NDArray[np.uint16], polarity: tuple[str, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return scale and shift (N, C) that bring each plane's background and signal to fixed values.

    Args:
        images: (N, C, side, side) uint16.
        polarity: of the C planes.
    """
    count, channels, side, _ = images.shape
    step = _grid_step(side)
    grid = np.sort(images[:, :, ::step, ::step].reshape(count, channels, -1), axis=-1)
    last = grid.shape[-1] - 1
    stained = np.array([name == "stained" for name in polarity])
    light = stained | np.array([name == "bright" for name in polarity])
    low = np.where(light, 0.0, grid[..., round(BACKGROUND_DARK * last)]).astype(np.float32)
    low = np.where(stained, grid[..., round(STAIN * last)].astype(np.float32), low)
    high = np.where(
        light, grid[..., round(BACKGROUND_BRIGHT * last)], grid[..., round(SIGNAL_DARK * last)]
    )
    scale = 1.0 / np.maximum(high.astype(np.float32) - low, np.float32(MIN_RANGE))
    fixed = np.array([name == "fixed" for name in polarity])
    low, scale = np.where(fixed, np.float32(0), low), np.where(fixed, np.float32(1 / 65535), scale)
    separated = np.array([name == "separated" for name in polarity])
    low = np.where(separated, np.float32(0), low)
    scale = np.where(separated, np.float32(1 / BACKGROUND_LEVEL), scale)
    return scale.astype(np.float32), (-low * scale).astype(np.float32)


def _grid_step(side: int) -> int:
    return max(1, side // GRID_PX)


def fit_normalisation(images: NDArray[np.uint16], how: Normalise = "cell") -> Normalisation:
    """Find each plane's polarity from the cells, then the mean and standard deviation of the scaled
    values.

    Args:
        images: (N, C, side, side) uint16, the training cells.
        how: ``cell`` scales each cell by its background and, where that is dark, its signal;
            ``stain`` also scales light planes by their darkest stain; ``separate`` separates the
            stain of the nucleus in the planes red, green and blue; ``fixed`` keeps grey levels.

    Raises:
        TrainingDataError: ``separate``, and there are not three light planes.
    """
    side = images.shape[-1]
    rim = max(1, side // 16)
    step = max(1, len(images) // 512)
    some = images[::step].astype(np.float32)
    edge = np.ones((side, side), dtype=bool)
    edge[rim:-rim, rim:-rim] = False
    middle = slice(side // 3, side - side // 3)
    lighter = np.median(some[:, :, edge], axis=-1) >= some[:, :, middle, middle].mean(axis=(-2, -1))
    light = _LIGHT.get(how, "bright")
    polarity = tuple(
        "fixed" if how == "fixed" else light if share >= 0.5 else "dark"
        for share in lighter.mean(axis=0)
    )
    found = Normalisation(polarity=polarity, mean=(0,) * len(polarity), std=(1,) * len(polarity))  # type: ignore[arg-type]
    if how == "separate" and not found.separates:
        raise TrainingDataError(
            f"normalise 'separate' needs {SEPARATED_PLANES} light planes, red, green and blue, and "
            f"these cells have {polarity.count('separated')}; take 'stain' or 'cell'."
        )
    separated = found.separate(images[::step])
    scale, shift = row_scale(separated, polarity)
    values = separated * scale[:, :, None, None] + shift[:, :, None, None]
    return Normalisation(
        polarity=polarity,  # type: ignore[arg-type]
        mean=tuple(round(float(value), 9) for value in values.mean(axis=(0, 2, 3))),
        std=tuple(round(max(float(value), 1e-5), 9) for value in values.std(axis=(0, 2, 3))),
    )


def resize(images: NDArray[np.uint16], side: int) -> NDArray[np.uint16]:
    """Resize crops to the network's input side by area averaging, rounded half up.

    Args:
        images: (N, C, S, S) uint16.
        side: of the result; above S, pixels are repeated.

    Returns:
        (N, C, side, side) uint16.
    """
    size = images.shape[-1]
    if size == side:
        return images
    factor, rest = divmod(size, side)
    if not rest:
        return _block_means(images, factor)
    weights = _area_weights(size, side)
    mean = np.einsum("ij,ncjk,lk->ncil", weights, images.astype(np.float32), weights, optimize=True)
    found: NDArray[np.uint16] = np.floor(mean + np.float32(0.5)).clip(0, 65535).astype(np.uint16)
    return found


def _block_means(images: NDArray[np.uint16], factor: int) -> NDArray[np.uint16]:
    """Return means of factor x factor blocks.

    Adding strided rows, then columns, is ten times faster than one sum.
    """
    if factor == 2:
        return bin_2x2(images)
    rows = images[:, :, 0::factor].astype(np.uint32)
    for start in range(1, factor):
        rows += images[:, :, start::factor]
    total = rows[..., 0::factor].copy()
    for start in range(1, factor):
        total += rows[..., start::factor]
    area = factor * factor
    total += np.uint32(area // 2)
    total //= np.uint32(area)
    return total.astype(np.uint16)


def _area_weights(size: int, side: int) -> NDArray[np.float32]:
    """Return the matrix (side, size) whose row i averages the pixels that output pixel i covers, by
    covered area.
    """
    edges = np.arange(side + 1) * (size / side)
    left, right = edges[:-1, None], edges[1:, None]
    pixel = np.arange(size)[None, :]
    cover = np.clip(np.minimum(right, pixel + 1) - np.maximum(left, pixel), 0.0, None)
    weights: NDArray[np.float32] = (cover / cover.sum(axis=1, keepdims=True)).astype(np.float32)
    return weights
