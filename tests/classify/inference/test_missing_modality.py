"""Calling without a modality.

What takes its place, which calibration holds, and that it says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from wbcpipe.classify.inference.missing_modality import blank, calibration_without, typical_profiles
from wbcpipe.errors import BundleError

if TYPE_CHECKING:
    from wbcpipe.classify.models.bundle import Bundle

MODALITIES = ("color1", "color2", "fluorescence")


def test_typical_planes_are_what_cells_look_like_on_average() -> None:
    y, x = np.mgrid[:40, :40] - 19.5
    radius = np.hypot(y, x) / 20
    rng = np.random.default_rng(0)
    smooth = np.stack([2 - 3 * radius, np.cos(2 * radius)])
    images = (smooth + rng.normal(0, 0.3, (200, 2, 40, 40))).astype(np.float32)
    filled = blank(images[:3], [1], 1, typical_profiles(images).tolist())
    assert np.array_equal(filled[:, 0], images[:3, 0])
    inside = radius < 0.95
    assert np.abs(filled[:, 1] - smooth[1])[:, inside].max() < 0.1
    assert not np.array_equal(filled[:, 1], images[:3, 1])
    assert not blank(images, [0], 1, ())[:, 0].any()


def test_a_modality_of_several_planes_goes_as_one() -> None:
    filled = blank(np.ones((2, 6, 32, 32), np.float32), [1], 3, ())
    assert filled[:, 3:].max() == 0
    assert filled[:, :3].min() == 1


def test_which_calibration_holds(tiny_bundle: Bundle) -> None:
    info = tiny_bundle.info
    assert calibration_without(info, ()) is info.calibration
    assert calibration_without(info, ["color2"]).temperatures == (2, 2, 2)
    two = calibration_without(info, ["color2", "fluorescence"])
    assert two.weights == (1, 0, 0)
    assert two.risk_bounds is None
    with pytest.raises(
        BundleError,
        match=r"'colour2' cannot be excluded: bundle 'tiny' reads color1, color2, fluor",
    ):
        calibration_without(info, ["colour2"])
    with pytest.raises(BundleError, match="at least one must remain"):
        calibration_without(info, MODALITIES)
