"""Whether a bundle is whole and works: its weights, its network's answers and its card."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wbcpipe.classify.models.bundle import CARD
from wbcpipe.classify.models.normalise import resize
from wbcpipe.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from wbcpipe.classify.models.bundle import Bundle, BundleInfo

__all__ = ["check_agreement", "trial_pictures", "verify_bundle"]

#: Logits of two float32 engines differ by rounding, which grows with the logits: 3e-7 of the largest was seen, 4e-3 and
#: more where one layer was a tenth off.
TOLERANCE: Final = 1e-4
TRIAL_CELLS: Final = 16


def trial_pictures(info: BundleInfo, cells: int = TRIAL_CELLS) -> NDArray[np.float32]:
    """Pictures drawn at random, always the same, that went the way of a sample's cells.

    Returns:
        (cells, M * c, side, side) float32, normalised.
    """
    rng = np.random.default_rng(0)
    planes = len(info.modalities) * info.planes
    crops = rng.normal(0, 400, (cells, planes, info.crop_px, info.crop_px))
    y, x = np.mgrid[: info.crop_px, : info.crop_px] / info.crop_px - 0.5
    radius = rng.uniform(0.15, 0.4, (cells, 1, 1, 1))
    depth = rng.uniform(-18_000, 18_000, (cells, planes, 1, 1))
    crops += 30_000 + depth * (np.hypot(y, x) < radius)
    return info.normalisation.apply(resize(crops.clip(0, 65_535).astype(np.uint16), info.side))


def check_agreement(
    network: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    reference: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    pictures: NDArray[np.float32],
    what: str,
) -> float:
    """Compare the logits of two float32 engines.

    Args:
        network: the one in question.
        reference: the one that is believed.
        pictures: (n, M * c, side, side) float32, normalised.
        what: is named in the error.

    Returns:
        The largest difference, as a share of the largest logit.

    Raises:
        BundleError: shapes differ, or logits by more than rounding.
    """
    found, expected = network(pictures), reference(pictures)
    if found.shape != expected.shape:
        raise BundleError(f"{what}: answers have shape {found.shape}, torch's {expected.shape}; export it again.")
    apart = float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-9))
    if not apart <= TOLERANCE:
        raise BundleError(
            f"{what}: logits differ from torch's by {apart:.2g} of the largest, at most {TOLERANCE:g} is allowed; do "
            "not use it, and export it again from this bundle."
        )
    return apart


def verify_bundle(bundle: Bundle) -> dict[str, Any]:
    """Check that the weights fit the network, that it answers with finite numbers, and that the card is theirs.

    That the weights are those `bundle.json` names was found when the bundle was loaded.

    Returns:
        Name, path, SHA-256, parameters and the number of trial pictures, for people and JSON.

    Raises:
        BundleError: one of these does not hold.
    """
    import torch

    from wbcpipe.classify.inference.engine import TorchEngine

    info = bundle.info
    network = bundle.network()
    logits = TorchEngine(network, torch.device("cpu"))(trial_pictures(info))
    expected = (TRIAL_CELLS, len(info.head_names), len(info.classes))
    if logits.shape != expected or not np.isfinite(logits).all():
        raise BundleError(
            f"{bundle.path}: the network answers with shape {logits.shape} (expected {expected}) and "
            f"{np.count_nonzero(~np.isfinite(logits))} values that are no numbers; train it again."
        )
    card = bundle.path / CARD
    if not card.is_file() or info.sha256 not in card.read_text(encoding="utf-8"):
        raise BundleError(f"{card}: not there, or not of the weights {info.sha256[:12]}; copy the whole folder again.")
    return {
        "name": info.name,
        "path": str(bundle.path),
        "sha256": info.sha256,
        "parameters": sum(tensor.numel() for tensor in network.parameters()),
        "trial_pictures": TRIAL_CELLS,
    }
