"""RandAugment of multi-plane pictures, for whole batches at once: the augmentation of the MM-MIMO + KD paper.

Cubuk et al., https://doi.org/10.48550/arXiv.1909.13719, with the operations and ranges of torchvision's
``RandAugment``. Its 14th operation, colour, means nothing on a single plane and is left out. Where the inputs of a
network are independent cells, each has operations of its own; where they are one cell, what moves it is shared, and
what changes its light is drawn for each input, as each has a lamp of its own.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.nn import functional
from torchvision.transforms.v2 import functional as pictures

from wbcpipe.classify.training.augment import sample_affine

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

__all__ = ["RandAugment", "rand_augment"]

BINS: Final = 30
"""The largest magnitude."""
_MOVING: Final = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
_LIGHT: Final = (
    *("identity", "brightness", "contrast", "sharpness"),
    *("posterize", "solarize", "autocontrast", "equalize"),
)


class RandAugment(BaseModel):
    """How many operations, and how strong.

    Attributes:
        operations: N, applied to each cell one after the other.
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
    """A changed copy of a batch.

    Operations on light need a range of grey levels: it is that of each input over the batch. Pictures that are moved
    are moved once, by all that moves them together; the others keep every pixel.

    Args:
        images: (B, C, S, S) float32, normalised; C = inputs * planes.
        same: (B,) bool, true where all inputs show one cell.
        inputs: how many independent inputs the planes form.
        options: how strongly.
        generator: source of all randomness, on the CPU.
        side: the side to resize to, by default S.

    Returns:
        (B, C, side, side) float32.
    """
    batch, channels, size, _ = images.shape
    shape = (batch, inputs)
    cells = images.reshape(batch, inputs, channels // inputs, size, size)
    low, high = cells.amin(dim=(0, 2, 3, 4), keepdim=True), cells.amax(dim=(0, 2, 3, 4), keepdim=True)
    span = (high - low).clamp_min(1e-6)
    unit = ((cells - low) / span).flatten(0, 1)  # (B * inputs, c, S, S)
    theta = torch.eye(2, 3).expand(*shape, 2, 3).clone()
    share = options.magnitude / BINS
    for _ in range(options.operations):
        number = torch.randint(len(_MOVING) + len(_LIGHT), shape, generator=generator)
        sign = torch.randint(2, shape, generator=generator).mul(2).sub(1).float()
        light = torch.randint(len(_LIGHT), shape, generator=generator) + len(_MOVING)
        first = number[:, :1].expand(shape)
        number = torch.where(same[:, None], torch.where(first < len(_MOVING), first, light), number)
        moves = _movements(number, torch.where(same[:, None], sign[:, :1].expand(shape), sign), share)
        theta = _after(theta, moves)
        _relight(unit, number.flatten(), sign.flatten(), share)
    flat = theta.flatten(0, 1)
    moved = (flat != torch.eye(2, 3)).flatten(1).any(dim=1).to(unit.device)
    if moved.any():
        unit[moved] = sample_affine(unit[moved], flat[moved.cpu()], size, "bilinear")
    changed = (unit.reshape(cells.shape) * span + low).reshape(images.shape)
    if side is not None and side != size:
        changed = functional.interpolate(changed, size=side, mode="bilinear", antialias=True)
    return changed


def _movements(number: Tensor, sign: Tensor, share: float) -> Tensor:
    """Affine matrices (B, inputs, 2, 3) of the operations (B, inputs); unity for those that move nothing."""
    amounts = {
        "shear_x": 0.3 * share,
        "shear_y": 0.3 * share,
        "translate_x": 2 * 150 / 331 * share,  # the grid runs from -1 to 1
        "translate_y": 2 * 150 / 331 * share,
        "rotate": math.radians(30) * share,
    }
    amount = torch.stack([sign * amounts[name] * (number == index) for index, name in enumerate(_MOVING)])
    shear_x, shear_y, right, down, angle = amount
    cosine, sine = torch.cos(angle), torch.sin(angle)
    rows = torch.stack([cosine, shear_x - sine, right, shear_y + sine, cosine, down], dim=-1)
    return rows.reshape(*number.shape, 2, 3)


def _after(first: Tensor, second: Tensor) -> Tensor:
    """One affine matrix (..., 2, 3) for two in a row."""
    linear = first[..., :2] @ second[..., :2]
    shift = first[..., :2] @ second[..., 2:] + first[..., 2:]
    return torch.cat([linear, shift], dim=-1)


def _relight(unit: Tensor, number: Tensor, sign: Tensor, share: float) -> None:
    """Apply the operations on light, in place, to pictures (n, c, S, S) in [0, 1]."""
    operations: dict[str, Callable[[Tensor, float], Tensor]] = {
        "brightness": lambda part, way: _by_plane(pictures.adjust_brightness, part, 1 + way * 0.9 * share),
        "contrast": lambda part, way: _by_plane(pictures.adjust_contrast, part, 1 + way * 0.9 * share),
        "sharpness": lambda part, way: _by_plane(pictures.adjust_sharpness, part, 1 + way * 0.9 * share),
        "posterize": lambda part, _: pictures.posterize(part, 8 - round(4 * share)),
        "solarize": lambda part, _: pictures.solarize(part, 1 - share),
        "autocontrast": lambda part, _: _by_plane(pictures.autocontrast, part),
        "equalize": lambda part, _: _by_plane(_equalized, part),
    }
    for index, name in enumerate(_LIGHT, start=len(_MOVING)):
        for way in (-1.0, 1.0):
            rows = torch.nonzero((number == index) & (sign == way)).flatten().to(unit.device)
            if name in operations and len(rows):
                unit[rows] = operations[name](unit[rows], way)


def _by_plane(operation: Callable[..., Tensor], part: Tensor, *factor: float) -> Tensor:
    """An operation that takes pictures of one plane or three, on each plane of (n, c, S, S) alone."""
    return operation(part.flatten(0, 1).unsqueeze(1), *factor).reshape(part.shape)


def _equalized(planes: Tensor) -> Tensor:
    """Equalised over 256 grey levels."""
    levels: Tensor = pictures.equalize((planes * 255).round().to(torch.uint8))
    return levels.float() / 255
