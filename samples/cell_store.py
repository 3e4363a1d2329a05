"""``cells.zarr``: the cells of one sample, their crops, measurements, labels and calls.

The store is written once, aside, and renamed into place; only the columns that classify owns are written later.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import zarr

from wbcpipe.errors import NoCellsError, SampleStateError
from wbcpipe.samples.cell_columns import COLUMNS, QcFlag
from wbcpipe.samples.shards import CELLS_PER_SHARD, HALF, CropReader, CropWriter, ShardWriter, open_array
from wbcpipe.system.files import sync_directory, sync_tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["CELLS_PER_SHARD", "CellBlock", "CellStore"]

FORMAT_VERSION: Final = 1


@dataclass
class CellBlock:
    """Some cells, in memory.

    Columns other than those of ``COLUMNS`` (morphometry) may be there or not, but the
    same in all blocks of a store; older stores have none.

    Attributes:
        images: (N, M, side, side) uint16, channels in the sample's modality order.
        masks: (N, side, side) uint8; 0 background, 1 cytoplasm, 2 nucleus.
        columns: one array of length N for every name of ``COLUMNS``, and for any other.
        label: N class names, empty where unknown.
    """

    images: NDArray[np.uint16]
    masks: NDArray[np.uint8]
    columns: dict[str, NDArray[Any]]
    label: list[str]

    def __len__(self) -> int:
        return int(self.images.shape[0])


class CellStore:
    """One sample's ``cells.zarr``.

    Args:
        path: the store's directory.

    Raises:
        SampleStateError: there is no store there, or its format is not known.
    """

    def __init__(self, path: Path) -> None:
        if not (path / "zarr.json").is_file():
            raise SampleStateError(f"{path}: no cells there; run `wbcpipe segment` or `wbcpipe import cells` first.")
        self.path = path
        self._group = zarr.open_group(str(path), mode="r")
        self._readers: dict[str, CropReader] = {}
        if self.attributes.get("format_version") != FORMAT_VERSION:
            raise SampleStateError(
                f"{path}: cells.zarr of format {self.attributes.get('format_version')!r}; "
                f"this wbcpipe reads format {FORMAT_VERSION}. Segment the sample again."
            )

    @property
    def attributes(self) -> dict[str, Any]:
        """The group's attributes: ``modalities``, ``classes``, ``pixel_um``, ``qc_flags``, ``provenance``..."""
        return dict(self._group.attrs)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Channel names in the order of the image arrays."""
        return tuple(self.attributes["modalities"])

    @property
    def pixel_um(self) -> float:
        """Size of a crop's pixel on the specimen, in micrometres."""
        return float(self.attributes["pixel_um"])

    def __len__(self) -> int:
        return int(self._reader("images").array.shape[0])

    def _array(self, name: str) -> zarr.Array[Any]:
        try:
            return open_array(self._group, name)
        except TypeError as error:
            raise SampleStateError(f"{self.path}: {error}; segment the sample again.") from error

    @functools.cached_property
    def sides_px(self) -> tuple[int, ...]:
        """Sides at which the crops are kept, the whole ones first."""
        kept = ("images", HALF) if HALF in self._group else ("images",)
        return tuple(int(self._reader(name).array.shape[-1]) for name in kept)

    def images(
        self,
        start: int = 0,
        stop: int | None = None,
        *,
        side_px: int | None = None,
        out: NDArray[np.uint16] | None = None,
    ) -> NDArray[np.uint16]:
        """Crops ``start`` to ``stop`` as (n, M, side, side) uint16.

        Args:
            start, stop: rows.
            side_px: one of ``sides_px``; by default that of whole crops.
            out: (n, M, side, side) uint16 to read into.

        Raises:
            SampleStateError: they cannot be read.
        """
        whole = side_px is None or side_px == self.sides_px[0]
        return self._read("images" if whole else HALF, start, stop, out)

    def masks(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Masks ``start`` to ``stop`` as (n, side, side) uint8."""
        return self._read("masks", start, stop)

    def _reader(self, name: str) -> CropReader:
        """What reads pictures, which are written once."""
        if name not in self._readers:
            self._readers[name] = CropReader(self._array(name))
        return self._readers[name]

    def _read(self, name: str, start: int, stop: int | None, out: NDArray[Any] | None = None) -> NDArray[Any]:
        reader = self._reader(name)
        try:
            return reader.read(start, stop, out)
        except (OSError, RuntimeError, ValueError) as error:  # of the disk, of a codec, of zarr
            raise SampleStateError(
                f"{self.path / name}: damaged ({error}); segment or import the sample again."
            ) from error

    def blocks(self, cells: int = CELLS_PER_SHARD) -> Iterator[tuple[int, NDArray[np.uint16]]]:
        """Walk through the crops in order: (index of the first, (n, M, side, side) uint16)."""
        for start in range(0, len(self), cells):
            yield start, self.images(start, min(start + cells, len(self)))

    def column(self, name: str) -> NDArray[Any]:
        """One per-cell column, whole."""
        return np.asarray(self._array(name)[...])

    def has_column(self, name: str) -> bool:
        """True when there is such an array: stores of older versions lack some."""
        return name in self._group

    def labels(self) -> list[str]:
        """Ground truth of each cell, empty where unknown."""
        return [str(text) for text in self.column("label")]

    def is_classified(self) -> bool:
        """True when classify has finished with this store."""
        return "classified" in self.attributes

    def predicted_classes(self) -> list[str]:
        """The class called for each cell, or ``unidentified``.

        Raises:
            SampleStateError: the cells have not been classified.
        """
        if not self.is_classified():
            raise SampleStateError(f"{self.path}: cells are not classified yet; run `wbcpipe classify` first.")
        return [str(text) for text in self.column("predicted_class")]

    def write_predictions(
        self,
        probability: NDArray[np.float32],
        predicted_class: list[str],
        confidence: NDArray[np.float32],
        disagreement: NDArray[np.float32],
        *,
        classified: Mapping[str, Any],
    ) -> None:
        """Write what classify found; the attribute ``classified`` last, so that half a result is never taken for one.

        Args:
            probability: (N, heads, K) float32, calibrated.
            predicted_class: N class names or ``unidentified``.
            confidence: (N,) float32, probability of the fused call.
            disagreement: (N,) float32, Jensen-Shannon divergence of the heads, in [0, 1].
            classified: provenance: bundle name, sha256, classes, heads, threshold.
        """
        group = zarr.open_group(str(self.path), mode="r+")
        if "classified" in group.attrs:
            del group.attrs["classified"]
            self._sync_attributes()
        for name, values in (("probability", probability), ("confidence", confidence), ("disagreement", disagreement)):
            _create_column(group, name, np.ascontiguousarray(values, dtype=np.float32), overwrite=True)
        _create_column(group, "predicted_class", _strings(predicted_class), overwrite=True)
        for name in ("probability", "confidence", "disagreement", "predicted_class"):
            sync_tree(self.path / name)
        group.attrs["classified"] = dict(classified)
        self._sync_attributes()
        self._group = zarr.open_group(str(self.path), mode="r")

    def _sync_attributes(self) -> None:
        with (self.path / "zarr.json").open("rb+") as handle:
            os.fsync(handle.fileno())
        sync_directory(self.path)

    @classmethod
    def create(
        cls, path: Path, blocks: Iterable[CellBlock], *, modalities: tuple[str, ...], attributes: Mapping[str, Any]
    ) -> CellStore:
        """Write a store from blocks of cells, aside, then rename it to ``path``.

        A store that stands there already is replaced only once the new one is whole.

        Args:
            path: where the store shall stand.
            blocks: the cells in their final order, taken one block at a time.
            modalities: channel names of the blocks.
            attributes: further group attributes; must hold ``pixel_um`` and ``provenance``.

        Raises:
            NoCellsError: the blocks hold no cell.
        """
        aside = path.with_name(path.name + ".partial")
        old = path.with_name(path.name + ".old")
        for leftover in (aside, old):
            if leftover.exists():
                shutil.rmtree(leftover)
        group = zarr.create_group(str(aside), zarr_format=3)
        writer = _Writer(group, modalities)
        for block in blocks:
            writer.append(block)
        if not writer.finish():
            shutil.rmtree(aside)
            raise NoCellsError(f"{path.parent}: no cell to store; check focus, exposure and stain in `raw/`.")
        group.attrs.update(
            {
                "format_version": FORMAT_VERSION,
                "modalities": list(modalities),
                "qc_flags": {str(flag.name): flag.value for flag in QcFlag},
                **json.loads(json.dumps(dict(attributes))),
            }
        )
        sync_tree(aside)
        if path.exists():
            path.rename(old)
        aside.rename(path)
        sync_directory(path.parent)
        if old.exists():
            shutil.rmtree(old)
        return cls(path)


class _Writer:
    """Takes blocks: pictures go to their shards, columns are gathered until the end."""

    def __init__(self, group: zarr.Group, modalities: tuple[str, ...]) -> None:
        self._group = group
        self._channels = len(modalities)
        self._crops, self._masks = CropWriter(group, "images"), ShardWriter(group, "masks")
        self._columns: dict[str, _Column] = {}
        self._labels: list[str] = []

    def append(self, block: CellBlock) -> None:
        if not len(block):
            return
        if block.images.shape[1] != self._channels:
            raise SampleStateError(
                f"a block of cells has {block.images.shape[1]} channels, the sample has {self._channels}."
            )
        if not self._columns:
            self._columns = {name: _Column() for name in dict.fromkeys([*COLUMNS, *block.columns])}
        if set(self._columns) != set(block.columns):
            odd = sorted(set(self._columns) ^ set(block.columns))
            raise SampleStateError(f"blocks of cells differ in the columns {', '.join(odd)}; segment the sample again.")
        self._crops.append(block.images.astype(np.uint16, copy=False))
        self._masks.append(block.masks.astype(np.uint8, copy=False))
        for name, values in block.columns.items():
            self._columns[name].append(values)
        self._labels += block.label

    def finish(self) -> int:
        if not self._labels:
            return 0
        self._crops.finish()
        self._masks.finish()
        for name, column in self._columns.items():
            values = column.values()
            _create_column(self._group, name, values.astype(COLUMNS[name].dtype) if name in COLUMNS else values)
        _create_column(self._group, "label", _strings(self._labels))
        return len(self._labels)


class _Column:
    """Values that come in parts, kept as one: parts would lie among pictures that come and go, and scatter them."""

    def __init__(self) -> None:
        self._room: NDArray[Any] | None = None
        self._count = 0

    def append(self, values: NDArray[Any]) -> None:
        stop = self._count + len(values)
        old = values[:0] if self._room is None else self._room[: self._count]
        if self._room is None or stop > len(self._room) or self._room.dtype != values.dtype:
            dtype = np.result_type(old, values)
            self._room = np.empty((2 * max(stop, CELLS_PER_SHARD), *values.shape[1:]), dtype)
            self._room[: self._count] = old
        self._room[self._count : stop] = values
        self._count = stop

    def values(self) -> NDArray[Any]:
        assert self._room is not None
        return self._room[: self._count]


def _strings(values: list[str]) -> NDArray[Any]:
    return np.array(values, dtype=np.dtypes.StringDType())


def _create_column(group: zarr.Group, name: str, values: NDArray[Any], *, overwrite: bool = False) -> None:
    chunks = (max(len(values), 1), *values.shape[1:])
    array = group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=chunks, overwrite=overwrite)
    array[...] = values
