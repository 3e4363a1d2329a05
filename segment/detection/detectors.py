"""Other nucleus detectors, with one interface.

A detector is a function of the nuclear channel and its pixel size that returns a label image.
``cellpose`` and ``stardist`` use the user's own installation; ``MODULE:FUNCTION`` is any function
that can be imported. Lobes of one nucleus may have labels of their own: they are merged afterwards.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from wbcpipe.errors import ConfigError
from wbcpipe.imaging.arrays import block_mean
from wbcpipe.samples.segment_settings.detection import OtherDetectorSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["OWN", "Detector", "find_labels", "load_detector"]

#: The built-in detector of `segment.detection.detect`.
OWN: Final = "own"
_DEFAULT: Final = OtherDetectorSettings()


class Detector(Protocol):
    """Finds nuclei or cells in an image."""

    def __call__(self, nuclear: NDArray[np.float32], pixel_um: float) -> NDArray[np.integer[Any]]:
        """Label the nuclei.

        Args:
            nuclear: (Y, X) float32, nuclei bright on dark.
            pixel_um: size of a pixel.

        Returns:
            (Y, X) integers: 0 in the background, else the number of the nucleus.
        """


def load_detector(name: str, settings: OtherDetectorSettings = _DEFAULT) -> Detector | None:
    """Load a detector by its name; return ``None`` for the built-in detector.

    Args:
        name: ``own``, ``cellpose``, ``stardist`` or ``MODULE:FUNCTION``.
        settings: of the input of trained detectors.

    Raises:
        ConfigError: the detector is not installed, or there is no such function.
    """
    if name == OWN:
        return None
    if name == "cellpose":
        return cellpose_detector(settings)
    if name == "stardist":
        return stardist_detector(settings)
    module_name, colon, function_name = name.partition(":")
    if not (colon and module_name and function_name):
        raise ConfigError(f"no detector {name!r}: give own, cellpose, stardist or MODULE:FUNCTION.")
    function = getattr(_module(module_name, name), function_name, None)
    if not callable(function):
        raise ConfigError(f"detector {name!r}: {module_name} has no function {function_name!r}.")
    return _checked(function, name)


def find_labels(detector: Detector, nuclear: NDArray[Any], pixel_um: float) -> NDArray[np.int32]:
    """Label the nuclei of an image with a detector.

    Args:
        detector: from `load_detector`.
        nuclear: (Y, X) any number type, nuclei bright on dark.
        pixel_um: size of a pixel.

    Returns:
        (Y, X) int32, labels from 1 without gaps.

    Raises:
        ConfigError: the detector does not return a label image of this shape.
    """
    labels = np.asarray(detector(np.asarray(nuclear, np.float32), pixel_um))
    if labels.shape != nuclear.shape or not np.issubdtype(labels.dtype, np.integer):
        raise ConfigError(
            f"the detector returned {labels.dtype} of shape {labels.shape}; "
            f"integers of shape {nuclear.shape} are needed."
        )
    if labels.size and labels.min() < 0:
        raise ConfigError(
            "the detector returned negative labels; use 0 for the background, and positive "
            "numbers for nuclei."
        )
    numbers, dense = np.unique(labels, return_inverse=True)
    dense = dense.reshape(labels.shape) + (0 if numbers.size and numbers[0] == 0 else 1)
    return np.asarray(dense, np.int32)


def _checked(function: Any, name: str) -> Detector:
    def detector(nuclear: NDArray[np.float32], pixel_um: float) -> NDArray[np.integer[Any]]:
        try:
            return np.asarray(function(nuclear, pixel_um))
        except Exception as error:
            raise ConfigError(
                f"detector {name!r} failed: {type(error).__name__}: {error}"
            ) from error

    return detector


def _module(module_name: str, name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"detector {name!r}: {error}; is it installed in this environment?"
        ) from error


@cache
def cellpose_detector(settings: OtherDetectorSettings) -> Detector:
    """Return Cellpose 3 with its model ``nuclei``, or Cellpose 4, which has one model only."""
    models = _module("cellpose.models", "cellpose")
    torch = _module("torch", "cellpose")
    options = {"model_type": "nuclei"} if hasattr(models, "Cellpose") else {}
    model = models.CellposeModel(gpu=bool(torch.cuda.is_available()), **options)

    def find(nuclear: NDArray[np.float32], pixel_um: float) -> NDArray[np.integer[Any]]:
        return np.asarray(model.eval(nuclear, diameter=settings.nucleus_um / pixel_um)[0])

    return _checked(_at_pixel_size(find, settings.pixel_um), "cellpose")


@cache
def stardist_detector(settings: OtherDetectorSettings) -> Detector:
    """Return StarDist with its model ``2D_versatile_fluo``."""
    model = _module("stardist.models", "stardist").StarDist2D.from_pretrained("2D_versatile_fluo")

    def find(
        nuclear: NDArray[np.float32],
        pixel_um: float,  # noqa: ARG001 - of the protocol
    ) -> NDArray[np.integer[Any]]:
        low, high = np.percentile(nuclear, [1, 99.8])
        return np.asarray(
            model.predict_instances((nuclear - low) / max(float(high - low), 1e-6))[0]
        )

    return _checked(_at_pixel_size(find, settings.pixel_um), "stardist")


def _at_pixel_size(find: Detector, trained_um: float) -> Detector:
    """Return a detector that works at the pixel size of trained detectors."""

    def detector(nuclear: NDArray[np.float32], pixel_um: float) -> NDArray[np.integer[Any]]:
        factor = max(1, round(trained_um / pixel_um))
        labels = find(block_mean(nuclear, factor), pixel_um * factor)
        rows, columns = nuclear.shape
        return np.repeat(np.repeat(labels, factor, 0), factor, 1)[:rows, :columns]

    return detector
