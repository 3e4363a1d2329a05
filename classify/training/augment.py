"""Augmentation of batches of multi-plane images, as float tensors, one operation per batch.

Cells have no orientation: flips, any rotation, a little scale and shift, by one grid sampling per
batch. Lamp and camera of each plane vary from day to day: gain, offset and gamma. Focus and noise
vary too. If the inputs of a network show different cells, each has its own geometry; if they show
one cell, they share it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Augmentation", "add_rims", "augment", "restain", "sample_affine"]

Interpolation = Literal["nearest", "bilinear", "bicubic"]
#: Limits of transmitted light for a change of stain: optical densities of 2.3 and -0.2.
_DARKEST: Final = 0.005
_BRIGHTEST: Final = math.log(1.6)
_RINGS: Final = 6


class Augmentation(BaseModel):
    """Strength of the augmentation; zeros switch it off.

    Attributes:
        rotate: rotate by any angle and mirror, if true.
        lossless_prob: fraction of the images that are only mirrored, rotated by 90 degrees and
            shifted by full pixels.
        interpolation: of the others. Interpolated images are less sharp than those of a microscope:
            a network that was trained on them alone misclassifies sharp ones (see
            ``docs/results/resampling.md``).
        scale: largest relative change of size.
        shift: largest shift, relative to the side.
        gain: standard deviation of the relative change of contrast, per plane.
        offset: standard deviation of the change of brightness, in normalised units.
        gamma: largest gamma-like change of the response, per plane.
        blur: largest weight of a smoothed copy that is added; up to half of it may be subtracted
            (sharpening).
        defocus: fraction of the images that a binomial filter smooths one to three times.
        rims: fraction of the images that get dark and bright rings beside the cell, in bright
            planes, as of refracting red cells.
        noise: largest standard deviation of pixel noise, in normalised units.
        stain: standard deviation of the logarithm of a factor on the optical density of a plane,
            which by Beer-Lambert's law models another dye, staining time or light.
        stain_mixing: standard deviation of the share of another plane's optical density that is
            added to a plane, where they show one cell: no two cameras separate the colours alike.
        restained: fraction of the images that the last two change.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rotate: bool = True
    lossless_prob: float = Field(default=0.5, ge=0, le=1)
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    scale: float = Field(default=0.12, ge=0, lt=1)
    shift: float = Field(default=0.06, ge=0, lt=1)
    gain: float = Field(default=0.12, ge=0, lt=1)
    offset: float = Field(default=0.12, ge=0)
    gamma: float = Field(default=0.12, ge=0, lt=1)
    blur: float = Field(default=0.6, ge=0, le=1)
    defocus: float = Field(default=0.0, ge=0, le=1)
    rims: float = Field(default=0.0, ge=0, le=1)
    noise: float = Field(default=0.08, ge=0)
    stain: float = Field(default=0.0, ge=0, lt=1)
    stain_mixing: float = Field(default=0.0, ge=0, lt=0.5)
    restained: float = Field(default=0.5, ge=0, le=1)


def restain(
    light: Tensor, bright: Tensor, same: Tensor, options: Augmentation, generator: torch.Generator
) -> Tensor:
    """Change a batch, in place, to another stain, dye lot or camera.

    Args:
        light: (B, C, side, side) float32; bright planes as light relative to their background, or
            relative to the range between background and darkest stain, see `normalise`.
        bright: (C,) bool, which planes are bright.
        same: (B,) bool, true if all planes show one cell.
        options: strength.
        generator: source of the random numbers, on the CPU.

    Returns:
        (B, C, side, side) float32.
    """
    planes = int(bright.sum())
    chosen = torch.rand(len(light), generator=generator) < options.restained
    if not planes or not chosen.any():
        return light
    same = same[chosen]
    power = torch.exp(torch.randn((len(same), planes), generator=generator) * options.stain)
    mixed = torch.diag_embed(power)  # (B, P, P): optical density out of optical density
    if options.stain_mixing and planes > 1:
        others = (
            torch.randn((len(same), planes, planes), generator=generator) * options.stain_mixing
        )
        other = ~torch.eye(planes, dtype=torch.bool) & same[:, None, None]
        mixed = mixed + torch.where(other, others, 0.0)
    where = (torch.nonzero(chosen).to(light.device), torch.nonzero(bright)[:, 0].to(light.device))
    density = (
        light[where].clamp_min(_DARKEST).log_()
    )  # bright planes only: dark ones have another scale
    changed = torch.einsum("bij,bjyx->biyx", mixed.to(light.device), density)
    light[where] = changed.clamp_(max=_BRIGHTEST).exp_()
    return light


