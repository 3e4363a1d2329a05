"""Bundles are verified, predictions repeatable, and errors say what to do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from pydantic import ValidationError

from wbcpipe.classify.models import bundle as bundle_module
from wbcpipe.classify.models.bundle import (
    Bundle,
    BundleInfo,
    find_bundle,
    load_bundle,
    write_bundle,
)
from wbcpipe.classify.models.card import model_card
from wbcpipe.classify.models.normalise import Normalisation
from wbcpipe.classify.networks import FusionNetwork, build_network
from wbcpipe.classify.uncertainty.probability_calibration import ProbabilityCalibration
from wbcpipe.errors import BundleError

if TYPE_CHECKING:
    from pathlib import Path

MODALITIES = ("color1", "color2", "fluorescence")


def described(**changes: object) -> BundleInfo:
    content = {
        "name": "tiny",
        "method": "mm-mimo-kd",
        "backbone": "shufflenet_v2_x1_0",
        "classes": ["NEU", "LYM", "MO"],
        "modalities": MODALITIES,
        "derived": ["fluorescence"],
        "kind": "scope",
        "pixel_um": 0.1,
        "crop_px": 32,
        "side": 32,
        "normalisation": Normalisation(
            polarity=("bright", "bright", "dark"), mean=(0.8,) * 3, std=(0.2,) * 3
        ),
        "calibration": ProbabilityCalibration(
            temperatures=(1.5, 1.0, 0.8), weights=(0.5, 0.25, 0.25), threshold=0.4
        ),
        "validation": {},
        "training": {"samples": ["s1"], "cells": {"NEU": 20, "LYM": 20, "MO": 20}},
    }
    return BundleInfo.model_validate({**content, **changes})


@pytest.fixture
def network() -> FusionNetwork:
    torch.manual_seed(0)
    made = build_network("mm-mimo", "shufflenet_v2_x1_0", 3, 1, 3)
    made.train()(torch.randn(16, 3, 32, 32))  # batch norm has seen something
    return made.eval()


@pytest.fixture
def tiny(tmp_path: Path, network: FusionNetwork) -> Bundle:
    return write_bundle(tmp_path / "models" / "tiny", described(), network)


def test_round_trip(tiny: Bundle, network: FusionNetwork) -> None:
    again = load_bundle(tiny.path)
    assert again.info == tiny.info
    assert sorted(path.name for path in tiny.path.iterdir()) == [
        "MODEL_CARD.md",
        "bundle.json",
        "model.safetensors",
    ]
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(again.network()(images), network(images), atol=0.02, rtol=0.02)
    card = (tiny.path / "MODEL_CARD.md").read_text()
    assert "not for diagnostic use" in card
    assert "fluorescence is computed from the other modalities" in card
    assert again.info.sha256 in card


def test_weights_are_half_size(tiny: Bundle, network: FusionNetwork) -> None:
    whole = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    assert (tiny.path / "model.safetensors").stat().st_size < 0.6 * whole


def test_exchanged_weights_are_refused_with_both_hashes(tiny: Bundle) -> None:
    path = tiny.path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        BundleError, match=rf"SHA-256 [0-9a-f]{{64}}, but bundle.json names {tiny.info.sha256}"
    ):
        load_bundle(tiny.path)
    path.unlink()
    with pytest.raises(BundleError, match=r"has no model\.safetensors"):
        load_bundle(tiny.path)


@pytest.mark.parametrize(
    "path", bundle_module.shipped_bundles().values(), ids=lambda path: path.name
)
def test_the_cards_of_shipped_bundles_are_of_their_content(path: Path) -> None:
    assert (path / "MODEL_CARD.md").read_text() == model_card(load_bundle(path).info)


def test_unknown_bundles_name_those_known(monkeypatch: pytest.MonkeyPatch, tiny: Bundle) -> None:
    monkeypatch.setattr(bundle_module, "shipped_bundles", lambda: {"tiny": tiny.path})
    with pytest.raises(BundleError, match=r"no bundle 'tinny'.*shipped \(tiny\)"):
        load_bundle("tinny")
    assert load_bundle("tiny").info.name == "tiny"


def test_auto_follows_the_kind_of_sample(monkeypatch: pytest.MonkeyPatch, tiny: Bundle) -> None:
    monkeypatch.setattr(bundle_module, "shipped_bundles", lambda: {"smear-shufflenet": tiny.path})
    assert find_bundle("auto", kind="stained-rgb").path == tiny.path
    with pytest.raises(BundleError, match="no bundle 'virtual-shufflenet'"):
        find_bundle("auto", kind="scope")
    with pytest.raises(BundleError, match="no bundle is shipped for samples of kind 'stack'"):
        find_bundle("auto", kind="stack")


def test_another_bundle_is_never_overwritten(tiny: Bundle, network: FusionNetwork) -> None:
    assert write_bundle(tiny.path, described(), network).info.sha256 == tiny.info.sha256
    with torch.no_grad():
        next(network.parameters()).add_(0.5)
    with pytest.raises(BundleError, match="another bundle is there"):
        write_bundle(tiny.path, described(), network)


@pytest.mark.parametrize("key", list(BundleInfo.model_fields))
def test_misspelt_keys_are_refused(key: str) -> None:
    with pytest.raises(ValidationError, match=key + "x"):
        described(**{key + "x": 1})


def test_a_broken_description_is_refused(tiny: Bundle) -> None:
    path = tiny.path / "bundle.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "format_version": 2}))
    with pytest.raises(BundleError, match="format_version"):
        load_bundle(tiny.path)
    path.write_text(json.dumps({**content, "backbone": "resnet34"}))
    with pytest.raises(BundleError, match="the weights do not fit mm-mimo-kd on resnet34"):
        load_bundle(tiny.path).network()


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_weights_that_are_not_finite_are_refused(
    tmp_path: Path, network: FusionNetwork, value: float
) -> None:
    with torch.no_grad():
        next(iter(network.state_dict().values()))[0] = value
    bundle = write_bundle(tmp_path / "diverged", described(name="diverged"), network)
    with pytest.raises(BundleError, match="values that are not finite"):
        bundle.network()


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff", b"[]"], ids=["deep", "bytes", "list"])
def test_a_damaged_description_is_refused(tiny: Bundle, content: bytes) -> None:
    (tiny.path / "bundle.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"bundle\.json: "):
        load_bundle(tiny.path)
