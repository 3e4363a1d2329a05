"""Labelled cells in memory, and the cells of each batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from wbcpipe.classify.models.classes import PIXEL_TOLERANCE, class_order, split_channels
from wbcpipe.classify.models.normalise import resize
from wbcpipe.errors import SampleStateError, TrainingDataError
from wbcpipe.samples.cell_columns import QcFlag
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.sample import Sample, check_sample_name
from wbcpipe.samples.training_set import TrainingSet, training_set_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from wbcpipe.samples.records import SampleKind

__all__ = [
    "CellSet",
    "Sampling",
    "cell_sources",
    "epoch_indices",
    "head_batches",
    "load_cells",
    "steps_of",
]

Sampling = Literal["natural", "sqrt", "balanced"]
MIN_CELLS = 16


@dataclass(frozen=True)
class CellSet:
    """Labelled cells at the input side.

    Attributes:
        images: (N, M * c, side, side) uint16, raw.
        labels: (N,) int64, index into ``classes``.
        groups: (N,) int64; cells of one field of one sample share a group and stay in one fold.
        classes: K names.
        modalities: M names.
        planes: c.
        pixel_um: size of a crop's pixel before resizing.
        samples: names of the samples, for the bundle's provenance.
        source: kind of the images: ``scope``, ``stained-rgb`` or ``stack``.
        crop_px: side of a crop before resizing.
        derived: modalities computed from others, to be marked as such.
        slides: (N,) int64, index into ``samples``; None where that is not known.
    """

    images: NDArray[np.uint16]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    classes: tuple[str, ...]
    modalities: tuple[str, ...]
    planes: int
    pixel_um: float
    samples: tuple[str, ...] = ()
    source: SampleKind = "scope"
    crop_px: int = 224
    derived: tuple[str, ...] = ()
    slides: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, rows: NDArray[np.int64]) -> CellSet:
        """Return the cells of some rows."""
        slides = None if self.slides is None else self.slides[rows]
        return replace(
            self,
            images=self.images[rows],
            labels=self.labels[rows],
            groups=self.groups[rows],
            slides=slides,
        )

    def merge_rare_classes(self, min_cells: int) -> CellSet:
        """Return the cells with all classes of fewer than ``min_cells`` merged into ``rare``, which
        comes last.
        """
        counts = np.bincount(self.labels, minlength=len(self.classes))
        kept = np.flatnonzero(counts >= min_cells)
        if len(kept) == len(self.classes):
            return self
        index_of = np.full(len(self.classes), len(kept), np.int64)
        index_of[kept] = np.arange(len(kept))
        return replace(
            self,
            labels=index_of[self.labels],
            classes=(*(self.classes[index] for index in kept), "rare"),
        )

    def with_images(self, images: NDArray[np.uint16]) -> CellSet:
        """Return the same cells with other images (N, M * c, side, side)."""
        return replace(self, images=images)

    def modality(self, index: int) -> CellSet:
        """Return the same cells with the planes of one modality."""
        planes = slice(index * self.planes, (index + 1) * self.planes)
        return replace(self, images=self.images[:, planes], modalities=(self.modalities[index],))

    def counts(self) -> dict[str, int]:
        """Return the number of cells per class."""
        counts = np.bincount(self.labels, minlength=len(self.classes))
        return {name: int(count) for name, count in zip(self.classes, counts, strict=True)}


def load_cells(
    sources: Sequence[tuple[str, Path]], side: int, *, classes: Sequence[str] | None = None
) -> CellSet:
    """Read the labelled cells of several stores.

    Cells without a label, cells cut by the border and debris are excluded.

    Args:
        sources: (sample name, path of its ``cells.zarr``).
        side: the network's input side.
        classes: the classes to use; cells of other classes are excluded. By default those present,
            in the order the stores declare.

    Raises:
        TrainingDataError: too few cells, one class only, or stores that differ in modalities or
            pixel size.
        SampleStateError: a source is not a cell store.
    """
    stores = [(name, CellStore(path)) for name, path in sources]
    if not stores:
        raise TrainingDataError(
            "no sample to train on was named; give sample names or paths of cells.zarr."
        )
    _check_alike(stores)
    first = stores[0][1]
    names = [_usable_labels(store) for _, store in stores]
    if classes is None:
        classes = class_order({name for part in names for name in part}, first.attributes.classes)
    _check_enough(names, classes, [name for name, _ in stores])
    index = {name: i for i, name in enumerate(classes)}
    images, labels, groups = [], [], []
    for number, ((_, store), part) in enumerate(zip(stores, names, strict=True)):
        rows = np.array([i for i, name in enumerate(part) if name in index], dtype=np.int64)
        images.append(_read(store, rows, side))
        labels.append(np.array([index[part[i]] for i in rows], dtype=np.int64))
        groups.append((np.int64(number) << 32) + store.column("field_index")[rows].astype(np.int64))
    modalities, planes = split_channels(first.modalities)
    places = np.concatenate(groups)
    return CellSet(
        images=np.concatenate(images),
        labels=np.concatenate(labels),
        groups=np.unique(places, return_inverse=True)[1].astype(np.int64),
        classes=tuple(classes),
        modalities=modalities,
        planes=planes,
        pixel_um=first.pixel_um,
        samples=tuple(name for name, _ in stores),
        source=first.attributes.kind,
        crop_px=first.sides_px[0],
        derived=first.attributes.derived,
        slides=places >> np.int64(32),
    )


def cell_sources(root: Path, texts: Iterable[str]) -> list[tuple[str, Path]]:
    """Return name and cell store of samples: each a name, the path of a cells.zarr, or the folder
    of a training set.

    Raises:
        SampleNameError: a name is refused.
        SampleStateError: the folder of a training set is not complete, or its record is damaged.
    """
    found = []
    for text in texts:
        path = Path(text)
        if (path / "zarr.json").is_file():
            found.append((path.resolve().parent.name, path))
        elif training_set_path(path).is_file():
            found += _of_training_set(path)
        else:
            found.append((text, Sample.open(root, text).cells_path))
    return found


def _of_training_set(folder: Path) -> list[tuple[str, Path]]:
    record = TrainingSet.read(training_set_path(folder))
    if not record.complete:
        raise SampleStateError(f"{folder}: the training set is not complete; {record.remedy}.")
    names = [
        check_sample_name(entry.sample) for entry in record.samples if any(entry.classes.values())
    ]
    return [(name, folder / name / "cells.zarr") for name in names]


def _check_alike(stores: Sequence[tuple[str, CellStore]]) -> None:
    name, first = stores[0]
    for other_name, other in stores[1:]:
        if other.modalities != first.modalities:
            raise TrainingDataError(
                f"samples {name!r} and {other_name!r} have different modalities: "
                f"{list(first.modalities)} and {list(other.modalities)}; train on samples of one "
                f"kind."
            )
        if abs(other.pixel_um / first.pixel_um - 1) > PIXEL_TOLERANCE:
            raise TrainingDataError(
                f"samples {name!r} and {other_name!r} have crops of {first.pixel_um} um and "
                f"{other.pixel_um} um a pixel; segment or import them at one pixel size."
            )


def _usable_labels(store: CellStore) -> list[str]:
    """Return the label of each cell; empty for cells that must not be learned from."""
    bad = (store.column("qc_flags") & int(QcFlag.BORDER | QcFlag.DEBRIS)) != 0
    return ["" if refuse else name for name, refuse in zip(store.labels(), bad, strict=True)]


def _check_enough(
    names: Sequence[Sequence[str]], classes: Sequence[str], samples: Sequence[str]
) -> None:
    kept = [name for part in names for name in part if name in classes]
    where = ", ".join(samples)
    if len(kept) < MIN_CELLS:
        raise TrainingDataError(
            f"{where}: {len(kept)} labelled cells inside their field, at least {MIN_CELLS} are "
            f"needed; label more (`wbcpipe labels export`), import labelled cells, or name more "
            "samples."
        )
    if len(set(kept)) < 2:
        raise TrainingDataError(
            f"{where}: all {len(kept)} labelled cells are {kept[0]!r}; a network needs at least "
            f"two classes."
        )


def _read(store: CellStore, rows: NDArray[np.int64], side: int) -> NDArray[np.uint16]:
    wanted = np.zeros(len(store), dtype=bool)
    wanted[rows] = True
    parts = [
        resize(block[wanted[start : start + len(block)]], side)
        for start, block in store.blocks()
        if wanted[start : start + len(block)].any()
    ]
    return (
        np.concatenate(parts)
        if parts
        else np.empty((0, len(store.modalities), side, side), np.uint16)
    )


def epoch_indices(
    labels: NDArray[np.int64],
    sampling: Sampling,
    rng: np.random.Generator,
    count: int | None = None,
) -> NDArray[np.int64]:
    """Return the cells of one epoch; ``sqrt`` and ``balanced`` repeat rare classes.

    A class's share is proportional to its count to the power 1 (natural), 1/2 (sqrt) or 0
    (balanced). Each class is drawn in complete permutations and a rest: the draws of two cells of
    one class differ by at most one.

    Args:
        labels: (N,) int64.
        sampling: the shares of the classes.
        rng: source of the order.
        count: number of cells to draw; by default the number of labels.

    Returns:
        (count,) int64, row numbers in random order.
    """
    counts = np.bincount(labels)
    power = {"natural": 1.0, "sqrt": 0.5, "balanced": 0.0}[sampling]
    share = np.where(counts > 0, np.maximum(counts, 1) ** power, 0.0)
    count = len(labels) if count is None else count
    wanted = share / share.sum() * count
    taken = np.floor(wanted).astype(np.int64)
    missing = count - int(taken.sum())
    taken[np.argsort(taken - wanted, kind="stable")[:missing]] += 1
    rows = []
    for index in np.flatnonzero(taken):
        members = np.flatnonzero(labels == index)
        complete, rest = divmod(int(taken[index]), len(members))
        rows += [rng.permutation(members) for _ in range(complete)]
        rows.append(rng.permutation(members)[:rest])
    return rng.permutation(np.concatenate(rows)).astype(np.int64)


def head_batches(
    rows: NDArray[np.int64],
    inputs: int,
    batch_size: int,
    repetition: float,
    rng: np.random.Generator,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """Yield the batches of an epoch for a network with independent inputs.

    Each input goes through the epoch's cells in an order of its own, so that the cells of one batch
    row are independent over inputs. With probability ``repetition`` a row gives input 0's cell to
    every input instead (section 4.2 of MIMO, https://doi.org/10.48550/arXiv.2010.06610): a small
    network then learns the features that the inputs share faster.

    Args:
        rows: (N,) int64, the cells of the epoch.
        inputs: M; 1 for networks that read one cell.
        batch_size: B; a last, smaller batch is dropped unless it is the only one: batch norm needs
            full batches.
        repetition: rho in [0, 1].
        rng: source of the orders.

    Yields:
        cells (B, inputs) int64, and (B,) bool, true where a row shows the same cell to every input.
    """
    columns = [rows] + [rng.permutation(rows) for _ in range(inputs - 1)]
    table = np.stack(columns, axis=1)  # (N, inputs)
    same = rng.random(len(table)) < repetition if inputs > 1 else np.ones(len(table), dtype=bool)
    table[same] = table[same, :1]
    for step in range(steps_of(len(rows), batch_size)):
        part = slice(step * batch_size, (step + 1) * batch_size)
        yield table[part], same[part]


def steps_of(cells: int, batch_size: int) -> int:
    """Return how many batches `head_batches` makes of a number of cells."""
    return max(1, cells // batch_size)
