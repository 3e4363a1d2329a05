"""Registration under known displacements.

Error, time and false registrations, against two public methods.

    python benchmarks/registration.py [--bccd FOLDER] [--jurkat FILE] [--seeds N] [--json]

Pairs: bright-field to fluorescence of the virtual scope (displaced by up to 40 px, 1 degree and 3
per mille on top of its own chromatic displacement, up to 3 um out of focus, with extra noise), the
red to the blue plane of BCCD pictures, and bright-field to DNA fluorescence of mlcp_jurkat cells
strewn over a field; the latter two are skipped without their folder or file. The error of a pair is
the root mean square (px) over a grid of 7 x 7 points of the whole field. Real pairs are shifted
only, by up to 40 px (bccd) and 28 px (mlcp_jurkat; 9 um, the search reaches 10), and their error is
that of the planted shift: what is found less what the same method finds in the pair as given, where
optics displace the planes, too. "as given" is the median (y, x) of the latter less what is known of
the set. The methods are

- wbcpipe, each field by itself, and (virtual scope) with what the slide's four fields have in
  common;
- phase_cross_correlation of scikit-image, upsampled 10: a shift only;
- SimpleITK: Mattes mutual information, similarity transform, four levels, started at no
  displacement.

A registration is false if it is trusted and more than 1 px off. Pairs of different fields have
nothing in common: each that is trusted is false. The ratio is the median error of
phase_cross_correlation over that of wbcpipe on the virtual scope.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.registration import phase_cross_correlation

from wbcpipe.acquire.simulation.optics.light_path import OpticalState
from wbcpipe.acquire.simulation.optics.microscope import VirtualMicroscope
from wbcpipe.acquire.simulation.specimen.plan import Preparation, SpecimenPlan
from wbcpipe.acquire.simulation.specimen.slide import Specimen
from wbcpipe.imaging.robust_surface import fit_surface
from wbcpipe.samples.fields import MODALITIES
from wbcpipe.segment.registration.edges import coarse_frame, edge_map
from wbcpipe.segment.registration.register import align
from wbcpipe.segment.registration.slide_alignment import estimate_slide_alignment

try:
    import SimpleITK
except ImportError:
    SimpleITK = None

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    Map = Callable[[NDArray[np.float64]], NDArray[np.float64]]

SENSOR_PX = 2048
FALSE_PX = 1.0
#: Where bright-field lies (y, x) against DNA fluorescence in mlcp_jurkat as given: about (-0.8,
#: 0.5) px the other way.
JURKAT_OFFSET = np.array([0.8, -0.5])


@dataclass(frozen=True)
class Pair:
    """A moving and a fixed frame, and where points (N, 2) of the fixed one lie in the moving one.

    ``rest`` is a real pair as given, its planes displaced by what the picture's own optics do.
    """

    moving: NDArray[np.uint16]
    fixed: NDArray[np.uint16]
    truth: Map
    rest: Pair | None = None


@dataclass(frozen=True)
class Displacement:
    """Rotation and scale about a centre, then a shift."""

    shift_px: NDArray[np.float64]
    linear: NDArray[np.float64]

    @classmethod
    def random(cls, rng: np.random.Generator) -> Displacement:
        angle, scale = np.deg2rad(rng.uniform(-1, 1)), 1 + rng.uniform(-0.003, 0.003)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return cls(rng.uniform(-40, 40, 2), scale * turn)

    @classmethod
    def shift(cls, rng: np.random.Generator, reach_px: float) -> Displacement:
        return cls(rng.uniform(-reach_px, reach_px, 2), np.eye(2))

    def jittered(self, rng: np.random.Generator) -> Displacement:
        return Displacement(self.shift_px + rng.normal(0, 1.5, 2), self.linear)

    def apply(self, frame: NDArray[Any]) -> NDArray[np.float32]:
        """The displaced frame (Y, X)."""
        centre = (np.array(frame.shape) - 1) / 2
        back = np.linalg.inv(self.linear)
        offset = centre - back @ (centre + self.shift_px)
        return ndimage.affine_transform(
            frame.astype(np.float32), back, offset, order=3, mode="nearest"
        )

    def points(
        self, points: NDArray[np.float64], centre: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        return (points - centre) @ self.linear.T + centre + self.shift_px


def grid(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """7 x 7 points (49, 2) over a frame."""
    sides = [np.linspace(0.05, 0.95, 7) * length for length in shape]
    return np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, 2)


def virtual_slide(
    seed: int, preparation: Preparation, side: int, fields: int = 4
) -> Iterator[tuple[list[Pair], int, float]]:
    """Fields of one slide, displaced alike but for 1.5 px: pairs of each modality, white cells,
    distance from focus.
    """
    rng = np.random.default_rng([seed, side])
    sensor_px = max(SENSOR_PX, side)
    scope = VirtualMicroscope(
        Specimen(SpecimenPlan(seed=seed, preparation=preparation)), sensor_px=(sensor_px,) * 2
    )
    displacements = [Displacement.random(rng) for _ in MODALITIES[:3]]
    cut = slice((sensor_px - side) // 2, (sensor_px + side) // 2)
    low = np.array([cut.start, cut.start], float)
    centre = np.full(2, (sensor_px - 1) / 2)
    for k in range(fields):
        x_um, y_um = 900.0 + 230 * k, 700.0 + 31 * seed
        away_um = rng.uniform(-3, 3)
        z_um = scope.specimen.focus_um(x_um, y_um) + away_um
        frames = [
            scope.expose(OpticalState(x_um, y_um, z_um, light, ms))
            for light, ms in zip(MODALITIES, (5.0, 5.0, 5.0, 20.0), strict=True)
        ]
        to_ideal = np.linalg.inv(scope.true_transform("fluorescence", x_um, y_um))
        pairs = []
        for m, name in enumerate(MODALITIES[:3]):
            moved = displacements[m].jittered(rng)
            chromatic = scope.true_transform(name, x_um, y_um) @ to_ideal

            def truth(points: Any, moved: Displacement = moved, chromatic: Any = chromatic) -> Any:
                xy = (
                    np.concatenate([(points + low)[:, ::-1], np.ones((len(points), 1))], 1)
                    @ chromatic.T
                )
                return moved.points(xy[:, 1::-1], centre) - low

            noisy = moved.apply(frames[m]) + rng.normal(0, 200, frames[m].shape)
            pairs.append(
                Pair(noisy.clip(0, 65535).astype(np.uint16)[cut, cut], frames[3][cut, cut], truth)
            )
        half_um = side * scope.pixel_um / 2
        cells = sum(
            bool(item.label)
            for item in scope.specimen.objects_in(
                x_um - half_um, y_um - half_um, x_um + half_um, y_um + half_um
            )
        )
        yield pairs, cells, abs(away_um)


def cut_pair(
    moving: NDArray[Any],
    fixed: NDArray[Any],
    rng: np.random.Generator,
    known: NDArray[np.float64],
    reach_px: float,
) -> Pair:
    """A pair displaced at random, cut where both are whole; ``known`` is how ``moving`` lies as
    given.
    """
    moved = Displacement.shift(rng, reach_px)
    margin = 56
    cut = slice(margin, -margin)
    centre = (np.array(fixed.shape) - 1) / 2

    def truth(points: Any) -> Any:
        return moved.points(points + margin + known, centre) - margin

    still = np.ascontiguousarray(fixed[cut, cut])
    planted, rest = (
        np.ascontiguousarray(values.clip(0, 65535).astype(np.uint16)[cut, cut])
        for values in (moved.apply(moving), moving)
    )
    return Pair(planted, still, truth, Pair(rest, still, lambda points: points + known))


def bccd_pairs(folder: Path, number: int) -> Iterator[Pair]:
    """Red to blue plane of smears: red cells dark in blue, hardly seen in red.

    White cells dark in red.
    """
    rng = np.random.default_rng(1)
    paths = sorted((folder / "JPEGImages").glob("*.jpg"))
    for path in paths[:: max(1, len(paths) // number)][:number]:
        rgb = np.asarray(Image.open(path).convert("RGB")).astype(np.uint16) * 257
        yield cut_pair(rgb[..., 0], rgb[..., 2], rng, np.zeros(2), 40.0)


def jurkat_pairs(file: Path, number: int) -> Iterator[Pair]:
    """Bright-field to DNA fluorescence of cells strewn at random, none over another: a lattice
    would match itself.
    """
    images = np.load(file, allow_pickle=False)["images"]
    rng = np.random.default_rng(2)
    side, tile = 520, images.shape[-1]
    away = np.hypot(*(np.indices((tile, tile)) - (tile - 1) / 2))
    soft = np.clip(tile / 2 - away, 0, 3) / 3
    for _ in range(number):
        planes = np.zeros((2, side, side), np.float32)
        places = np.zeros((0, 2))
        for place in rng.integers(0, side - tile, (4000, 2)):
            if len(places) and np.hypot(*(places - place).T).min() < tile:
                continue
            places = np.concatenate([places, place[None]])
            cell = images[rng.integers(len(images))][[0, 2]].astype(np.float32)
            edge = np.concatenate([cell[:, 0], cell[:, -1], cell[..., 0], cell[..., -1]], -1)
            cell -= np.median(edge, -1)[:, None, None]
            at = tuple(slice(int(start), int(start) + tile) for start in place)
            planes[(slice(None), *at)] += cell * soft
        noise = rng.normal(0, 40, planes.shape)
        bright, dna = planes * 8 + noise + np.array([30_000, 2_000])[:, None, None]
        yield cut_pair(bright, dna.clip(0, 65535).astype(np.uint16), rng, JURKAT_OFFSET, 28.0)


def _edge_map(coarse: NDArray[np.float32]) -> NDArray[np.float32]:
    """With the illumination taken from the frame itself."""
    step = max(1, min(coarse.shape) // 64)
    surface = fit_surface(
        np.log(np.maximum(coarse[::step, ::step], 1)), 2, outlier_ratio=1.5
    ).values
    return edge_map(coarse, np.exp(surface).astype(np.float32))


def by_wbcpipe(fields: Sequence[Sequence[Pair]], pixel_um: float) -> list[list[tuple[Map, bool]]]:
    """Fields of one slide, each a pair for each modality: map and trust of each."""
    edges = []
    for pairs in fields:
        frames = [*(pair.moving for pair in pairs), pairs[0].fixed]
        edges.append([_edge_map(coarse_frame(frame, pixel_um)) for frame in frames])
    reference = len(fields[0])
    usual = estimate_slide_alignment(edges, fields[0][0].fixed.shape, pixel_um, reference=reference)
    maps: list[list[tuple[Map, bool]]] = []
    for one in edges:
        found = align(one, usual, pixel_um, reference=reference)
        maps.append(
            [
                (
                    functools.partial(found.to_modality, k),
                    bool(found.trusted[k] and usual.trusted[k]),
                )
                for k in range(reference)
            ]
        )
    return maps


def by_phase(pair: Pair) -> Map:
    shift = phase_cross_correlation(pair.moving, pair.fixed, upsample_factor=10)[0]
    return lambda points: points + shift


def by_mutual_information(pair: Pair) -> Map:
    fixed, moving = (
        SimpleITK.GetImageFromArray(f.astype(np.float32)) for f in (pair.fixed, pair.moving)
    )
    start = SimpleITK.CenteredTransformInitializer(
        fixed,
        moving,
        SimpleITK.Similarity2DTransform(),
        SimpleITK.CenteredTransformInitializerFilter.GEOMETRY,
    )
    method = SimpleITK.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(50)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.2, 1)
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 1e-3, 200)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([8, 4, 2, 1])
    method.SetSmoothingSigmasPerLevel([4, 2, 1, 0])
    method.SetInitialTransform(start, inPlace=False)
    found = method.Execute(fixed, moving)
    return lambda points: np.array([found.TransformPoint((x, y))[::-1] for y, x in points])


def error_px(pair: Pair, found: Map, at_rest: Map | None = None) -> float:
    """Root mean square error.

    That of the planted shift with ``at_rest``, what is found in the pair as given.
    """
    points = grid(pair.fixed.shape)
    wrong = found(points) - pair.truth(points)
    if at_rest is not None and pair.rest is not None:
        wrong -= at_rest(points) - pair.rest.truth(points)
    return float(np.sqrt(np.mean(np.sum(wrong**2, -1))))


class Scores:
    """Errors, trust and times of the methods on one kind of pairs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: dict[str, list[tuple[float, bool, float, int]]] = {}
        self.offsets: dict[str, list[NDArray[np.float64]]] = {}

    def add(
        self, method: str, error: float, trusted: bool, seconds: float, cells: int = -1
    ) -> None:
        self.rows.setdefault(method, []).append((error, trusted, seconds, cells))

    def others(self, pair: Pair, cells: int = -1) -> None:
        methods: list[tuple[str, Callable[[Pair], Map]]] = [("phase_cross_correlation", by_phase)]
        if SimpleITK is not None:
            methods.append(("SimpleITK, mutual information", by_mutual_information))
        for name, method in methods:
            start = time.perf_counter()
            try:
                found = method(pair)
                seconds = time.perf_counter() - start
                at_rest = None if pair.rest is None else method(pair.rest)
            except RuntimeError:  # SimpleITK: all samples mapped outside
                self.add(name, np.inf, True, time.perf_counter() - start, cells)
                continue
            self.add(name, error_px(pair, found, at_rest), True, seconds, cells)
            self.note(name, pair, at_rest)

    def ours(
        self, method: str, fields: Sequence[Sequence[Pair]], pixel_um: float, cells: Sequence[int]
    ) -> None:
        start = time.perf_counter()
        maps = by_wbcpipe(fields, pixel_um)
        seconds = (time.perf_counter() - start) / sum(len(pairs) for pairs in fields)
        for pairs, found, number in zip(fields, maps, cells, strict=True):
            for pair, (there, trusted) in zip(pairs, found, strict=True):
                at_rest = (
                    None if pair.rest is None else by_wbcpipe([[pair.rest]], pixel_um)[0][0][0]
                )
                self.add(method, error_px(pair, there, at_rest), trusted, seconds, number)
                self.note(method, pair, at_rest)

    def note(self, method: str, pair: Pair, at_rest: Map | None) -> None:
        if at_rest is not None and pair.rest is not None:
            points = grid(pair.fixed.shape)
            self.offsets.setdefault(method, []).append(
                (at_rest(points) - pair.rest.truth(points)).mean(0)
            )

    def table(self) -> list[dict[str, Any]]:
        table = []
        for method, entries in self.rows.items():
            error, trusted, seconds, cells = (
                np.array(values) for values in zip(*entries, strict=True)
            )
            table.append(
                {
                    "pairs_of": self.name,
                    "method": method,
                    "pairs": len(error),
                    "within_1_px": float(np.mean(error <= FALSE_PX)),
                    "median_px": float(np.median(error)),
                    "rms_of_trusted_px": float(np.sqrt(np.mean(error[trusted] ** 2)))
                    if trusted.any()
                    else None,
                    "worst_trusted_px": float(error[trusted].max()) if trusted.any() else None,
                    "trusted": float(trusted.mean()),
                    "false": int(np.sum(trusted & (error > FALSE_PX))),
                    "offset_px": np.median(self.offsets[method], axis=0).tolist()
                    if method in self.offsets
                    else None,
                    "ms": 1000 * float(np.median(seconds)),
                    "cells": [int(cells.min()), int(cells.max())] if cells.max() >= 0 else None,
                }
            )
        return table


