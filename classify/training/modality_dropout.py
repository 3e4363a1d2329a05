"""Inputs spoilt while training: a modality that is missing, and one that stands where others should.

A network that was only ever shown whole cells leans on every input at once, and falters when one fails. Some cells are
therefore shown with one modality looking typical, as `missing.blank` makes it look at run time. Others are shown one
modality on every input, as in the paper's Figure 4 (b) to (e): the head whose modality it is shall call the cell, the
others shall say that they do not know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ModalityDropout", "draw_spoilt"]


@dataclass(frozen=True)
class ModalityDropout:
    """What is done to each row of a batch.

    Attributes:
        missing: (B, M) bool, inputs that look typical.
        alone: (B, M) bool, the modality that is on all inputs; rows without one are left as they are.
    """

    missing: Tensor
    alone: Tensor

    @property
    def doubtful(self) -> Tensor:
        """(B, M) bool: heads whose input shows another modality's picture."""
        return self.alone.any(dim=1, keepdim=True) & ~self.alone

    def apply(self, images: Tensor, typical: Tensor) -> Tensor:
        """The pictures with this done to them.

        Args:
            images: (B, M * c, side, side), normalised.
            typical: (M * c, side, side), see `missing.typical_pictures`.
        """
        batch, modalities = self.missing.shape
        by_input = images.reshape(batch, modalities, -1, *images.shape[2:])  # (B, M, c, side, side)
        index = self.alone.int().argmax(dim=1)
        chosen = by_input[torch.arange(batch, device=images.device), index].unsqueeze(1)
        by_input = torch.where(_wide(self.alone.any(dim=1, keepdim=True)), chosen, by_input)
        by_input = torch.where(_wide(self.missing), typical.reshape(modalities, -1, *typical.shape[1:]), by_input)
        return by_input.flatten(1, 2).contiguous(memory_format=torch.channels_last)

    def parts(self, count: int) -> list[ModalityDropout]:
        """The same for each of a batch's parts."""
        pairs = zip(self.missing.tensor_split(count), self.alone.tensor_split(count), strict=True)
        return [ModalityDropout(missing, alone) for missing, alone in pairs]


def _wide(mask: Tensor) -> Tensor:
    return mask[:, :, None, None, None]


def draw_spoilt(
    same: Tensor, modalities: int, missing: float, alone: float, generator: torch.Generator, device: torch.device
) -> ModalityDropout:
    """Draw what is done to each row.

    Args:
        same: (B,) bool, rows that show one cell on all inputs; only such a row misses a modality, since the others
            tell nothing of another cell.
        modalities: M, at least 2.
        missing: share of those rows that miss one.
        alone: share of all rows that show one modality on all inputs; it comes first.
        generator: source of the choice.
        device: of the result.
    """
    chances = torch.rand(2, len(same), generator=generator)
    which = torch.randint(modalities, (len(same),), generator=generator)
    hit = torch.nn.functional.one_hot(which, modalities).bool()
    single = chances[0] < alone
    gone = (chances[1] < missing) & same & ~single
    return ModalityDropout((hit & gone[:, None]).to(device), (hit & single[:, None]).to(device))
