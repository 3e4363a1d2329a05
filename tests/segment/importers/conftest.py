"""A folder of stained cells to import."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path


def write_image(path: Path, seed: int, side: int = 260) -> None:
    """A stained cell in the middle of a pale field."""
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:side, :side] - side / 2
    rgb = np.full((side, side, 3), (245, 230, 210), float)
    rgb[np.hypot(y, x) < 55] = (215, 190, 200)
    rgb[np.hypot(y - 8, x) < 32 + seed % 5] = (95, 55, 140)
    rgb += np.random.default_rng(seed).normal(0, 2, rgb.shape)
    Image.fromarray(rgb.clip(0, 255).astype(np.uint8)).save(path, quality=92)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for k, name in enumerate(
        ["neutrophil/a.jpg", "neutrophil/b.jpg", "Lymphocytes/c.png", "blast/d.jpg"]
    ):
        write_image(root / name, k)
    return root