def negatives(pairs: Sequence[Pair], pixel_um: float) -> tuple[int, int]:
    """Of pairs made of different fields: how many, and how many are trusted."""
    trusted = 0
    for one, other in zip(pairs, [*pairs[1:], pairs[0]], strict=True):
        mixed = Pair(one.moving, other.fixed, one.truth)
        trusted += by_wbcpipe([[mixed]], pixel_um)[0][0][1]
    return len(pairs), trusted


def measure(
    seeds: int, bccd: Path | None, jurkat: Path | None
) -> tuple[list[dict[str, Any]], dict[str, tuple[int, int]]]:
    """The rows of the table, and per kind of pairs the number of pairs with nothing in common and
    of those trusted.
    """
    rows: list[dict[str, Any]] = []
    nothing: dict[str, tuple[int, int]] = {}
    slides: tuple[tuple[Preparation, int], ...] = (
        ("blood-film", 896),
        ("blood-film", 1792),
        ("buffy-coat", 1792),
        ("buffy-coat", 2304),
    )
    for preparation, side in slides:
        scores = Scores(f"virtual scope, {preparation}, {side} px")
        all_pairs = []
        for seed in range(300, 300 + seeds):
            fields, cells, _ = zip(*virtual_slide(seed, preparation, side), strict=True)
            for pairs, number in zip(fields, cells, strict=True):
                scores.ours("wbcpipe, field by itself", [pairs], 0.1, [number])
                for pair in pairs:
                    scores.others(pair, number)
            scores.ours("wbcpipe, with the slide", fields, 0.1, cells)
            all_pairs += [pairs[0] for pairs in fields]
        rows += scores.table()
        nothing[scores.name] = negatives(all_pairs, 0.1)
    real: list[tuple[str, float, Iterator[Pair]]] = []
    if bccd is not None:
        real.append(("bccd, red to blue plane", 0.075, bccd_pairs(bccd, 60)))
    if jurkat is not None:
        real.append(("mlcp_jurkat, bright-field to DNA", 0.33, jurkat_pairs(jurkat, 60)))
    for name, pixel_um, source in real:
        scores, pairs = Scores(name), list(source)
        for pair in pairs:
            scores.ours("wbcpipe, field by itself", [[pair]], pixel_um, [-1])
            scores.others(pair)
        rows += scores.table()
        nothing[name] = negatives(pairs, pixel_um)
    return rows, nothing


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bccd", type=Path, help="folder with JPEGImages")
    parser.add_argument("--jurkat", type=Path, help="experiment_1.npz")
    parser.add_argument("--seeds", type=int, default=1, help="virtual slides of each kind")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    rows, nothing = measure(arguments.seeds, arguments.bccd, arguments.jurkat)
    by_method: dict[str, list[float]] = {}
    for row in rows:
        if row["pairs_of"].startswith("virtual"):
            by_method.setdefault(row["method"], []).append(row["median_px"])
    ratio = float(
        np.mean(by_method["phase_cross_correlation"])
        / np.mean(by_method["wbcpipe, field by itself"])
    )
    if arguments.json:
        versions = {name: version(name) for name in ("wbcpipe", "numpy", "scipy", "scikit-image")}
        cpu = platform.processor() or platform.machine()
        print(
            json.dumps(
                {
                    "name": "registration",
                    "ratio": ratio,
                    "rows": rows,
                    "nothing": nothing,
                    "versions": versions,
                    "cpu": cpu,
                }
            )
        )
        return
    heads = (
        "pairs, white cells, method, n, within 1 px, median, RMS of trusted, worst trusted, "
        "trusted, false, as given"
    )
    print("| " + " | ".join([*heads.split(", "), "ms"]) + " |")
    print("|---" * 12 + "|")
    for row in rows:
        rms, worst = (
            "–" if row[key] is None else f"{row[key]:.2f}"
            for key in ("rms_of_trusted_px", "worst_trusted_px")
        )
        cells = "" if row["cells"] is None else "{} to {}".format(*row["cells"])
        entries = [
            row["pairs_of"],
            cells,
            row["method"],
            str(row["pairs"]),
            f"{row['within_1_px']:.3f}",
        ]
        entries += [f"{row['median_px']:.2f}", rms, worst]
        entries += [
            f"{row['trusted']:.3f}" if row["method"].startswith("wbcpipe") else "–",
            str(row["false"]),
        ]
        offset = row["offset_px"]
        entries += [
            "" if offset is None else f"({offset[0]:+.1f}, {offset[1]:+.1f})",
            f"{row['ms']:.0f}",
        ]
        print("| " + " | ".join(entries) + " |")
    print()
    for name, (pairs, trusted) in nothing.items():
        print(f"{name}: of {pairs} pairs with nothing in common {trusted} trusted")
    print(
        f"phase_cross_correlation's median error is {ratio:.1f} x that of wbcpipe on the virtual "
        f"scope"
    )


if __name__ == "__main__":
    main()
