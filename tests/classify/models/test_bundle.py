"""Bundles are verified, predictions repeatable, and errors say what to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pydantic import ValidationError

from wbcpipe.classify.bundles_cli import bundles
from wbcpipe.classify.cli import classify, train
from wbcpipe.classify.inference.classifier import Classifier, classify_sample
from wbcpipe.classify.models import bundle as bundle_module
from wbcpipe.classify.models.bundle import Bundle, BundleInfo, find_bundle, load_bundle, write_bundle
from wbcpipe.classify.models.card import model_card
from wbcpipe.classify.models.normalise import Normalisation
from wbcpipe.classify.networks import FusionNetwork, build_network
from wbcpipe.classify.training.recipe import Recipe
from wbcpipe.classify.uncertainty.probability_calibration import ProbabilityCalibration
from wbcpipe.errors import BundleError, ConfigError, SampleBusyError
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Callable


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
        "normalisation": Normalisation(polarity=("bright", "bright", "dark"), mean=(0.8,) * 3, std=(0.2,) * 3),
        "calibration": ProbabilityCalibration(temperatures=(1.5, 1.0, 0.8), weights=(0.5, 0.25, 0.25), threshold=0.4),
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
    assert sorted(path.name for path in tiny.path.iterdir()) == ["MODEL_CARD.md", "bundle.json", "model.safetensors"]
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
    with pytest.raises(BundleError, match=rf"SHA-256 [0-9a-f]{{64}}, but bundle.json names {tiny.info.sha256}"):
        load_bundle(tiny.path)
    path.unlink()
    with pytest.raises(BundleError, match=r"has no model\.safetensors"):
        load_bundle(tiny.path)


@pytest.mark.parametrize("path", bundle_module.shipped_bundles().values(), ids=lambda path: path.name)
def test_the_cards_of_shipped_bundles_are_of_their_content(path: Path) -> None:
    content = load_bundle(path).info.model_dump(mode="json")
    assert (path / "MODEL_CARD.md").read_text() == model_card(content)


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
    with pytest.raises(BundleError, match="another bundle stands there"):
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


@pytest.mark.usefixtures("two_threads")
def test_predictions_do_not_depend_on_company(
    write_store: Callable[..., CellStore], tiny: Bundle, tmp_path: Path
) -> None:
    store = write_store("s1", 50)
    classifier = Classifier(tiny, device="cpu", batch_size=16)
    prepared = classifier.prepare(store.images())
    whole = classifier.probability(prepared)
    assert whole.shape == (50, 3, 3)
    assert np.allclose(whole.sum(axis=-1), 1, atol=1e-5)
    assert np.array_equal(whole[:5], classifier.probability(prepared[:5]))
    assert np.array_equal(whole[32:], classifier.probability(prepared[32:]))


def test_the_size_of_a_batch_that_nobody_asked_for_is_noted(
    write_store: Callable[..., CellStore], tiny: Bundle, tmp_path: Path
) -> None:
    write_store("s1", 20)
    sample = Sample.open(tmp_path, "s1")
    classify_sample(sample, tiny, device="cpu", engine="torch")
    assert CellStore(sample.cells_path).attributes["classified"]["batch_size"] == 32


def test_classify_writes_calls_once(write_store: Callable[..., CellStore], tiny: Bundle, tmp_path: Path) -> None:
    write_store("s1", 50, quality={3: 64})
    sample = Sample.open(tmp_path, "s1")
    steps: list[tuple[int, int]] = []
    summary = classify_sample(sample, tiny, device="cpu", batch_size=16, progress=lambda *x: steps.append(x))
    assert steps == [(16, 50), (32, 50), (48, 50), (50, 50)]
    assert not summary["already"]
    assert sum(summary["calls"].values()) == 50
    store = CellStore(sample.cells_path)
    classified = store.attributes["classified"]
    assert classified["sha256"] == tiny.info.sha256
    assert classified["heads"] == list(MODALITIES)
    assert classified["batch_size"] == 16
    assert classified["classes"] == ["NEU", "LYM", "MO"]
    assert store.column("probability").shape == (50, 3, 3)
    assert np.isfinite(store.column("probability")[3]).all()  # debris too
    confidence = store.column("confidence")
    unidentified = np.array(store.predicted_classes()) == "unidentified"
    assert np.array_equal(unidentified, confidence < np.float32(0.4))
    before = {p: p.read_bytes() for p in sample.cells_path.rglob("*") if p.is_file()}
    assert classify_sample(sample, tiny, device="cpu", batch_size=16)["already"]
    assert before == {p: p.read_bytes() for p in sample.cells_path.rglob("*") if p.is_file()}


@pytest.mark.usefixtures("two_threads")
def test_the_same_cells_give_the_same_bytes(
    write_store: Callable[..., CellStore], tiny: Bundle, tmp_path: Path
) -> None:
    found = []
    for name in ("a", "b"):
        write_store(name, 40)
        classify_sample(Sample.open(tmp_path, name), tiny, device="cpu", batch_size=16)
        store = CellStore(tmp_path / name / "cells.zarr")
        found.append((store.column("probability").tobytes(), store.predicted_classes()))
    assert found[0] == found[1]


def test_a_bundle_that_does_not_fit(write_store: Callable[..., CellStore], tiny: Bundle, tmp_path: Path) -> None:
    write_store("a", 30, modalities=("color1", "fluorescence"))
    with pytest.raises(BundleError, match=r"'tiny' reads modalities \['color1', 'color2', 'fluorescence'\].*'a' have"):
        classify_sample(Sample.open(tmp_path, "a"), tiny)
    write_store("b", 30, pixel_um=0.12)
    with pytest.raises(BundleError, match=r"reads crops of 0\.1 um a pixel.*'b' have 0\.12 um.*--pixel-um 0\.1"):
        classify_sample(Sample.open(tmp_path, "b"), tiny)


def test_a_cuda_device_that_is_not_there(tiny: Bundle) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="finds no GPU here; use --device cpu"):
        Classifier(tiny, device="cuda")


def test_from_training_to_calls_on_the_command_line(write_store: Callable[..., CellStore], tmp_path: Path) -> None:
    write_store("s1", 60)
    write_store("s2", 36, seed=1)
    recipe = tmp_path / "recipe.json"
    recipe.write_text('{"start_side": 32}')
    options = [
        "--recipe",
        str(recipe),
        "--side",
        "32",
        "--epochs",
        "2",
        "--teacher-epochs",
        "1",
        "--batch-size",
        "16",
        "--data",
        str(tmp_path),
    ]
    result = CliRunner().invoke(
        train,
        ["s1", "--validation", "s2", "--name", "mine", "--out", str(tmp_path / "out"), *options, "--json"],
        catch_exceptions=False,
    )
    made = json.loads(result.stdout)
    assert made["kind"] == "scope"
    assert made["calibration"]["cells"] == 36
    assert made["training"]["samples"] == ["s1"]
    assert made["validation"]["samples"] == ["s2"]
    assert list(made["validation"]["rows"])[-2:] == ["mm-mimo-kd", "calibrated"]
    assert "mm-mimo-kd epoch 2/2" in result.stderr
    card = (Path(made["bundle"]) / "MODEL_CARD.md").read_text()
    written = card.split("```json")[1].split("```")[0]
    assert json.loads(written) == made["training"]["recipe"]
    assert Recipe.model_validate_json(written).epochs == 2
    row = made["validation"]["rows"]["mm-mimo-kd"]
    f1, found = (100 * row[key]["LYM"] for key in ("f1", "sensitivity_by_class"))
    assert f"| LYM | {f1:.2f} | {found:.2f} | {' | '.join(map(str, row['confusion'][1]))} |" in card
    shown = CliRunner().invoke(bundles, [made["bundle"], "--json"], catch_exceptions=False)
    assert json.loads(shown.stdout)["sha256"] == made["sha256"]
    call = ["--sample", "s2", "--bundle", made["bundle"], "--data", str(tmp_path), "--json"]
    called = json.loads(CliRunner().invoke(classify, call, catch_exceptions=False).stdout)
    assert called["cells"] == 36
    with Sample.open(tmp_path, "s2").lock("test"), pytest.raises(SampleBusyError, match="'s2' is in use"):
        CliRunner().invoke(classify, call, catch_exceptions=False)


def test_bad_options_are_one_line(write_store: Callable[..., CellStore], tmp_path: Path) -> None:
    write_store("s1", 60)
    arguments = ["s1", "--out", str(tmp_path / "o"), "--data", str(tmp_path), "--side", "8"]
    with pytest.raises(ConfigError, match=r"training options: .*side.*greater than or equal to 32"):
        CliRunner().invoke(train, arguments, catch_exceptions=False)
    assert CliRunner().invoke(train, ["s1", "--out", "o", "--fold", "1"]).exit_code == 2


@pytest.mark.parametrize(
    ("module", "command"), [("cli", "train"), ("cli", "classify"), ("bundles_cli", "bundles")], ids=lambda text: text
)
def test_help_needs_no_torch(module: str, command: str) -> None:
    code = (
        "import sys\n"
        f"from wbcpipe.classify.{module} import {command} as command\n"
        "try:\n    command(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'torchvision', 'sklearn', 'scipy', 'zarr'} & set(sys.modules), 'loaded'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, "NO_COLOR": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert "Examples:" in done.stdout
    assert shutil.which("wbcpipe") is None or "--json" in done.stdout
