"""How well each modality alone, late fusion and the shipped network call the cells of virtual
slides.

    python benchmarks/virtual_modalities.py [--work FOLDER] [--data ROOT SAMPLE...] [--json]

SAMPLE are segmented virtual slides whose seeds were not trained on. FOLDER is the `--out` of
`wbcpipe train` for `virtual-shufflenet`: its teachers are the single-modality networks, trained on
the same cells with the same recipe. With no arguments a small buffy-coat slide is made and only the
shipped network with its heads is scored. The ratio is the shipped network's weighted F1 over that
of the best single modality (or head).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from safetensors.torch import load_file
from sklearn.metrics import f1_score

from wbcpipe import __version__
from wbcpipe.classify.inference.classifier import Classifier
from wbcpipe.classify.models.bundle import load_bundle
from wbcpipe.classify.networks import build_network
from wbcpipe.classify.training.data import load_cells
from wbcpipe.classify.training.train import predict_logits
from wbcpipe.pipeline import cli

if TYPE_CHECKING:
    from wbcpipe.classify.models.bundle import Bundle
    from wbcpipe.classify.training.data import CellSet


def make_slide(root: Path) -> str:
    words = [
        "acquire",
        "--slide",
        "bench",
        "--specimen-seed",
        "3001",
        "--specimen-preparation",
        "buffy-coat",
    ]
    cli.main([*words, "--fields", "16", "--data", str(root)], standalone_mode=False)
    cli.main(["segment", "--sample", "bench", "--data", str(root)], standalone_mode=False)
    return "bench"


def teachers(work: Path, cells: CellSet, bundle: Bundle) -> dict[str, np.ndarray]:
    """Softmax of each teacher, (N, K)."""
    found = {}
    for index, name in enumerate(cells.modalities):
        state = load_file(work / f"teacher-{name}" / "state.safetensors")
        network = build_network("single", bundle.info.backbone, 1, cells.planes, len(cells.classes))
        network.load_state_dict(
            {key[4:]: value for key, value in state.items() if key.startswith("net.")}
        )
        part = bundle.info.normalisation.modality(index, cells.planes)
        logits = predict_logits(network.eval(), cells.modality(index), part)[:, 0]
        found[name] = torch.softmax(torch.from_numpy(logits), 1).numpy()
    return found


def weighted_f1(truth: np.ndarray, called: np.ndarray) -> float:
    return round(
        float(
            f1_score(truth, called, average="weighted", labels=np.unique(truth), zero_division=0)
        ),
        4,
    )


def rows_of(cells: CellSet, bundle: Bundle, work: Path | None) -> dict[str, np.ndarray]:
    """Name to the class index called for each cell; -1 is unidentified."""
    rows: dict[str, np.ndarray] = {}
    if work is not None:
        single = teachers(work, cells, bundle)
        rows |= {f"{name} alone": values.argmax(1) for name, values in single.items()}
        rows["late fusion"] = np.mean(list(single.values()), axis=0).argmax(1)
    classifier = Classifier(bundle, device="cpu")
    probability = classifier.probability(bundle.info.normalisation.apply(cells.images))
    for head, name in enumerate(cells.modalities):
        rows[f"head {name}"] = probability[:, head].argmax(1)
    calls, _, _ = classifier.call(probability)
    rows[bundle.info.name] = np.array(
        [cells.classes.index(name) if name in cells.classes else -1 for name in calls]
    )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("samples", nargs="*")
    parser.add_argument("--data", type=Path, default=Path("wbc-data"))
    parser.add_argument("--work", type=Path)
    parser.add_argument("--bundle", default="virtual-shufflenet")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    bundle = load_bundle(options.bundle)
    with tempfile.TemporaryDirectory() as folder:
        root = options.data if options.samples else Path(folder)
        samples = options.samples or [make_slide(root)]
        table: dict[str, dict[str, float]] = {}
        pooled: dict[str, list[np.ndarray]] = {}
        labels = []
        for sample in samples:
            cells = load_cells(
                [(sample, root / sample / "cells.zarr")],
                bundle.info.side,
                classes=bundle.info.classes,
            )
            labels.append(cells.labels)
            for name, called in rows_of(cells, bundle, options.work).items():
                score = f1_score(
                    cells.labels,
                    called,
                    average="weighted",
                    labels=range(len(cells.classes)),
                    zero_division=0,
                )
                table.setdefault(name, {})[sample] = round(float(score), 4)
                pooled.setdefault(name, []).append(called)
    truth = np.concatenate(labels)
    for name, parts in pooled.items():
        table[name]["all"] = weighted_f1(truth, np.concatenate(parts))
    best = max(
        row["all"]
        for name, row in table.items()
        if name.endswith(" alone") or name.startswith("head ")
    )
    result = {
        "name": "virtual_modalities",
        "ratio": round(table[bundle.info.name]["all"] / best, 4),
        "cells": len(truth),
        "rows": [{"row": name, **row} for name, row in table.items()],
        "versions": {"wbcpipe": __version__, "torch": torch.__version__},
        "cpu": platform.processor() or platform.machine(),
    }
    if options.json:
        print(json.dumps(result))
        return 0
    print(f"weighted F1 of {len(truth)} cells, unidentified counted as a miss")
    for name, row in table.items():
        print(f"{name:>22}  " + "  ".join(f"{sample} {score:.4f}" for sample, score in row.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
