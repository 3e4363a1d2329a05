"""Fit the numbers by which `segment.nucleus_candidates` judges candidates, and show what they hold
for.

    python benchmarks/train_candidates.py [--every N] [--json]

Candidates of every N-th field of `bccd`, of all fields of `chula`, of every 20th picture of `pbc5`,
and of the parts of fields in which no box lies; as given, and twice changed at random: the
densities of all, of all but white cells, or of white cells alone, in each plane, and dark rims; and
twice as another camera might show them: planes mixed, colours paler or stronger, gamma, contrast. A
candidate is a nucleus if most of it lies in a box (of `pbc5`: in the middle; others there are left
out). The fit is logistic regression; both classes of each laboratory weigh the same. Each
laboratory is then left out in turn.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from foreign_fields import changed, dark_rims, density_factors, fields
from PIL import Image

from wbcpipe.segment.nucleus_candidates import MEASURES
from wbcpipe.segment.stain_filter import nuclear_answer
from wbcpipe.segment.stain_separation import nuclear_stain, scale_16bit

if TYPE_CHECKING:
    from collections.abc import Iterator

_FOLDER = Path(__file__).parents[2] / "shared" / "data"
_CHANGED = 2
_RIDGE = 1e-2
_PBC_UM = 0.1


def random_change(
    rgb: np.ndarray, boxes: np.ndarray, pixel_um: float, rng: np.random.Generator
) -> np.ndarray:
    """Return an image (Y, X, 3) uint8 as another laboratory might show it."""
    everything = np.exp(rng.uniform(-0.5, 0.5, 3))
    outside = (
        np.exp(rng.uniform((-0.4, -0.4, -0.7), (0.9, 0.3, 0.3)))
        if rng.random() < 0.6
        else np.ones(3)
    )
    inside = rng.uniform(0.55, 1.0)
    no_boxes = np.zeros((0, 4))
    rgb = changed(rgb, no_boxes, pixel_um, density_factors(tuple(everything)))
    rgb = changed(rgb, boxes, pixel_um, density_factors(tuple(outside), inside))
    if rng.random() < 0.5:
        colour = tuple(rng.uniform((0.9, 0.9, 0.5), (1.5, 1.2, 1.0)))
        rgb = changed(rgb, boxes, pixel_um, dark_rims(rng.uniform(0.1, 0.35), colour))
    return rgb


def random_camera(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return an image (Y, X, 3) uint8 as another camera might show it."""
    seen = rgb.astype(float)
    if rng.random() < 0.5:
        from_others = rng.uniform(0, 0.3, (3, 3)) * (1 - np.eye(3))
        seen = seen @ (from_others + np.diag(1 - from_others.sum(0)))
    if rng.random() < 0.5:
        grey = seen.mean(-1, keepdims=True)
        saturation = np.exp(rng.uniform(*np.log((0.3, 1.8))))
        seen = np.clip(grey + saturation * (seen - grey), 0, 255)
    if rng.random() < 0.5:
        seen = 255 * (seen / 255) ** np.exp(rng.uniform(*np.log((0.5, 2.2))))
    if rng.random() < 0.5:
        contrast = rng.uniform(0.4, 1.0)
        seen = contrast * seen + rng.uniform(0, 1) * (1 - contrast) * 255
    return np.clip(np.round(seen), 0, 255).astype(np.uint8)


