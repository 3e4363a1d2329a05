"""When to stop a training: once cells kept apart have not been called better for some epochs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Patience"]

_PREFIX = "best."


@dataclass
class Patience:
    """The best weights so far and the epochs since, part of the training state on disk.

    Attributes:
        epochs: without a better loss after which training stops.
        best_loss: the least loss met.
        stale: epochs since.
        weights: of the network that had it, by name, on the CPU; empty before the first finite loss.
    """

    epochs: int
    best_loss: float = math.inf
    stale: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether to stop."""
        return self.stale >= self.epochs

    def observe(self, loss: float, network: nn.Module) -> None:
        """Take note of an epoch's loss; a loss that is not a number counts as no better."""
        if loss < self.best_loss:
            self.best_loss, self.stale = loss, 0
            self.weights = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
        else:
            self.stale += 1

    def tensors(self) -> dict[str, Tensor]:
        """The weights for the state's file."""
        return {_PREFIX + name: tensor for name, tensor in self.weights.items()}

    def state(self) -> dict[str, Any]:
        """The rest of it, as JSON has it."""
        return {"best_loss": self.best_loss if self.weights else None, "stale": self.stale}

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Put back what `tensors` and `state` gave."""
        self.weights = {n.removeprefix(_PREFIX): t for n, t in tensors.items() if n.startswith(_PREFIX)}
        self.stale = int(state.get("stale", 0))
        if self.weights:
            self.best_loss = float(state["best_loss"])
