"""Evaluation recovers planted truths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_recall_fscore_support

from wbcpipe.errors import SampleStateError
from wbcpipe.report.evaluate import evaluate_sample
from wbcpipe.report.scores import match_points, score_predictions
from wbcpipe.samples.cell_columns import QcFlag

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.samples.sample import Sample

    Create = Callable[..., Sample]

CLASSES = ("NEU", "LYM", "EOS", "MO", "BAS")


def test_scores_equal_scikit_learns() -> None:
    rng = np.random.default_rng(2)
    true = rng.integers(0, 5, 300)
    called = np.where(rng.random(300) < 0.7, true, rng.integers(0, 6, 300))
    scores = score_predictions(true.tolist(), called.tolist(), CLASSES)
    precision, recall, f1, support = precision_recall_fscore_support(
        true, called, labels=range(5), average=None, zero_division=0
    )
    assert [score.precision for score in scores.classes] == pytest.approx(precision.tolist())
    assert [score.recall for score in scores.classes] == pytest.approx(recall.tolist())
    assert [score.f1 for score in scores.classes] == pytest.approx(f1.tolist())
    assert [score.support for score in scores.classes] == support.tolist()
    expected = f1_score(true, called, labels=range(5), average="weighted", zero_division=0)
    assert scores.weighted_f1 == pytest.approx(expected)
    assert sum(map(sum, scores.confusion)) == scores.cells == 300


def test_scores_of_nothing() -> None:
    scores = score_predictions([], [], CLASSES)
    assert (scores.cells, scores.accuracy, scores.weighted_f1) == (0, 0.0, 0.0)


def test_matching_prefers_more_pairs_over_shorter_ones() -> None:
    true = np.array([[0.0, 0.0], [0.0, 3.0]])
    found = np.array([[0.0, 2.9], [0.0, 6.5]])
    assert [(i, j) for i, j, _ in match_points(true, found, 4.0)] == [(0, 0), (1, 1)]


def test_matching_is_one_to_one_and_within_tolerance() -> None:
    rng = np.random.default_rng(3)
    true = rng.uniform(0, 200, (150, 2))
    found = np.concatenate(
        [true[20:] + rng.normal(0, 0.5, (130, 2)), rng.uniform(300, 400, (9, 2))]
    )
    pairs = match_points(true, found, 4.0)
    assert len({i for i, *_ in pairs}) == len({j for _, j, _ in pairs}) == len(pairs) >= 130
    assert all(
        np.linalg.norm(true[i] - found[j]) == pytest.approx(d) and d <= 4 for i, j, d in pairs
    )
    assert match_points(true[:0], found, 4.0) == []


def test_planted_truth_is_recovered(
    create_sample: Create, write_truth: Callable[..., None]
) -> None:
    # Ten true cells: 8 are found, one cut by the outer edge is seen but has no visible centre;
    # debris and platelets are not cells; one thing found is nothing.
    truth = [
        (100.0 * i, i // 4, "NEU" if i < 6 else "LYM", "doublet" if i == 5 else "cell")
        for i in range(10)
    ]
    truth += [(2000.0, -1, "NEU", "cell"), (3000.0, 1, "", "debris"), (3100.0, 1, "", "platelet")]
    found_x = [100.0 * i + 1 for i in range(8)] + [2008.0, 5000.0, 3000.0]
    calls = ["NEU", "NEU", "NEU", "LYM", "unidentified", "NEU", "LYM", "LYM", "NEU", "MO", "NEU"]
    quality = [0, 0, QcFlag.BLURRED, 0, 0, 0, 0, 0, QcFlag.BORDER, 0, QcFlag.DEBRIS]
    heads = [["NEU"] * 3 + ["LYM"]] * 11
    sample = create_sample(calls, quality=quality, x_um=found_x, head_calls=heads)
    write_truth(sample, truth)
    result = evaluate_sample(sample)
    assert result.truth_source == "truth.csv"
    found = result.detection
    assert found is not None
    assert (found.truth, found.found, found.matched, found.ignored) == (10, 9, 8, 1)
    assert [found.recall, found.precision] == pytest.approx([0.8, 8 / 9])
    assert found.f1 == pytest.approx(16 / 19)
    assert found.position_rms_um == pytest.approx(1)
    assert result.predictions is not None
    scores = result.predictions.scores
    assert scores.cells == 7  # eight matched, one of them blurred
    assert scores.confusion[0] == (3, 1, 0, 0, 0, 1)
    assert scores.confusion[1] == (0, 2, 0, 0, 0, 0)
    neu, lym = scores.classes[:2]
    assert (neu.precision, neu.recall, neu.support) == (1.0, 0.6, 5)
    assert [lym.precision, lym.recall, lym.support] == pytest.approx([2 / 3, 1.0, 2])
    assert scores.weighted_f1 == pytest.approx((5 * 0.75 + 2 * 0.8) / 7)
    assert result.predictions.identified.cells == 6
    assert result.predictions.identified.classes[0].recall == 0.75
    assert result.predictions.heads["color1"] == pytest.approx(5 * (10 / 12) / 7)
    assert result.predictions.heads["fluorescence"] == pytest.approx(2 * (4 / 9) / 7)
    assert result.differential is not None
    share = result.differential[0]
    assert (share.true_percent, share.inside) == (60.0, True)


def test_truth_in_a_field_that_was_not_taken_does_not_count(
    create_sample: Create, write_truth: Callable[..., None], mark_fields: Callable[..., None]
) -> None:
    sample = create_sample(["NEU"], x_um=[0.0])
    write_truth(sample, [(0.0, 0, "NEU", "cell"), (500.0, 7, "NEU", "cell")])
    mark_fields(sample, [0], {"7": "camera"})
    found = evaluate_sample(sample).detection
    assert found is not None
    assert (found.truth, found.recall) == (1, 1.0)


def test_detection_before_classify(create_sample: Create, write_truth: Callable[..., None]) -> None:
    sample = create_sample(["NEU"], x_um=[0.0], classify=False)
    write_truth(sample, [(0.0, 0, "NEU", "cell")])
    result = evaluate_sample(sample)
    assert result.predictions is None
    assert result.detection is not None
    assert result.detection.recall == 1.0


def test_labels_stand_in_for_truth(create_sample: Create) -> None:
    sample = create_sample(["NEU", "NEU", "LYM", "EOS"], labels=["NEU", "LYM", "", "blast"])
    result = evaluate_sample(sample)
    assert (result.truth_source, result.detection) == ("labels", None)
    assert result.predictions is not None
    assert (
        result.predictions.scores.cells,
        result.predictions.scores.accuracy,
        result.predictions.other_labels,
    ) == (
        2,
        0.5,
        1,
    )


def test_nothing_to_compare_with(create_sample: Create) -> None:
    with pytest.raises(SampleStateError, match=r"no truth\.csv .*, no label"):
        evaluate_sample(create_sample(["NEU"]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x_um,y_um\n1,2\n", "column 'field' is missing"),
        ("x_um,y_um,field,class,kind,crc32c\n1,two,0,NEU,cell,\n", "damaged .could not convert"),
    ],
)
def test_damaged_truth(create_sample: Create, text: str, message: str) -> None:
    sample = create_sample(["NEU"])
    sample.truth_path.write_text(text)
    with pytest.raises(SampleStateError, match=message):
        evaluate_sample(sample)
