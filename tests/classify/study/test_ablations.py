"""The tables of the ablations say what was planted."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from wbcpipe.classify.study.ablations import FoldLogits, Row, ablations, markdown

CLASSES = ("NEU", "LYM", "EOS", "MO", "BAS")
MODALITIES = ("color1", "color2", "fluorescence")


def fold(seed: int, cells: int = 300) -> FoldLogits:
    """Three heads, too confident, the first of which swaps two classes.

    Without its modality a head guesses.
    """
    rng = np.random.default_rng(seed)

    def logits(labels: np.ndarray) -> np.ndarray:
        found: np.ndarray = 4.0 * np.eye(5)[labels][:, None] + 2.0 * rng.normal(
            size=(len(labels), 3, 5)
        )
        found[:, 0] = found[:, 0][:, [1, 0, 2, 3, 4]]
        return found

    held, test = rng.integers(0, 5, cells), rng.integers(0, 5, cells)
    seen = logits(test)
    faults = np.stack([seen] * 3)
    for index in range(3):
        faults[index, :, index] = 4.0 * rng.normal(size=(cells, 5))
    return FoldLogits(logits(held), held, seen, test, {"zeros": faults})


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return ablations([fold(0), fold(1)], CLASSES, MODALITIES)


def value(rows: list[Row], ablation: str, variant: str, figure: str) -> Row:
    (row,) = [
        row
        for row in rows
        if (row.ablation, row.variant, row.figure) == (ablation, variant, figure)
    ]
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


@pytest.mark.parametrize(("cells", "tried"), [(110, False), (150, True)])
def test_stacking_is_tried_on_as_many_cells_as_in_a_bundle(
    monkeypatch: pytest.MonkeyPatch, cells: int, tried: bool
) -> None:
    counts: list[int] = []
    monkeypatch.setattr(
        "wbcpipe.classify.study.ablations.stacking_helps",
        lambda _, labels: bool(counts.append(len(labels))),  # type: ignore[func-returns-value]
    )
    ablations([fold(0, cells)], CLASSES, MODALITIES)
    assert bool(counts) == tried
    assert all(count >= 60 for count in counts)


def test_percentages_err_less_when_corrected(rows: list[Row]) -> None:
    assert max(value(rows, "prevalence", "Saerens, as reported", "MAE").less_base) < 0
    assert (
        min(value(rows, "prevalence", "Saerens, as reported", "truth in 95 % interval").by_fold)
        > 0.85
    )


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
    expected = (
        f"| stacked | NLL | {row.by_fold[0]:.4f} | {row.by_fold[1]:.4f} | "
        f"{np.mean(row.by_fold):.4f} ± "
    )
    assert expected in text


def test_the_benchmark_reads_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = fold(0, cells=120)
    place = tmp_path / "mm-mimo" / "fold-0"
    place.mkdir(parents=True)
    arrays = {
        name: getattr(one, name)
        for name in ("calibration_logits", "calibration_labels", "test_logits", "test_labels")
    }
    save_file({**arrays, "missing_logits": one.faults["zeros"]}, place / "result.safetensors")
    script = Path(__file__).parents[3] / "benchmarks" / "beyond.py"

    def printed(*words: str) -> str:
        monkeypatch.setattr("sys.argv", [str(script), str(tmp_path), *words])
        runpy.run_path(str(script), run_name="__main__")
        return capsys.readouterr().out

    found = json.loads(printed("--json"))
    assert found["ratio"] > 1
    assert {row["method"] for row in found["rows"]} == {"mm-mimo"}
    assert "zeros modality 3" in {row["variant"] for row in found["rows"]}

    told = {"classes": ["G1", "G2", "S", "M", "rare"], "modalities": ["bright", "dark", "dna"]}
    (place / "result.json").write_text(json.dumps(told), encoding="utf-8")
    text = printed()
    assert "zeros dna" in text
    assert "G1" in text
    assert "NEU" not in text
