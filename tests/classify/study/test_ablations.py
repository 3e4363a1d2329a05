"""The tables of the ablations say what was planted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from wbcpipe.classify.study.ablations import FoldLogits, Row, ablations, markdown

CLASSES = ("NEU", "LYM", "EOS", "MO", "BAS")
MODALITIES = ("color1", "color2", "fluorescence")


def fold(seed: int) -> FoldLogits:
    """Three heads, too confident, the first of which swaps two classes; without its modality a head guesses."""
    rng = np.random.default_rng(seed)

    def logits(labels: np.ndarray) -> np.ndarray:
        found: np.ndarray = 4.0 * np.eye(5)[labels][:, None] + 2.0 * rng.normal(size=(len(labels), 3, 5))
        found[:, 0] = found[:, 0][:, [1, 0, 2, 3, 4]]
        return found

    held, test = rng.integers(0, 5, 300), rng.integers(0, 5, 300)
    seen = logits(test)
    faults = np.stack([seen] * 3)
    for index in range(3):
        faults[index, :, index] = 4.0 * rng.normal(size=(300, 5))
    return FoldLogits(logits(held), held, seen, test, {"zeros": faults})


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return ablations([fold(0), fold(1)], CLASSES, MODALITIES)


def value(rows: list[Row], ablation: str, variant: str, figure: str) -> Row:
    (row,) = [row for row in rows if (row.ablation, row.variant, row.figure) == (ablation, variant, figure)]
    return row


def test_fusion_finds_the_pool_that_understands_a_swap(rows: list[Row]) -> None:
    gain = value(rows, "fusion", "stacked", "weighted F1").less_base
    assert min(gain) > 0.02
    plain = value(rows, "fusion", "plain mean", "weighted F1")
    assert plain.less_base == (0, 0)
    assert value(rows, "fusion", "as bundled (half to certify)", "NLL").less_base < (0, 0)


def test_faults_are_seen_and_survived(rows: list[Row]) -> None:
    assert value(rows, "head disagreement", "intact", "exceeded").by_fold == (0, 0)
    assert min(value(rows, "head disagreement", "zeros color2", "AUC").by_fold) > 0.95
    kept = value(rows, "missing modality", "zeros, nothing changed", "fluorescence").by_fold
    own = value(rows, "missing modality", "zeros, own calibration", "fluorescence").by_fold
    assert np.mean(own) > np.mean(kept)


def test_percentages_err_less_when_corrected(rows: list[Row]) -> None:
    assert max(value(rows, "prevalence", "Saerens, as reported", "MAE").less_base) < 0
    assert min(value(rows, "prevalence", "Saerens, as reported", "truth in 95 % interval").by_fold) > 0.85


def test_tables_show_each_fold_and_the_paired_difference(rows: list[Row]) -> None:
    text = markdown(rows)
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == [
        "Fusion",
        "Temperature",
        "Abstention",
        "Missing modality",
        "Head disagreement",
        "Prevalence",
    ]
    row = value(rows, "fusion", "stacked", "NLL")
    expected = f"| stacked | NLL | {row.by_fold[0]:.4f} | {row.by_fold[1]:.4f} | {np.mean(row.by_fold):.4f} ± "
    assert expected in text


def test_the_benchmark_reads_a_study(tmp_path: Path) -> None:
    one = fold(0)
    place = tmp_path / "mm-mimo" / "fold-0"
    place.mkdir(parents=True)
    arrays = {
        name: getattr(one, name) for name in ("calibration_logits", "calibration_labels", "test_logits", "test_labels")
    }
    save_file({**arrays, "missing_logits": one.faults["zeros"]}, place / "result.safetensors")
    script = Path(__file__).parents[3] / "benchmarks" / "beyond.py"
    done = subprocess.run([sys.executable, script, tmp_path, "--json"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["ratio"] > 1
    assert {row["method"] for row in found["rows"]} == {"mm-mimo"}
    assert "zeros modality 3" in {row["variant"] for row in found["rows"]}

    told = {"classes": ["G1", "G2", "S", "M", "rare"], "modalities": ["bright", "dark", "dna"]}
    (place / "result.json").write_text(json.dumps(told), encoding="utf-8")
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=True)
    assert "zeros dna" in done.stdout
    assert "G1" in done.stdout
    assert "NEU" not in done.stdout