def parts_without_boxes(rgb: np.ndarray, boxes: np.ndarray) -> Iterator[np.ndarray]:
    """Yield those halves of an image (Y, X, 3) that no box touches."""
    rows, columns = rgb.shape[:2]
    for top, bottom, left, right in (
        (0, rows, 0, columns // 2),
        (0, rows, columns // 2, columns),
        (0, rows // 2, 0, columns),
        (rows // 2, rows, 0, columns),
    ):
        apart = (
            (boxes[:, 0] > bottom)
            | (boxes[:, 2] < top)
            | (boxes[:, 1] > right)
            | (boxes[:, 3] < left)
        )
        if apart.all():
            yield rgb[top:bottom, left:right]


def images(folder: Path, every: int) -> Iterator[tuple[str, np.ndarray, np.ndarray, float]]:
    """Yield laboratory, image, boxes and pixel size."""
    for name, rgb, boxes, pixel_um in fields(folder, every):
        yield name, rgb, boxes, pixel_um
        for part in parts_without_boxes(rgb, boxes):
            yield name, part, np.zeros((0, 4)), pixel_um
    with (folder / "pbc5" / "manifest.csv").open(newline="") as handle:
        files = [row["file"] for row in csv.DictReader(handle)]
    for file in files[::20]:
        rgb = np.asarray(Image.open(folder / "pbc5" / file).convert("RGB"))
        middle = np.array(rgb.shape[:2]) / 2
        yield "pbc5", rgb, np.concatenate([middle - 45, middle + 45])[None], _PBC_UM


def candidates(
    rgb: np.ndarray, boxes: np.ndarray, pixel_um: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the measures (N, 6) of the candidates of an image, and which of them are nuclei
    (N,).
    """
    planes = scale_16bit(rgb)
    density, unlit = nuclear_stain(planes).density_against_light(planes)
    found = nuclear_answer(density, pixel_um, unlit)
    truth = np.zeros(len(found.candidates.peaks), bool)
    for k in range(len(truth)):
        y, x = ((at + 0.5) * found.factor for at in np.nonzero(found.candidates.labels == k + 1))
        place = np.stack([y, x], -1)
        truth[k] = any(
            np.all((place > box[:2]) & (place < box[2:]), axis=1).mean() > 0.5 for box in boxes
        )
    return found.candidates.measures, truth


def fit(sets: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return constant and coefficients (7,) of the logistic regression.

    Each set and class weighs the same.
    """
    x = np.concatenate([measures for measures, _ in sets])
    y = np.concatenate([truth for _, truth in sets]).astype(float)
    weights = np.concatenate(
        [np.where(truth, 1 / max(1, truth.sum()), 1 / max(1, (~truth).sum())) for _, truth in sets]
    )
    mean, spread = x.mean(0), x.std(0)
    design = np.c_[np.ones(len(x)), (x - mean) / spread]
    ridge = _RIDGE * np.diag([0.0, *np.ones(x.shape[1])]) * weights.sum()
    solution = np.zeros(design.shape[1])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-design @ solution))
        slope = design.T @ (weights * (chance - y)) + ridge @ solution
        curve = (design * (weights * chance * (1 - chance))[:, None]).T @ design + ridge
        solution -= np.linalg.solve(curve + 1e-9 * np.eye(len(solution)), slope)
    scaled = solution[1:] / spread
    return np.append(solution[0] - scaled @ mean, scaled)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--every", type=int, default=10, help="take every N-th field of bccd")
    parser.add_argument("--folder", type=Path, default=_FOLDER)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    rng, camera_rng = np.random.default_rng(0), np.random.default_rng(1)
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for name, rgb, boxes, pixel_um in images(arguments.folder, arguments.every):
        versions = [rgb]
        versions += [random_change(rgb, boxes, pixel_um, rng) for _ in range(_CHANGED)]
        versions += [random_camera(rgb, camera_rng) for _ in range(_CHANGED)]
        for seen in versions:
            measures, truth = candidates(seen, boxes, pixel_um)
            kept = truth if name == "pbc5" else np.ones_like(truth)
            found.setdefault(name, []).append((measures[kept], truth[kept]))
    sets = {
        name: (
            np.concatenate([part[0] for part in parts]),
            np.concatenate([part[1] for part in parts]),
        )
        for name, parts in found.items()
    }
    rows = []
    for held in ("none", *sets):
        numbers = fit([one for name, one in sets.items() if name != held])
        for name, (measures, truth) in sets.items():
            if held in ("none", name):
                kept = numbers[0] + measures @ numbers[1:] > 0
                nuclei, others = int((kept & truth).sum()), int((kept & ~truth).sum())
                row = {
                    "left_out": held,
                    "set": name,
                    "kept_nuclei": nuclei,
                    "nuclei": int(truth.sum()),
                }
                rows.append({**row, "kept_others": others, "others": int((~truth).sum())})
    numbers = fit(list(sets.values()))
    fitted = {
        "constant": float(numbers[0]),
        **dict(zip(MEASURES, numbers[1:].tolist(), strict=True)),
    }
    if arguments.json:
        print(json.dumps({"name": "train_candidates", "rows": rows, "numbers": fitted}))
        return
    print("| left out | of | nuclei kept | others kept |\n|---|---|---|---|")
    for row in rows:
        figures = (
            f"{row['kept_nuclei']} of {row['nuclei']} | {row['kept_others']} of {row['others']}"
        )
        print(f"| {row['left_out']} | {row['set']} | {figures} |")
    print()
    for measure, number in fitted.items():
        print(f"{number:8.2f}  {measure}")


if __name__ == "__main__":
    main()
