"""Engines: what turns normalised pictures into logits, on the processor or on a GPU.

An engine has lanes: so many threads may call it at once, each with a batch of its own. On a processor that is faster
than one batch on all cores, which wait for each other after every layer, and who reads and prepares a batch keeps no
other waiting (see `classify.inference.parallel_batches`).
"""

from __future__ import annotations

import functools
import importlib.util
import queue
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import torch

from wbcpipe.classify.models.classes import BATCH_SIZE
from wbcpipe.classify.models.normalise import CLIP, scaled
from wbcpipe.classify.networks.fuse import fused_copy
from wbcpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from wbcpipe.classify.models.bundle import Bundle
    from wbcpipe.classify.networks import FusionNetwork

__all__ = [
    "AGREES",
    "ENGINES",
    "CallsCrops",
    "Engine",
    "OpenVinoEngine",
    "TorchEngine",
    "check_agreement",
    "check_engine",
    "engine_for",
    "pick_device",
    "shared_threads",
]

ENGINES: Final = ("auto", "torch", "openvino")
MOST_LANES: Final = 8
"""Each lane holds a batch and what the network makes of it."""
#: How near an engine's probabilities are to those of torch in float32.
AGREES: Final = {"float32": 1e-3, "float16": 0.01}


class CallsCrops(Protocol):
    """Logits (B, heads, K) of crops, which are normalised on the way."""

    def __call__(
        self, crops: NDArray[np.uint16], gain: NDArray[np.float32], offset: NDArray[np.float32], /
    ) -> NDArray[np.float32]:
        """Logits of crops (B, M * c, side, side) with gain and offset (B, M * c)."""
        ...


class Engine(Protocol):
    """A network ready for use.

    Attributes:
        name: for provenance, such as ``torch-cpu-float32``.
        lanes: how many threads may call at once.
        batch_size: so many pictures at once suit it best; any number is taken.
    """

    name: str
    lanes: int
    batch_size: int

    @property
    def of_crops(self) -> CallsCrops | None:
        """What calls crops as they are, with the gain and offset that normalise them (`normalise.scaled`).

        ``None`` where only normalised pictures are taken.
        """
        ...

    def buffer(self, shape: tuple[int, int, int, int]) -> NDArray[np.float32]:
        """Room for a batch (B, M * c, side, side) where the engine takes it from soonest."""
        ...

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


