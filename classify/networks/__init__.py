"""The networks of the paper's Table 1: one file per variant over a shared base."""

from wbcpipe.classify.networks.base import FusionNetwork
from wbcpipe.classify.networks.early_fusion import EarlyFusion
from wbcpipe.classify.networks.late_fusion import LateFusion
from wbcpipe.classify.networks.mm_mimo import MultiModalMimo
from wbcpipe.classify.networks.single import SingleModality

__all__ = ["EarlyFusion", "FusionNetwork", "LateFusion", "MultiModalMimo", "SingleModality", "build_network"]


def build_network(method: str, backbone: str, modalities: int, planes: int, classes: int) -> FusionNetwork:
    """A randomly initialised network of ``method``; distillation changes the training, not the network.

    Args:
        method: one of ``METHODS``.
        backbone: one of ``BACKBONES``.
        modalities: M; for ``single`` it must be 1.
        planes: c, planes of each modality.
        classes: K.

    Raises:
        ValueError: a method or backbone that is not known, or ``single`` with several modalities.
    """
    match method.removesuffix("-kd"):
        case "single":
            if modalities != 1:
                raise ValueError(f"method 'single' reads 1 modality, {modalities} were given; choose one of them.")
            return SingleModality(backbone, planes, classes)
        case "early-fusion":
            return EarlyFusion(backbone, modalities, planes, classes)
        case "late-fusion":
            return LateFusion(backbone, modalities, planes, classes)
        case "mm-mimo":
            return MultiModalMimo(backbone, modalities, planes, classes)
    raise ValueError(
        f"method {method!r} is not known; use 'single', 'early-fusion', 'late-fusion', 'mm-mimo' or a '-kd' of these."
    )
