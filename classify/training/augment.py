"""Augmentation of batches of multi-plane 16-bit pictures, as float tensors, for whole batches at once.

Cells have no up and no side: flips, any rotation, a little scale and shift, by one grid sampling a batch. Each plane's
lamp and camera differ from day to day: gain, offset and a bend of the response. Focus and noise differ too. Where the
inputs of a network are independent cells, each has its own geometry; where they are one cell, they share it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Augmentation", "augment", "restain", "sample_affine"]

#: Shares of the light between which a change of stain is reckoned: optical densities of 2.3 and -0.2.
_DARKEST: Final = 0.005
_BRIGHTEST: Final = math.log(1.6)


class Augmentation(BaseModel):
    """How strongly to augment; zero everywhere switches it off.

    Attributes:
        rotate: turn by any angle, and mirror, if true.
        lossless_prob: share of the pictures that are only mirrored, turned by right angles and shifted by whole pixels.
        interpolation: of the others. Interpolated pictures are softer than those a microscope takes: a network that has
            seen none but them calls sharp ones wrong (see ``docs/results/resampling.md``).
        scale: largest relative change of size.
        shift: largest shift, as a share of the side.
        gain: standard deviation of the relative change of contrast, per plane.
        offset: standard deviation of the change of brightness, in normalised units.
        gamma: largest gamma-like bend of the response, per plane.
        blur: largest share of a smoothed copy mixed in; its half may also be taken away (sharpening).
        noise: largest standard deviation of pixel noise, in normalised units.
        stain: standard deviation of the logarithm of how much more, or less, stain a plane shows: its optical density
            is multiplied, as by Beer-Lambert's law another dye, time or light does.
        stain_mixing: standard deviation of the share of another plane's optical density that is added to a plane, where
            they show one cell: no two cameras separate the colours alike.
        restained: share of the pictures to which the last two are done.
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
    noise: float = Field(default=0.08, ge=0)
    stain: float = Field(default=0.0, ge=0, lt=1)
    stain_mixing: float = Field(default=0.0, ge=0, lt=0.5)
    restained: float = Field(default=0.5, ge=0, le=1)


def restain(light: Tensor, bright: Tensor, same: Tensor, options: Augmentation, generator: torch.Generator) -> Tensor:
    """A batch as another stain, dye lot or camera would show it; changed in place.

    Args:
        light: (B, C, side, side) float32; light planes as shares of their background's light, or of what is between
            that and their darkest stain, see `normalise`.
        bright: (C,) bool, which planes are such.
        same: (B,) bool, true where all planes show one cell.
        options: how strongly.
        generator: source of all randomness, on the CPU.

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
        others = torch.randn((len(same), planes, planes), generator=generator) * options.stain_mixing
        other = ~torch.eye(planes, dtype=torch.bool) & same[:, None, None]
        mixed = mixed + torch.where(other, others, 0.0)
    where = (torch.nonzero(chosen).to(light.device), torch.nonzero(bright)[:, 0].to(light.device))
    density = light[where].clamp_min(_DARKEST).log_()  # of bright planes alone: a dark one's scale is its own
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
    """A changed copy of a batch.

    Args:
        images: (B, C, side, side) float32, normalised; C = inputs * planes.
        same: (B,) bool, true where all inputs show one cell and must keep one geometry.
        inputs: how many independent inputs the planes form.
        options: how strongly.
        generator: source of all randomness, on the CPU.
        side: the side to sample at, by default that of the input.

    Returns:
        (B, C, side, side) float32.
    """
    batch, channels, size, _ = images.shape
    side = side or size
    theta, whole = _geometry(batch, inputs, side, options, generator)  # (B, inputs, 2, 3), (B, inputs)
    theta[same], whole[same] = theta[same][:, :1], whole[same][:, :1]
    parts = images.reshape(batch * inputs, channels // inputs, size, size)
    moved = images.new_empty((len(parts), parts.shape[1], side, side))
    # At another side no pixel falls on a pixel.
    lossless = whole.flatten() & (side == size)
    for rows, how in ((lossless, "nearest"), (~lossless, options.interpolation)):
        if rows.any():
            there = rows.to(images.device)
            moved[there] = sample_affine(parts[there], theta.flatten(0, 1)[rows], side, how)
    return _photometric(moved.reshape(batch, channels, side, side), options, generator)


def _uniform(shape: tuple[int, ...], limit: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(shape, generator=generator) * 2 - 1) * limit


def _geometry(
    batch: int, inputs: int, side: int, options: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Affine matrices (B, inputs, 2, 3) of grid sampling, and which of them (B, inputs) move whole pixels only."""
    shape = (batch, inputs)
    angle = _uniform(shape, math.pi if options.rotate else 0.0, generator)
    mirror = torch.where(torch.rand(shape, generator=generator) < 0.5 * options.rotate, -1.0, 1.0)
    scale = torch.exp(_uniform(shape, options.scale, generator))
    shift = _uniform((*shape, 2), 2 * options.shift, generator)  # the grid runs from -1 to 1
    whole = torch.rand(shape, generator=generator) < options.lossless_prob
    if options.lossless_prob:
        quarter = math.pi / 2
        angle = torch.where(whole, torch.round(angle / quarter) * quarter, angle)
        scale = torch.where(whole, 1.0, scale)
        shift = torch.where(whole.unsqueeze(-1), torch.round(shift * side / 2) * 2 / side, shift)
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = torch.stack([cosine * mirror, -sine, sine * mirror, cosine], dim=-1)
    rows = rows.reshape(batch, inputs, 2, 2)  # (B, inputs, 4) -> (B, inputs, 2, 2)
    return torch.cat([rows, shift.unsqueeze(-1)], dim=-1), whole


