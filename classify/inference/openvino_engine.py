"""Inference with OpenVINO on a processor."""

from __future__ import annotations

import queue
import threading
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wbcpipe.classify.inference.engine import share_threads
from wbcpipe.classify.models.normalise import CLIP
from wbcpipe.classify.networks import fused_copy
from wbcpipe.errors import MissingPackageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from wbcpipe.classify.inference.engine import CropLogits
    from wbcpipe.classify.networks import FusionNetwork

__all__ = ["OpenVinoEngine"]


class OpenVinoEngine:
    """Inference with OpenVINO in float32, with one stream for each core or for a few cores.

    It accepts raw crops: normalising them inside the network costs a sixth to a half of doing it
    before.

    Args:
        network: a trained network.
        shape: (M * c, side, side) of an image.
        threads: of the processor; by default torch's number, so that engines are comparable.

    Raises:
        MissingPackageError: OpenVINO is not installed.
    """

    name = "openvino-cpu-float32"
    batch_size = 8
    """The activations of 8 images stay in the processor's cache; 32 take up to a fifth longer per
    image.
    """

    def __init__(
        self, network: FusionNetwork, shape: tuple[int, int, int], threads: int | None = None
    ) -> None:
        try:
            import openvino
        except ImportError as error:
            raise MissingPackageError(
                "engine 'openvino' is not installed: pip install openvino."
            ) from error
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # tracing warns that sizes become constants, as intended
            # Torch's own check would trace and run the network again; `select_engine` compares the
            # probabilities.
            traced = torch.jit.trace(  # type: ignore[no-untyped-call]
                fused_copy(network), torch.zeros(2, *shape), check_trace=False
            )
            model = openvino.convert_model(traced, input=openvino.PartialShape([-1, *shape]))
        streams, each = share_threads(threads or torch.get_num_threads())
        self.streams = streams + 1  # one reads while the others compute
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": streams * each,
            "NUM_STREAMS": streams,
            # A thread that reads may run on a core that another stream is pinned to.
            "ENABLE_CPU_PINNING": False,
        }
        self._image_logits = _CompiledModel(lambda: model, settings, self.streams)
        self.crop_logits: CropLogits | None = _CompiledModel(
            lambda: _with_normalisation(model.clone(), shape), settings, self.streams
        )

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits (B, heads, K) of normalised images (B, M * c, side, side)."""
        return self._image_logits(images)


class _CompiledModel:
    """An OpenVINO model with one inference request for each stream, compiled at the first call."""

    def __init__(self, model: Callable[[], Any], settings: Mapping[str, Any], streams: int) -> None:
        self._model, self._settings, self._streams = model, settings, streams
        self._lock = threading.Lock()
        self._requests: queue.SimpleQueue[Any] | None = None

    def __call__(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        requests = self._compiled()
        request = requests.get()
        try:
            given = {index: np.ascontiguousarray(values) for index, values in enumerate(inputs)}
            return np.array(request.infer(given, share_inputs=True)[0], np.float32)
        finally:
            requests.put(request)

    def _compiled(self) -> queue.SimpleQueue[Any]:
        with self._lock:
            if self._requests is None:
                import openvino

                compiled = openvino.Core().compile_model(self._model(), "CPU", self._settings)
                requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
                for _ in range(self._streams):
                    requests.put(compiled.create_infer_request())
                self._requests = requests
            return self._requests


def _with_normalisation(model: Any, shape: tuple[int, int, int]) -> Any:
    """Replace the input of an OpenVINO model, in place, by crops, gain and offset."""
    import openvino
    from openvino import opset8

    crops = opset8.parameter(openvino.PartialShape([-1, *shape]), np.uint16)
    gain, offset = (
        opset8.parameter(openvino.PartialShape([-1, shape[0]]), np.float32) for _ in range(2)
    )
    planes = [opset8.unsqueeze(values, np.array([2, 3])) for values in (gain, offset)]
    values = opset8.add(opset8.multiply(opset8.convert(crops, "f32"), planes[0]), planes[1])
    images = opset8.clamp(values, -CLIP, CLIP)
    for reader in model.input().get_node().output(0).get_target_inputs():
        reader.replace_source_output(images.output(0))
    return openvino.Model(model.get_results(), [crops, gain, offset])
