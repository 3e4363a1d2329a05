"""What each step beyond the paper is worth on a study's cells.

Fusion, temperatures, abstention, faults, prevalence.

    python benchmarks/beyond.py STUDY [--method NAME] [--json]

STUDY is the folder of `wbcpipe study`; every `result.safetensors` below it is one fold of one
method: held-out cells to fit on and test cells to score on. With no arguments logits are drawn at
random, which shows that the script works and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from safetensors import safe_open

from wbcpipe import __version__
from wbcpipe.classify.study.ablations import FoldLogits, ablations, markdown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

CLASSES = ("NEU", "LYM", "EOS", "MO", "BAS")
FAULTS = {
    "missing_logits": "zeros",
    "typical_logits": "typical",
    "shifted_logits": "shifted",
    "other_logits": "other",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "study", type=Path, nargs="?", help="folder of a study; without it, drawn logits"
    )
    parser.add_argument("--method", help="only results whose path names it")
    parser.add_argument("--json", action="store_true", help="one object for machines")
    options = parser.parse_args()
    found = (
        results(options.study, options.method)
        if options.study
        else {"drawn": [drawn(seed) for seed in range(3)]}
    )
    if not found:
        sys.exit(f"{options.study}: no result.safetensors below it; run `wbcpipe study` first.")
    output: list[dict[str, Any]] = []
    for method, folds in found.items():
        rows = ablations(folds, *names(options.study and options.study / method, folds[0]))
        output += [{"method": method, **vars(row)} for row in rows]
        if not options.json:
            print(f"# {method}, {len(folds)} folds\n\n{markdown(rows)}")
    if options.json:
        gain = [
            row
            for row in output
            if row["variant"].startswith("as bundled") and row["figure"] == "weighted F1"
        ]
        ratios = [
            np.mean(row["by_fold"]) / np.mean(np.subtract(row["by_fold"], row["less_base"]))
            for row in gain
        ]
        ratio = float(np.mean(ratios))
        print(
            json.dumps(
                {
                    "name": "beyond",
                    "ratio": ratio,
                    "rows": output,
                    "versions": {"wbcpipe": __version__},
                }
            )
        )


def results(study: Path, method: str | None) -> dict[str, list[FoldLogits]]:
    """Folds by the folder that holds them."""
    found: dict[str, list[FoldLogits]] = {}
    for path in sorted(study.rglob("result.safetensors")):
        name = str(path.parent.parent.relative_to(study))
        if method is not None and method not in path.parent.parts and method not in name:
            continue
        found.setdefault(name, []).append(read(path))
    return found


def names(rows: Path | None, fold: FoldLogits) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Classes and modalities, as the study that has a row in this folder tells.

    Numbers where nothing is told.
    """
    for path in sorted(rows.glob("*/result.json")) if rows else ():
        told = json.loads(path.read_text(encoding="utf-8"))
        return tuple(told["classes"]), tuple(told["modalities"])
    heads, classes = fold.test_logits.shape[1:]
    inputs = max([len(logits) for logits in fold.faults.values()], default=heads)
    return tuple(f"class {k + 1}" for k in range(classes)), tuple(
        f"modality {m + 1}" for m in range(inputs)
    )


def read(path: Path) -> FoldLogits:
    """One fold."""
    with safe_open(path, framework="np") as file:
        there = set(file.keys())
        arrays = {
            name: file.get_tensor(name) for name in there if name.endswith(("logits", "labels"))
        }
    return FoldLogits(
        calibration_logits=arrays["calibration_logits"],
        calibration_labels=arrays["calibration_labels"].astype(np.int64),
        test_logits=arrays["test_logits"],
        test_labels=arrays["test_labels"].astype(np.int64),
        faults={what: arrays[name] for name, what in FAULTS.items() if name in arrays},
    )


def drawn(seed: int, heads: Sequence[float] = (3.0, 2.0, 2.0, 1.0), cells: int = 600) -> FoldLogits:
    """Logits of heads with some skill each, three times too confident.

    A missing modality leaves its head to guess.
    """
    rng = np.random.default_rng(seed)

    def logits(labels: NDArray[np.int64]) -> NDArray[np.float64]:
        truth = np.eye(len(CLASSES))[labels][:, None] * np.asarray(heads)[None, :, None]
        found: NDArray[np.float64] = 3.0 * (
            truth + rng.normal(size=(len(labels), len(heads), len(CLASSES)))
        )
        return found

    held, test = rng.integers(0, len(CLASSES), cells), rng.integers(0, len(CLASSES), cells)
    seen = logits(test)
    faults = np.stack([seen] * len(heads))
    for index in range(len(heads)):
        faults[index, :, index] = 3.0 * rng.normal(size=(cells, len(CLASSES)))
    return FoldLogits(logits(held), held, seen, test, {"zeros": faults})


if __name__ == "__main__":
    main()
