"""Checks of a bundle: its weights, the output of its network, and its model card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from wbcpipe.classify.models.bundle import CARD
from wbcpipe.classify.models.normalise import resize
from wbcpipe.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from wbcpipe.classify.models.bundle import Bundle, BundleInfo

__all__ = ["BundleCheck", "check_logits", "trial_images", "verify_bundle"]

#: Logits of two float32 engines differ by rounding, in proportion to the largest logit: 3e-7 was
#: measured, and 4e-3 or more with an error of 10 % in one layer.
TOLERANCE: Final = 1e-4
TRIAL_CELLS: Final = 16


@dataclass(frozen=True)
class BundleCheck:
    """A bundle that passed `verify_bundle`."""

    name: str
    path: str
    sha256: str
    parameters: int
    trial_images: int


def trial_images(info: BundleInfo, cells: int = TRIAL_CELLS) -> NDArray[np.float32]:
    """Return pseudo-random images, always the same, prepared like a sample's cells.

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


def check_logits(
    network: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    reference: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    images: NDArray[np.float32],
    what: str,
) -> float:
    """Compare the logits of two float32 engines.

    Args:
        network: the engine to check.
        reference: the engine to compare with.
        images: (n, M * c, side, side) float32, normalised.
        what: name of the engine or file in errors.

    Returns:
        The largest difference, divided by the largest logit.

    Raises:
        BundleError: shapes differ, or logits by more than rounding.
    """
    found, expected = network(images), reference(images)
    if found.shape != expected.shape:
        raise BundleError(
            f"{what}: logits have shape {found.shape}, those of torch {expected.shape}; export it "
            f"again."
        )
    difference = float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-9))
    if not difference <= TOLERANCE:
        raise BundleError(
            f"{what}: logits differ from torch's by {difference:.2g} of the largest (allowed: "
            f"{TOLERANCE:g}); do not use it; export it again from this bundle."
        )
    return difference


def verify_bundle(bundle: Bundle) -> BundleCheck:
    """Check that the weights fit the network, that its logits are finite, and that the model card
    is of the weights.

    The SHA-256 of the weights was compared with `bundle.json` when the bundle was loaded.

    Raises:
        BundleError: one of these checks fails.
    """
    import torch

    from wbcpipe.classify.inference.engine import TorchEngine

    info = bundle.info
    network = bundle.network()
    logits = TorchEngine(network, torch.device("cpu"))(trial_images(info))
    expected = (TRIAL_CELLS, len(info.head_names), len(info.classes))
    if logits.shape != expected or not np.isfinite(logits).all():
        raise BundleError(
            f"{bundle.path}: the logits have shape {logits.shape} (expected {expected}) and "
            f"{np.count_nonzero(~np.isfinite(logits))} values that are not finite; train it again."
        )
    card = bundle.path / CARD
    if not card.is_file() or info.sha256 not in card.read_text(encoding="utf-8"):
        raise BundleError(
            f"{card}: absent, or not of the weights {info.sha256[:12]}; copy the folder again."
        )
    parameters = sum(tensor.numel() for tensor in network.parameters())
    return BundleCheck(info.name, str(bundle.path), info.sha256, parameters, TRIAL_CELLS)
