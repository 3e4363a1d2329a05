"""A whole study on tiny cells: planned, shared by two processes, broken off, tabled.

And its figures by hand.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner

from wbcpipe.classify.models.normalise import fit_normalisation
from wbcpipe.classify.networks import build_network
from wbcpipe.classify.study.cli import _failure_of, _start_worker, _StudyReporter
from wbcpipe.classify.study.compare import (
    Candidate,
    class_intervals,
    confidence_table,
    paired_difference,
    recommend,
    reliability_bins,
)
from wbcpipe.classify.study.jobs import group_cells, plan_jobs, split_cells
from wbcpipe.classify.study.probe import jacobian_norms
from wbcpipe.classify.study.results import FoldResult, ResultInfo, read_results
from wbcpipe.classify.training.data import CellSet
from wbcpipe.classify.training.recipe import parse_settings
from wbcpipe.cli.progress import Reporter
from wbcpipe.errors import ConfigError, TrainingDataError
from wbcpipe.pipeline import cli
from wbcpipe.system.locks import try_lock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.samples.cell_store import CellStore

TINY = ("--side", "32", "--epochs", "1", "--folds", "2", "--set", "batch_size=16")


def arguments(store: CellStore, out: Path, *more: str) -> list[str]:
    return ["study", str(store.path), "--out", str(out), *TINY, *more]


@pytest.fixture
def start() -> Callable[..., subprocess.Popen[bytes]]:
    def begin(words: list[str], rank: int) -> subprocess.Popen[bytes]:
        environment = os.environ | {"RANK": str(rank), "WORLD_SIZE": "2"}
        return subprocess.Popen(
            [sys.executable, "-m", "wbcpipe", *words], env=environment, stdout=subprocess.DEVNULL
        )

    return begin


def test_a_study_by_two_processes_one_of_which_is_killed(
    write_store: Callable[..., CellStore],
    tmp_path: Path,
    start: Callable[..., subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, out = write_store(count=48, fields=16), tmp_path / "study"
    words = arguments(
        store,
        out,
        "--variant",
        "slow:method=early-fusion,lr=0.0005",
        "--min-class-size",
        "4",
    )
    processes = [start(words, rank) for rank in (0, 1)]
    while not list(out.glob("*/*/fold-*/result.json")):
        assert processes[0].poll() is None
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGKILL)
    processes[1].wait()
    assert processes[0].wait(300) == 0
    results = read_results(out)["shufflenet"]
    singles = ["color1", "color2", "fluorescence"]
    assert sorted(results) == sorted(
        [
            *singles,
            "early-fusion",
            "early-fusion-kd",
            "late-fusion",
            "mm-mimo",
            "mm-mimo-kd",
            "slow",
        ]
    )
    for name, folds in results.items():
        assert [fold.info.fold for fold in folds] == [0, 1]
        tested = np.concatenate([fold.arrays["test_rows"] for fold in folds])
        assert sorted(tested) == list(range(48))
        for fold in folds:
            learned = {*fold.arrays["calibration_rows"], *fold.arrays["test_rows"]}
            assert len(learned) + fold.info.cells.train == 48
            if name not in singles:
                assert fold.arrays["missing_logits"].shape == (3, *fold.arrays["test_logits"].shape)
    late = results["late-fusion"][0].arrays["test_logits"]
    alone = np.concatenate([results[name][0].arrays["test_logits"] for name in singles], axis=1)
    np.testing.assert_allclose(late, alone, rtol=1e-4, atol=1e-4)
    assert (out / "study.csv").read_text(encoding="utf-8").count("\n") == 10
    page = (out / "study.html").read_text(encoding="utf-8")
    assert (
        page.count("<svg") == 1 + 1 + 2 * 3
    )  # F1 and reliability; two for each row of several heads
    assert "Nadeau" in page
    _figure_4_is_told_in_numbers(out, results["mm-mimo"])

    monkeypatch.setattr("wbcpipe.classify.study.tables.ablations", lambda *_: [])  # as before
    again = CliRunner().invoke(cli, [*words, "--tables-only", "--json"])
    assert again.exit_code == 0, again.output
    claims = json.loads(again.stdout)["backbones"]["shufflenet"]["claims"]
    assert [claim["row"] for claim in claims] == [
        "mm-mimo-kd",
        "mm-mimo-kd",
        "mm-mimo",
        "early-fusion-kd",
    ]
    for change, reason in (
        (("--set", "lr=0.001"), "another recipe"),
        (("--calibration-fraction", "0.3"), "other cells"),
    ):
        other = CliRunner().invoke(cli, [*words, *change])
        assert isinstance(other.exception, TrainingDataError)
        assert reason in str(other.exception)


def _figure_4_is_told_in_numbers(out: Path, folds: list[FoldResult]) -> None:
    parts = (out / "study.md").read_text(encoding="utf-8").split("| mm-mimo: ")[1:]
    told = [part.split("\n\n")[0] for part in parts]
    assert [part.count("\n| ") for part in told] == [
        1 + 3,
        3,
    ]  # all inputs and each alone; each input
    shares = [
        float(line.split("|")[2]) for line in told[1].splitlines() if line.startswith("| on ")
    ]
    norms = np.mean([fold.arrays["jacobian"] for fold in folds], axis=0)[0]
    assert shares == pytest.approx(100 * norms / norms.sum(), abs=0.051)


def test_a_claim_is_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        try_lock(tmp_path / "job" / ".claim") as first,
        try_lock(tmp_path / "job" / ".claim") as second,
    ):
        assert (first, second) == (True, False)
    with try_lock(tmp_path / "job" / ".claim") as third:
        assert third


def cells_of(slides: list[int] | None) -> CellSet:
    count = 24
    return CellSet(
        images=np.zeros((count, 2, 4, 4), np.uint16),
        labels=np.arange(count) % 2,
        groups=np.arange(count) // 2,
        classes=("a", "b"),
        modalities=("x", "y"),
        planes=1,
        pixel_um=0.1,
        slides=None if slides is None else np.repeat(slides, count // len(slides)).astype(np.int64),
    )


def test_cells_of_a_sample_stay_together_where_there_are_enough() -> None:
    many = cells_of([0, 1, 2, 3])
    groups, by = group_cells(many, "auto", 4)
    assert by == "sample"
    for split in split_cells(many.labels, groups, 4, 0.34, 0):
        parts = [set(groups[rows]) for rows in (split.train, split.calibration, split.test)]
        assert not any(
            one & other for one, other in zip(parts, [*parts[1:], parts[0]], strict=True)
        )
        assert sum(map(len, (split.train, split.calibration, split.test))) == len(many)
    assert group_cells(many, "auto", 5)[1] == "field"
    assert len(np.unique(group_cells(many, "cell", 5)[0])) == 24
    with pytest.raises(TrainingDataError, match="the sample of each cell is not known"):
        group_cells(cells_of(None), "sample", 2)


def test_rare_classes_become_one() -> None:
    cells = cells_of(None)
    labels = np.array([0] * 10 + [1] * 2 + [2] * 11 + [3])
    merged = CellSet(
        **{**cells.__dict__, "labels": labels, "classes": ("a", "b", "c", "d")}
    ).merge_rare_classes(3)
    assert merged.classes == ("a", "c", "rare")
    assert merged.counts() == {"a": 10, "c": 11, "rare": 3}
    assert merged.merge_rare_classes(3) is merged


def test_jobs_come_after_those_they_need_and_unknown_keys_are_refused() -> None:
    jobs = plan_jobs(
        cells_of(None), ["late-fusion", "mm-mimo"], ["shufflenet"], 2, {"epochs": 7}, {}
    )
    assert [(job.fold, job.name) for job in jobs[:4]] == [
        (0, "mm-mimo"),
        (0, "x"),
        (0, "y"),
        (0, "late-fusion"),
    ]
    assert jobs[3].needs == ("x", "y")
    assert {job.recipe.epochs for job in jobs} == {7}
    with pytest.raises(ConfigError, match="no_such_key"):
        plan_jobs(
            cells_of(None),
            ["mm-mimo"],
            ["shufflenet"],
            2,
            {},
            {"v": {"method": "mm-mimo", "no_such_key": 1}},
        )
    with pytest.raises(ConfigError, match="choose another name"):
        plan_jobs(cells_of(None), ["mm-mimo"], ["shufflenet"], 2, {}, {"x": {"method": "mm-mimo"}})
    with pytest.raises(ConfigError, match="not of the form KEY=VALUE"):
        parse_settings("input_repetition_prob")


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"method": "mm-mimo", "side": 64}, "side must be the same"),
        ({"method": "mm-mimo", "backbone": "resnet34"}, "backbone must be the same"),
        ({"method": "mm-mimo-kd", "normalise": "fixed"}, "normalise must be the same"),
        ({"method": "single", "modality": "z"}, "'z' is none of x, y"),
    ],
)
def test_a_variant_that_cannot_be_compared_or_built_is_refused_before_anything_is_trained(
    keys: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        plan_jobs(cells_of(None), ["single"], ["shufflenet"], 2, {}, {"v": keys})


def test_a_variant_of_late_fusion_has_its_single_modalities_trained() -> None:
    variants = {
        "late": {"method": "late-fusion"},
        "own": {"method": "mm-mimo", "normalise": "fixed"},
    }
    jobs = plan_jobs(cells_of(None), ["mm-mimo"], ["shufflenet"], 2, {}, variants)
    needs = {job.name: job.needs for job in jobs}
    assert needs == {"x": (), "y": (), "mm-mimo": (), "own": (), "late": ("x", "y")}


def test_the_paired_test_is_that_of_nadeau_and_bengio() -> None:
    found = paired_difference([0.9, 0.8, 0.7], [0.8, 0.8, 0.6], trained=80, tested=20)
    # mean 0.0667, variance 0.00333; (1/3 + 1/4) * variance = 0.001944; t = 1.512 at 2 degrees of
    # freedom
    assert found["mean"] == pytest.approx(0.2 / 3)
    assert found["p"] == pytest.approx(0.2696, abs=2e-3)
    assert found["low"] == pytest.approx(0.2 / 3 - 4.3027 * 0.0441, abs=1e-3)
    assert paired_difference([0.5], [0.4], 1, 1)["p"] is None


def result(test: Any, alone: Any, labels: list[int]) -> FoldResult:
    arrays = {
        "test_logits": np.array(test),
        "single_logits": np.array(alone),
        "test_labels": np.array(labels),
    }
    info = ResultInfo.model_construct(modalities=("x", "y"), classes=("a", "b"))
    return FoldResult(info, arrays)


def test_confidence_of_heads_under_each_input() -> None:
    sure, unsure = [np.log(9.0), 0.0], [0.0, 0.0]
    table = confidence_table([result([[sure, sure]], [[[sure, unsure]], [[unsure, sure]]], [0])])
    assert table["inputs"] == ["all", "x", "y"]
    assert np.array(table["confidence"]) == pytest.approx(
        np.array([[0.9, 0.9], [0.9, 0.5], [0.5, 0.9]])
    )
    assert table["accuracy"][1] == [1.0, 1.0]
    ((confidence, right, count),) = reliability_bins([result([[sure, sure]], [], [1])])
    assert confidence == pytest.approx(0.9)
    assert (right, count) == (0.0, 1)


def test_heads_that_read_one_input_have_a_diagonal_jacobian() -> None:
    images = np.random.default_rng(0).integers(0, 60000, (6, 2, 32, 32)).astype(np.uint16)
    cells = CellSet(**{**cells_of(None).__dict__, "images": images})
    norms = jacobian_norms(
        build_network("late-fusion", "shufflenet_v2_x1_0", 2, 1, 2).eval(),
        cells,
        fit_normalisation(images),
        max_cells=4,
    )
    assert norms.shape == (2, 2)
    assert norms[0, 1] == norms[1, 0] == 0.0
    assert norms[0, 0] > 0
    assert norms[1, 1] > 0
    mixed = jacobian_norms(
        build_network("mm-mimo", "shufflenet_v2_x1_0", 2, 1, 2).eval(),
        cells,
        fit_normalisation(images),
    )
    assert (mixed > 0).all()


def test_the_jacobian_is_of_cells_from_all_over_the_store() -> None:
    """Stores hold class after class: the first cells alone would all be of one."""
    images = np.zeros((40, 2, 32, 32), np.uint16)
    images[20:] = np.random.default_rng(0).integers(0, 60000, (20, 2, 32, 32))
    cells = CellSet(**{**cells_of(None).__dict__, "images": images})
    ends = CellSet(**{**cells.__dict__, "images": images[[0, 13, 26, 39]]})
    network, normalisation = (
        build_network("mm-mimo", "shufflenet_v2_x1_0", 2, 1, 2).eval(),
        fit_normalisation(images),
    )
    np.testing.assert_allclose(
        jacobian_norms(network, cells, normalisation, max_cells=4),
        jacobian_norms(network, ends, normalisation),
        rtol=1e-6,
    )


def test_intervals_of_f1_hold_it_and_shrink_with_more_cells() -> None:
    few, many = [[8, 2, 0], [1, 9, 0], [0, 0, 0]], [[800, 200, 0], [100, 900, 0], [0, 0, 0]]
    assert class_intervals(few)[2] is None
    widths = []
    for matrix in (few, many):
        found = class_intervals(matrix)[0]
        assert found is not None
        assert found[0] < 16 / 19 < found[1]
        widths.append(found[1] - found[0])
    assert widths[0] / widths[1] == pytest.approx(
        10, rel=0.35
    )  # as the square root of the number of cells


def test_time_left_counts_hours_beyond_a_day(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock_s = iter([0.0, 3600.0])
    monkeypatch.setattr(
        "wbcpipe.classify.study.cli.time", SimpleNamespace(monotonic=lambda: next(clock_s))
    )
    jobs = plan_jobs(cells_of(None), ["early-fusion"], ["shufflenet"], 31, {"epochs": 1}, {})
    clock = _StudyReporter(jobs, tmp_path, Reporter())
    (folder := jobs[0].folder(tmp_path)).mkdir(parents=True)
    (folder / "result.json").write_text("{}", encoding="utf-8")
    clock(jobs[0], None)
    assert "1/31 networks, 1 day, 6:00:00 left" in capsys.readouterr().err


def test_the_cheapest_row_within_an_error_of_the_best_is_recommended() -> None:
    rows = {
        "late": Candidate({0: 0.90, 1: 0.94}, 400),
        "mimo": Candidate({0: 0.91, 1: 0.91}, 110),
        "single": Candidate({0: 0.85, 1: 0.85}, 100),
    }
    assert recommend(rows) == {"best": "late", "cheapest": "mimo"}
    ahead = rows | {
        "early": Candidate({0: 0.80, 1: 0.80, 2: 0.999}, 100)
    }  # an easy fold that the others lack
    assert recommend(ahead) == {"best": "late", "cheapest": "mimo"}
    begun = {"late": rows["late"], "slow": Candidate({2: 0.99}, 1), "mimo": rows["mimo"]}
    assert recommend(begun) == {
        "best": "mimo",
        "cheapest": "mimo",
    }  # fold 0 is the one that most have


@pytest.mark.parametrize(
    ("words", "failure"),
    [(["scopes"], ""), (["report", "--sample", "absent"], "no sample 'absent'")],
)
def test_how_a_process_that_only_trains_ended_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], failure: str
) -> None:
    monkeypatch.setattr("sys.argv", ["wbcpipe", *words])
    monkeypatch.chdir(tmp_path)
    told = _failure_of(_start_worker(1))
    assert told.startswith(failure)
    assert bool(told) == bool(failure)
