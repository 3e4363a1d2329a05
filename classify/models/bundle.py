"""Model bundles: a folder with weights (safetensors), ``bundle.json`` and a model card."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from wbcpipe.classify.models.bundle_info import BundleInfo
from wbcpipe.classify.models.card import model_card
from wbcpipe.errors import BundleError
from wbcpipe.system.file_kinds import is_file
from wbcpipe.system.files import (
    make_folder,
    parse_json,
    remove_tree,
    rename,
    write_atomic,
    write_json,
)
from wbcpipe.system.validation_messages import explain

if TYPE_CHECKING:
    from wbcpipe.classify.networks import FusionNetwork
    from wbcpipe.samples.records import SampleKind

__all__ = [
    "AUTO_BUNDLES",
    "Bundle",
    "BundleInfo",
    "find_bundle",
    "half_precision",
    "load_bundle",
    "shipped_bundles",
    "write_bundle",
]

WEIGHTS: Final = "model.safetensors"
INFO: Final = "bundle.json"
CARD: Final = "MODEL_CARD.md"

AUTO_BUNDLES: Final = {"scope": "virtual-shufflenet", "stained-rgb": "smear-shufflenet"}
"""The shipped bundle for each kind of sample."""


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose weights have the SHA-256 that its ``bundle.json`` states.

    Attributes:
        path: its folder.
        info: the content of ``bundle.json``.
    """

    path: Path
    info: BundleInfo

    @property
    def calibration_digest(self) -> str:
        """Short hash of the calibration: with another calibration, the same weights predict other
        classes.
        """
        return hashlib.sha256(self.info.calibration.model_dump_json().encode()).hexdigest()[:16]

    def network(self) -> FusionNetwork:
        """Return the network with its weights, float32, in evaluation mode.

        Raises:
            BundleError: the weights do not fit the network that ``bundle.json`` describes, or are
                not finite.
        """
        import safetensors.torch

        from wbcpipe.classify.networks import InputLayers, build_network

        info = self.info
        network = build_network(
            info.method,
            info.backbone,
            len(info.modalities),
            info.planes,
            len(info.classes),
            InputLayers(info.stem, info.told_missing),
        )
        try:
            tensors = safetensors.torch.load_file(self.path / WEIGHTS)
            kinds = {name: tensor.dtype for name, tensor in network.state_dict().items()}
            network.load_state_dict(
                {name: tensor.to(kinds[name]) for name, tensor in tensors.items()}
            )
        except (KeyError, RuntimeError, safetensors.SafetensorError) as error:
            what = f"{info.method} on {info.backbone}"
            raise BundleError(f"{self.path}: the weights do not fit {what}: {error}") from error
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise BundleError(
                    f"{self.path / WEIGHTS}: {name} holds values that are not finite: the "
                    f"training diverged; train the bundle again."
                )
        return network.eval().requires_grad_(False)


def shipped_bundles() -> dict[str, Path]:
    """Return name and folder of the bundles that come with wbcpipe."""
    root = Path(str(resources.files("wbcpipe.classify"))) / "bundles"
    if not root.is_dir():
        return {}
    return {path.name: path for path in sorted(root.iterdir()) if (path / INFO).is_file()}


def load_bundle(name_or_path: str | Path) -> Bundle:
    """Find a bundle by the name of a shipped one or by its folder, and verify it.

    Raises:
        BundleError: no such bundle, a file missing or not valid, or weights that are not those it
            names.
    """
    path = Path(name_or_path)
    if not is_file(path / INFO):
        known = shipped_bundles()
        if str(name_or_path) not in known:
            raise BundleError(
                f"no bundle {str(name_or_path)!r}: it is neither a folder with {INFO} nor one of "
                f"those shipped ({', '.join(known) or 'none'}); give the folder that `wbcpipe "
                f"train` named, for example models/mine/mine, or train one."
            )
        path = known[str(name_or_path)]
    try:
        info = BundleInfo.model_validate(parse_json((path / INFO).read_text(encoding="utf-8")))
    except ValidationError as error:
        findings = "; ".join(explain(item, BundleInfo) for item in error.errors()[:3])
        raise BundleError(
            f"{path / INFO}: {findings}; train the bundle again, or copy it again."
        ) from error
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{path / INFO}: not readable ({error}); copy the bundle again."
        ) from error
    _verify(path, info)
    return Bundle(path, info)


