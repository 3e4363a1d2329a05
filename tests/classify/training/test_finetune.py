"""A training that starts from a bundle's weights keeps what it knows, and is refused where these do
not fit.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from wbcpipe.classify.models.bundle import load_bundle
from wbcpipe.classify.models.bundle_info import BundleReference
from wbcpipe.classify.networks import build_network
from wbcpipe.classify.training.build_bundle import build_bundle
from wbcpipe.classify.training.data import load_cells
from wbcpipe.classify.training.finetune import (
    check_init_from,
    init_from_keys,
    load_pretrained_weights,
)
from wbcpipe.classify.training.progress import TrainingOptions
from wbcpipe.classify.training.recipe import Recipe
from wbcpipe.classify.training.train_and_validate import cross_validate, train_and_validate
from wbcpipe.errors import ConfigError, TrainingDataError
from wbcpipe.pipeline import cli

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.classify.models.bundle import Bundle
    from wbcpipe.classify.training.data import CellSet
    from wbcpipe.samples.cell_store import CellStore

CPU = TrainingOptions(device="cpu")
TINY = {
    "method": "mm-mimo",
    "side": 32,
    "start_side": 32,
    "batch_size": 16,
    "epochs": 8,
    "input_repetition_prob": 0.5,
}


@pytest.fixture(scope="module")
def taught() -> dict[str, Bundle]:
    """Room for the bundles that the tests here start from."""
    return {}


def _learned(
    taught: dict[str, Bundle], method: str, cells: CellSet, temporary: pytest.TempPathFactory
) -> Bundle:
    if method not in taught:
        recipe = Recipe.model_validate({**TINY, "method": method})
        out = temporary.mktemp("taught")
        taught[method] = build_bundle(cells, None, recipe, name="taught", out=out, options=CPU)
    return taught[method]


@pytest.fixture
def bundle(
    taught: dict[str, Bundle], cells: CellSet, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """MM-MIMO that has learned the synthetic cells."""
    return _learned(taught, "mm-mimo", cells, tmp_path_factory)


@pytest.fixture
def late(
    taught: dict[str, Bundle], cells: CellSet, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """Late fusion that has learned the synthetic cells."""
    return _learned(taught, "late-fusion", cells, tmp_path_factory)


def starting(bundle: Bundle, **changes: Any) -> Recipe:
    return Recipe.model_validate(
        {**init_from_keys(bundle), "batch_size": 16, "start_side": 32, **changes}
    )


def few_and_rest(write_store: Callable[..., CellStore]) -> tuple[CellSet, CellSet]:
    """Return 24 cells of another slide, and its 96 others."""
    store = write_store("other", 120, fields=60, seed=9)
    other = load_cells([("other", store.path)], 32)
    return other.subset(np.arange(24)), other.subset(np.arange(24, 120))


def test_few_cells_and_steps_do_after_a_start(
    bundle: Bundle, write_store: Callable[..., CellStore], tmp_path: Path
) -> None:
    few, rest = few_and_rest(write_store)
    recipe = starting(bundle, epochs=1)
    found = train_and_validate(few, rest, recipe, tmp_path / "a", replace(CPU, init_from=bundle))
    assert found.scores["mm-mimo"]["f1_weighted"] > 0.85
    again = train_and_validate(few, rest, recipe, tmp_path / "a", replace(CPU, init_from=bundle))
    assert np.array_equal(found.logits, again.logits)
    alone = train_and_validate(
        few, rest, recipe.model_copy(update={"init_from": ""}), tmp_path / "b", CPU
    )
    assert alone.scores["mm-mimo"]["f1_weighted"] < 0.7


def test_each_member_of_late_fusion_starts_from_the_bundles(
    late: Bundle, write_store: Callable[..., CellStore], tmp_path: Path
) -> None:
    few, rest = few_and_rest(write_store)
    options = replace(CPU, init_from=late)
    recipe = starting(late, epochs=1)
    found = train_and_validate(few, rest, recipe, tmp_path / "a", options)
    alone = train_and_validate(
        few, rest, recipe.model_copy(update={"init_from": ""}), tmp_path / "b", CPU
    )
    assert found.scores["late-fusion"]["f1_weighted"] > 0.8
    assert alone.scores["late-fusion"]["f1_weighted"] < 0.7
    # One modality alone is trained as the member that reads it.
    single = starting(late, epochs=1, method="single", modality="color2")
    by_itself = train_and_validate(few, rest, single, tmp_path / "c", options)
    np.testing.assert_allclose(by_itself.logits[:, 0], found.logits[:, 1], atol=0.02)


def test_late_fusion_takes_the_epochs_of_its_recipe() -> None:
    recipe = Recipe(method="late-fusion", epochs=7, teacher_epochs=3)
    assert recipe.for_teacher("color1").epochs == 7
    assert Recipe(epochs=7, teacher_epochs=3).for_teacher("color1").epochs == 3


def test_the_last_layer_keeps_the_classes_that_both_know(bundle: Bundle) -> None:
    torch.manual_seed(3)
    network = build_network("mm-mimo", "shufflenet_v2_x1_0", 3, 1, 3)
    fresh = network.get_parameter("backbone.fc.weight").detach().clone().view(3, 3, -1)
    load_pretrained_weights(network, bundle, ("MO", "EOS", "NEU"))
    before, after = bundle.network().state_dict(), network.state_dict()
    for name, values in after.items():
        if not name.startswith("backbone.fc"):
            assert torch.equal(values, before[name]), name
    old, new = (weights["backbone.fc.weight"].view(3, 3, -1) for weights in (before, after))
    assert bundle.info.classes == ("NEU", "LYM", "MO")
    assert torch.equal(new[:, 0], old[:, 2])
    assert torch.equal(new[:, 1], fresh[:, 1]), "a class that the bundle does not know"
    assert torch.equal(new[:, 2], old[:, 0])
    assert torch.equal(
        after["backbone.fc.bias"].view(3, 3)[:, 0], before["backbone.fc.bias"].view(3, 3)[:, 2]
    )


def test_the_keys_are_those_of_the_bundle(bundle: Bundle) -> None:
    keys = init_from_keys(bundle)
    assert (keys["method"], keys["side"], keys["normalise"]) == ("mm-mimo", 32, "cell")
    assert keys["init_from"] == bundle.info.sha256
    smears = init_from_keys(load_bundle("smear-shufflenet"))
    assert (smears["method"], smears["side"], smears["normalise"]) == (
        "early-fusion",
        112,
        "separate",
    )
    assert init_from_keys(load_bundle("virtual-shufflenet"))["method"] == "mm-mimo", (
        "without teachers"
    )


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"init_from": ""}, ConfigError, "this recipe starts from random weights; name the bundle"),
        (
            {"init_from": "0" * 64},
            ConfigError,
            "starts from weights 000000000000; name the bundle that has them",
        ),
        (
            {"backbone": "resnet34"},
            ConfigError,
            "'taught' is mm-mimo on shufflenet_v2_x1_0, the recipe mm-mimo on res",
        ),
        ({"method": "early-fusion"}, ConfigError, "the recipe early-fusion on shufflenet"),
        ({"method": "late-fusion"}, ConfigError, "the recipe late-fusion on shufflenet"),
        (
            {"method": "single", "modality": "color1"},
            ConfigError,
            "the recipe single on shufflenet",
        ),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(
    bundle: Bundle, cells: CellSet, changes: dict[str, str], error: type[Exception], text: str
) -> None:
    check_init_from(starting(bundle), bundle, cells)
    with pytest.raises(error, match=text):
        check_init_from(starting(bundle, **changes), bundle, cells)
    with pytest.raises(ConfigError, match=f"starts from weights {bundle.info.sha256[:12]}"):
        check_init_from(starting(bundle), None, cells)
    check_init_from(Recipe(), None, cells)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"modalities": ("color1", "color2")},
            r"was trained on modalities \['color1', 'color2', 'fluorescence'\] of 1 plane",
        ),
        ({"pixel_um": 0.2}, "was trained on crops of 0.1 um a pixel, these have 0.2"),
        (
            {"labels": ["EOS", "BAS"] * 30, "attributes": {"classes": ["EOS", "BAS"]}},
            r"was trained on the classes NEU, LYM, MO, these cells are of none of them \(EOS, BAS",
        ),
    ],
)
def test_cells_that_do_not_fit_are_refused(
    bundle: Bundle,
    write_store: Callable[..., CellStore],
    tmp_path: Path,
    settings: dict[str, Any],
    text: str,
) -> None:
    store = write_store("odd", 60, **settings)
    with pytest.raises(TrainingDataError, match=text):
        cross_validate(
            load_cells([("odd", store.path)], 32),
            starting(bundle),
            tmp_path,
            folds=2,
            options=replace(CPU, init_from=bundle),
        )


def test_the_command_starts_from_a_bundle_and_says_so(
    bundle: Bundle, write_store: Callable[..., CellStore], tmp_path: Path
) -> None:
    write_store("mine", 60, fields=30, seed=5)
    words = [
        "train",
        "mine",
        "--data",
        str(tmp_path),
        "--out",
        str(tmp_path / "m"),
        "--device",
        "cpu",
    ]
    few = ["--epochs", "2", "--batch-size", "16", "--set", "min_steps=4"]
    done = CliRunner().invoke(cli, [*words, *few, "--init-from", str(bundle.path)])
    assert done.exit_code == 0, done.output
    made = load_bundle(tmp_path / "m" / "m")
    assert made.info.training.init_from == BundleReference(
        bundle="taught", sha256=bundle.info.sha256
    )
    recipe = made.info.training.recipe
    assert (recipe["init_from"], recipe["side"], recipe["lr"]) == (bundle.info.sha256, 32, 0.001)
    assert f"started from the weights of `taught` (SHA-256 `{bundle.info.sha256}`)" in (
        made.path / "MODEL_CARD.md"
    ).read_text(encoding="utf-8")
    again = CliRunner().invoke(cli, [*words, *few, "--init-from", str(bundle.path)])
    assert "trained before" in again.output
    kept = tmp_path / "recipe.json"
    kept.write_text(json.dumps(recipe), encoding="utf-8")
    alone = CliRunner().invoke(cli, [*words, "--recipe", str(kept)])
    assert isinstance(alone.exception, ConfigError)
    assert "name the bundle that has them with --init-from" in str(alone.exception)
    refused = CliRunner().invoke(cli, [*words, "--published", "--init-from", str(bundle.path)])
    assert refused.exit_code == 2
    assert "--published excludes --recipe and --init-from" in refused.output
