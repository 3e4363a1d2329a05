"""Options of a training run, and its reports to the caller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.classify.models.bundle import Bundle
    from wbcpipe.classify.networks import FusionNetwork
    from wbcpipe.system.compute import Device

__all__ = ["EpochReport", "StepReport", "TrainingOptions"]


@dataclass(frozen=True)
class StepReport:
    """The progress within a network's training.

    Attributes:
        role: the network: ``teacher color1``, ``mm-mimo-kd``...
        step: optimiser steps done.
        steps: optimiser steps in all.
        fold: the fold of the cross-validation, from 0; None outside one.
    """

    role: str
    step: int
    steps: int
    fold: int | None = None


@dataclass(frozen=True)
class EpochReport:
    """The result of one epoch.

    Attributes:
        role: the network: ``teacher color1``, ``mm-mimo-kd``...
        epoch: epochs done.
        epochs: epochs in all.
        loss: mean training loss.
        accuracy: fraction of right answers in training, over heads and augmented cells.
        seconds: duration of the epoch; 0 for a network that was trained before.
        share: this epoch's fraction of the network's work, by pixels.
        work: fraction of the network's work that is done.
        validation_accuracy: fraction of validation cells that are classified correctly; None
            without such cells.
        fold: the fold of the cross-validation, from 0; None outside one.
    """

    role: str
    epoch: int
    epochs: int
    loss: float
    accuracy: float
    seconds: float
    share: float
    work: float
    validation_accuracy: float | None = None
    fold: int | None = None


@dataclass(frozen=True)
class TrainingOptions:
    """How to run a training.

    None of it changes the resulting weights but ``init_from``, which the recipe names.

    Attributes:
        init_from: the bundle whose weights the recipe's network is initialised from.
        device: ``auto``, ``cpu`` or ``cuda``.
        on_epoch: called after each epoch.
        on_step: called after each step.
        on_network: called after each epoch, when its state is on disk, with the optimiser steps
            done and the network as it would be kept; it may be copied and evaluated, not changed.
        fold: number of the fold for the reports.
    """

    init_from: Bundle | None = None
    device: Device = "auto"
    on_epoch: Callable[[EpochReport], None] | None = None
    on_step: Callable[[StepReport], None] | None = None
    on_network: Callable[[int, FusionNetwork], None] | None = None
    fold: int | None = None
