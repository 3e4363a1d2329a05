"""Training state on disk: one safetensors file, written atomically, with JSON in its header."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open

from wbcpipe.errors import TrainingDataError
from wbcpipe.system.files import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from wbcpipe.classify.training.data import CellSet

__all__ = [
    "CheckpointInfo",
    "fingerprint",
    "load_state",
    "optimizer_tensors",
    "restore_optimizer",
    "save_state",
]


class CheckpointInfo(BaseModel):
    """The JSON of a training state.

    Attributes:
        fingerprint: of the training cells and the recipe.
        epoch: epochs done.
        history: [loss, accuracy] of each epoch.
        best_loss: lowest loss on the watched cells; None without one.
        stale_epochs: epochs since.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fingerprint: str
    epoch: int
    history: list[list[float]]
    best_loss: float | None = None
    stale_epochs: int = 0


def save_state(path: Path, tensors: dict[str, Tensor], info: CheckpointInfo) -> None:
    """Write tensors and their JSON as one file, atomically."""
    payload = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        metadata={"wbcpipe": info.model_dump_json()},
    )
    with write_atomic(path) as handle:
        handle.write(payload)


def load_state(path: Path, expected: str) -> tuple[dict[str, Tensor], CheckpointInfo] | None:
    """Read what ``save_state`` wrote; return None if there is no file.

    Args:
        path: the file.
        expected: the fingerprint that it must have.

    Raises:
        TrainingDataError: the file belongs to other cells or another recipe, or cannot be read.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as handle:
            info = CheckpointInfo.model_validate_json((handle.metadata() or {}).get("wbcpipe", ""))
            tensors = {
                name: handle.get_tensor(name)
                for name in handle.keys()  # noqa: SIM118 - a handle does not iterate
            }
    except (SafetensorError, ValueError, OSError) as error:
        raise TrainingDataError(
            f"{path}: training state cannot be read ({error}); move it away."
        ) from error
    if info.fingerprint != expected:
        raise TrainingDataError(
            f"{path}: this folder holds a training of other cells or another recipe (fingerprint "
            f"{info.fingerprint}, expected {expected}); give another --out, or move the folder "
            f"away."
        )
    return tensors, info


def fingerprint(cells: CellSet, text: str) -> str:
    """Return a short hash of the training cells and of a text that identifies the training."""
    digest = hashlib.blake2b(digest_size=12)
    for array in (cells.images, cells.labels, cells.groups):
        digest.update(repr((array.shape, str(array.dtype))).encode())
        for start in range(0, len(array), 256):
            digest.update(array[start : start + 256].tobytes())
    digest.update(repr((cells.classes, cells.modalities, cells.planes, text)).encode())
    return digest.hexdigest()


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as named tensors."""
    state = optimizer.state_dict()["state"]
    return {
        f"opt.{index}.{key}": value
        for index, entry in state.items()
        for key, value in entry.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore what ``optimizer_tensors`` returned."""
    content = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, tensor in tensors.items():
        if name.startswith("opt."):
            _, index, key = name.split(".")
            like = parameters[int(index)]
            # Fused steps go through memory in order: a moment needs the memory layout of its
            # parameter.
            entry = (
                torch.empty_like(like, dtype=tensor.dtype).copy_(tensor) if tensor.ndim else tensor
            )
            content["state"].setdefault(int(index), {})[key] = entry
    optimizer.load_state_dict(content)
