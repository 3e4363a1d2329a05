"""Bundles as ONNX files for other programs; each is compared with torch before it takes its name."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from wbcpipe.classify.inference.engine import TorchEngine
from wbcpipe.classify.inference.verify import check_agreement, trial_pictures
from wbcpipe.classify.networks.fuse import fused_copy
from wbcpipe.errors import BundleError, ConfigError
from wbcpipe.system.files import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.classify.models.bundle import Bundle, BundleInfo
    from wbcpipe.classify.networks import FusionNetwork

__all__ = ["OnnxNetwork", "check_onnx", "export_onnx", "onnx_metadata", "onnx_model", "traced"]

_INSTALL: Final = "pip install 'wbcpipe[export]'"
_SHA256: Final = "wbcpipe.sha256"


class OnnxNetwork:
    """An ONNX file opened with ONNX Runtime in float32 on the processor; needs the extra ``wbcpipe[export]``.

    Args:
        model: the bytes of an ONNX file that `export_onnx` made.
        what: its name in errors.

    Attributes:
        metadata: the metadata in the file.

    Raises:
        BundleError: the bytes are not an ONNX file.
        ConfigError: ONNX Runtime is not installed.
    """

    def __init__(self, model: bytes, what: str = "model") -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ConfigError(f"ONNX Runtime is not installed: {_INSTALL}.") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class
            raise BundleError(f"{what}: ONNX Runtime cannot read this file ({error}); export it again.") from error
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits (B, heads, K) of normalised images (B, M * c, side, side)."""
        found: NDArray[np.float32] = self._session.run(["logits"], {"images": np.ascontiguousarray(images)})[0]
        return found


def onnx_metadata(info: BundleInfo) -> dict[str, str]:
    """What another program must know to feed the network and to read its answers, as text and JSON."""
    content = info.model_dump(mode="json", exclude_none=True)
    kept = ("name", "method", "backbone", "classes", "modalities", "derived", "planes", "kind")
    sizes = ("pixel_um", "crop_px", "side", "normalisation", "calibration")
    return {
        **{f"wbcpipe.{key}": json.dumps(content[key]) for key in (*kept, *sizes)},
        _SHA256: info.sha256,
        "wbcpipe.heads": json.dumps(info.head_names),
        "wbcpipe.input": (
            f"images: float32 (batch, {len(info.modalities) * info.planes}, {info.side}, {info.side}), the planes of "
            f"the first modality first; from uint16 crops of {info.crop_px} px at {info.pixel_um} um a pixel, reduced "
            "by averaging over areas. Each plane of each cell is scaled by itself on about 28 x 28 of its pixels: "
            "polarity bright: value / q90; stained: (value - q2) / (q90 - q2); dark: (value - q10) / (q99 - q10), each "
            "divisor at least 64; fixed: value / 65535. Then (value - mean) / std, clipped to -8 and 8. See "
            "wbcpipe.normalisation."
        ),
        "wbcpipe.output": (
            f"logits: float32 (batch, {len(info.head_names)} heads, {len(info.classes)} classes), not calibrated. See "
            "wbcpipe.calibration."
        ),
        "wbcpipe.use": "Research software: not for diagnostic use.",
    }


def onnx_model(bundle: Bundle) -> bytes:
    """An ONNX file's bytes: batch norm folded, any number of pictures at once.

    Raises:
        ConfigError: the exporter is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch's exporter fails late and obscurely without it
    except ImportError as error:
        raise ConfigError(f"the ONNX exporter is not installed: {_INSTALL}.") from error
    info = bundle.info
    model = traced(bundle.network(), (len(info.modalities) * info.planes, info.side, info.side))
    onnx.helper.set_model_props(model, onnx_metadata(info))
    content: bytes = model.SerializeToString()
    return content


def traced(network: FusionNetwork, shape: tuple[int, int, int]) -> Any:
    """The ``onnx.ModelProto`` of a network for pictures of ``shape`` (M * c, side, side), without metadata."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own parts
        program = torch.onnx.export(
            fused_copy(network),
            (torch.zeros(2, *shape),),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        )
    assert program is not None, "torch gives a program unless it writes a file itself"
    model = program.model_proto
    graph = model.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]  # what torch notes of its own source, paths of this machine among it
        part.doc_string = ""
    del graph.metadata_props[:]
    return model


def check_onnx(bundle: Bundle, model: bytes, what: str) -> dict[str, Any]:
    """Compare an ONNX file with the bundle it was made of, one picture and several at once.

    Args:
        bundle: the model as torch runs it.
        model: bytes of the ONNX file.
        what: is named in errors.

    Returns:
        The number of pictures and the largest difference as a share of the largest logit.

    Raises:
        BundleError: the file is of other weights, or its logits differ by more than rounding.
        ConfigError: ONNX Runtime is not installed.
    """
    network = OnnxNetwork(model, what)
    made_of = network.metadata.get(_SHA256, "none")
    if made_of != bundle.info.sha256:
        raise BundleError(
            f"{what}: was exported from weights {made_of[:12]}, bundle {bundle.info.name!r} has "
            f"{bundle.info.sha256[:12]}; export it again."
        )
    reference = TorchEngine(bundle.network(), torch.device("cpu"))
    pictures = trial_pictures(bundle.info)
    apart = max(check_agreement(network, reference, some, what) for some in (pictures, pictures[:1]))
    return {"trial_pictures": len(pictures), "largest_difference": apart}


def export_onnx(bundle: Bundle, out: Path) -> dict[str, Any]:
    """Write a bundle as an ONNX file, once it was found to give what torch gives.

    Returns:
        Bundle, path, bytes, and what `check_onnx` found.

    Raises:
        BundleError: a file is there already, or the export does not agree with torch; nothing is written.
        ConfigError: the exporter or ONNX Runtime is not installed.
    """
    if out.exists():
        raise BundleError(f"{out}: is there already; name another --out, or move it away.")
    if not out.absolute().parent.is_dir():
        raise BundleError(f"{out}: its folder is not there; make it, or name another --out.")
    model = onnx_model(bundle)
    found = check_onnx(bundle, model, f"ONNX export of {bundle.info.name!r}")
    with write_atomic(out) as handle:
        handle.write(model)
    return {"bundle": bundle.info.name, "sha256": bundle.info.sha256, "path": str(out), "bytes": len(model), **found}
