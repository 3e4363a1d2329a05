"""The choice of the fastest engine whose probabilities agree with torch in float32 on the
processor.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from wbcpipe.classify.inference.engine import TorchEngine, pick_device
from wbcpipe.classify.inference.openvino_engine import OpenVinoEngine
from wbcpipe.classify.models.normalise import scaled
from wbcpipe.errors import ConfigError, MissingPackageError
from wbcpipe.system.packages import is_installed

if TYPE_CHECKING:
    from wbcpipe.classify.inference.engine import Engine
    from wbcpipe.classify.models.bundle import Bundle
    from wbcpipe.classify.networks import FusionNetwork
    from wbcpipe.system.compute import Device, EngineName

__all__ = [
    "TOLERANCE",
    "check_engine",
    "check_probabilities",
    "gpu_engine",
    "select_engine",
]

_log = logging.getLogger(__name__)

TOLERANCE: Final = {"float32": 1e-3, "float16": 0.01}
"""Largest difference of a probability from that of torch in float32, by precision."""


_kept: dict[tuple[str, int, Device, EngineName], tuple[int, Engine]] = {}
"""The last engine that was selected, and the number of threads that it was built for."""


def check_engine(device: Device, engine: EngineName) -> torch.device:
    """Return the device on which an engine would run.

    Raises:
        ConfigError: the engine or the device is not available.
        MissingPackageError: OpenVINO is not installed.
    """
    place = pick_device("cpu" if device == "auto" and engine == "openvino" else device)
    if engine != "openvino":
        return place
    if place.type == "cuda":
        raise ConfigError(
            "engine 'openvino' runs on processors only; omit --device, or choose --engine torch."
        )
    if not is_installed("openvino"):
        raise MissingPackageError("engine 'openvino' is not installed: pip install openvino.")
    return place


def select_engine(bundle: Bundle, device: Device = "auto", engine: EngineName = "auto") -> Engine:
    """Return the fastest available engine that agrees with torch in float32 on random images.

    A GPU runs torch in float16, or in float32 if float16 does not agree. A processor runs OpenVINO
    if it is installed and agrees, else torch.

    The last engine is kept: a call for the same weights and as many threads, or fewer, returns it.
    A process that must answer at once later calls this while it waits.

    Args:
        bundle: the model.
        device: ``auto``, ``cpu`` or ``cuda``.
        engine: ``auto``, ``torch`` or ``openvino``.

    Raises:
        ConfigError: the engine or the device is not available, or the engine does not agree with
            torch.
    """
    key = bundle.info.sha256, bundle.info.side, device, engine
    threads = torch.get_num_threads()
    kept_threads, kept = _kept.get(key, (0, None))
    if kept is None or kept_threads < threads:
        kept = _build_engine(bundle, device, engine)
        _kept.clear()
        _kept[key] = threads, kept
    return kept


def _build_engine(bundle: Bundle, device: Device, engine: EngineName) -> Engine:
    place = check_engine(device, engine)
    network, info = bundle.network(), bundle.info
    shape = (len(info.modalities) * info.planes, info.side, info.side)
    if place.type == "cuda":
        return gpu_engine(network, place, shape)
    if engine == "torch":
        return TorchEngine(network, place)
    try:
        found = OpenVinoEngine(network, shape)
        check_probabilities(found, TorchEngine(network, place), shape, TOLERANCE["float32"])
    except (ConfigError, ImportError, RuntimeError, TypeError, ValueError) as error:
        if engine == "openvino":
            raise ConfigError(f"engine 'openvino': {error}") from error
        _warn_once(f"cells are classified by torch, which is slower: {error}")
        return TorchEngine(network, place)
    return found


def gpu_engine(
    network: FusionNetwork, device: torch.device, shape: tuple[int, int, int]
) -> TorchEngine:
    """Return torch in float16 on a device, or in float32 if float16 does not agree with the
    processor.

    Args:
        network: a trained network.
        device: where to run.
        shape: (M * c, side, side) of an image.
    """
    reference = TorchEngine(network, torch.device("cpu"))
    found = TorchEngine(network, device, "float16")
    try:
        check_probabilities(found, reference, shape, TOLERANCE["float16"])
    except ConfigError:
        return TorchEngine(network, device)
    return found


@functools.cache
def _warn_once(text: str) -> None:
    _log.warning(text)


def check_probabilities(
    engine: Engine, reference: Engine, shape: tuple[int, int, int], limit: float, cells: int = 8
) -> None:
    """Compare the probabilities of two engines on random images, half of them smoothed.

    Args:
        engine: the engine to check. If it accepts raw crops, these are compared too.
        reference: the engine whose probabilities are correct.
        shape: (M * c, side, side) of an image.
        limit: largest allowed difference of a probability.
        cells: number of images.

    Raises:
        ConfigError: a probability differs by more than ``limit``.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((cells, *shape), generator=generator)
    noise[::2] = torch.nn.functional.avg_pool2d(noise[::2], 9, stride=1, padding=4) * 9
    images = noise.numpy()
    pairs = [(engine(images), reference(images))]
    if engine.crop_logits is not None:
        contrast = np.linspace(1000, 4000, cells * shape[0], dtype=np.float32).reshape(
            cells, -1
        )  # one for each plane
        crops = (30_000 + images * contrast[..., None, None]).clip(0, 65_535).astype(np.uint16)
        gain = np.float32(1) / contrast
        gain[-1] *= 4  # beyond the limit at which values are clipped
        offset = np.float32(-30_000) * gain
        pairs.append(
            (engine.crop_logits(crops, gain, offset), reference(scaled(crops, gain, offset)))
        )
    difference = max(
        float((torch.from_numpy(one).softmax(-1) - torch.from_numpy(other).softmax(-1)).abs().max())
        for one, other in pairs
    )
    if not difference <= limit:
        raise ConfigError(f"its probabilities differ by up to {difference:.4f} from torch's.")
