"""Training that starts from the weights of a bundle, for few cells of another stain or microscope.

What a network has learned of cells carries over where its answers do not: started so it needs a fifth of the steps, and
is a little more often right (``docs/results/other-laboratories.md``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from wbcpipe.classify.models.classes import PIXEL_TOLERANCE
from wbcpipe.errors import ConfigError, TrainingDataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wbcpipe.classify.models.bundle import Bundle
    from wbcpipe.classify.networks import FusionNetwork
    from wbcpipe.classify.training.data import CellSet
    from wbcpipe.classify.training.recipe import Recipe

__all__ = ["check_init_from", "init_from_keys", "load_pretrained_weights"]

LR: Final = 1e-3
"""A quarter of what a training from nothing takes, which unlearns: on 100 cells 79 and 76 % were right."""
_LAST_LAYER: Final = "backbone.fc."
"""Its outputs are heads x classes, of all backbones."""


def init_from_keys(bundle: Bundle) -> dict[str, Any]:
    """The keys of a recipe that go on from a bundle; what is said besides may change all but the network.

    Distillation is left out: teachers would have to learn from the few cells alone.
    """
    info = bundle.info
    kinds = set(info.normalisation.polarity)
    return {
        "method": info.method.removesuffix("-kd"),
        "modality": info.modalities[0] if info.method == "single" else None,
        "backbone": info.backbone,
        "side": info.side,
        "start_side": info.side,
        "normalise": "fixed" if "fixed" in kinds else "stain" if "stained" in kinds else "cell",
        "lr": LR,
        "init_from": info.sha256,
    }


def check_init_from(recipe: Recipe, bundle: Bundle | None, cells: CellSet) -> None:
    """See that a recipe's training can start from a bundle's weights, where it says that it does.

    Args:
        recipe: the recipe.
        bundle: the bundle, ``None`` if none is at hand.
        cells: to learn from, as the recipe's method reads them.

    Raises:
        ConfigError: the recipe starts from other weights, or its network is another.
        TrainingDataError: the cells' modalities, scale or classes are not those that the bundle knows.
    """
    if recipe.init_from != ("" if bundle is None else bundle.info.sha256):
        raise ConfigError(
            f"this recipe starts from {f'weights {recipe.init_from[:12]}' if recipe.init_from else 'nothing'}; "
            "name the bundle that has them with --init-from, or take `init_from` out of it."
        )
    if bundle is None:
        return
    info = bundle.info
    if info.method == "late-fusion" or recipe.method == "late-fusion":
        raise ConfigError(f"late fusion has a network for each modality, which no bundle starts: {info.name!r}.")
    own = (info.method.removesuffix("-kd"), info.backbone)
    if own != (recipe.method.removesuffix("-kd"), recipe.backbone):
        raise ConfigError(
            f"bundle {info.name!r} is {own[0]} on {own[1]}, the recipe {recipe.method} on {recipe.backbone}: "
            "weights of one do not fit the other; leave --method and --backbone out."
        )
    if (info.modalities, info.planes) != (cells.modalities, cells.planes):
        raise TrainingDataError(
            f"bundle {info.name!r} knows modalities {list(info.modalities)} of {info.planes} plane(s), "
            f"these cells have {list(cells.modalities)} of {cells.planes}."
        )
    if abs(cells.pixel_um / info.pixel_um - 1) > PIXEL_TOLERANCE:
        raise TrainingDataError(
            f"bundle {info.name!r} knows crops of {info.pixel_um} um a pixel, these have {cells.pixel_um}; segment or "
            f"import them again with --pixel-um {info.pixel_um}."
        )
    if not set(info.classes) & set(cells.classes):
        raise TrainingDataError(
            f"bundle {info.name!r} knows the classes {', '.join(info.classes)}, these cells are of none of them "
            f"({', '.join(cells.classes)})."
        )


def load_pretrained_weights(network: FusionNetwork, bundle: Bundle, classes: Sequence[str]) -> None:
    """Give a network a bundle's weights; in the last layer those of the classes that both know.

    Args:
        network: of the bundle's kind, for ``classes``.
        bundle: whose weights to take.
        classes: K names, in the network's order.
    """
    before = bundle.network().state_dict()
    known = bundle.info.classes
    with torch.no_grad():
        for name, values in network.state_dict().items():
            if not name.startswith(_LAST_LAYER):
                values.copy_(before[name])
                continue
            new = values.view(network.heads, len(classes), -1)
            old = before[name].view(network.heads, len(known), -1)
            for place, text in enumerate(classes):
                if text in known:
                    new[:, place] = old[:, known.index(text)]
