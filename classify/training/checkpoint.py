"""Training state on disk: one safetensors file, whole or absent, with its JSON inside the header."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from wbcpipe.errors import TrainingDataError
from wbcpipe.system.files import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from wbcpipe.classify.training.data import CellSet

__all__ = ["fingerprint", "load_state", "module_tensors", "optimizer_tensors", "restore_optimizer", "save_state"]


def save_state(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write tensors and a JSON object as one file, atomically."""
    payload = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        metadata={"wbcpipe": json.dumps(state)},
    )
    with write_atomic(path) as handle:
        handle.write(payload)


def load_state(path: Path, expected: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read what ``save_state`` wrote; None where there is no file.

    Args:
        path: the file.
        expected: fingerprint that its state must carry.

    Raises:
        TrainingDataError: the file belongs to other cells or another recipe, or cannot be read.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as handle:
            state = json.loads((handle.metadata() or {}).get("wbcpipe", "{}"))
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}
    except (SafetensorError, ValueError, OSError) as error:
        raise TrainingDataError(f"{path}: training state cannot be read ({error}); move it away.") from error
    if state.get("fingerprint") != expected:
        raise TrainingDataError(
            f"{path}: this folder holds a training of other cells or another recipe (fingerprint "
            f"{state.get('fingerprint')}, wanted {expected}); give another --out, or move the folder away."
        )
    return tensors, state


def fingerprint(cells: CellSet, text: str) -> str:
    """A short hash of the training cells and of a text that says what is done with them."""
    digest = hashlib.blake2b(digest_size=12)
    for array in (cells.images, cells.labels, cells.groups):
        digest.update(repr((array.shape, str(array.dtype))).encode())
        for start in range(0, len(array), 256):
            digest.update(array[start : start + 256].tobytes())
    digest.update(repr((cells.classes, cells.modalities, cells.planes, text)).encode())
    return digest.hexdigest()


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as named tensors."""
    state = optimizer.state_dict()["state"]
    return {f"opt.{index}.{key}": value for index, entry in state.items() for key, value in entry.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what ``optimizer_tensors`` gave."""
    content = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, tensor in tensors.items():
        if name.startswith("opt."):
            _, index, key = name.split(".")
            like = parameters[int(index)]
            # Fused steps walk through memory: a moment must lie as its parameter does.
            entry = torch.empty_like(like, dtype=tensor.dtype).copy_(tensor) if tensor.ndim else tensor
            content["state"].setdefault(int(index), {})[key] = entry
    optimizer.load_state_dict(content)


def module_tensors(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Parameters and buffers by name."""
    return {prefix + name: tensor for name, tensor in module.state_dict().items()}
