"""The tables of a study: Markdown and CSV for papers, one HTML page with plots for people."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from wbcpipe.classify.study.ablations import FoldLogits, ablations, markdown
from wbcpipe.classify.study.compare import reliability_bins, summarise_study
from wbcpipe.classify.study.plots import confidence_plot, f1_plot, jacobian_plot, jacobian_shares, reliability_plot
from wbcpipe.system.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from wbcpipe.classify.metrics import MeanSd, ScoreSummary
    from wbcpipe.classify.study.results import FoldResult
    from wbcpipe.classify.study.summary import ClaimSummary, HeadSummary, RowSummary, StudySummary

    Results = Mapping[str, Mapping[str, Sequence[FoldResult]]]

__all__ = ["summarise_study", "write_tables"]

_FIGURES: Final = ("f1_weighted", "sensitivity", "specificity", "auc")
_FAULTS: Final = {"missing_logits": "zeros", "typical_logits": "typical"}


def write_tables(out: Path, summary: StudySummary, results: Results) -> str:
    """Write ``study.md``, ``study.csv`` and ``study.html`` into a folder; return the tables in Markdown."""
    text = _markdown(summary)
    beyond = _beyond(results)
    page = Environment(
        loader=PackageLoader("wbcpipe.classify.study", "."), autoescape=True, undefined=StrictUndefined
    ).get_template("study.html.j2")
    html = page.render(summary=summary, backbones=[_page(summary, results, name) for name in results], beyond=beyond)
    for name, content in (
        ("study.md", text + "".join(f"\n# Beyond the paper: {row}\n\n{part}" for row, part in beyond.items())),
        ("study.csv", _csv(summary)),
        ("study.html", html),
    ):
        with write_atomic(out / name) as handle:
            handle.write(content.encode())
    return text


def percent(entry: MeanSd) -> str:
    """Return a mean and deviation in [0, 1] as ``95.43 ± 0.36``."""
    mean, sd = entry["mean"], entry["sd"]
    if mean is None:
        return "-"
    return f"{100 * mean:.2f}" + ("" if sd is None else f" ± {100 * sd:.2f}")


def _figures(mean: ScoreSummary) -> tuple[MeanSd, ...]:
    """Return the scores in the order of `_FIGURES`."""
    return mean["f1_weighted"], mean["sensitivity"], mean["specificity"], mean["auc"]


def _cost(row: RowSummary) -> tuple[str, str]:
    flops = "-" if row["flops"] is None else f"{row['flops'] / 1e6:.2f} M"
    return flops, f"{row['parameters'] / 1e6:.3f} M"


def _markdown(summary: StudySummary) -> str:
    lines = []
    for backbone, part in summary["backbones"].items():
        rows = part["rows"]
        first = next(iter(rows.values()))
        lines += [
            f"# {backbone}, side {first['side']}, {first['epochs']} epochs, {first['expected']} folds",
            "",
            "| method | F1 | sensitivity | specificity | AUC | F1 of calibrated heads | ECE | FLOPs | parameters |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for name, row in rows.items():
            figures = [percent(figure) for figure in _figures(row["mean"])]
            short = "" if len(row["folds"]) == row["expected"] else f" ({len(row['folds'])} of {row['expected']} folds)"
            cells = [name + (" (derived)" if row["derived"] else "") + short, *figures]
            cells += [f"{100 * row['f1_calibrated']:.2f}", f"{row['calibration_error']:.3f}", *_cost(row)]
            lines.append("| " + " | ".join(cells) + " |")
        lines += ["", "| claim | difference of F1, points | 95 % | p | cost ratio |", "|---|---|---|---|---|"]
        lines += [f"| {' | '.join(_claim_cells(claim))} |" for claim in part["claims"]]
        chosen = part["recommended"]
        lines += [
            "",
            f"Highest F1 of calibrated heads: {chosen['best']}. Cheapest within a standard error of it: "
            f"{chosen['cheapest']}.",
            "",
        ]
        lines += _class_table(rows, summary["classes"])
        for name, row in rows.items():
            if (several := _several_heads(row)) is not None:
                lines += _head_tables(name, several)
    return "\n".join(lines) + "\n"


def _several_heads(row: RowSummary) -> HeadSummary | None:
    """Return the heads of a row, if it has more than one."""
    heads = row["inputs"]
    return heads if heads is not None and len(heads["heads"]) > 1 else None


def _claim_cells(claim: ClaimSummary) -> list[str]:
    ratio = "-" if claim["cost_ratio"] is None else f"{claim['cost_ratio']:.2f}"
    found = claim["difference"]
    if found is None:
        return [claim["claim"], "-", "-", "-", ratio]
    low, high = found["low"], found["high"]
    span = "-" if low is None or high is None else f"{100 * low:+.2f} to {100 * high:+.2f}"
    p = "-" if found["p"] is None else f"{found['p']:.3f}"
    return [claim["claim"], f"{100 * found['mean']:+.2f}", span, p, ratio]


def _class_table(rows: Mapping[str, RowSummary], classes: Sequence[str]) -> list[str]:
    lines = ["| F1 by class | " + " | ".join(classes) + " |", "|---|" + "---|" * len(classes)]
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(_class_cells(row, classes)) + " |")
    return [*lines, ""]


def _class_cells(row: RowSummary, classes: Sequence[str]) -> list[str]:
    """Return ``92.80 ± 1.10 (88.95 to 95.92)``: mean and deviation over folds, and the interval over cells."""
    cells = []
    for name in classes:
        span = row["f1_interval"][name]
        interval = "" if span is None else f" ({100 * span[0]:.2f} to {100 * span[1]:.2f})"
        cells.append(percent(row["mean"]["f1"][name]) + interval)
    return cells


def _head_tables(name: str, summary: HeadSummary) -> list[str]:
    """Return the numbers of the paper's Figure 4 and of the Jacobian: percent, a column for each head."""
    table, heads = summary["confidence"], summary["heads"]
    lines = [f"| {name}: confidence (accuracy) of head | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for given, sure, right in zip(table["inputs"], table["confidence"], table["accuracy"], strict=True):
        figures = [f"{100 * one:.1f} ({100 * two:.1f})" for one, two in zip(sure, right, strict=True)]
        lines.append(f"| {'all inputs' if given == 'all' else given + ' alone'} | " + " | ".join(figures) + " |")
    lines += ["", f"| {name}: dependence of head, % | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for given, shares in zip(summary["inputs"], jacobian_shares(summary).T, strict=True):
        lines.append(f"| on {given} | " + " | ".join(f"{100 * share:.1f}" for share in shares) + " |")
    return [*lines, ""]


def _csv(summary: StudySummary) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    figures = [f"{name}_{part}" for name in _FIGURES for part in ("mean", "sd")]
    names = ("f1_calibrated", "calibration_error", "flops", "parameters", "side", "epochs")
    classes = [f"f1_{one}{part}" for one in summary["classes"] for part in ("", "_low", "_high")]
    writer.writerow(["backbone", "row", "method", "folds", *figures, *names, *classes])
    for backbone, part in summary["backbones"].items():
        for name, row in part["rows"].items():
            values = [value for figure in _figures(row["mean"]) for value in (figure["mean"], figure["sd"])]
            by_class = [
                figure
                for one in summary["classes"]
                for figure in (row["mean"]["f1"][one]["mean"], *(row["f1_interval"][one] or (None, None)))
            ]
            rest = [row["f1_calibrated"], row["calibration_error"], row["flops"], row["parameters"], row["side"]]
            rest.append(row["epochs"])
            writer.writerow([backbone, name, row["method"], len(row["folds"]), *values, *rest, *by_class])
    return text.getvalue()


def _beyond(results: Results) -> dict[str, str]:
    """Return the ablations of rows with several heads, as Markdown."""
    found = {}
    for backbone, rows in results.items():
        for name, folds in rows.items():
            first = folds[0]
            if "single_logits" not in first.arrays or first.arrays["test_logits"].shape[1] < 2:
                continue
            parts = [
                FoldLogits(
                    calibration_logits=fold.arrays["calibration_logits"],
                    calibration_labels=fold.arrays["calibration_labels"],
                    test_logits=fold.arrays["test_logits"],
                    test_labels=fold.arrays["test_labels"],
                    faults={kind: fold.arrays[key] for key, kind in _FAULTS.items()},
                )
                for fold in folds
            ]
            found[f"{name}, {backbone}"] = markdown(ablations(parts, first.info.classes, first.info.modalities))
    return found


def _page(summary: StudySummary, results: Results, backbone: str) -> dict[str, object]:
    """Return what the template shows of one backbone."""
    part = summary["backbones"][backbone]
    rows = part["rows"]
    several = {name: heads for name, row in rows.items() if (heads := _several_heads(row)) is not None}
    return {
        "name": backbone,
        "rows": [
            {
                "name": name,
                "derived": row["derived"],
                "folds": f"{len(row['folds'])} of {row['expected']}",
                "figures": [percent(figure) for figure in _figures(row["mean"])],
                "calibrated": f"{100 * row['f1_calibrated']:.2f}",
                "ece": f"{row['calibration_error']:.3f}",
                "cost": _cost(row),
                "best": name == part["recommended"]["best"],
                "by_class": _class_cells(row, summary["classes"]),
            }
            for name, row in rows.items()
        ],
        "claims": [_claim_cells(claim) for claim in part["claims"]],
        "recommended": part["recommended"],
        "f1": f1_plot(rows),
        "heads": [
            {
                "name": name,
                "confidence": confidence_plot(heads),
                "jacobian": jacobian_plot(heads),
                "missing": {
                    one: (100 * found["missing"], 100 * found["typical"]) for one, found in heads["missing"].items()
                },
            }
            for name, heads in several.items()
        ],
        "reliability": reliability_plot({name: reliability_bins(results[backbone][name]) for name in rows}),
        "confusion": [
            {"name": name, "matrix": list(zip(summary["classes"], row["mean"]["confusion"], strict=True))}
            for name, row in rows.items()
        ],
    }
