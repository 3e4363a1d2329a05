"""Find what makes a bundle miscall the cells of another laboratory, by one change at a time.

    python benchmarks/laboratory_shift.py [--bundle smear-shufflenet] [--cells N] [--pbc5 STORE]
    [--json]

The images of `chula` are made more like those of the bundle's own laboratory, and those of `pbc5`
(cells that the shipped bundle did not learn from) more like those of `chula`: size, sharpness,
contrast, colour of the background, what surrounds the cell, the derived channel, and the anchors of
the normalisation. A change that mends the one and breaks the other names the cause. Inference only;
about a minute for each 1,000 cells and change. `--pbc5` is the `cells.zarr` of an import of `pbc5`
at 0.1 um; without it only `chula` is changed.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from wbcpipe.classify.inference.engine import TorchEngine
from wbcpipe.classify.metrics import scores, table_lines
from wbcpipe.classify.models.bundle import find_bundle
from wbcpipe.classify.models.normalise import CLIP, resize
from wbcpipe.classify.training.folds import stratified_folds
from wbcpipe.classify.uncertainty.probability_calibration import fused_probability, without_heads
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.segment.stain_separation import background_colour, density_channel, scale_16bit

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from wbcpipe.classify.models.bundle import Bundle

    Crops = NDArray[np.uint16]

DATA: Final = Path(__file__).parents[2] / "shared" / "data"
NAMES: Final = {
    "neutrophil": "NEU",
    "eosinophil": "EOS",
    "lymphocyte": "LYM",
    "monocyte": "MO",
    "basophil": "BAS",
}
CENTRE_UM: Final = 5.0
"""Radius of the disc that lies inside nearly every white cell."""


def with_density(rgb: NDArray[np.float64]) -> Crops:
    """Crops (N, 4, S, S) of light (N, 3, S, S) in [0, 1]: the derived channel is made anew."""
    planes = (rgb.clip(0, 1) * 65535).round().astype(np.uint16)
    return np.stack(
        [np.stack([*cell, density_channel(cell, background_colour(cell))]) for cell in planes]
    )


def light(crops: Crops) -> NDArray[np.float64]:
    return crops[:, :3] / 65535.0


def scaled_by(factor: float) -> Callable[[Crops], Crops]:
    def change(crops: Crops) -> Crops:
        found = np.empty_like(crops)
        centre = (crops.shape[-1] - 1) / 2
        for index, cell in enumerate(crops):
            for plane in range(len(cell)):
                found[index, plane] = ndimage.affine_transform(
                    cell[plane],
                    [1 / factor] * 2,
                    offset=centre * (1 - 1 / factor),
                    order=1,
                    mode="reflect",
                )
        return found

    return change


def blurred(sigma_px: float) -> Callable[[Crops], Crops]:
    return lambda crops: with_density(
        ndimage.gaussian_filter(light(crops), (0, 0, sigma_px, sigma_px))
    )


def sharpened(sigma_px: float, amount: float) -> Callable[[Crops], Crops]:
    def change(crops: Crops) -> Crops:
        own = light(crops)
        smooth = ndimage.gaussian_filter(own, (0, 0, sigma_px, sigma_px))
        return with_density(own + amount * (own - smooth))

    return change


def density_times(factor: float) -> Callable[[Crops], Crops]:
    """More or less stain everywhere: the optical density against the background, times a factor."""

    def change(crops: Crops) -> Crops:
        own = light(crops)
        ground = np.stack([background_colour(cell[:3]) for cell in crops])[:, :, None, None]
        return with_density(ground * (own.clip(1e-3) / ground) ** factor)

    return change


def density_times_in_centre(factor: float) -> Callable[[Crops], Crops]:
    """The same for the white cell alone; what surrounds it stays."""

    def change(crops: Crops) -> Crops:
        own = light(crops)
        other = light(density_times(factor)(crops))
        weight = _disc(crops.shape[-1], 7.5)
        return with_density(own * (1 - weight) + other * weight)

    return change


def tinted(colour: tuple[float, float, float]) -> Callable[[Crops], Crops]:
    """Another colour of the light: a factor for each plane, so that densities stay."""
    return lambda crops: with_density(light(crops) * np.array(colour)[:, None, None])


def veiled(share: float) -> Callable[[Crops], Crops]:
    """Stray light: a share of the background's light is added to every pixel."""

    def change(crops: Crops) -> Crops:
        ground = np.stack([background_colour(cell[:3]) for cell in crops])[:, :, None, None]
        return with_density((1 - share) * light(crops) + share * ground)

    return change


