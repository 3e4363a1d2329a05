"""The rigid map from the slide as the first pass saw it to the stage, and the fit of one to matched
points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["IDENTITY_TRANSFORM", "SlideTransform", "fit_slide_transform"]


@dataclass(frozen=True)
class SlideTransform:
    """Position of a slide on the stage: a point s of the slide lies at ``R(rotation_deg) s +
    (dx_um, dy_um)``.

    The slide's points are given as stage positions of the first pass.

    Attributes:
        rotation_deg: positive is clockwise in an image whose y axis points down.
        dx_um, dy_um: shift of the slide's origin on the stage.
    """

    rotation_deg: float = 0.0
    dx_um: float = 0.0
    dy_um: float = 0.0

    @classmethod
    def about(
        cls,
        pivot_um: tuple[float, float],
        rotation_deg: float,
        dx_um: float = 0.0,
        dy_um: float = 0.0,
    ) -> Self:
        """Return the rotation about ``pivot_um`` (x, y), followed by a shift."""
        x_um, y_um = cls(rotation_deg).to_stage_um(*pivot_um)
        return cls(rotation_deg, pivot_um[0] - x_um + dx_um, pivot_um[1] - y_um + dy_um)

    @classmethod
    def through(
        cls, rotation_deg: float, first_um: tuple[float, float], now_um: tuple[float, float]
    ) -> Self:
        """Return the map of a known rotation that brings one point (x, y) onto another."""
        x_um, y_um = cls(rotation_deg).to_stage_um(*first_um)
        return cls(rotation_deg, now_um[0] - x_um, now_um[1] - y_um)

    def matrix(self) -> NDArray[np.float64]:
        """Return the (2, 2) float64 rotation that acts on (x, y)."""
        cosine, sine = (
            math.cos(math.radians(self.rotation_deg)),
            math.sin(math.radians(self.rotation_deg)),
        )
        return np.array([[cosine, -sine], [sine, cosine]])

    def to_stage_um(self, x_um: float, y_um: float) -> tuple[float, float]:
        """Return the stage position (x, y) of a point of the slide."""
        x, y = self.matrix() @ (x_um, y_um)
        return float(x) + self.dx_um, float(y) + self.dy_um

    def to_slide_um(self, x_um: float, y_um: float) -> tuple[float, float]:
        """Return the point (x, y) of the slide at a stage position."""
        x, y = self.matrix().T @ (x_um - self.dx_um, y_um - self.dy_um)
        return float(x), float(y)


IDENTITY_TRANSFORM: Final = SlideTransform()
"""A slide that was not moved since the first pass."""


def fit_slide_transform(
    first_um: NDArray[np.float64], second_um: NDArray[np.float64]
) -> SlideTransform:
    """Fit the rotation and shift that map points onto points, by least squares.

    S. Umeyama, IEEE Trans. PAMI 13 (1991) 376, doi:10.1109/34.88573, in the plane and without
    scale.

    Args:
        first_um, second_um: (N, 2) float64, as (x, y); two or more points.

    >>> planned, found = np.array([[0.0, 0.0], [100.0, 0.0]]), np.array([[5.0, 1.0], [5.0, 101.0]])
    >>> turned = fit_slide_transform(planned, found)
    >>> round(turned.rotation_deg, 6), round(turned.dx_um, 6), round(turned.dy_um, 6)
    (90.0, 5.0, 1.0)
    """
    centre, moved = first_um.mean(axis=0), second_um.mean(axis=0)
    a, b = first_um - centre, second_um - moved
    angle = math.atan2(float((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()), float((a * b).sum()))
    return SlideTransform.through(
        math.degrees(angle), tuple(centre.tolist()), tuple(moved.tolist())
    )
