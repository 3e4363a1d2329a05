"""Calling without a modality: what takes its place, which calibration holds, and that it says so."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from wbcpipe.classify.cli import classify
from wbcpipe.classify.inference.classifier import Classifier, classify_sample
from wbcpipe.classify.inference.missing_modality import blank, calibration_without, dead_modalities, typical_planes
from wbcpipe.classify.models.bundle import Bundle, BundleInfo, write_bundle
from wbcpipe.classify.models.normalise import Normalisation
from wbcpipe.classify.networks import build_network
from wbcpipe.classify.uncertainty.probability_calibration import ProbabilityCalibration
from wbcpipe.classify.uncertainty.risk_control import RiskBounds, RiskLevel
from wbcpipe.errors import BundleError, ConfigError
from wbcpipe.samples.cell_columns import QcFlag
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MODALITIES = ("color1", "color2", "fluorescence")
LEVELS = (
    RiskLevel(threshold=0.3, accepted=100, wrong=10, error_bound=0.2, unidentified_fraction=0.0),
    RiskLevel(threshold=0.35, accepted=60, wrong=1, error_bound=0.1, unidentified_fraction=0.4),
)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
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
            "normalisation": Normalisation(polarity=("bright", "bright", "dark"), mean=(0.8,) * 3, std=(0.2,) * 3),
            "calibration": ProbabilityCalibration(
                temperatures=(1, 1, 1),
                weights=(0.5, 0.25, 0.25),
                threshold=0.3,
                risk_bounds=RiskBounds(cells=100, levels=LEVELS),
                f1_weighted=0.95,
            ),
            "missing_modality": {
                "color2": ProbabilityCalibration(temperatures=(2, 2, 2), weights=(0.5, 0, 0.5), f1_weighted=0.9)
            },
            "typical_profiles": [[0.5] * 17] * 3,
            "validation": {},
            "training": {"samples": ["s1"], "cells": {}},
        }
    )
    return write_bundle(tmp_path / "models" / "tiny", info, network.eval())


def test_typical_planes_are_what_cells_look_like_on_average() -> None:
    y, x = np.mgrid[:40, :40] - 19.5
    radius = np.hypot(y, x) / 20
    rng = np.random.default_rng(0)
    smooth = np.stack([2 - 3 * radius, np.cos(2 * radius)])
    images = (smooth + rng.normal(0, 0.3, (200, 2, 40, 40))).astype(np.float32)
    filled = blank(images[:3], [1], 1, typical_planes(images).tolist())
    assert np.array_equal(filled[:, 0], images[:3, 0])
    inside = radius < 0.95
    assert np.abs(filled[:, 1] - smooth[1])[:, inside].max() < 0.1
    assert not np.array_equal(filled[:, 1], images[:3, 1])
    assert not blank(images, [0], 1, ())[:, 0].any()


def test_a_modality_of_several_planes_goes_as_one() -> None:
    filled = blank(np.ones((2, 6, 32, 32), np.float32), [1], 3, ())
    assert filled[:, 3:].max() == 0
    assert filled[:, :3].min() == 1


def test_which_calibration_holds(bundle: Bundle) -> None:
    info = bundle.info
    assert calibration_without(info, ()) is info.calibration
    assert calibration_without(info, ["color2"]).temperatures == (2, 2, 2)
    two = calibration_without(info, ["color2", "fluorescence"])
    assert two.weights == (1, 0, 0)
    assert two.risk_bounds is None
    with pytest.raises(BundleError, match=r"'colour2' cannot be left out: bundle 'tiny' reads color1, color2, fluor"):
        calibration_without(info, ["colour2"])
    with pytest.raises(BundleError, match="at least one must remain"):
        calibration_without(info, MODALITIES)


def test_calls_do_not_look_at_what_is_left_out(bundle: Bundle, write_store: Callable[..., CellStore]) -> None:
    images = write_store("s1", 20).images()
    other = images.copy()
    other[:, 1] = 65535 - other[:, 1]
    classifier = Classifier(bundle, device="cpu", batch_size=16, without=["color2"])
    one, two = (classifier.probability(classifier.prepare(item)) for item in (images, other))
    assert np.array_equal(one, two)
    whole = Classifier(bundle, device="cpu", batch_size=16)
    assert not np.array_equal(one, whole.probability(whole.prepare(images)))


def test_classify_without_is_written_down_and_repeatable(
    bundle: Bundle, write_store: Callable[..., CellStore], tmp_path: Path
) -> None:
    write_store("s1", 30)
    given = ["--sample", "s1", "--bundle", str(bundle.path), "--data", str(tmp_path), "--json"]

    def run(*more: str) -> dict[str, object]:
        return dict(json.loads(CliRunner().invoke(classify, [*given, *more], catch_exceptions=False).stdout))

    assert run()["excluded_modalities"] == []
    left = run("--without", "color2")
    assert (left["excluded_modalities"], left["already"]) == (["color2"], False)
    assert run("--without", "color2")["already"]
    classified = CellStore(tmp_path / "s1" / "cells.zarr").attributes["classified"]
    assert classified["f1_weighted"] == {"all_modalities": 0.95, "remaining_modalities": 0.9}
    assert not run()["already"]


def test_a_dead_lamp_is_noticed(bundle: Bundle, write_store: Callable[..., CellStore], tmp_path: Path) -> None:
    store = write_store("s1", 30, quality=dict.fromkeys(range(20), QcFlag.MISSING_MODALITY.value))
    assert dead_modalities(store, MODALITIES, (0, 1, 2)) == ()
    import zarr

    images = zarr.open_group(str(store.path), mode="r+")["images"]
    assert isinstance(images, zarr.Array)
    images[:, 1] = 400
    sample = Sample.open(tmp_path, "s1")
    assert dead_modalities(CellStore(store.path), MODALITIES, (0, 1, 2)) == ("color2",)
    summary = classify_sample(sample, bundle, device="cpu", batch_size=16)
    assert summary["excluded_modalities"] == ["color2"]
    assert CellStore(store.path).attributes["classified"]["dead_modalities"] == ["color2"]
    assert classify_sample(sample, bundle, device="cpu", batch_size=16)["already"]


def test_errors_are_bounded_as_asked_or_refused(
    bundle: Bundle, write_store: Callable[..., CellStore], tmp_path: Path
) -> None:
    write_store("s1", 30)
    sample = Sample.open(tmp_path, "s1")
    usual = classify_sample(sample, bundle, device="cpu", batch_size=16)
    assert usual["risk_control"]["error_bound"] == 0.2
    strict = classify_sample(sample, bundle, device="cpu", batch_size=16, max_error=0.15)
    assert strict["risk_control"]["error_bound"] == 0.1
    assert not strict["already"]
    assert CellStore(sample.cells_path).attributes["classified"]["threshold"] == 0.35
    with pytest.raises(ConfigError, match=r"at most 1 % cannot be guaranteed: 100 test cells bound it by 10 %"):
        classify_sample(sample, bundle, device="cpu", max_error=0.01)
    with pytest.raises(ConfigError, match="has no error bounds for these modalities"):
        Classifier(bundle, device="cpu", without=["color2"], max_error=0.1)
