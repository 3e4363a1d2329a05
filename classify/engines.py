"""Engines: what turns normalised pictures into logits, on the processor or on a GPU."""

from __future__ import annotations

import importlib.util
import warnings
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import torch

from wbcpipe.classify.networks.fuse import fused_copy
from wbcpipe.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.classify.bundle import Bundle
    from wbcpipe.classify.networks import FusionNetwork

__all__ = ["ENGINES", "Engine", "OpenVinoEngine", "TorchEngine", "engine_for", "fast_bfloat16", "pick_device"]

ENGINES: Final = ("auto", "torch", "openvino", "onnxruntime")
#: How near an engine's probabilities are to those of torch in float32: rounding, and what bfloat16 loses in networks
#: that call alike.
_AGREES: Final = {"float32": 1e-3, "bfloat16": 0.05}


class Engine(Protocol):
    """A network ready for use.

    Attributes:
        name: for provenance, such as ``torch-cpu-float32``.
    """

    name: str

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (B, heads, K) of normalised pictures (B, M * c, side, side)."""
        ...


def pick_device(name: str) -> torch.device:
    """The device that ``auto``, ``cpu`` or ``cuda`` stands for here.

    Raises:
        ConfigError: ``cuda`` is asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device 'cuda': torch finds no GPU here; use --device cpu, or install a CUDA build of torch.")
    return torch.device(name)


def fast_bfloat16() -> bool:
    """True where the processor multiplies bfloat16 in hardware."""
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(probe is not None and probe())


class TorchEngine:
    """torch, with batch norm folded into the convolutions and channels last.

    Args:
        network: a trained network.
        device: where to run.
        precision: ``float32``; ``bfloat16`` for processors; ``float16`` (mixed) for GPUs.
    """

    def __init__(self, network: FusionNetwork, device: torch.device, precision: str = "float32") -> None:
        self.name = f"torch-{device.type}-{precision}"
        self._device = device
        self._dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self._mixed = precision == "float16"
        twin = fused_copy(network).to(device=device, dtype=self._dtype)
        self._network = twin.to(memory_format=torch.channels_last)

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (B, heads, K) of normalised pictures (B, M * c, side, side)."""
        with torch.inference_mode(), torch.autocast(self._device.type, torch.float16, enabled=self._mixed):
            batch = torch.from_numpy(images).to(
                device=self._device, dtype=self._dtype, memory_format=torch.channels_last
            )
            logits: torch.Tensor = self._network(batch)
            found: NDArray[Any] = logits.float().cpu().numpy()
        return found


class OpenVinoEngine:
    """OpenVINO on a processor; needs the extra ``wbcpipe[openvino]``.

    Args:
        network: a trained network.
        precision: ``float32``, or ``bfloat16`` for processors that multiply it.
        shape: (M * c, side, side) of a picture.
        threads: of the processor; by default torch's number, so that engines can be compared.

    Raises:
        ConfigError: OpenVINO is not installed.
    """

    def __init__(
        self, network: FusionNetwork, precision: str, shape: tuple[int, int, int], threads: int | None = None
    ) -> None:
        try:
            import openvino
        except ImportError as error:
            raise ConfigError("engine 'openvino' is not installed: pip install 'wbcpipe[openvino]'.") from error
        self.name = f"openvino-cpu-{precision}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing: sizes become constants, as they shall
            model = openvino.convert_model(
                fused_copy(network), example_input=torch.zeros(2, *shape), input=openvino.PartialShape([-1, *shape])
            )
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
            "INFERENCE_NUM_THREADS": threads or torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._compiled = openvino.Core().compile_model(model, "CPU", settings)

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (B, heads, K) of normalised pictures (B, M * c, side, side)."""
        found: NDArray[np.float32] = self._compiled(images)[0].astype(np.float32)
        return found


def engine_for(bundle: Bundle, device: str = "auto", engine: str = "auto") -> Engine:
    """The fastest engine here that calls as the bundle was validated.

    bfloat16 is used where the processor has it and the bundle's validation cells were all called alike by it. OpenVINO
    is chosen by itself where it is installed, converts the network and gives what torch gives on pictures drawn at
    random.

    Args:
        bundle: the model.
        device: ``auto``, ``cpu`` or ``cuda``.
        engine: ``auto``, ``torch``, ``openvino``, or ``onnxruntime``, which ``auto`` never takes: it is slower than
            OpenVINO, and the export takes seconds.

    Raises:
        ConfigError: what is asked for is not here, or does not agree with torch.
    """
    place = pick_device(device)
    network, info = bundle.network(), bundle.info
    if place.type == "cuda":
        if engine in ("openvino", "onnxruntime"):
            raise ConfigError(f"engine {engine!r} is for processors; leave --device or choose --engine torch.")
        return TorchEngine(network, place, "float16")
    if engine == "onnxruntime":
        from wbcpipe.classify.export import checked_engine

        return checked_engine(bundle)
    alike = info.validation.get("bfloat16_agreement") == 1.0
    precision = "bfloat16" if alike and fast_bfloat16() else "float32"
    if engine == "torch" or (engine == "auto" and importlib.util.find_spec("openvino") is None):
        return TorchEngine(network, place, precision)
    shape = (len(info.modalities) * info.planes, info.side, info.side)
    try:
        found = OpenVinoEngine(network, precision, shape)
        _check_agreement(found, TorchEngine(network, place), shape, _AGREES[precision])
    except (ConfigError, RuntimeError, TypeError, ValueError) as error:
        if engine == "openvino":
            raise ConfigError(f"engine 'openvino': {error}") from error
        return TorchEngine(network, place, precision)
    return found


def _check_agreement(
    engine: Engine, reference: Engine, shape: tuple[int, int, int], limit: float, cells: int = 8
) -> None:
    """Compare probabilities on pictures of noise of several roughnesses.

    Raises:
        ConfigError: they differ by more than ``limit``.
    """
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn((cells, *shape), generator=generator)
    pictures[::2] = torch.nn.functional.avg_pool2d(pictures[::2], 9, stride=1, padding=4) * 9
    first, second = (torch.from_numpy(one(pictures.numpy())).softmax(-1) for one in (engine, reference))
    apart = float((first - second).abs().max())
    if not apart <= limit:
        raise ConfigError(f"its probabilities are up to {apart:.4f} from torch's.")
