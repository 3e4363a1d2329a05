"""Synthetic labelled cells, small enough to learn in seconds."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pytest
import torch

from wbcpipe.classify.models.bundle import Bundle, BundleInfo, write_bundle
from wbcpipe.classify.models.normalise import Normalisation
from wbcpipe.classify.networks import build_network
from wbcpipe.classify.training.data import CellSet, load_cells
from wbcpipe.classify.uncertainty.probability_calibration import ProbabilityCalibration
from wbcpipe.classify.uncertainty.risk_control import RiskBounds, RiskLevel
from wbcpipe.samples.cell_attributes import CellAttributes
from wbcpipe.samples.cell_columns import COLUMNS, entry_shape
from wbcpipe.samples.cell_store import CellBlock, CellStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

MODALITIES = ("color1", "color2", "fluorescence")
CLASSES = ("NEU", "LYM", "MO")
SIDE = 32
LEVELS = (
    RiskLevel(threshold=0.3, accepted=100, wrong=10, error_bound=0.2, unidentified_fraction=0.0),
    RiskLevel(threshold=0.35, accepted=60, wrong=1, error_bound=0.1, unidentified_fraction=0.4),
)


def draw(label: int, rng: np.random.Generator) -> NDArray[np.uint16]:
    """A cell (3, 32, 32): two bright planes and a dark one.

    Lobes, a disc or a ring, under any exposure.
    """
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2 + rng.uniform(-1, 1, (2, 1, 1))
    radius = np.hypot(y, x)
    turn = np.arctan2(y, x) + rng.uniform(0, 2 * np.pi)
    nucleus = (radius < 8 + 4 * np.cos(3 * turn), radius < 7, np.abs(radius - 8) < 2.5)[
        label
    ].astype(float)
    planes = [1 - 0.3 * (radius < 12) - 0.4 * nucleus, 1 - 0.5 * nucleus, 0.1 + 0.9 * nucleus]
    exposure = rng.uniform(20000, 50000, (3, 1, 1))
    noisy = np.stack(planes) * exposure * (1 + rng.normal(0, 0.03, (3, SIDE, SIDE)))
    return noisy.clip(0, 65535).astype(np.uint16)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Two threads for torch, of which there may be many on a user's machine: results must not hang
    on their timing.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def write_store(tmp_path: Path) -> Callable[..., CellStore]:
    """Writes ``<name>/cells.zarr`` of synthetic cells below the test's folder."""

    def write(  # noqa: PLR0913 - each keyword is one property of the cells
        name: str = "s1",
        count: int = 60,
        *,
        labels: list[str] | None = None,
        fields: int = 20,
        quality: dict[int, int] | None = None,
        modalities: tuple[str, ...] = MODALITIES,
        pixel_um: float = 0.1,
        seed: int = 0,
        attributes: dict[str, object] | None = None,
    ) -> CellStore:
        rng = np.random.default_rng(seed)
        names = labels if labels is not None else [CLASSES[i % len(CLASSES)] for i in range(count)]
        known = [CLASSES.index(text) if text in CLASSES else 0 for text in names]
        images = np.stack([draw(label, rng)[: len(modalities)] for label in known])
        columns = {
            key: np.zeros((len(names), *entry_shape(column, len(modalities))), column.dtype)
            for key, column in COLUMNS.items()
        }
        columns["field_index"] = (np.arange(len(names)) % fields).astype(np.int32)
        for row, flags in (quality or {}).items():
            columns["qc_flags"][row] = flags
        block = CellBlock(images, np.zeros((len(names), SIDE, SIDE), np.uint8), columns, names)
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        return CellStore.create(
            tmp_path / name / "cells.zarr",
            [block],
            CellAttributes.model_validate(
                {
                    "modalities": modalities,
                    "pixel_um": pixel_um,
                    "classes": CLASSES,
                    **(attributes or {}),
                }
            ),
        )

    return write


@pytest.fixture
def cells(write_store: Callable[..., CellStore]) -> CellSet:
    """180 synthetic cells at side 32 in 60 fields."""
    store = write_store(count=180, fields=60)
    return load_cells([("s1", store.path)], SIDE)


@pytest.fixture
def tiny_bundle(tmp_path: Path) -> Bundle:
    """Three inputs of one plane; color2 has a calibration for its absence."""
    torch.manual_seed(0)
    network = build_network("mm-mimo", "shufflenet_v2_x1_0", 3, 1, 3)
    network.train()(torch.randn(16, 3, 32, 32))
    info = BundleInfo.model_validate(
        {
            "name": "tiny",
            "method": "mm-mimo-kd",
            "backbone": "shufflenet_v2_x1_0",
            "classes": ["NEU", "LYM", "MO"],
            "modalities": MODALITIES,
            "kind": "scope",
            "pixel_um": 0.1,
            "crop_px": 32,
            "side": 32,
            "normalisation": Normalisation(
                polarity=("bright", "bright", "dark"), mean=(0.8,) * 3, std=(0.2,) * 3
            ),
            "calibration": ProbabilityCalibration(
                temperatures=(1, 1, 1),
                weights=(0.5, 0.25, 0.25),
                threshold=0.3,
                risk_bounds=RiskBounds(cells=100, levels=LEVELS),
                f1_weighted=0.95,
            ),
            "missing_modality": {
                "color2": ProbabilityCalibration(
                    temperatures=(2, 2, 2), weights=(0.5, 0, 0.5), f1_weighted=0.9
                )
            },
            "typical_profiles": [[0.5] * 17] * 3,
            "validation": {},
            "training": {"samples": ["s1"], "cells": {}},
        }
    )
    return write_bundle(tmp_path / "models" / "tiny", info, network.eval())
