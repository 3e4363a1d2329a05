"""Count false alarms: how often a bundle is said not to know cells that it does know.

Of a classified sample, samples of every size are drawn and checked as `report` checks them, and the
cells of each class
alone: a bundle must know its own stain and scope, whatever the frequencies. Doubts for too few
    cells are counted apart.

Run: wbcpipe import cells pbc5 --sample pbc5 --kind stained-rgb --pixel-um 0.1 && wbcpipe classify
     --sample pbc5 wbcpipe run --sample demo python benchmarks/alarms_at_home.py --data wbc-data
     pbc5 demo [--draws 300] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wbcpipe.classify.uncertainty.applicability import ClassifiedCells, check_applicability
from wbcpipe.report.rows import read_rows
from wbcpipe.samples.cell_columns import UNIDENTIFIED
from wbcpipe.samples.cell_store import CellStore

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZES = (30, 60, 115, 200, 400)
MIN_CELLS = 20


def doubts_of_sample(path: Path, draws: int) -> list[dict[str, Any]]:
    """Return a row for each size of draws, and one for each class."""
    store = CellStore(path)
    rows = read_rows(store)
    counted = np.flatnonzero(rows.counted)
    labels, predicted = np.array(rows.label), np.array(rows.predicted_class)
    random = np.random.default_rng(0)

    def reasons(cells: NDArray[np.intp]) -> list[str]:
        unidentified = int(np.count_nonzero(predicted[cells] == UNIDENTIFIED))
        given = ClassifiedCells(
            path.parent.name,
            store.attributes.kind,
            rows.probability[cells],
            unidentified,
            rows.classification,
            rows.calibration,
        )
        return [doubt.reason for doubt in check_applicability(given).doubts]

    def row(name: str, found: list[list[str]]) -> dict[str, Any]:
        alarms = sum(bool(set(one) - {"few_identified"}) for one in found)
        few = sum("few_identified" in one for one in found)
        return {
            "sample": path.parent.name,
            "cells": name,
            "checks": len(found),
            "false_alarms": alarms,
            "too_few": few,
        }

    found = [
        row(
            f"{size} at random",
            [reasons(random.choice(counted, size, replace=False)) for _ in range(draws)],
        )
        for size in SIZES
        if size <= len(counted)
    ]
    for label in store.attributes.classes:
        cells = counted[labels[counted] == label]
        if len(cells) >= MIN_CELLS:
            found.append(row(f"all {len(cells)} {label}", [reasons(cells)]))
    return [*found, row(f"all {len(counted)}", [reasons(counted)])]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("samples", nargs="+")
    parser.add_argument("--data", type=Path, default=Path("wbc-data"))
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = [
        row
        for name in options.samples
        for row in doubts_of_sample(options.data / name / "cells.zarr", options.draws)
    ]
    alarms = sum(row["false_alarms"] for row in found)
    if options.json:
        print(
            json.dumps(
                {
                    "name": "alarms_at_home",
                    "ratio": alarms / sum(row["checks"] for row in found),
                    "rows": found,
                }
            )
        )
    else:
        for row in found:
            print(" | ".join(map(str, row.values())))
    return int(alarms > 0)


if __name__ == "__main__":
    sys.exit(main())