def shared_threads(threads: int) -> tuple[int, int]:
    """Lanes, and threads of each, that share some threads.

    >>> shared_threads(2), shared_threads(16), shared_threads(20)
    ((2, 1), (8, 2), (6, 3))
    """
    each = -(-threads // MOST_LANES)
    return threads // each, each


def check_engine(device: str, engine: str) -> torch.device:
    """The device of an engine that could run here.

    Raises:
        ConfigError: what is asked for is not here.
    """
    place = pick_device("cpu" if device == "auto" and engine == "openvino" else device)
    if place.type == "cuda" and engine == "openvino":
        raise ConfigError(f"engine {engine!r} is for processors; leave --device or choose --engine torch.")
    if engine == "openvino" and importlib.util.find_spec("openvino") is None:
        raise ConfigError("engine 'openvino' is not installed: pip install openvino.")
    return place


class TorchEngine:
    """torch, with batch norm folded into the convolutions and channels last.

    A call takes the threads that torch has in the thread it comes from: `parallel_batches` shares them out.

    Args:
        network: a trained network.
        device: where to run.
        precision: ``float32``; ``float16`` or ``bfloat16`` (mixed) for GPUs.
    """

    batch_size = BATCH_SIZE
    of_crops = None

    def __init__(self, network: FusionNetwork, device: torch.device, precision: str = "float32") -> None:
        self.name = f"torch-{device.type}-{precision}"
        self.lanes = shared_threads(torch.get_num_threads())[0]
        self._device = device
        self._dtype = getattr(torch, precision)
        twin = fused_copy(network).to(device)
        self._network = twin.to(memory_format=torch.channels_last)

    def buffer(self, shape: tuple[int, int, int, int]) -> NDArray[np.float32]:
        """Room for a batch (B, M * c, side, side)."""
        return np.empty(shape, np.float32)

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (B, heads, K) of normalised pictures (B, M * c, side, side)."""
        with (
            torch.inference_mode(),
            torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32),
        ):
            batch = torch.from_numpy(images).to(self._device, memory_format=torch.channels_last)
            logits: torch.Tensor = self._network(batch)
            found: NDArray[Any] = logits.float().cpu().numpy()
        return found


class OpenVinoEngine:
    """OpenVINO on a processor: a stream for each core or few of them.

    It takes crops as they are: normalising them on the way to the first convolution costs a sixth to a half of doing it
    before.

    Args:
        network: a trained network.
        shape: (M * c, side, side) of a picture.
        threads: of the processor; by default torch's number, so that engines can be compared.

    Raises:
        ConfigError: OpenVINO is not installed.
    """

    name = "openvino-cpu-float32"
    batch_size = 8
    """What a layer makes of them stays in the processor's cache; 32 take up to a fifth longer a picture."""

    def __init__(self, network: FusionNetwork, shape: tuple[int, int, int], threads: int | None = None) -> None:
        try:
            import openvino
        except ImportError as error:
            raise ConfigError("engine 'openvino' is not installed: pip install openvino.") from error
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing: sizes become constants, as they shall
            model = openvino.convert_model(
                fused_copy(network), example_input=torch.zeros(2, *shape), input=openvino.PartialShape([-1, *shape])
            )
        streams, each = shared_threads(threads or torch.get_num_threads())
        self.lanes = streams + 1  # one reads while the others' batches are computed
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": streams * each,
            "NUM_STREAMS": streams,
            "ENABLE_CPU_PINNING": False,  # a lane that reads may be on the core that another's stream is bound to
        }
        self._of_pictures = _Compiled(lambda: model, settings, self.lanes)
        self.of_crops: CallsCrops | None = _Compiled(lambda: _normalising(model.clone(), shape), settings, self.lanes)

    def buffer(self, shape: tuple[int, int, int, int]) -> NDArray[np.float32]:
        """Room for a batch (B, M * c, side, side)."""
        return np.empty(shape, np.float32)

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (B, heads, K) of normalised pictures (B, M * c, side, side)."""
        return self._of_pictures(images)


class _Compiled:
    """A model of OpenVINO with a request for each lane, compiled when it is first called."""

    def __init__(self, model: Callable[[], Any], settings: Mapping[str, Any], lanes: int) -> None:
        self._model, self._settings, self._lanes = model, settings, lanes
        self._lock = threading.Lock()
        self._requests: queue.SimpleQueue[Any] | None = None

    def __call__(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        requests = self._ready()
        request = requests.get()
        try:
            given = {place: np.ascontiguousarray(values) for place, values in enumerate(inputs)}
            return np.array(request.infer(given, share_inputs=True)[0], np.float32)
        finally:
            requests.put(request)

    def _ready(self) -> queue.SimpleQueue[Any]:
        with self._lock:
            if self._requests is None:
                import openvino

                compiled = openvino.Core().compile_model(self._model(), "CPU", self._settings)
                requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
                for _ in range(self._lanes):
                    requests.put(compiled.create_infer_request())
                self._requests = requests
            return self._requests


def _normalising(model: Any, shape: tuple[int, int, int]) -> Any:
    """A model of OpenVINO with crops, gain and offset as inputs in the place of its pictures; it is changed."""
    import openvino
    from openvino import opset8

    crops = opset8.parameter(openvino.PartialShape([-1, *shape]), np.uint16)
    gain, offset = (opset8.parameter(openvino.PartialShape([-1, shape[0]]), np.float32) for _ in range(2))
    planes = [opset8.unsqueeze(values, np.array([2, 3])) for values in (gain, offset)]
    values = opset8.add(opset8.multiply(opset8.convert(crops, "f32"), planes[0]), planes[1])
    pictures = opset8.clamp(values, -CLIP, CLIP)
    for reader in model.input().get_node().output(0).get_target_inputs():
        reader.replace_source_output(pictures.output(0))
    return openvino.Model(model.get_results(), [crops, gain, offset])


def engine_for(bundle: Bundle, device: str = "auto", engine: str = "auto") -> Engine:
    """The fastest engine here that calls as the bundle was validated.

    float16 is used on a GPU where it gives what float32 gives. OpenVINO is chosen by itself where it is installed,
    converts the network and gives what torch gives on pictures drawn at random.

    Args:
        bundle: the model.
        device: ``auto``, ``cpu`` or ``cuda``.
        engine: ``auto``, ``torch`` or ``openvino``.

    Raises:
        ConfigError: what is asked for is not here, or does not agree with torch.
    """
    place = check_engine(device, engine)
    network, info = bundle.network(), bundle.info
    shape = (len(info.modalities) * info.planes, info.side, info.side)
    if place.type == "cuda":
        return _gpu_engine(network, place, shape)
    if engine == "torch":
        return TorchEngine(network, place)
    try:
        found = OpenVinoEngine(network, shape)
        check_agreement(found, TorchEngine(network, place), shape, AGREES["float32"])
    except (ConfigError, ImportError, RuntimeError, TypeError, ValueError) as error:
        if engine == "openvino":
            raise ConfigError(f"engine 'openvino': {error}") from error
        _note(f"cells are called by torch, more slowly: {error}")
        return TorchEngine(network, place)
    return found


def _gpu_engine(network: FusionNetwork, device: torch.device, shape: tuple[int, int, int]) -> TorchEngine:
    """A GPU in float16 if that gives what the processor gives in float32, else in float32."""
    found = TorchEngine(network, device, "float16")
    try:
        check_agreement(found, TorchEngine(network, torch.device("cpu")), shape, AGREES["float16"])
    except ConfigError:
        return TorchEngine(network, device)
    return found


@functools.cache
def _note(text: str) -> None:
    """Tell once."""
    print(text, file=sys.stderr, flush=True)


def check_agreement(
    engine: Engine, reference: Engine, shape: tuple[int, int, int], limit: float, cells: int = 8
) -> None:
    """Compare probabilities on pictures of noise of several roughnesses, normalised and, where it takes them, as crops.

    Raises:
        ConfigError: they differ by more than ``limit``.
    """
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn((cells, *shape), generator=generator)
    pictures[::2] = torch.nn.functional.avg_pool2d(pictures[::2], 9, stride=1, padding=4) * 9
    images = pictures.numpy()
    pairs = [(engine(images), reference(images))]
    if engine.of_crops is not None:
        contrast = np.linspace(1000, 4000, cells * shape[0], dtype=np.float32).reshape(cells, -1)  # each its own
        crops = (30_000 + images * contrast[..., None, None]).clip(0, 65_535).astype(np.uint16)
        gain = np.float32(1) / contrast
        gain[-1] *= 4  # beyond what is clipped
        offset = np.float32(-30_000) * gain
        pairs.append((engine.of_crops(crops, gain, offset), reference(scaled(crops, gain, offset))))
    apart = max(
        float((torch.from_numpy(one).softmax(-1) - torch.from_numpy(other).softmax(-1)).abs().max())
        for one, other in pairs
    )
    if not apart <= limit:
        raise ConfigError(f"its probabilities are up to {apart:.4f} from torch's.")