def unveiled(share: float) -> Callable[[Crops], Crops]:
    """The opposite: a share of the background's light is taken off every pixel."""

    def change(crops: Crops) -> Crops:
        ground = np.stack([background_colour(cell[:3]) for cell in crops])[:, :, None, None]
        return with_density((light(crops) - share * ground) / (1 - share))

    return change


def on_plain_ground(crops: Crops) -> Crops:
    """Only the white cell: a disc of 15 um on the empty background."""
    ground = np.stack([background_colour(cell[:3]) for cell in crops])[:, :, None, None]
    weight = _disc(crops.shape[-1], 7.5)
    return with_density(light(crops) * weight + ground * (1 - weight))


def with_dark_rims(crops: Crops) -> Crops:
    """Some thin, dark rings beside the cell, as of refracting red cells."""
    size = crops.shape[-1]
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    darkness = np.zeros((size, size))
    for turn in np.arange(5) * 2 * np.pi / 5:
        radius = np.hypot(y - 105 * np.sin(turn), x - 105 * np.cos(turn))
        darkness = np.maximum(darkness, np.exp(-(((radius - 32) / 3.0) ** 2)))
    return with_density(light(crops) * (1 - 0.85 * darkness))


def _disc(size: int, radius_um: float) -> NDArray[np.float64]:
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    edge = np.hypot(y, x) * 0.1 - radius_um
    return np.clip(0.5 - edge / 0.4, 0, 1)


def same(crops: Crops) -> Crops:
    return crops


class Reader:
    """The bundle's network, with the normalisation as it is or with other anchors."""

    def __init__(self, bundle: Bundle) -> None:
        self.info = bundle.info
        self.engine = TorchEngine(bundle.network(), torch.device("cpu"))

    def logits(self, crops: Crops, anchors: str = "crop") -> NDArray[np.float32]:
        small = resize(crops, self.info.side)
        own = self.info.normalisation
        images = own.apply(small) if anchors == "crop" else self._anchored(small, anchors)
        return np.concatenate(
            [self.engine(images[start : start + 32]) for start in range(0, len(images), 32)]
        )

    def _anchored(self, images: Crops, anchors: str) -> NDArray[np.float32]:
        """Normalise by quantiles of other pixels than those of the complete crop.

        `centre`: the darkest stain is that of the central disc. `background`: the background is the
        mode of the crop (`background_colour`). `both`: both.
        """
        side = images.shape[-1]
        y, x = np.mgrid[:side, :side] - (side - 1) / 2
        disc = np.hypot(y, x) * (self.info.pixel_um * self.info.crop_px / side) < CENTRE_UM
        values = images.astype(np.float32)
        low = np.quantile(values, 0.02, axis=(2, 3))
        high = np.quantile(values, 0.90, axis=(2, 3))
        if anchors in ("centre", "both"):
            low[:, :3] = np.quantile(values[:, :3, disc], 0.05, axis=2)
        if anchors in ("background", "both"):
            high[:, :3] = [background_colour(cell[:3]) * 65535 for cell in images]
        low[:, 3] = np.quantile(values[:, 3], 0.10, axis=(1, 2))
        high[:, 3] = np.quantile(values[:, 3], 0.99, axis=(1, 2))
        unit = (values - low[:, :, None, None]) / np.maximum(high - low, 64)[:, :, None, None]
        mean, std = (
            np.array(part, np.float32)[:, None, None]
            for part in (self.info.normalisation.mean, self.info.normalisation.std)
        )
        return np.clip((unit - mean) / std, -CLIP, CLIP).astype(np.float32)

    def row(
        self, name: str, logits: NDArray[np.float32], labels: NDArray[np.int64], silent: int | None
    ) -> dict[str, Any]:
        calibration = self.info.calibration
        if silent is not None:
            calibration = without_heads(calibration, [silent])
        probability = fused_probability(logits, calibration)
        found = scores(labels, probability, self.info.classes)
        called = probability.argmax(axis=1)
        monocyte = self.info.classes.index("MO")
        return {
            "change": name,
            "weighted_f1": found["f1_weighted"],
            "recall": found["sensitivity_by_class"],
            "called_monocyte": {
                one: float((called[labels == index] == monocyte).mean())
                for index, one in enumerate(self.info.classes)
            },
        }


