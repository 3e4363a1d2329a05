"""The plots of a study, as SVG."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from wbcpipe.classify.study.compare import HeadSummary, RowSummary

__all__ = ["confidence_plot", "f1_plot", "jacobian_plot", "jacobian_shares", "reliability_plot"]

_GREY = "0.35"


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    content = text.getvalue()
    body = content[content.index("<svg") :]
    # Two images in one page must not share ids.
    mark = f"p{abs(hash(body)) % 10**8}"
    return re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{mark}-", body)


def f1_plot(rows: Mapping[str, RowSummary]) -> str:
    """Plot the weighted F1 of each row: a dot for each fold, a bar at their mean."""
    figure = Figure(figsize=(7.5, 0.36 * len(rows) + 0.8))
    axes = figure.subplots()
    for index, row in enumerate(rows.values()):
        values = 100 * np.array(row["f1_by_fold"])
        axes.plot(
            values, np.full(len(values), index), "o", color="tab:blue", alpha=0.5, markersize=5
        )
        axes.plot([values.mean()] * 2, [index - 0.3, index + 0.3], color="tab:blue", linewidth=2)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xlabel("weighted F1 of the plain mean, %")
    axes.grid(axis="x", color="0.9")
    return _svg(figure)


def confidence_plot(summary: HeadSummary) -> str:
    """Plot the paper's Figure 4: confidence and accuracy of each head for each input."""
    table, heads = summary["confidence"], summary["heads"]
    inputs = table["inputs"]
    figure = Figure(figsize=(2.1 * len(inputs), 2.6))
    panels = figure.subplots(1, len(inputs), sharey=True, squeeze=False)[0]
    for number, (axes, name) in enumerate(zip(panels, inputs, strict=True)):
        mean, low, high = table["confidence"][number], table["low"][number], table["high"][number]
        colours = ["tab:blue" if name in ("all", head) else "0.75" for head in heads]
        axes.bar(range(len(heads)), mean, color=colours)
        axes.vlines(range(len(heads)), low, high, color=_GREY, linewidth=1)
        axes.plot(range(len(heads)), table["accuracy"][number], "kx", markersize=5)
        axes.set_title("all inputs" if name == "all" else f"{name} alone", fontsize=9)
        axes.set_xticks(range(len(heads)), heads, rotation=60, ha="right", fontsize=8)
        axes.set_ylim(0, 1)
    panels[0].set_ylabel("confidence (bar), accuracy (x)")
    return _svg(figure)


def jacobian_shares(summary: HeadSummary) -> NDArray[np.float64]:
    """Return the dependence of each head on each input (H, M): the norms of its Jacobian over their
    sum.
    """
    norms = np.array(summary["jacobian"], dtype=np.float64)
    shares: NDArray[np.float64] = norms / norms.sum(axis=1, keepdims=True)
    return shares


def jacobian_plot(summary: HeadSummary) -> str:
    """Plot the dependence of each head on each input."""
    share = jacobian_shares(summary)
    figure = Figure(figsize=(0.8 * share.shape[1] + 1.6, 0.6 * share.shape[0] + 1.4))
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (i, j), value in np.ndenumerate(share):
        axes.text(
            j,
            i,
            f"{100 * value:.0f}",
            ha="center",
            va="center",
            color="white" if value > 0.6 else "black",
        )
    axes.set_xticks(range(share.shape[1]), summary["inputs"], rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(share.shape[0]), summary["heads"], fontsize=8)
    axes.set_xlabel("input")
    axes.set_ylabel("head")
    return _svg(figure)


def reliability_plot(rows: Mapping[str, Sequence[tuple[float, float, int]]]) -> str:
    """Plot accuracy against confidence of the plain mean, one line for each row of the table."""
    figure = Figure(figsize=(4.2, 3.6))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.8", linewidth=1)
    for name, bins in rows.items():
        confidence, right, _ = zip(*bins, strict=True)
        axes.plot(confidence, right, marker=".", linewidth=1, label=name)
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")
    axes.legend(fontsize=7, loc="upper left")
    return _svg(figure)
