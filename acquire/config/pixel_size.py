"""Compares the pixel size and the orientation of a scope file with those that Micro-Manager has."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from wbcpipe.acquire.config.cfg_reader import HardwareConfig, PixelSize
    from wbcpipe.acquire.config.scope import Camera, Scope

__all__ = ["pixel_size_difference", "pixel_size_warnings"]

#: Largest difference of two pixel sizes, and of two directions, that measuring them explains.
_MAX_RATIO: Final = 1.03
_MAX_TURN_DEGREES: Final = 2.0

_Affine = tuple[float, float, float, float]


def pixel_size_warnings(scope: Scope, config: HardwareConfig) -> list[str]:
    """Return sentences about pixel sizes of the .cfg that differ from the scope file's.

    With several of them, as for several objectives, one must agree; where the start-up settings
    choose one, that one.
    """
    sizes = {
        name: size for name, size in config.pixel_sizes.items() if size.pixel_um or size.affine
    }
    chosen = {name: size for name, size in sizes.items() if _is_set(config, size)} or sizes
    found = {
        name: pixel_size_difference(scope.camera, size.pixel_um, size.affine)
        for name, size in chosen.items()
    }
    if not found or "" in found.values():
        return []
    return [
        f"line {chosen[name].line} of the .cfg, resolution {name!r}: {text}"
        for name, text in found.items()
    ]


def pixel_size_difference(camera: Camera, pixel_um: float, affine: _Affine | None) -> str:
    """Return how a pixel size differs from that of a scope file, as a clause; empty if it does not.

    Args:
        camera: of the scope file.
        pixel_um: side of an unbinned pixel; 0 where it is not known.
        affine: (a, b, c, d) of the matrix from pixels to um of the stage; ``None`` or zeros where
            it is not known. Its sign is that of a convention, so a half turn is no difference.
    """
    differences = []
    if pixel_um > 0 and not _alike(pixel_um, camera.pixel_um):
        differences.append(f"a pixel of {pixel_um:g} um, 'camera.pixel_um' is {camera.pixel_um:g}")
    if affine is not None and any(affine):
        differences += _affine_differences(camera, affine)
    if not differences:
        return ""
    return (
        f"{'; '.join(differences)}: correct the one that is wrong (`wbcpipe calibrate` "
        f"measures both)"
    )


def _affine_differences(camera: Camera, affine: _Affine) -> list[str]:
    a, b, c, d = affine
    determinant = a * d - b * c
    if not determinant or not math.isfinite(determinant):
        return [f"its affine transform {list(affine)} is singular"]
    found = []
    side_um = math.sqrt(abs(determinant))
    if not _alike(side_um, camera.pixel_um):
        found.append(
            f"an affine transform for a pixel of {side_um:.4g} um, 'camera.pixel_um' is "
            f"{camera.pixel_um:g}"
        )
    (e, f), (g, h) = camera.stage_affine
    own = e * h - f * g
    if (determinant > 0) != (own > 0):
        found.append("an affine transform that is flipped against 'camera.stage_affine'")
        return found
    turn = math.degrees(math.atan2(c, a) - math.atan2(g, e)) % 180.0
    if min(turn, 180.0 - turn) > _MAX_TURN_DEGREES:
        found.append(
            f"an affine transform that is turned by {turn:.0f} degrees against "
            f"'camera.stage_affine'"
        )
    return found


def _alike(first: float, second: float) -> bool:
    return 1 / _MAX_RATIO <= first / second <= _MAX_RATIO


def _is_set(config: HardwareConfig, size: PixelSize) -> bool:
    """Return whether the start-up settings are those for which a pixel size holds."""
    loaded = {(device, name): value for device, name, value in config.settings}
    return bool(size.settings) and all(
        loaded.get((device, name)) == value for device, name, value in size.settings
    )