def read_chula(classes: tuple[str, ...], count: int) -> tuple[Crops, NDArray[np.int64]]:
    with (DATA / "chula" / "manifest.csv").open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    crops, labels = [], []
    for name, short in NAMES.items():
        files = [row["file"] for row in rows if row["label"] == name]
        for file in files[:: max(1, len(files) // count)][:count]:
            planes = scale_16bit(np.asarray(Image.open(DATA / "chula" / file).convert("RGB")))
            crops.append(np.stack([*planes, density_channel(planes)]))
            labels.append(classes.index(short))
    return np.stack(crops), np.array(labels)


def read_pbc5(path: Path, classes: tuple[str, ...], count: int) -> tuple[Crops, NDArray[np.int64]]:
    """Cells of the fold that the shipped bundle did not learn from."""
    store = CellStore(path)
    labels = np.array([classes.index(name) for name in store.labels()])
    _, test = stratified_folds(labels, np.arange(len(labels)), 5, 0)[0]
    rows = np.concatenate([test[labels[test] == index][:count] for index in range(len(classes))])
    return store.images_at(rows.tolist()), labels[rows]


TOWARDS_HOME: Final[dict[str, Callable[[Crops], Crops]]] = {
    "as given": same,
    "size x 0.8": scaled_by(0.8),
    "size x 0.9": scaled_by(0.9),
    "size x 1.15": scaled_by(1.15),
    "size x 1.3": scaled_by(1.3),
    "sharpened (3 px, 1.5)": sharpened(3, 1.5),
    "densities x 1.5": density_times(1.5),
    "densities x 2, of the cell alone": density_times_in_centre(2.0),
    "stray light of 30 % taken off": unveiled(0.3),
    "on plain ground": on_plain_ground,
}
AWAY: Final[dict[str, Callable[[Crops], Crops]]] = {
    "as given": same,
    "size x 0.8": scaled_by(0.8),
    "size x 1.3": scaled_by(1.3),
    "blurred by 4 px": blurred(4),
    "densities x 0.5": density_times(0.5),
    "densities x 0.5, of the cell alone": density_times_in_centre(0.5),
    "stray light of 50 % added": veiled(0.5),
    "reddish, darker light": tinted((0.65, 0.5, 0.5)),
    "dark rims beside the cell": with_dark_rims,
    "on plain ground": on_plain_ground,
}


def measure(
    reader: Reader,
    crops: Crops,
    labels: NDArray[np.int64],
    changes: dict[str, Callable[[Crops], Crops]],
) -> list[dict[str, Any]]:
    rows = []
    for name, change in changes.items():
        changed = change(crops)
        logits = reader.logits(changed)
        rows.append(reader.row(name, logits, labels, None))
        print(".", end="", flush=True)
        if name in ("as given", "on plain ground", "dark rims beside the cell"):
            derived = reader.info.modalities.index("fluorescence")
            rows.append(
                reader.row(f"{name}; head of the derived channel off", logits, labels, derived)
            )
            rows += [
                reader.row(
                    f"{name}; anchors: {anchors}", reader.logits(changed, anchors), labels, None
                )
                for anchors in ("centre", "background", "both")
            ]
    print()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", default="smear-shufflenet")
    parser.add_argument("--cells", type=int, default=30, help="of each class")
    parser.add_argument("--pbc5", type=Path, help="cells.zarr of an import of pbc5")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    reader = Reader(find_bundle(options.bundle))
    classes = reader.info.classes
    tables = {
        "chula": measure(reader, *read_chula(classes, options.cells), TOWARDS_HOME),
    }
    if options.pbc5:
        tables["pbc5"] = measure(reader, *read_pbc5(options.pbc5, classes, options.cells), AWAY)
    if options.json:
        versions = {name: version(name) for name in ("wbcpipe", "numpy", "torch")}
        print(json.dumps({"name": "laboratory_shift", "tables": tables, "versions": versions}))
        return
    for name, rows in tables.items():
        print(f"\n{name}: recall, and share called MO, in %\n")
        header = ("change", "F1", *classes, *(f"{one} as MO" for one in classes if one != "MO"))
        cells = [
            (
                row["change"],
                f"{row['weighted_f1']:.3f}",
                *(f"{100 * row['recall'][one]:.0f}" for one in classes),
                *(f"{100 * row['called_monocyte'][one]:.0f}" for one in classes if one != "MO"),
            )
            for row in rows
        ]
        print("\n".join(table_lines(header, cells)))


if __name__ == "__main__":
    main()
