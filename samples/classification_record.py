"""How the cells of a sample were classified: attribute ``classified`` of ``cells.zarr``."""

from __future__ import annotations

from pydantic import JsonValue

from wbcpipe.samples.differential_record import ModelF1, RiskControl
from wbcpipe.samples.records import Part

__all__ = ["Classification"]


class Classification(Part):
    """The model, its calibration and its options.

    Attributes:
        bundle: name of the bundle.
        sha256: of its weights.
        calibration_digest: short hash of its calibration.
        method: how modalities are fused.
        classes: K names.
        heads: H names.
        weights: (H,) of the heads in the fused probability.
        threshold: cells of lower confidence are unidentified.
        excluded_modalities: modalities that were not used.
        dead_modalities: those of them that show nothing in most cells.
        f1_weighted: of the bundle; ``None`` if no modality was excluded.
        risk_control: the error bound at the threshold; ``None`` without one.
        calibration: as the bundle holds it.
        engine: that ran the network.
        batch_size: cells at once.
        trained_on_sample: the bundle was trained on cells of a sample of this name.
    """

    bundle: str
    sha256: str
    calibration_digest: str = ""
    method: str = ""
    classes: tuple[str, ...]
    heads: tuple[str, ...]
    weights: tuple[float, ...] = ()
    threshold: float
    excluded_modalities: tuple[str, ...] = ()
    dead_modalities: tuple[str, ...] = ()
    f1_weighted: ModelF1 | None = None
    risk_control: RiskControl | None = None
    calibration: dict[str, JsonValue] | None = None
    engine: str = ""
    batch_size: int | None = None
    trained_on_sample: bool = False
