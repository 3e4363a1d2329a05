"""Names of classes, methods and backbones, and the planes of a store's modalities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, get_args

from wbcpipe.errors import TrainingDataError
from wbcpipe.samples.cell_columns import CLASSES, UNIDENTIFIED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "BACKBONE_NAMES",
    "BATCH_SIZE",
    "METHODS",
    "PIXEL_TOLERANCE",
    "Backbone",
    "Method",
    "Stem",
    "class_order",
    "split_channels",
]

BATCH_SIZE: Final = 32
"""Default number of cells in a batch."""

PIXEL_TOLERANCE: Final = 0.02
"""Largest relative difference between two pixel sizes that count as equal."""

Method = Literal[
    "single", "early-fusion", "early-fusion-kd", "late-fusion", "mm-mimo", "mm-mimo-kd"
]
Backbone = Literal["shufflenet_v2_x1_0", "shufflenet_v2_x0_5", "resnet34"]
Stem = Literal["shared", "split", "block"]
"""First layers of a network with several modalities, see `networks.divide_stem`."""
METHODS: Final[tuple[str, ...]] = get_args(Method)
BACKBONE_NAMES: Final[dict[str, Backbone]] = {
    "shufflenet": "shufflenet_v2_x1_0",
    "shufflenet-half": "shufflenet_v2_x0_5",
    "resnet34": "resnet34",
}
"""Name on the command line to torchvision's name."""


def split_channels(channels: Sequence[str]) -> tuple[tuple[str, ...], int]:
    """Group channel names into modalities of c planes: ``color1:r, color1:g, color1:b, ...`` or
    plain names, c = 1.

    Returns:
        The modality names in order, and the number of planes of each.

    Raises:
        TrainingDataError: modalities have different numbers of planes, or the planes of one
            modality are not adjacent.
    """
    prefixes = [name.split(":", 1)[0] for name in channels]
    modalities = tuple(dict.fromkeys(prefixes))
    planes, rest = divmod(len(prefixes), len(modalities))
    if rest or any(
        prefixes[i * planes + p] != name for i, name in enumerate(modalities) for p in range(planes)
    ):
        raise TrainingDataError(
            f"channels {list(channels)} do not form modalities of equally many planes: name the "
            f"planes of one modality 'NAME:plane', next to each other, as many for each modality."
        )
    return modalities, planes


def class_order(present: Iterable[str], declared: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the classes to train, in the declared order.

    By default the five of the differential, then others.
    """
    found = set(present) - {"", UNIDENTIFIED}
    if declared:
        return tuple(name for name in declared if name in found)
    return tuple(name for name in CLASSES if name in found) + tuple(sorted(found - set(CLASSES)))
