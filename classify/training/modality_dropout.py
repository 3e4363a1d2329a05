"""Modality dropout in training: one modality missing, or one modality on all inputs.

A network that was only shown complete cells depends on every input, and fails when one modality
fails. Some cells are therefore shown with one modality typical, as `missing_modality.blank` makes
it in inference. Others are shown with one modality on every input, as in the paper's Figure 4 (b)
to (e): the head of that modality learns to classify the cell, the other heads learn to be
uncertain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ModalityDropout", "draw_modality_dropout"]


@dataclass(frozen=True)
class ModalityDropout:
    """The changes of each row of a batch.

    Attributes:
        missing: (B, M) bool, inputs that become typical.
        single: (B, M) bool, the modality that is on all inputs; rows without one stay as they are.
    """

    missing: Tensor
    single: Tensor

    @property
    def uninformative_heads(self) -> Tensor:
        """The heads (B, M) bool whose input shows another modality."""
        return self.single.any(dim=1, keepdim=True) & ~self.single

    def apply(self, images: Tensor, typical: Tensor) -> Tensor:
        """Return the changed images.

        Args:
            images: (B, M * c, side, side), normalised.
            typical: (M * c, side, side), see `missing_modality.typical_images`.
        """
        batch, modalities = self.missing.shape
        by_input = images.reshape(batch, modalities, -1, *images.shape[2:])  # (B, M, c, side, side)
        index = self.single.int().argmax(dim=1)
        chosen = by_input[torch.arange(batch, device=images.device), index].unsqueeze(1)
        by_input = torch.where(_per_image(self.single.any(dim=1, keepdim=True)), chosen, by_input)
        by_input = torch.where(
            _per_image(self.missing), typical.reshape(modalities, -1, *typical.shape[1:]), by_input
        )
        return by_input.flatten(1, 2).contiguous(memory_format=torch.channels_last)


def _per_image(mask: Tensor) -> Tensor:
    return mask[:, :, None, None, None]


def draw_modality_dropout(
    same: Tensor,
    modalities: int,
    missing_prob: float,
    single_prob: float,
    generator: torch.Generator,
) -> ModalityDropout:
    """Draw the changes of each row, on the CPU.

    Args:
        same: (B,) bool, rows that show one cell on all inputs. Only such a row can lack a modality:
            inputs that show another cell cannot replace it.
        modalities: M, at least 2.
        missing_prob: probability that such a row lacks one modality.
        single_prob: probability that a row shows one modality on all inputs; it takes precedence.
        generator: source of the random numbers.
    """
    chances = torch.rand(2, len(same), generator=generator)
    which = torch.randint(modalities, (len(same),), generator=generator)
    chosen = torch.nn.functional.one_hot(which, modalities).bool()
    single = chances[0] < single_prob
    missing = (chances[1] < missing_prob) & same & ~single
    return ModalityDropout(chosen & missing[:, None], chosen & single[:, None])
