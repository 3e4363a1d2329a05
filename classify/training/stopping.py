"""Early stopping: training ends when the loss on watched cells has not fallen for some epochs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Patience"]

_PREFIX = "best."


@dataclass
class Patience:
    """The best weights so far, and the epochs since.

    Attributes:
        epochs: number of epochs without a lower loss after which training stops.
        best_loss: the lowest loss.
        stale_epochs: epochs since the lowest loss.
        weights: of the network that had it, by name, on the CPU; empty before the first finite loss.
    """

    epochs: int
    best_loss: float = math.inf
    stale_epochs: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether to stop."""
        return self.stale_epochs >= self.epochs

    def observe(self, loss: float, network: nn.Module) -> None:
        """Record the loss of an epoch; NaN counts as no improvement."""
        if loss < self.best_loss:
            self.best_loss, self.stale_epochs = loss, 0
            self.weights = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
        else:
            self.stale_epochs += 1

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights for the checkpoint."""
        return {_PREFIX + name: tensor for name, tensor in self.weights.items()}

    def restore(self, tensors: dict[str, Tensor], best_loss: float | None, stale_epochs: int) -> None:
        """Restore the state of a checkpoint."""
        self.weights = {n.removeprefix(_PREFIX): t for n, t in tensors.items() if n.startswith(_PREFIX)}
        self.best_loss = math.inf if best_loss is None else best_loss
        self.stale_epochs = stale_epochs
