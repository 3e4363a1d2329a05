"""Tables and plots of long training runs, from their records alone."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

import numpy as np
from matplotlib.colors import TABLEAU_COLORS
from matplotlib.figure import Figure

from wbcpipe.classify import metrics
from wbcpipe.classify.study.compare import CLAIMS, paired_difference
from wbcpipe.classify.study.long_runs import first_flat_step
from wbcpipe.classify.uncertainty.fusion import stacking_helps
from wbcpipe.classify.uncertainty.probability_calibration import fit_calibration, fused_probability

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from wbcpipe.classify.metrics import Scores
    from wbcpipe.classify.study.long_runs import RunRecord

__all__ = ["calibrated_scores", "chosen_on_held_out", "curve_plot", "dataset_tables"]

FLAT_WITHIN: Final = 0.01
_BEST: Final = "best modality"
_PLAIN_LATE: Final = "late-fusion, plain mean"
_OWN_CLAIMS: Final = (
    ("early-fusion", _BEST, "early fusion beats the best modality alone"),
    ("late-fusion", _BEST, "late fusion beats the best modality alone"),
    ("late-fusion", "early-fusion", "late fusion beats early fusion"),
    ("late-fusion", _PLAIN_LATE, "held-out cells fuse late fusion better than the plain mean"),
    ("late-fusion-half", _BEST, "late fusion of half the channels beats the best modality alone"),
    ("late-fusion-half", "early-fusion", "late fusion of half the channels beats early fusion"),
    ("late-fusion-half", "late-fusion", "late fusion of half the channels reaches late fusion"),
    ("late-fusion-half", _PLAIN_LATE, "late fusion of half the channels beats the plain mean"),
    ("late-fusion-half", "repeated", "late fusion of half the channels beats MM-MIMO"),
    ("early-fusion-kd-fused", "early-fusion", "the calibrated teacher helps early fusion"),
    ("repeated", "early-fusion", "MM-MIMO with repetition beats early fusion"),
    ("repeated", "late-fusion", "MM-MIMO with repetition reaches late fusion"),
    ("repeated-kd", "repeated", "distillation helps MM-MIMO with repetition"),
    ("repeated-kd-fused", "repeated", "the fused, calibrated teacher helps beside one per head"),
    ("repeated-kd-two-seeds", "repeated-kd-fused", "a second teacher of each modality helps"),
    ("repeated-kd, chosen", "repeated", "distillation chosen on held-out cells helps"),
    ("split", "repeated", "a first convolution split by modality helps"),
    ("block", "repeated", "a first block for each modality helps"),
    ("mm-mimo-block", "mm-mimo", "a first block for each modality helps without repetition"),
    ("told", "typical", "heads told of missing inputs call complete cells better"),
)
#: Row, and fold to record.
_Rows = dict[str, dict[int, "RunRecord"]]


def dataset_tables(records: Sequence[RunRecord], choices: Mapping[str, Sequence[str]]) -> str:
    """Return the tables of one data set in Markdown: a part for each length, and one over lengths.

    Args:
        records: of one data set, any lengths; of several seeds, the first seed's are shown.
        choices: name of a row to the rows of which it is chosen, see `chosen_on_held_out`.
    """
    parts = []
    for length in sorted({one.length for one in records}):
        rows: _Rows = defaultdict(dict)
        for one in records:
            if one.length == length and one.seed == 0:
                rows[one.variant][one.fold] = one
        for name, candidates in choices.items():
            found = chosen_on_held_out([rows[row] for row in candidates if row in rows])
            if found:
                rows[name] = found
        parts.append(_length_part(length, rows))
    return "\n".join([*parts, _lengths_part(records)])


def _length_part(length: int, rows: _Rows) -> str:
    header = ("row", "steps", "epochs", "folds", "F1", "sensitivity", "specificity", "AUC")
    lines = [f"### {length:,} steps", ""]
    lines += metrics.table_lines(
        (*header, "F1, heads fused by held-out cells", "flat from", "FLOPs", "CPU min"),
        [_row(name, folds) for name, folds in rows.items()],
    )
    for heads, scores in (("plain mean", _plain), ("fused by held-out cells", calibrated_scores)):
        lines += _claims_part(rows, heads, scores)
    return "\n".join([*lines, ""])


def _row(name: str, folds: Mapping[int, RunRecord]) -> list[str]:
    some = [folds[fold] for fold in sorted(folds)]
    mean = metrics.summarise([one.scores for one in some])
    fused = metrics.summarise([calibrated_scores(one) for one in some])
    flat = [first_flat_step(*_curve(one), within=FLAT_WITHIN) for one in some if len(one.curve) > 1]
    known = [step for step in flat if step is not None]
    return [
        name,
        str(some[0].length),
        f"{np.mean([one.epochs for one in some]):.0f}",
        f"{len(some)} of {some[0].folds}",
        *(
            metrics.percent(mean[figure])
            for figure in ("f1_weighted", "sensitivity", "specificity", "auc")
        ),
        metrics.percent(fused["f1_weighted"]),
        "-" if not flat else "not flat" if len(known) < len(flat) else str(max(known)),
        "-" if some[0].flops is None else f"{some[0].flops / 1e6:.2f} M",
        f"{np.mean([one.cpu_s for one in some]) / 60:.1f}",
    ]


def _curve(record: RunRecord) -> tuple[list[int], list[float]]:
    return [one.step for one in record.curve], [one.test_f1 for one in record.curve]


def _plain(record: RunRecord) -> Scores:
    return record.scores


def _claims_part(rows: _Rows, heads: str, scores: Callable[[RunRecord], Scores]) -> list[str]:
    """Return the table of the claims whose rows are there; the heads are fused as the scores
    say.
    """
    f1 = {
        name: {fold: scores(one)["f1_weighted"] for fold, one in folds.items()}
        for name, folds in rows.items()
    }
    if best := _best_modality(rows):
        f1[_BEST] = f1[best]
    if scores is not _plain and "late-fusion" in rows:
        f1[_PLAIN_LATE] = {
            fold: one.scores["f1_weighted"] for fold, one in rows["late-fusion"].items()
        }
    claims = []
    for name, other, words in (*CLAIMS, *_OWN_CLAIMS):
        if both := sorted(f1.get(name, {}).keys() & f1.get(other, {}).keys()):
            values = [[f1[row][fold] for fold in both] for row in (name, other)]
            claims.append(_claim(rows[name][both[0]], words, *values))
    if not claims:
        return []
    header = ("claim", "steps", "folds", "difference", "95 %", "p", "by fold")
    named = "" if best is None else f"; the best modality by held-out cells is {best}"
    title = f"Differences of F1 in points, paired over folds; heads: {heads}{named}:"
    return ["", title, "", *metrics.table_lines(header, claims)]


def _best_modality(rows: _Rows) -> str | None:
    """Return the member of late fusion with the highest mean F1 on the calibration cells."""
    members = {name for one in rows.get("late-fusion", {}).values() for name in one.teachers}
    held_out = {
        name: np.mean([one.curve[-1].calibration_f1 for one in rows[name].values()])
        for name in sorted(members & rows.keys())
    }
    return max(held_out, key=lambda name: held_out[name]) if held_out else None


def _claim(record: RunRecord, words: str, first: list[float], second: list[float]) -> list[str]:
    found = paired_difference(first, second, record.cells.train, record.cells.test)
    low, high, p = found["low"], found["high"], found["p"]
    return [
        words,
        str(record.length),
        str(len(first)),
        f"{100 * found['mean']:+.2f}",
        "-" if low is None or high is None else f"{100 * low:+.2f} to {100 * high:+.2f}",
        "-" if p is None else f"{p:.3f}",
        ", ".join(f"{100 * (one - two):+.1f}" for one, two in zip(first, second, strict=True)),
    ]


def _lengths_part(records: Sequence[RunRecord]) -> str:
    lengths = sorted({one.length for one in records})
    by_row: dict[str, dict[int, list[Scores]]] = defaultdict(lambda: defaultdict(list))
    for one in records:
        if one.seed == 0:
            by_row[one.variant][one.length].append(one.scores)
    table = [
        [
            name,
            *(
                metrics.percent(metrics.summarise(found[length])["f1_weighted"])
                if length in found
                else "-"
                for length in lengths
            ),
        ]
        for name, found in by_row.items()
    ]
    header = ("F1 of the plain mean", *(f"{length:,} steps" for length in lengths))
    return "\n".join(["### Lengths", "", *metrics.table_lines(header, table), ""])


def calibrated_scores(record: RunRecord) -> Scores:
    """Return the scores of the heads fused as held-out cells decide: weighted or stacked."""
    _, labels, logs = record.calibration.unpack()
    _, truth, tested = record.test.unpack()
    fitted = fit_calibration(logs, labels, stacked=stacking_helps(logs, labels))
    return metrics.scores(truth, fused_probability(tested, fitted), record.classes)


def chosen_on_held_out(candidates: Sequence[Mapping[int, RunRecord]]) -> dict[int, RunRecord]:
    """Return, for each fold that all candidates have, the record of the highest F1 on the
    calibration cells.

    The last point of the curve decides; the test cells do not.
    """
    if not candidates:
        return {}
    shared = set.intersection(*(set(one) for one in candidates))
    return {
        fold: max((one[fold] for one in candidates), key=lambda run: run.curve[-1].calibration_f1)
        for fold in sorted(shared)
    }


def curve_plot(records: Sequence[RunRecord], title: str) -> Figure:
    """Plot F1 on the test cells by optimiser step, the mean over folds, a line for each row.

    The longest runs of each row are drawn as lines, the ends of shorter ones as dots.
    """
    figure = Figure(figsize=(7.5, 4.2))
    axes = figure.subplots()
    # More rows than the ten colours.
    styles = [style for style in ("-", "--", ":") for _ in TABLEAU_COLORS]
    axes.set_prop_cycle(color=3 * list(TABLEAU_COLORS), linestyle=styles)
    by_row: dict[str, dict[int, list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
    for one in records:
        if one.seed == 0 and len(one.curve) > 1:
            by_row[one.variant][one.length].append(one)
    for name, by_length in by_row.items():
        longest = by_length[max(by_length)]
        steps, _ = _curve(longest[0])
        values = 100 * np.mean([_curve(one)[1] for one in longest], axis=0)
        [line] = axes.plot(steps, values, linewidth=1.2, label=name)
        ends = {
            length: 100 * float(np.mean([one.scores["f1_weighted"] for one in runs]))
            for length, runs in by_length.items()
        }
        axes.plot(list(ends), list(ends.values()), "o", color=line.get_color(), markersize=4)
    axes.set_xlabel("optimiser steps (lines: within the longest runs; dots: ends of runs)")
    axes.set_ylabel("weighted F1 of the test cells, %")
    axes.set_title(title)
    axes.grid(color="0.9")
    axes.legend(fontsize=7, ncols=2, loc="lower right")
    return figure
