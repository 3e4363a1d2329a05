from __future__ import annotations

import numpy as np
import pytest

from wbcpipe.segment.flatfield import EMPTY_LEVEL, PEDESTAL, estimate_flatfield


def light(side: int = 256) -> np.ndarray:
    y, x = np.mgrid[:side, :side] / side
    return np.asarray(1 - 0.25 * ((y - 0.55) ** 2 + (x - 0.4) ** 2) * 2)


def disks(seed: int, side: int = 256) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    inside = np.zeros((side, side), bool)
    for row, column in rng.uniform(0, side, (30, 2)):
        inside |= np.hypot(y - row, x - column) < 10
    return inside


def test_planted_light_is_recovered_from_fields_full_of_cells() -> None:
    fields = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        cells = disks(seed)
        bright = 30000 * light() * np.where(cells, 0.6, 1) + rng.normal(0, 40, cells.shape)
        glow = light() * (1000 + 15000 * cells) + rng.normal(0, 15, cells.shape)
        fields.append([bright.astype(np.float32), glow.astype(np.float32)])
    flat = estimate_flatfield(fields, [True, False])
    rows, columns = flat.shading.shape[1:]
    truth = light().reshape(rows, 256 // rows, columns, 256 // columns).mean((1, 3))
    for shading in flat.shading:
        ratio = shading / truth
        assert np.std(ratio) / np.mean(ratio) < 0.01
    assert 30000 * truth * flat.gain[0] == pytest.approx(
        np.full(truth.shape, EMPTY_LEVEL), rel=0.02
    )
    background = (1000 * truth - flat.dark[1]) * flat.gain[1] + flat.base[1]
    assert background == pytest.approx(np.full(truth.shape, PEDESTAL), abs=25)