def augment(
    images: Tensor,
    same: Tensor,
    inputs: int,
    options: Augmentation,
    generator: torch.Generator,
    *,
    side: int | None = None,
) -> Tensor:
    """Return an augmented copy of a batch.

    Args:
        images: (B, C, side, side) float32, normalised; C = inputs * planes.
        same: (B,) bool, true if all inputs show one cell and share its geometry.
        inputs: number of independent inputs.
        options: strength.
        generator: source of the random numbers, on the CPU.
        side: side of the result, by default that of the input.

    Returns:
        (B, C, side, side) float32.
    """
    batch, channels, size, _ = images.shape
    side = side or size
    theta, lossless = _geometry(
        batch, inputs, side, options, generator
    )  # (B, inputs, 2, 3), (B, inputs)
    theta[same], lossless[same] = theta[same][:, :1], lossless[same][:, :1]
    parts = images.reshape(batch * inputs, channels // inputs, size, size)
    moved = images.new_empty((len(parts), parts.shape[1], side, side))
    # At another side every pixel is interpolated.
    exact = lossless.flatten() & (side == size)
    modes: tuple[Interpolation, Interpolation] = ("nearest", options.interpolation)
    for rows, mode in zip((exact, ~exact), modes, strict=True):
        if rows.any():
            chosen = rows.to(images.device)
            moved[chosen] = sample_affine(parts[chosen], theta.flatten(0, 1)[rows], side, mode)
    return _photometric(moved.reshape(batch, channels, side, side), options, generator)


def _uniform(shape: tuple[int, ...], limit: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(shape, generator=generator) * 2 - 1) * limit


def _geometry(
    batch: int, inputs: int, side: int, options: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return affine matrices (B, inputs, 2, 3) for grid sampling, and which of them (B, inputs) are
    lossless.
    """
    shape = (batch, inputs)
    angle = _uniform(shape, math.pi if options.rotate else 0.0, generator)
    mirror = torch.where(torch.rand(shape, generator=generator) < 0.5 * options.rotate, -1.0, 1.0)
    scale = torch.exp(_uniform(shape, options.scale, generator))
    shift = _uniform((*shape, 2), 2 * options.shift, generator)  # the grid runs from -1 to 1
    lossless = torch.rand(shape, generator=generator) < options.lossless_prob
    if options.lossless_prob:
        quarter = math.pi / 2
        angle = torch.where(lossless, torch.round(angle / quarter) * quarter, angle)
        scale = torch.where(lossless, 1.0, scale)
        shift = torch.where(lossless.unsqueeze(-1), torch.round(shift * side / 2) * 2 / side, shift)
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = torch.stack([cosine * mirror, -sine, sine * mirror, cosine], dim=-1)
    rows = rows.reshape(batch, inputs, 2, 2)  # (B, inputs, 4) -> (B, inputs, 2, 2)
    return torch.cat([rows, shift.unsqueeze(-1)], dim=-1), lossless


def sample_affine(images: Tensor, theta: Tensor, side: int, interpolation: Interpolation) -> Tensor:
    """Transform images (N, C, S, S) by affine matrices (N, 2, 3) to (N, C, side, side).

    Edges are mirrored.
    """
    grid = _grid(theta.to(images.device), side)
    return functional.grid_sample(
        images, grid, mode=interpolation, padding_mode="reflection", align_corners=False
    )


def _grid(theta: Tensor, side: int) -> Tensor:
    """Return sampling points (N, side, side, 2), x before y, of affine matrices (N, 2, 3).

    The result is that of ``functional.affine_grid`` in a fifth of its time: rows and columns are
    added.
    """
    axis = (torch.arange(side, device=theta.device, dtype=theta.dtype) * 2 + 1) / side - 1
    across = theta[:, None, None, :, 0] * axis[None, None, :, None]  # (N, 1, side, 2)
    down = (
        theta[:, None, None, :, 1] * axis[None, :, None, None] + theta[:, None, None, :, 2]
    )  # (N, side, 1, 2)
    return across + down


def _smooth(images: Tensor) -> Tensor:
    """Return images (B, C, side, side) after the binomial filter (1, 2, 1) / 4 along both axes,
    with repeated edges.
    """
    for axis in (-1, -2):
        size = images.shape[axis]
        before = torch.cat([images.narrow(axis, 0, 1), images.narrow(axis, 0, size - 1)], dim=axis)
        after = torch.cat(
            [images.narrow(axis, 1, size - 1), images.narrow(axis, size - 1, 1)], dim=axis
        )
        images = before.add_(after).mul_(0.25).add_(images, alpha=0.5)
    return images


def _defocused(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Smooth a share of the images (B, C, side, side) one to three times."""
    times = torch.randint(1, 4, (len(images),), generator=generator)
    times[torch.rand(len(images), generator=generator) >= share] = 0
    for number in range(1, 4):
        rows = (times >= number).to(images.device)
        if rows.any():
            images[rows] = _smooth(images[rows])
    return images


def add_rims(
    light: Tensor, bright: Tensor, options: Augmentation, generator: torch.Generator
) -> Tensor:
    """Draw rings beside the cell, in place, as of refracting red cells.

    All planes of an image show the same rings: dark ones with a bright fringe inside, of 15 to 19 %
    of the side in radius, whose centres are 0.33 to 0.5 sides from the middle.

    Args:
        light: (B, C, side, side) float32, as for `restain`.
        bright: (C,) bool, which planes are bright.
        options: strength.
        generator: source of the random numbers, on the CPU.

    Returns:
        (B, C, side, side) float32.
    """
    rows = torch.nonzero(torch.rand(len(light), generator=generator) < options.rims).flatten()
    planes = torch.nonzero(bright).flatten()
    if not len(rows) or not len(planes):
        return light
    side = light.shape[-1]
    shape = (len(rows), _RINGS, 1, 1)
    angle = torch.rand(shape, generator=generator) * 2 * math.pi
    distance = 0.33 + 0.17 * torch.rand(shape, generator=generator)
    radius = 0.15 + 0.04 * torch.rand(shape, generator=generator)
    width = 0.01 + 0.012 * torch.rand(shape, generator=generator)
    axis = (torch.arange(side) + 0.5) / side - 0.5
    away = torch.hypot(
        axis[:, None] - distance * torch.sin(angle), axis[None, :] - distance * torch.cos(angle)
    )  # (b, rings, side, side)
    dark = torch.exp(-(((away - radius) / width) ** 2)).amax(dim=1)  # (b, side, side)
    fringe = torch.exp(-(((away - radius + 2.5 * width) / width) ** 2)).amax(dim=1)
    depth = torch.rand((len(rows), 1, 1), generator=generator)
    factor = (1 - 0.9 * depth * dark) * (1 + 0.25 * depth * fringe)  # (b, side, side)
    where = (rows.to(light.device)[:, None], planes.to(light.device)[None, :])
    light[where] = light[where] * factor.unsqueeze(1).to(light.device)
    return light


def _photometric(images: Tensor, options: Augmentation, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast, response, sharpness and noise of each plane of (B, C, side,
    side), in place.
    """
    plane = (images.shape[0], images.shape[1], 1, 1)
    device = images.device
    if options.defocus:
        images = _defocused(images, options.defocus, generator)
    if options.blur:
        mix = (torch.rand(plane, generator=generator) * 1.5 - 0.5) * options.blur
        images = images.lerp(_smooth(images), mix.to(device))
    gain = 1 + (torch.randn(plane, generator=generator) * options.gain).clamp(-0.5, 0.5)
    offset = torch.randn(plane, generator=generator) * options.offset
    if options.gamma:
        gamma = _uniform(plane, options.gamma, generator).to(device)
        # A quadratic curve in place of a power: monotone over the range of values, and much faster.
        curve = images.clamp(-3, 3).mul_(gamma / 3).add_(gain.to(device))
        images = images.mul_(curve).add_(offset.to(device))
    else:
        images = images.mul_(gain.to(device)).add_(offset.to(device))
    if options.noise:
        level = torch.rand(plane, generator=generator) * options.noise
        # One noise field for the batch, with another strength in each plane: random numbers are
        # slow.
        field = torch.randn((1, *images.shape[1:]), generator=generator)
        images = images.add_(field.to(device) * level.to(device))
    return images