def sample_affine(images: Tensor, theta: Tensor, side: int, interpolation: str) -> Tensor:
    """Pictures (N, C, side, side) of ``images`` (N, C, S, S) moved by affine matrices (N, 2, 3); edges are mirrored."""
    grid = _grid(theta.to(images.device), side)
    return functional.grid_sample(images, grid, mode=interpolation, padding_mode="reflection", align_corners=False)


def _grid(theta: Tensor, side: int) -> Tensor:
    """Sampling points (N, side, side, 2), x before y, of affine matrices (N, 2, 3).

    What ``functional.affine_grid`` gives, at a fifth of its time: rows and columns are added, not multiplied out.
    """
    axis = (torch.arange(side, device=theta.device, dtype=theta.dtype) * 2 + 1) / side - 1
    across = theta[:, None, None, :, 0] * axis[None, None, :, None]  # (N, 1, side, 2)
    down = theta[:, None, None, :, 1] * axis[None, :, None, None] + theta[:, None, None, :, 2]  # (N, side, 1, 2)
    return across + down


def _smooth(images: Tensor) -> Tensor:
    """(B, C, side, side) under the binomial filter (1, 2, 1) / 4 along both axes; edges repeat."""
    for axis in (-1, -2):
        size = images.shape[axis]
        before = torch.cat([images.narrow(axis, 0, 1), images.narrow(axis, 0, size - 1)], dim=axis)
        after = torch.cat([images.narrow(axis, 1, size - 1), images.narrow(axis, size - 1, 1)], dim=axis)
        images = before.add_(after).mul_(0.25).add_(images, alpha=0.5)
    return images


def _photometric(images: Tensor, options: Augmentation, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast, response, sharpness and noise of each plane of (B, C, side, side), in place."""
    plane = (images.shape[0], images.shape[1], 1, 1)
    device = images.device
    if options.blur:
        mix = (torch.rand(plane, generator=generator) * 1.5 - 0.5) * options.blur
        images = images.lerp(_smooth(images), mix.to(device))
    gain = 1 + (torch.randn(plane, generator=generator) * options.gain).clamp(-0.5, 0.5)
    offset = torch.randn(plane, generator=generator) * options.offset
    if options.gamma:
        gamma = _uniform(plane, options.gamma, generator).to(device)
        # A quadratic bend in place of a power: monotone over the values met, and much cheaper.
        curve = images.clamp(-3, 3).mul_(gamma / 3).add_(gain.to(device))
        images = images.mul_(curve).add_(offset.to(device))
    else:
        images = images.mul_(gain.to(device)).add_(offset.to(device))
    if options.noise:
        level = torch.rand(plane, generator=generator) * options.noise
        # One field of noise for the batch, of another strength in each plane: noise is costly to draw.
        field = torch.randn((1, *images.shape[1:]), generator=generator)
        images = images.add_(field.to(device) * level.to(device))
    return images