def find_bundle(name: str, *, kind: SampleKind | None = None) -> Bundle:
    """Return the bundle ``name`` (a shipped one, or a folder); ``auto`` is the shipped one for
    samples of ``kind``.

    Raises:
        BundleError: no such bundle, or none is shipped for that kind.
    """
    if name != "auto":
        return load_bundle(name)
    if kind not in AUTO_BUNDLES:
        raise BundleError(
            f"no bundle is shipped for samples of kind {kind!r} (there is one for "
            f"{', '.join(AUTO_BUNDLES)}); name one "
            "with --bundle, or train one with `wbcpipe train`."
        )
    return load_bundle(AUTO_BUNDLES[kind])


def _verify(path: Path, info: BundleInfo) -> None:
    weights = path / WEIGHTS
    if not weights.is_file():
        raise BundleError(f"{path}: bundle {info.name!r} has no {WEIGHTS}; copy the folder again.")
    found = hashlib.sha256(weights.read_bytes()).hexdigest()
    if found != info.sha256:
        raise BundleError(
            f"{weights}: SHA-256 {found}, but {INFO} names {info.sha256}; the weights are damaged "
            f"or of another bundle; copy the bundle again."
        )


def half_precision(network: FusionNetwork) -> FusionNetwork:
    """Round a network's weights as a bundle stores them: matrices to float16.

    Vectors stay as they are.
    """
    import torch

    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point() and tensor.ndim > 1:
                tensor.copy_(tensor.half().float())
    return network


def check_bundle_name(name: str) -> None:
    """Refuse a name that a folder cannot bear everywhere.

    Raises:
        BundleError: other characters, or too many.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise BundleError(
            f"bundle name {name!r} is not allowed; use letters, digits, '-', '_' and '.', at most "
            f"64, and begin with a letter or a digit."
        )


def _origin(info: BundleInfo) -> tuple[object, ...]:
    """Return what a bundle was made from; two with the same weights may differ in it."""
    training, validation = info.training, info.validation
    return (
        *(training.samples, training.cells, training.recipe),
        *(validation.samples, sorted(validation.rows), info.calibration.cells),
    )


def write_bundle(directory: Path, info: BundleInfo, network: FusionNetwork) -> Bundle:
    """Write a bundle to a temporary folder and rename it to ``directory``.

    A bundle there with the same weights, trained and validated on the same, stays.

    Raises:
        BundleError: the name is not allowed, or ``directory`` holds another bundle.
    """
    import safetensors.torch

    check_bundle_name(info.name)
    tensors = {
        name: (
            tensor.half() if tensor.is_floating_point() and tensor.ndim > 1 else tensor
        ).contiguous()
        for name, tensor in network.state_dict().items()
    }
    payload = safetensors.torch.save(tensors)
    info = info.model_copy(update={"sha256": hashlib.sha256(payload).hexdigest()})
    if directory.exists():
        bundle = load_bundle(directory)
        if bundle.info.sha256 != info.sha256:
            raise BundleError(
                f"{directory}: another bundle is there (weights {bundle.info.sha256[:12]}, new "
                f"{info.sha256[:12]}); give another --name or --out, or move it away."
            )
        if _origin(bundle.info) != _origin(info):
            raise BundleError(
                f"{directory}: a bundle with the same weights is there that was trained or "
                f"validated in another way; give another --name or --out, or move it away."
            )
        return bundle
    aside = directory.with_name(f".{directory.name}.partial")
    remove_tree(aside)
    make_folder(aside)
    with write_atomic(aside / WEIGHTS) as handle:
        handle.write(payload)
    write_json(aside / INFO, info.model_dump(mode="json"))
    with write_atomic(aside / CARD) as handle:
        handle.write(model_card(info).encode())
    rename(aside, directory)
    return load_bundle(directory)
