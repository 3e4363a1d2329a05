"""Export of bundles as ONNX files for other programs.

Each file is compared with torch before it is written.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from wbcpipe.classify.inference.engine import TorchEngine
from wbcpipe.classify.inference.verify import check_logits, trial_images
from wbcpipe.classify.networks import fused_copy
from wbcpipe.errors import BundleError, MissingPackageError
from wbcpipe.system.files import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.classify.models.bundle import Bundle, BundleInfo
    from wbcpipe.classify.networks import FusionNetwork

__all__ = [
    "OnnxCheck",
    "OnnxExport",
    "OnnxNetwork",
    "check_onnx",
    "export_onnx",
    "onnx_metadata",
    "onnx_model",
    "traced",
]

_INSTALL: Final = "pip install 'wbcpipe[export]'"
_SHA256: Final = "wbcpipe.sha256"


@dataclass(frozen=True)
class OnnxCheck:
    """An ONNX file that agrees with its bundle; ``max_difference`` of logits is relative to the
    largest one.
    """

    trial_images: int
    max_difference: float


@dataclass(frozen=True)
class OnnxExport:
    """An ONNX file that was written."""

    bundle: str
    sha256: str
    path: str
    bytes: int
    check: OnnxCheck


class OnnxNetwork:
    """An ONNX file opened with ONNX Runtime in float32 on the processor.

    Needs the extra ``wbcpipe[export]``.

    Args:
        model: the bytes of an ONNX file that `export_onnx` made.
        what: name of the file in errors.

    Attributes:
        metadata: the metadata in the file.

    Raises:
        BundleError: the bytes are not an ONNX file.
        MissingPackageError: ONNX Runtime is not installed.
    """

    def __init__(self, model: bytes, what: str = "model") -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingPackageError(f"ONNX Runtime is not installed: {_INSTALL}.") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions share no base class
            raise BundleError(
                f"{what}: ONNX Runtime cannot read this file ({error}); export it again."
            ) from error
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits (B, heads, K) of normalised images (B, M * c, side, side)."""
        found: NDArray[np.float32] = self._session.run(
            ["logits"], {"images": np.ascontiguousarray(images)}
        )[0]
        return found


def onnx_metadata(info: BundleInfo) -> dict[str, str]:
    """Return the metadata by which another program prepares the input and reads the output, as text
    and JSON.
    """
    content = info.model_dump(mode="json", exclude_none=True)
    kept = ("name", "method", "backbone", "classes", "modalities", "derived", "planes", "kind")
    sizes = ("pixel_um", "crop_px", "side", "normalisation", "calibration")
    return {
        **{f"wbcpipe.{key}": json.dumps(content[key]) for key in (*kept, *sizes)},
        _SHA256: info.sha256,
        "wbcpipe.heads": json.dumps(info.head_names),
        "wbcpipe.input": (
            f"images: float32 (batch, {len(info.modalities) * info.planes}, {info.side}, "
            f"{info.side}), the planes of the first modality first; from uint16 crops of "
            f"{info.crop_px} px at {info.pixel_um} "
            f"um per pixel, reduced by area averaging. Each plane of each cell is scaled by "
            "quantiles of about 28 x 28 of its pixels: "
            "polarity bright: value / q90; stained: (value - q2) / (q90 - q2); separated: as in "
            "wbcpipe.classify.models.stain_separation, / 40000; dark: (value - q10) / (q99 - q10), "
            "each divisor at least 64; fixed: value / 65535. Then (value - mean) / std, clipped to "
            "-8 and 8. See "
            "wbcpipe.normalisation."
        ),
        "wbcpipe.output": (
            f"logits: float32 (batch, {len(info.head_names)} heads, {len(info.classes)} classes), "
            f"not calibrated. See wbcpipe.calibration."
        ),
        "wbcpipe.use": "Research software: not for diagnostic use.",
    }


def onnx_model(bundle: Bundle) -> bytes:
    """Return an ONNX file as bytes: batch normalisation folded, any batch size.

    Raises:
        MissingPackageError: the exporter is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 - without it torch's exporter fails late, with an unclear message
    except ImportError as error:
        raise MissingPackageError(f"the ONNX exporter is not installed: {_INSTALL}.") from error
    info = bundle.info
    model = traced(bundle.network(), (len(info.modalities) * info.planes, info.side, info.side))
    onnx.helper.set_model_props(model, onnx_metadata(info))
    content: bytes = model.SerializeToString()
    return content


def traced(network: FusionNetwork, shape: tuple[int, int, int]) -> Any:
    """Return the ``onnx.ModelProto`` of a network for images of ``shape`` (M * c, side, side),
    without metadata.
    """
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
        del part.metadata_props[:]  # torch writes paths of its own source files here
        part.doc_string = ""
    del graph.metadata_props[:]
    return model


def check_onnx(bundle: Bundle, model: bytes, what: str) -> OnnxCheck:
    """Compare an ONNX file with its bundle, for one image and for several.

    Args:
        bundle: the model as torch runs it.
        model: bytes of the ONNX file.
        what: name of the file in errors.

    Raises:
        BundleError: the file is of other weights, or its logits differ by more than rounding.
        MissingPackageError: ONNX Runtime is not installed.
    """
    network = OnnxNetwork(model, what)
    exported_from = network.metadata.get(_SHA256, "none")
    if exported_from != bundle.info.sha256:
        raise BundleError(
            f"{what}: was exported from weights {exported_from[:12]}, bundle {bundle.info.name!r} "
            f"has {bundle.info.sha256[:12]}; export it again."
        )
    reference = TorchEngine(bundle.network(), torch.device("cpu"))
    images = trial_images(bundle.info)
    difference = max(check_logits(network, reference, some, what) for some in (images, images[:1]))
    return OnnxCheck(len(images), difference)


def export_onnx(bundle: Bundle, out: Path) -> OnnxExport:
    """Write a bundle as an ONNX file, after comparing it with torch.

    Raises:
        BundleError: the file exists already, or the export does not agree with torch; nothing is
            written.
        MissingPackageError: the exporter or ONNX Runtime is not installed.
    """
    if out.exists():
        raise BundleError(f"{out}: exists already; give another --out, or move it away.")
    if not out.absolute().parent.is_dir():
        raise BundleError(f"{out}: its folder does not exist; make it, or give another --out.")
    model = onnx_model(bundle)
    found = check_onnx(bundle, model, f"ONNX export of {bundle.info.name!r}")
    with write_atomic(out) as handle:
        handle.write(model)
    return OnnxExport(bundle.info.name, bundle.info.sha256, str(out), len(model), found)
