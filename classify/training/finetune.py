"""Fine-tuning of a bundle, for few cells of another stain or microscope.

The features that a network has learned transfer even where its classes do not: it needs a fifth of
the steps, and is right a little more often (``docs/results/other-laboratories.md``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from wbcpipe.classify.models.classes import PIXEL_TOLERANCE
from wbcpipe.classify.networks import LateFusion
from wbcpipe.errors import ConfigError, TrainingDataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from wbcpipe.classify.models.bundle import Bundle
    from wbcpipe.classify.models.bundle_info import BundleInfo
    from wbcpipe.classify.networks import FusionNetwork
    from wbcpipe.classify.training.data import CellSet
    from wbcpipe.classify.training.recipe import Recipe, RecipeKeys

__all__ = ["check_init_from", "init_from_keys", "load_pretrained_weights"]

LR: Final = 1e-3
"""A quarter of the rate for random weights, which destroys what was learned: of 100 cells 79 and 76
% were right.
"""
_LAST_LAYER: Final = "backbone.fc."
"""Its outputs are heads x classes, in all backbones."""
_MISSING: Final = "missing.weight"
"""Added to these outputs, where the heads are told of missing inputs."""


def init_from_keys(bundle: Bundle) -> RecipeKeys:
    """Return the recipe keys for fine-tuning a bundle; other keys may change all but the network.

    There is no distillation: teachers would have to learn from the few cells alone.
    """
    info = bundle.info
    normalise = {"fixed": "fixed", "stained": "stain", "separated": "separate"}
    kinds = [normalise[one] for one in info.normalisation.polarity if one in normalise]
    return {
        "method": info.method.removesuffix("-kd"),
        "modality": info.modalities[0] if info.method == "single" else None,
        "backbone": info.backbone,
        "stem": info.stem,
        "side": info.side,
        "start_side": info.side,
        "normalise": kinds[0] if kinds else "cell",
        "lr": LR,
        "init_from": info.sha256,
    }


def check_init_from(recipe: Recipe, bundle: Bundle | None, cells: CellSet) -> None:
    """Check that a recipe's network can be initialised from a bundle, if the recipe names one.

    A network of a single modality may start from the member of late fusion that reads it.

    Args:
        recipe: the recipe.
        bundle: the bundle; None without one.
        cells: the training cells, as the recipe's method reads them.

    Raises:
        ConfigError: the recipe names other weights, or has another network.
        TrainingDataError: the bundle was trained on other modalities, another pixel size or other
            classes.
    """
    if recipe.init_from != ("" if bundle is None else bundle.info.sha256):
        raise ConfigError(
            f"this recipe starts from "
            f"{f'weights {recipe.init_from[:12]}' if recipe.init_from else 'random weights'}; "
            "name the bundle that has them with --init-from, or remove `init_from` from the recipe."
        )
    if bundle is None:
        return
    info = bundle.info
    modalities = info.modalities
    own, other = _network_of(info), _network_of(recipe)
    one = str(recipe.modality)
    if (info.method, recipe.method) == ("late-fusion", "single") and one in modalities:
        modalities = (one,)
        own = own.replace(info.method, recipe.method)
    if own != other:
        raise ConfigError(
            f"bundle {info.name!r} is {own}, the recipe {other}: weights of one do not fit the "
            f"other; omit --method, --backbone and `stem`."
        )
    if (modalities, info.planes) != (cells.modalities, cells.planes):
        raise TrainingDataError(
            f"bundle {info.name!r} was trained on modalities {list(modalities)} of "
            f"{info.planes} plane(s), these cells have {list(cells.modalities)} of {cells.planes}; "
            f"choose another bundle."
        )
    if abs(cells.pixel_um / info.pixel_um - 1) > PIXEL_TOLERANCE:
        raise TrainingDataError(
            f"bundle {info.name!r} was trained on crops of {info.pixel_um} um a pixel, these have "
            f"{cells.pixel_um}; segment or import them again with --pixel-um {info.pixel_um}."
        )
    if not set(info.classes) & set(cells.classes):
        raise TrainingDataError(
            f"bundle {info.name!r} was trained on the classes {', '.join(info.classes)}, these "
            f"cells are of none of them ({', '.join(cells.classes)}); choose another bundle."
        )


def _network_of(record: Recipe | BundleInfo) -> str:
    stem = "" if record.stem == "shared" else f" with stem {record.stem!r}"
    return f"{record.method.removesuffix('-kd')} on {record.backbone}{stem}"


def load_pretrained_weights(
    network: FusionNetwork, bundle: Bundle, classes: Sequence[str], modality: str | None = None
) -> None:
    """Copy a bundle's weights into a network.

    In the last layer, those of the classes that both have.

    Args:
        network: of the bundle's method and backbone, or of the backbone of its members, for
            ``classes``.
        bundle: the source of the weights.
        classes: K names, in the network's order.
        modality: the one that the network reads, if it reads one.
    """
    source: nn.Module = bundle.network()
    if isinstance(source, LateFusion):
        source = source.members[bundle.info.modalities.index(str(modality))]
    before = source.state_dict()
    known = bundle.info.classes
    with torch.no_grad():
        for name, values in network.state_dict().items():
            if name == _MISSING and name not in before:
                continue  # zeros: the bundle's heads were not told of missing inputs
            if not name.startswith((_LAST_LAYER, _MISSING)):
                values.copy_(before[name])
                continue
            new = values.view(network.heads, len(classes), -1)
            old = before[name].view(network.heads, len(known), -1)
            for index, text in enumerate(classes):
                if text in known:
                    new[:, index] = old[:, known.index(text)]
