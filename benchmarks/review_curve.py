"""How many cells a reader must look at until the differential is the true one.

In the order of doubt, and at random.

    python benchmarks/review_curve.py [--data ROOT SAMPLE...] [--orders 200] [--json]

SAMPLE are classified virtual slides with a truth.csv. Without arguments one small buffy coat is
made. A scripted reader looks at one cell after the other and gives it its true class; what is no
true cell (debris, or nothing) is an artefact, and a cell that touches two true ones is that of the
nearer. The order is that of the review page, worked out again after each look, or one of
``--orders`` random orders. After each look the differential is compared with the truth:

*inside*: every true percentage lies in the 95 % interval of the class, and stays there.
*equal*: the differential is that of a complete review, and stays so: no error is left.
*stop*: the page says that the differential cannot change any more.

Reported are the shares of the cells that were looked at until then, and the errors left along the
way. True percentages are those of the true cells that were found and counted: cells that the
machine missed are not on the page. The ratio is the share until *equal* in the order of doubt over
the mean of the random orders.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wbcpipe import __version__
from wbcpipe.classify.uncertainty.probability_calibration import fuse
from wbcpipe.pipeline import cli
from wbcpipe.report.differential import ADULT, interval_percent
from wbcpipe.report.evaluate import match_truth, visible_truth
from wbcpipe.report.rows import read_rows
from wbcpipe.review.statistics.remaining_doubt import (
    NOT_COUNTED,
    UNIDENTIFIED_CLASS,
    UnreviewedCells,
    remaining_doubt,
)
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from wbcpipe.report.rows import CellRows

SHARES = (0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1)


def make_slide(root: Path) -> str:
    words = [
        "acquire",
        "--slide",
        "bench",
        "--specimen-seed",
        "3002",
        "--specimen-preparation",
        "buffy-coat",
    ]
    cli.main([*words, "--fields", "6", "--data", str(root)], standalone_mode=False)
    for command in ("segment", "classify"):
        cli.main([command, "--sample", "bench", "--data", str(root)], standalone_mode=False)
    return "bench"


class Slide:
    """The cells of a slide that count, what the machine says of them, and what they are."""

    def __init__(self, sample: Sample) -> None:
        store = CellStore(sample.cells_path)
        rows = read_rows(store)
        truth = visible_truth(sample)
        _, partner = match_truth(store, truth)
        counted = np.flatnonzero(rows.counted)
        index = {name: number for number, name in enumerate(rows.classes)}
        names = ["" if partner[row] < 0 else truth.label[partner[row]] for row in counted]
        self.true = np.array([index.get(name, NOT_COUNTED) for name in names], np.intp)
        self.machine = np.array(
            [index.get(rows.predicted_class[row], UNIDENTIFIED_CLASS) for row in counted], np.intp
        )
        self.probability = self._fused(rows)[counted]
        self.classes = rows.classes
        self.reference = [ADULT.percent.get(name) for name in rows.classes]
        self.true_counts = self.tally(self.true)
        self.true_percent = 100 * self.true_counts / self.true_counts.sum()

    @staticmethod
    def _fused(rows: CellRows) -> NDArray[np.float64]:
        assert rows.calibration is not None
        return np.asarray(fuse(rows.probability, rows.calibration), np.float64)

    def __len__(self) -> int:
        return len(self.true)

    def tally(self, now: NDArray[np.intp]) -> NDArray[np.int64]:
        return np.bincount(now[now >= 0], minlength=len(self.classes))

    def by_doubt(self, now: NDArray[np.intp], looked: NDArray[np.bool_]) -> tuple[int, int]:
        """The next row by doubt, and how many cells could still change the differential."""
        counts = self.tally(now)
        cells = UnreviewedCells(
            self.probability, now, looked, counts.tolist(), int(counts.sum()), self.reference
        )
        found = remaining_doubt(cells)
        return (int(found.order[0]) if len(found.order) else -1), found.decisive

    def review(
        self, order: Callable[[NDArray[np.intp], NDArray[np.bool_], int], int]
    ) -> dict[str, Any]:
        """Look at one cell after the other; ``order`` names the next one."""
        now, looked = self.machine.copy(), np.zeros(len(self), np.bool_)
        inside, equal, errors = [], [], []
        for done in range(len(self) + 1):
            counts = self.tally(now)
            total = int(counts.sum())
            limits = [interval_percent(int(count), total) for count in counts]
            inside.append(
                all(
                    low <= share <= high
                    for (low, high), share in zip(limits, self.true_percent, strict=True)
                )
            )
            errors.append(int(np.count_nonzero(now != self.true)))
            equal.append(
                bool((counts == self.true_counts).all()) and not (now == UNIDENTIFIED_CLASS).any()
            )
            if done < len(self):
                row = order(now, looked, done)
                now[row], looked[row] = self.true[row], True
        return {"inside": _settled(inside), "equal": _settled(equal), "errors": errors}


def _settled(holds: list[bool]) -> int:
    """The number of looks from which on it holds for good."""
    last = max((position for position, value in enumerate(holds) if not value), default=-1)
    return last + 1


def _drawn(
    shuffled: NDArray[np.intp], _now: NDArray[np.intp], _looked: NDArray[np.bool_], done: int
) -> int:
    """Return the next cell of a random order."""
    return int(shuffled[done])


def measure(slide: Slide, orders: int) -> dict[str, Any]:
    stop: list[int] = []

    def doubt(now: NDArray[np.intp], looked: NDArray[np.bool_], done: int) -> int:
        row, decisive = slide.by_doubt(now, looked)
        if not decisive:
            stop.append(done)
        return row

    first = slide.review(doubt)
    rng = np.random.default_rng(0)
    random = []
    for _ in range(orders):
        shuffled = rng.permutation(len(slide))
        random.append(slide.review(functools.partial(_drawn, shuffled)))
    size = len(slide)
    stopped = stop[0] if stop else size
    at = [round(share * size) for share in SHARES]
    left = np.array([found["errors"] for found in random])
    return {
        "cells": size,
        "errors": first["errors"][0],
        "unidentified": int((slide.machine == UNIDENTIFIED_CLASS).sum()),
        "inside": {
            "doubt": first["inside"],
            "random": _spread([found["inside"] for found in random]),
        },
        "equal": {"doubt": first["equal"], "random": _spread([found["equal"] for found in random])},
        "stop": {"looks": stopped, "errors_left": first["errors"][stopped]},
        "curve": [
            {
                "share": share,
                "looked": looks,
                "errors_left_doubt": first["errors"][looks],
                "errors_left_random": round(float(left[:, looks].mean()), 2),
            }
            for share, looks in zip(SHARES, at, strict=True)
        ],
    }


def _spread(looks: list[int]) -> dict[str, float]:
    low, middle, high = np.quantile(looks, [0.05, 0.5, 0.95])
    return {
        "mean": round(float(np.mean(looks)), 1),
        "p5": float(low),
        "median": float(middle),
        "p95": float(high),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("samples", nargs="*")
    parser.add_argument("--data", type=Path, default=Path("wbc-data"))
    parser.add_argument("--orders", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = options.data if options.samples else Path(folder)
        samples = options.samples or [make_slide(root)]
        found = {name: measure(Slide(Sample.open(root, name)), options.orders) for name in samples}
    shares = [(row["equal"]["doubt"], row["equal"]["random"]["mean"]) for row in found.values()]
    result = {
        "name": "review_curve",
        "ratio": round(
            sum(one for one, _ in shares) / max(sum(other for _, other in shares), 1e-9), 4
        ),
        "orders": options.orders,
        "slides": found,
        "versions": {"wbcpipe": __version__, "numpy": np.__version__},
        "cpu": platform.processor() or platform.machine(),
    }
    if options.json:
        print(json.dumps(result))
        return 0
    for name, row in found.items():
        size = row["cells"]
        print(f"{name}: {size} cells, {row['errors']} errors ({row['unidentified']} unidentified)")
        for what in ("inside", "equal"):
            looks, random = row[what]["doubt"], row[what]["random"]
            print(
                f"  {what}: {looks} looks by doubt ({100 * looks / size:.1f} %); at random "
                f"{random['mean']:.0f} ({100 * random['mean'] / size:.1f} %; 5 to 95 %: "
                f"{random['p5']:.0f} to {random['p95']:.0f})"
            )
        stop = row["stop"]
        share = 100 * stop["looks"] / size
        print(
            f"  stop: after {stop['looks']} looks ({share:.1f} %), {stop['errors_left']} errors "
            f"left"
        )
        print("  looked at   errors left by doubt   at random")
        for line in row["curve"]:
            by_doubt, at_random = line["errors_left_doubt"], line["errors_left_random"]
            print(f"  {100 * line['share']:7.0f} %   {by_doubt:20d}   {at_random:9.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
