"""RandAugment of multi-plane images, one operation per batch.

The augmentation of the MM-MIMO + KD paper.

Cubuk et al., https://doi.org/10.48550/arXiv.1909.13719, with the operations and ranges of
torchvision's ``RandAugment``. Its 14th operation, colour, is undefined for a single plane and
omitted. If the inputs of a network show different cells, each has its own operations; if they show
one cell, they share its geometry, and the operations on light are drawn for each input, because
each has its own lamp.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.nn import functional
from torchvision.transforms.v2 import functional as vision

from wbcpipe.classify.training.augment import sample_affine

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

__all__ = ["RandAugment", "rand_augment"]

BINS: Final = 30
"""The largest magnitude."""
_GEOMETRIC: Final = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
_LIGHT: Final = (
    *("identity", "brightness", "contrast", "sharpness"),
    *("posterize", "solarize", "autocontrast", "equalize"),
)


class RandAugment(BaseModel):
    """Number and strength of the operations.

    Attributes:
        operations: N, applied to each cell in sequence.
        magnitude: M, of 30.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    operations: int = Field(default=2, ge=0, le=8)
    magnitude: int = Field(default=18, ge=0, le=BINS)


def rand_augment(
    images: Tensor,
    same: Tensor,
    inputs: int,
    options: RandAugment,
    generator: torch.Generator,
    *,
    side: int | None = None,
) -> Tensor:
    """Return an augmented copy of a batch.

    Operations on light need a range of grey levels: that of each input over the batch. An image is
    resampled at most once, by all its geometric operations together.

    Args:
        images: (B, C, S, S) float32, normalised; C = inputs * planes.
        same: (B,) bool, true if all inputs show one cell.
        inputs: number of independent inputs.
        options: strength.
        generator: source of the random numbers, on the CPU.
        side: side of the result, by default S.

    Returns:
        (B, C, side, side) float32.
    """
    batch, channels, size, _ = images.shape
    shape = (batch, inputs)
    cells = images.reshape(batch, inputs, channels // inputs, size, size)
    low, high = (
        cells.amin(dim=(0, 2, 3, 4), keepdim=True),
        cells.amax(dim=(0, 2, 3, 4), keepdim=True),
    )
    span = (high - low).clamp_min(1e-6)
    unit = ((cells - low) / span).flatten(0, 1)  # (B * inputs, c, S, S)
    theta = torch.eye(2, 3).expand(*shape, 2, 3).clone()
    share = options.magnitude / BINS
    for _ in range(options.operations):
        number = torch.randint(len(_GEOMETRIC) + len(_LIGHT), shape, generator=generator)
        sign = torch.randint(2, shape, generator=generator).mul(2).sub(1).float()
        light = torch.randint(len(_LIGHT), shape, generator=generator) + len(_GEOMETRIC)
        first = number[:, :1].expand(shape)
        number = torch.where(
            same[:, None], torch.where(first < len(_GEOMETRIC), first, light), number
        )
        moves = _geometry(
            number, torch.where(same[:, None], sign[:, :1].expand(shape), sign), share
        )
        theta = _compose(theta, moves)
        _change_light(unit, number.flatten(), sign.flatten(), share)
    flat = theta.flatten(0, 1)
    moved = (flat != torch.eye(2, 3)).flatten(1).any(dim=1).to(unit.device)
    if moved.any():
        unit[moved] = sample_affine(unit[moved], flat[moved.cpu()], size, "bilinear")
    changed = (unit.reshape(cells.shape) * span + low).reshape(images.shape)
    if side is not None and side != size:
        changed = functional.interpolate(changed, size=side, mode="bilinear", antialias=True)
    return changed


def _geometry(number: Tensor, sign: Tensor, share: float) -> Tensor:
    """Return affine matrices (B, inputs, 2, 3) of the operations (B, inputs).

    The identity for operations on light.
    """
    amounts = {
        "shear_x": 0.3 * share,
        "shear_y": 0.3 * share,
        "translate_x": 2 * 150 / 331 * share,  # the grid runs from -1 to 1
        "translate_y": 2 * 150 / 331 * share,
        "rotate": math.radians(30) * share,
    }
    amount = torch.stack(
        [sign * amounts[name] * (number == index) for index, name in enumerate(_GEOMETRIC)]
    )
    shear_x, shear_y, right, down, angle = amount
    cosine, sine = torch.cos(angle), torch.sin(angle)
    rows = torch.stack([cosine, shear_x - sine, right, shear_y + sine, cosine, down], dim=-1)
    return rows.reshape(*number.shape, 2, 3)


def _compose(first: Tensor, second: Tensor) -> Tensor:
    """Return the affine matrix (..., 2, 3) of two in sequence."""
    linear = first[..., :2] @ second[..., :2]
    shift = first[..., :2] @ second[..., 2:] + first[..., 2:]
    return torch.cat([linear, shift], dim=-1)


def _change_light(unit: Tensor, number: Tensor, sign: Tensor, share: float) -> None:
    """Apply the operations on light, in place, to images (n, c, S, S) in [0, 1]."""
    operations: dict[str, Callable[[Tensor, float], Tensor]] = {
        "brightness": lambda part, way: _by_plane(
            vision.adjust_brightness, part, 1 + way * 0.9 * share
        ),
        "contrast": lambda part, way: _by_plane(
            vision.adjust_contrast, part, 1 + way * 0.9 * share
        ),
        "sharpness": lambda part, way: _by_plane(
            vision.adjust_sharpness, part, 1 + way * 0.9 * share
        ),
        "posterize": lambda part, _: vision.posterize(part, 8 - round(4 * share)),
        "solarize": lambda part, _: vision.solarize(part, 1 - share),
        "autocontrast": lambda part, _: _by_plane(vision.autocontrast, part),
        "equalize": lambda part, _: _by_plane(_equalize, part),
    }
    for index, name in enumerate(_LIGHT, start=len(_GEOMETRIC)):
        for way in (-1.0, 1.0):
            rows = torch.nonzero((number == index) & (sign == way)).flatten().to(unit.device)
            if name in operations and len(rows):
                unit[rows] = operations[name](unit[rows], way)


def _by_plane(operation: Callable[..., Tensor], part: Tensor, *factor: float) -> Tensor:
    """Apply an operation for images of one or three planes to each plane of (n, c, S, S)."""
    return operation(part.flatten(0, 1).unsqueeze(1), *factor).reshape(part.shape)


def _equalize(planes: Tensor) -> Tensor:
    """Equalise planes over 256 grey levels."""
    levels: Tensor = vision.equalize((planes * 255).round().to(torch.uint8))
    return levels.float() / 255
