"""The camera that sees a slide's label, and the lamp for it.

The scan camera has its role back after each image.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np

from wbcpipe.errors import HardwareError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from wbcpipe.acquire.config.policies import DeviceSetting
    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.protocols import Core

__all__ = ["CoreLabelCamera"]


class CoreLabelCamera:
    """Fulfils `protocols.LabelCamera`.

    Attributes:
        render: replaces the pixels (y, x) of the camera; on a virtual scope only.
    """

    def __init__(self, scope: Scope, core: Core) -> None:
        self._scope, self._core = scope, core
        self.render: Callable[[tuple[int, int]], NDArray[np.unsignedinteger]] | None = None

    @contextlib.contextmanager
    def lit(self) -> Iterator[None]:
        """See `protocols.LabelCamera.lit`."""
        try:
            self._set(self._scope.label.lamp_on)
            yield
        finally:
            self._set(self._scope.label.lamp_off)

    def snap(self, exposure_ms: float) -> NDArray[np.unsignedinteger]:
        """See `protocols.LabelCamera.snap`."""
        core, timeout_s = self._core, self._scope.reliability.camera_timeout_s + exposure_ms / 1000
        core.call("set_camera_device", self._scope.label.device)
        try:
            core.call("set_exposure", float(exposure_ms))
            core.call_with_deadline(
                lambda: core.call("snap_image"), timeout_s, "the label camera's exposure"
            )
            shape = (int(core.call("get_image_height")), int(core.call("get_image_width")))
            pixels = _grey(core.call("get_image"), shape)
        finally:
            core.call("set_camera_device", self._scope.camera.device)
        return pixels if self.render is None else self.render(shape)

    def _set(self, settings: tuple[DeviceSetting, ...]) -> None:
        for setting in settings:
            self._core.set_property(setting.device, setting.property, setting.value)
        devices = tuple(
            dict.fromkeys(setting.device for setting in settings if setting.device != "Core")
        )
        self._core.wait_for(
            devices, self._scope.reliability.switch_timeout_s, "switching the label's lamp"
        )


def _grey(raw: Any, shape: tuple[int, int]) -> NDArray[np.unsignedinteger]:
    """Return the camera's answer as an unsigned frame (y, x); colours are averaged.

    Raises:
        HardwareError: it is not a frame of that shape.
    """
    pixels = np.asarray(raw)
    n_pixels = shape[0] * shape[1]
    if pixels.dtype.itemsize == 4 and pixels.size == n_pixels:  # packed colours
        pixels = np.ascontiguousarray(pixels).view(np.uint8)
    if pixels.dtype.itemsize == 1 and pixels.size == 4 * n_pixels:
        colours = pixels.view(np.uint8).reshape(*shape, 4)[
            ..., :3
        ]  # (Y, X, 3), without the unused fourth byte
        grey: NDArray[np.uint8] = np.rint(colours.mean(axis=-1)).astype(np.uint8)
        return grey
    if pixels.dtype.itemsize > 2 or pixels.size != n_pixels:
        raise HardwareError(
            f"the label camera gave {pixels.dtype} of {pixels.shape}; a grey or colour frame of "
            f"{shape} was expected. Check its pixel type in the .cfg."
        )
    frame: NDArray[np.unsignedinteger] = pixels.view(f"u{pixels.dtype.itemsize}").reshape(shape)
    return frame
