"""The label of a virtual slide: paper with a printed barcode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from wbcpipe.acquire.simulation.specimen.random_streams import Purpose, stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.simulation.optics.light_path import OpticalState

__all__ = ["label_image", "seen_through_the_objective"]

_PAPER: Final = 205
_INK: Final = 40
_NOISE: Final = 8.0
#: Part of the image's side that the code covers.
_CODE_SHARE: Final = 0.6


def label_image(text: str, shape: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    """Return an image (y, x) of a label with a DataMatrix.

    Args:
        text: content of the code; without one the label is blank.
        shape: (height, width).
        seed: of the noise.
    """
    rng = stream(Purpose.LABEL, seed)
    image = rng.normal(_PAPER, _NOISE, shape)
    if text:
        import zxingcpp

        code = zxingcpp.create_barcode(text, zxingcpp.BarcodeFormat.DataMatrix)
        modules = np.asarray(code.to_image(scale=1, add_quiet_zones=False)) < 128  # (M, M)
        scale = max(int(min(shape) * _CODE_SHARE) // max(modules.shape), 1)
        ink = np.kron(modules, np.ones((scale, scale), bool))[: shape[0], : shape[1]]
        top, left = ((side - own) // 2 for side, own in zip(shape, ink.shape, strict=True))
        image[top : top + ink.shape[0], left : left + ink.shape[1]][ink] -= _PAPER - _INK
    return np.clip(image, 0, 255).astype(np.uint8)


def seen_through_the_objective(
    draw: Callable[[], NDArray[np.uint8]],
    scope: Scope,
    state: OpticalState,
    out: NDArray[np.uint16],
) -> bool:
    """Write what the scan camera sees of a label into ``out`` (y, x).

    Return False where there is no label.

    The label lies at the slot's position of the scope file and is three quarters as large as the
    area that is looked
    at: real labels are larger, but so is the field of the objective that reads them. It does not
    move with a slide that is put back a little askew, since it is large against that.

    Args:
        draw: returns the label (y, x), square; called where it is seen.
        scope: gives the positions.
        state: of the devices.
        out: overwritten.
    """
    side_um = 0.75 * min(scope.label.area_um or scope.field_um)
    pixel_um = scope.camera.image_pixel_um
    dx_um, dy_um = scope.camera.centre_offset_um()
    reach_um = side_um / 2 + max(scope.field_um) / 2
    height_px, width_px = out.shape
    for x_um, y_um in scope.label.positions_um.values():
        from_x_um, from_y_um = state.x_um + dx_um - x_um, state.y_um + dy_um - y_um
        if max(abs(from_x_um), abs(from_y_um)) >= reach_um:
            continue
        label = draw()
        rows = _label_pixels(from_y_um, height_px, pixel_um, side_um, label.shape[0])
        columns = _label_pixels(from_x_um, width_px, pixel_um, side_um, label.shape[1])
        on_label = ((rows >= 0) & (rows < label.shape[0]))[:, None] & (
            (columns >= 0) & (columns < label.shape[1])
        )
        seen = label[rows.clip(0, label.shape[0] - 1)][:, columns.clip(0, label.shape[1] - 1)]
        grey = np.where(on_label, seen, _PAPER).astype(np.float32)  # (Y, X); paper around the code
        level = scope.camera.saturation / 512 * state.exposure_ms / scope.label.exposure_ms
        out[:] = np.clip(grey * level, 0, scope.camera.saturation).astype(np.uint16)
        return True
    return False


def _label_pixels(
    from_um: float, n_px: int, pixel_um: float, side_um: float, label_px: int
) -> NDArray[np.int64]:
    """Return the label's pixel under each of ``n_px`` pixels of the camera, along one axis."""
    at_um = from_um + (np.arange(n_px) - (n_px - 1) / 2) * pixel_um
    pixels: NDArray[np.int64] = np.floor((at_um / side_um + 0.5) * label_px).astype(np.int64)
    return pixels
