"""The tables of a study: Markdown and CSV for papers, one HTML page with plots for people."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Final, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from wbcpipe.classify.metrics import percent
from wbcpipe.classify.study.ablations import FoldLogits, ablations, markdown
from wbcpipe.classify.study.compare import reliability_bins
from wbcpipe.classify.study.plots import (
    confidence_plot,
    f1_plot,
    jacobian_plot,
    jacobian_shares,
    reliability_plot,
)
from wbcpipe.system.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from wbcpipe.classify.study.compare import ClaimSummary, RowSummary, StudySummary
    from wbcpipe.classify.study.results import FoldResult

    Results = Mapping[str, Mapping[str, Sequence[FoldResult]]]

__all__ = ["write_tables"]

_FIGURES: Final[tuple[Literal["f1_weighted", "sensitivity", "specificity", "auc"], ...]] = (
    *("f1_weighted", "sensitivity", "specificity", "auc"),
)
_FAULTS: Final = {"missing_logits": "zeros", "typical_logits": "typical"}


def write_tables(out: Path, summary: StudySummary, results: Results) -> str:
    """Write ``study.md``, ``study.csv`` and ``study.html`` into a folder.

    Return the tables in Markdown.
    """
    functions = (
        _row_cells,
        _claim_cells,
        _class_cells,
        jacobian_shares,
        f1_plot,
        confidence_plot,
        jacobian_plot,
    )
    environment = Environment(
        loader=PackageLoader("wbcpipe.classify.study", "."),
        autoescape=select_autoescape(("html.j2",)),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.globals |= {function.__name__.lstrip("_"): function for function in functions}
    beyond = _beyond(results)
    reliability = {
        backbone: reliability_plot(
            {name: reliability_bins(results[backbone][name]) for name in part["rows"]}
        )
        for backbone, part in summary["backbones"].items()
    }
    text = environment.get_template("study.md.j2").render(summary=summary)
    page = environment.get_template("study.html.j2").render(
        summary=summary, reliability=reliability, beyond=beyond
    )
    for name, content in (
        (
            "study.md",
            text
            + "".join(f"\n# Beyond the paper: {row}\n\n{part}" for row, part in beyond.items()),
        ),
        ("study.csv", _csv(summary)),
        ("study.html", page),
    ):
        with write_atomic(out / name) as handle:
            handle.write(content.encode())
    return text


def _row_cells(name: str, row: RowSummary) -> list[str]:
    """Return the cells of one row of the paper's table, as the templates name them."""
    return [
        name + (" (derived)" if row["derived"] else ""),
        *(percent(row["mean"][figure]) for figure in _FIGURES),
        f"{100 * row['f1_calibrated']:.2f}",
        f"{row['calibration_error']:.3f}",
        "-" if row["flops"] is None else f"{row['flops'] / 1e6:.2f} M",
        f"{row['parameters'] / 1e6:.3f} M",
    ]


def _claim_cells(claim: ClaimSummary) -> list[str]:
    ratio = "-" if claim["cost_ratio"] is None else f"{claim['cost_ratio']:.2f}"
    found = claim["difference"]
    if found is None:
        return [claim["claim"], "-", "-", "-", ratio]
    low, high = found["low"], found["high"]
    span = "-" if low is None or high is None else f"{100 * low:+.2f} to {100 * high:+.2f}"
    p = "-" if found["p"] is None else f"{found['p']:.3f}"
    return [claim["claim"], f"{100 * found['mean']:+.2f}", span, p, ratio]


def _class_cells(row: RowSummary, classes: Sequence[str]) -> list[str]:
    """Return ``92.80 ± 1.10 (88.95 to 95.92)``: mean and deviation over folds, and the interval
    over cells.
    """
    cells = []
    for name in classes:
        span = row["f1_interval"][name]
        interval = "" if span is None else f" ({100 * span[0]:.2f} to {100 * span[1]:.2f})"
        cells.append(percent(row["mean"]["f1"][name]) + interval)
    return cells


def _csv(summary: StudySummary) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    figures = [f"{name}_{part}" for name in _FIGURES for part in ("mean", "sd")]
    names = ("f1_calibrated", "calibration_error", "flops", "parameters", "side", "epochs")
    classes = [f"f1_{one}{part}" for one in summary["classes"] for part in ("", "_low", "_high")]
    writer.writerow(["backbone", "row", "method", "folds", *figures, *names, *classes])
    for backbone, part in summary["backbones"].items():
        for name, row in part["rows"].items():
            values = [value for figure in _FIGURES for value in row["mean"][figure].values()]
            rest = [
                row["f1_calibrated"],
                row["calibration_error"],
                row["flops"],
                row["parameters"],
                row["side"],
            ]
            by_class = [
                figure
                for one in summary["classes"]
                for figure in (
                    row["mean"]["f1"][one]["mean"],
                    *(row["f1_interval"][one] or (None, None)),
                )
            ]
            writer.writerow(
                [
                    backbone,
                    name,
                    row["method"],
                    len(row["folds"]),
                    *values,
                    *rest,
                    row["epochs"],
                    *by_class,
                ]
            )
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
            found[f"{name}, {backbone}"] = markdown(
                ablations(parts, first.info.classes, first.info.modalities)
            )
    return found
