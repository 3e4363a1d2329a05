"""Count false alarms: how often a bundle is said not to know cells that it does know.

    python benchmarks/alarms_at_home.py [--data ROOT SAMPLE...] [--draws 100] [--json]

SAMPLE are classified samples in the data folder ROOT, of cells that their bundle knows. Without
arguments the cells of `../shared/data/pbc5` are imported and classified by `smear-shufflenet`.
Of each sample, cells are drawn in sets of every size and checked as `report` checks them, and the
cells of each class alone: a bundle must know its own stain and scope, whatever the frequencies.
Doubts for too few cells are counted separately.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wbcpipe.classify.stage import classify_sample
from wbcpipe.classify.uncertainty.applicability import ClassifiedCells, check_applicability
from wbcpipe.report.rows import read_rows
from wbcpipe.samples.cell_columns import UNIDENTIFIED
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.sample import Sample
from wbcpipe.segment.importers.cells import import_cells
from wbcpipe.segment.importers.inputs import CellImport

if TYPE_CHECKING:
    from numpy.typing import NDArray

PBC5 = Path(__file__).parents[2] / "shared" / "data" / "pbc5"
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


def classified_pbc5(data: Path) -> str:
    """Import and classify the cells of `pbc5`; return the name of the sample."""
    sample = Sample.open(data, "pbc5")
    import_cells([PBC5], sample, CellImport("stained-rgb", 0.1))
    classify_sample(sample, "smear-shufflenet")
    return sample.name


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("samples", nargs="*")
    parser.add_argument("--data", type=Path, default=Path("wbc-data"))
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = options.data if options.samples else Path(folder)
        found = [
            row
            for name in options.samples or [classified_pbc5(data)]
            for row in doubts_of_sample(data / name / "cells.zarr", options.draws)
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
