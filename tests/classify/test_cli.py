"""The commands train and classify.

From labelled cells to classes, errors on one line, help without torch.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from wbcpipe.classify.bundles_cli import bundles
from wbcpipe.classify.cli import classify
from wbcpipe.classify.training.cli import train
from wbcpipe.classify.training.recipe import Recipe
from wbcpipe.errors import ConfigError, SampleBusyError
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.samples.cell_store import CellStore


def test_from_training_to_calls_on_the_command_line(
    write_store: Callable[..., CellStore], tmp_path: Path
) -> None:
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
        [
            "s1",
            "--validation",
            "s2",
            "--name",
            "mine",
            "--out",
            str(tmp_path / "out"),
            *options,
            "--json",
        ],
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
    with (
        Sample.open(tmp_path, "s2").lock("test"),
        pytest.raises(SampleBusyError, match="'s2' is in use"),
    ):
        CliRunner().invoke(classify, call, catch_exceptions=False)


def test_bad_options_are_one_line(write_store: Callable[..., CellStore], tmp_path: Path) -> None:
    write_store("s1", 60)
    arguments = ["s1", "--out", str(tmp_path / "o"), "--data", str(tmp_path), "--side", "8"]
    with pytest.raises(ConfigError, match=r"training options: .*side.*greater than or equal to 32"):
        CliRunner().invoke(train, arguments, catch_exceptions=False)
    assert CliRunner().invoke(train, ["s1", "--out", "o", "--fold", "1"]).exit_code == 2


@pytest.mark.parametrize(
    ("module", "command"),
    [("training.cli", "train"), ("cli", "classify"), ("bundles_cli", "bundles")],
    ids=lambda text: text,
)
def test_help_needs_no_torch(module: str, command: str) -> None:
    code = (
        "import sys\n"
        f"from wbcpipe.classify.{module} import {command} as command\n"
        "try:\n    command(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'torchvision', 'sklearn', 'scipy', 'zarr'} & set(sys.modules), "
        "'loaded'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "Examples:" in done.stdout
    assert shutil.which("wbcpipe") is None or "--json" in done.stdout
