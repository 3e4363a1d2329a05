"""``cells.zarr``: the cells of one sample, their crops, measurements, labels and predicted classes.

The store is plain Zarr v3. Crops lie in chunks of 32 cells; one writer writes each chunk once. The
store is written aside and renamed into place; only the columns that classify owns are written
later. Every chunk has a checksum, a missing chunk is an error, and the group's attributes hold the
digest of each array's metadata and of themselves.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import zarr
from numcodecs import Blosc
from pydantic import ValidationError
from zarr.buffer.cpu import NDBuffer
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from wbcpipe.errors import NoCellsError, SampleStateError, WbcpipeError
from wbcpipe.imaging.arrays import bin_2x2
from wbcpipe.samples.cell_attributes import CellAttributes
from wbcpipe.samples.cell_columns import COLUMNS
from wbcpipe.samples.classification_record import Classification
from wbcpipe.samples.complete_store import (
    CHUNK_KEYS,
    METADATA,
    CompleteStore,
    array_digest,
    check_array,
    check_chunks,
    check_chunks_digest,
    chunks_digest,
    group_metadata,
    read_group,
)
from wbcpipe.samples.patient_store import PatientStore
from wbcpipe.samples.records import json_digest
from wbcpipe.samples.review.signed import refuse_if_signed
from wbcpipe.system.files import remove_tree, rename, sync_directory, sync_tree, write_json
from wbcpipe.system.validation_messages import explain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray
    from zarr.abc.codec import BytesBytesCodec

    from wbcpipe.samples.cell_attributes import LabelImport

__all__ = ["CELLS_PER_CHUNK", "HALF", "PREDICTIONS", "CellBlock", "CellStore"]

CELLS_PER_CHUNK: Final = 32
PREDICTIONS: Final = ("probability", "confidence", "disagreement", "predicted_class")
"""The columns that classify writes."""
HALF: Final = "images_half"
"""The array of crops binned 2 x 2, for networks of that side; crops of an odd side have none."""
#: Unpacking takes six times as long as reading: worth it for half of the bytes, as 8-bit images
#: save, not for a quarter, as 16-bit images with a camera's noise save.
_WORTH_PACKING: Final = 0.5
_CELLS_TRIED: Final = 8


@dataclass
class CellBlock:
    """Some cells, in memory.

    Columns other than those of ``COLUMNS`` (morphometry) are optional, but the same in all blocks
    of a store.

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
    """One sample's ``cells.zarr``: crops, masks, measurements, labels and classes of its cells.

    Args:
        path: the store's directory, see `Sample.cells_path`.

    Attributes:
        attributes: what holds for all cells.

    Raises:
        SampleStateError: there is no store there, or its attributes are damaged or of another
            format.

    Example:
        ``CellStore(sample.cells_path).images(0, 32)`` reads the first 32 crops, (32, M, side, side)
        uint16; ``.column("area_um2")`` one measurement of all cells, (N,). The columns are listed
        in docs/reference/columns.md.
    """

    def __init__(self, path: Path | str) -> None:
        path = Path(path)
        if not path.is_dir():
            raise SampleStateError(
                f"{path}: no cells there; run `wbcpipe segment` or `wbcpipe import cells` first."
            )
        self.path = path
        self._load()

    @property
    def modalities(self) -> tuple[str, ...]:
        """The names of the channels, in their order."""
        return self.attributes.modalities

    @property
    def pixel_um(self) -> float:
        """The size of a crop's pixel on the specimen, in micrometres."""
        return self.attributes.pixel_um

    def _load(self) -> None:
        """Read the attributes; arrays are opened when they are needed."""
        self.attributes = CellAttributes.parse(read_group(self.path), self.path / METADATA)
        self.attributes.check_digest(self.path / METADATA)
        self._opened: dict[str, zarr.Array[Any]] = {}

    def __len__(self) -> int:
        return int(self._array("images").shape[0])

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all arrays."""
        return tuple(sorted(self.attributes.arrays))

    def _array(self, name: str) -> zarr.Array[Any]:
        """Open an array, once, whose metadata are those that were written."""
        if name not in self._opened:
            if name not in self.attributes.arrays:
                raise SampleStateError(
                    f"{self.path}: there is no array {name!r}; segment the sample again."
                )
            self._opened[name] = self._open(name)
        return self._opened[name]

    def _open(self, name: str) -> zarr.Array[Any]:
        check_array(self.path / name, self.attributes.arrays[name])
        array = zarr.open_array(
            CompleteStore(self.path / name, read_only=True), mode="r", zarr_format=3
        )
        if name in self.attributes.chunks:
            check_chunks_digest(array, self.path / name, self.attributes.chunks[name])
        return array

    @functools.cached_property
    def sides_px(self) -> tuple[int, ...]:
        """Sides of the stored crops in pixels, the full one first."""
        names = ("images", HALF) if HALF in self.attributes.arrays else ("images",)
        return tuple(int(self._array(name).shape[-1]) for name in names)

    def images(
        self,
        start: int = 0,
        stop: int | None = None,
        *,
        side_px: int | None = None,
        out: NDArray[np.uint16] | None = None,
    ) -> NDArray[np.uint16]:
        """Read crops ``start`` to ``stop`` as (n, M, side, side) uint16.

        Chunks of `CELLS_PER_CHUNK` cells are read completely, so a span of complete chunks costs
        least.

        Args:
            start, stop: rows.
            side_px: one of ``sides_px``; by default the full one.
            out: (n, M, side, side) uint16 to read into.

        Raises:
            SampleStateError: a chunk is damaged or missing.
        """
        return self._read(
            "images" if side_px in (None, self.sides_px[0]) else HALF, start, stop, out
        )

    def images_at(self, rows: Sequence[int]) -> NDArray[np.uint16]:
        """Read the crops of some rows, in their order and each chunk once, as (n, M, side, side)
        uint16.
        """
        wanted = np.asarray(rows, np.intp)
        found = np.empty((len(wanted), *self._array("images").shape[1:]), np.uint16)
        for chunk in np.unique(wanted // CELLS_PER_CHUNK):
            here = wanted // CELLS_PER_CHUNK == chunk
            first = int(chunk) * CELLS_PER_CHUNK
            found[here] = self.images(first, first + CELLS_PER_CHUNK)[wanted[here] - first]
        return found

    def masks(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Read masks ``start`` to ``stop`` as (n, side, side) uint8; raises as `images`."""
        return self._read("masks", start, stop)

    def _read(
        self, name: str, start: int, stop: int | None, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        array = self._array(name)
        start, stop, _ = slice(start, stop).indices(array.shape[0])
        found = (
            np.empty((max(0, stop - start), *array.shape[1:]), array.dtype) if out is None else out
        )
        if len(found):
            self._select(array, name, slice(start, stop), found)
        return found

    def _select(self, array: zarr.Array[Any], name: str, rows: slice, out: NDArray[Any]) -> None:
        """Read rows into ``out``; an error names the first damaged chunk."""
        try:
            array.get_basic_selection((rows,), out=NDBuffer.from_numpy_array(out))
        except WbcpipeError:
            raise  # it says what is wrong, or nothing is known of the file
        except (OSError, RuntimeError, ValueError) as error:  # of the disk, of a codec, of zarr
            check_chunks(array, self.path / name, rows, self._remedy(name))
            raise SampleStateError(
                f"{self.path / name}: cannot be read ({error}); {self._remedy(name)}."
            ) from error

    def _remedy(self, name: str) -> str:
        return (
            "run `wbcpipe classify` again"
            if name in PREDICTIONS
            else "segment or import the sample again"
        )

    def blocks(self, cells: int = CELLS_PER_CHUNK) -> Iterator[tuple[int, NDArray[np.uint16]]]:
        """Walk through the crops in order: (index of the first, (n, M, side, side) uint16)."""
        for start in range(0, len(self), cells):
            yield start, self.images(start, start + cells)

    def column(self, name: str) -> NDArray[Any]:
        """Read one column of the cell table.

        Raises:
            SampleStateError: there is no such column, or it is damaged or missing.
        """
        array = self._array(name)
        found: NDArray[Any] = np.empty(array.shape, array.dtype)
        if len(found):
            self._select(array, name, slice(0, len(found)), found)
        return found

    def table(self) -> dict[str, NDArray[Any]]:
        """Read every column with one value per cell, by its name, for `pandas.DataFrame`.

        Returns:
            Arrays (N,): numbers, and texts as objects.

        Raises:
            SampleStateError: a column is damaged or missing.
        """
        names = [name for name in self.names if self._array(name).ndim == 1]
        columns = {name: self.column(name) for name in names}
        return {
            name: values if values.dtype.kind in "biuf" else values.astype(object)
            for name, values in columns.items()
        }

    def check(self, name: str, progress: Callable[[int], None] = lambda _chunks: None) -> None:
        """Read every chunk of an array and discard it.

        Args:
            name: of the array.
            progress: called with the number of chunks read so far.

        Raises:
            SampleStateError: the array is damaged; the text names the file.
        """
        array = self._array(name)
        check_chunks(
            array, self.path / name, slice(0, array.shape[0]), self._remedy(name), progress
        )
        if name == "label":
            self.labels()

    def labels(self) -> list[str]:
        """Read the true class of each cell, empty where unknown.

        Raises:
            SampleStateError: they are damaged, or are not those that were imported here.
        """
        labels = [str(text) for text in self.column("label")]
        if json_digest(labels) not in self.attributes.label_digests:
            raise SampleStateError(
                f"{self.path / 'label'}: these labels were not given to this sample; "
                f"{self._remedy('label')}, and import its labels again."
            )
        return labels

    def write_labels(self, labels: list[str], classes: Sequence[str], record: LabelImport) -> None:
        """Replace the true classes: the record of their origin, then one file, written aside and
        renamed.

        A process that dies between the two leaves the record of labels that are not there yet: the
        same import again writes them, and replaces the record.

        Args:
            labels: N class names, empty where unknown.
            classes: names of the classes, in order.
            record: of the import.
        """
        refuse_if_signed(self.path)
        told = (*self.attributes.labelled, record)
        if len(told) > 1 and told[-2].sha256 == record.sha256:
            told = (*told[:-2], record)
        digests = json_digest(self.labels()), json_digest(labels)
        update = {"classes": tuple(classes), "labelled": told, "label_digests": digests}
        self._write_attributes(self.attributes.model_copy(update=update))
        store = PatientStore(self.path / "label")
        # A chunk without any label must be written, too: a missing file is a damage.
        with zarr.config.set({"array.write_empty_chunks": True}):
            array = zarr.open_array(store, mode="r+", zarr_format=3)
        array[...] = _strings(labels)  # its only chunk
        sync_tree(self.path / "label")

    def fields(self) -> list[int]:
        """Return the fields that were segmented, as the provenance states them."""
        fields = self.attributes.provenance.get("fields")
        return (
            [index for index in fields if isinstance(index, int)]
            if isinstance(fields, list)
            else []
        )

    def is_classified(self) -> bool:
        """Return whether classify has finished with this store."""
        return self.attributes.classified is not None

    def classification(self) -> Classification:
        """Return how the cells were classified.

        Raises:
            SampleStateError: the cells have not been classified, or the attribute is damaged.
        """
        if not self.is_classified():
            raise SampleStateError(
                f"{self.path}: cells are not classified yet; run `wbcpipe classify` first."
            )
        try:
            return Classification.model_validate(self.attributes.classified)
        except ValidationError as error:
            findings = "; ".join(explain(item, Classification) for item in error.errors()[:3])
            raise SampleStateError(
                f"{self.path}: classified: {findings}; run `wbcpipe classify` again."
            ) from error

    def predicted_classes(self) -> list[str]:
        """Read the predicted class of each cell, or ``unidentified``.

        Raises:
            SampleStateError: the cells have not been classified.
        """
        self.classification()
        return [str(text) for text in self.column("predicted_class")]

    def write_predictions(
        self,
        probability: NDArray[np.float32],
        predicted_class: list[str],
        confidence: NDArray[np.float32],
        disagreement: NDArray[np.float32],
        *,
        classification: Classification,
    ) -> None:
        """Write the predicted classes.

        The attribute ``classified`` last, so that an incomplete result is not used.

        Args:
            probability: (N, heads, K) float32, calibrated.
            predicted_class: N class names or ``unidentified``.
            confidence: (N,) float32, probability of the fused call.
            disagreement: (N,) float32, Jensen-Shannon divergence of the heads, in [0, 1].
            classification: the model and its options.
        """
        self.discard_predictions()
        kept = self.attributes.arrays
        group = zarr.open_group(PatientStore(self.path), mode="r+", zarr_format=3)
        for name, values in (
            ("probability", probability),
            ("confidence", confidence),
            ("disagreement", disagreement),
        ):
            _create_column(
                group, name, np.ascontiguousarray(values, dtype=np.float32), overwrite=True
            )
        _create_column(group, "predicted_class", _strings(predicted_class), overwrite=True)
        for name in PREDICTIONS:
            sync_tree(self.path / name)
        sync_directory(self.path)  # the attributes name these arrays
        arrays = kept | {name: array_digest(self.path / name) for name in PREDICTIONS}
        chunks = self.attributes.chunks | {
            name: chunks_digest(self.path / name) for name in PREDICTIONS
        }
        content = classification.model_dump(mode="json")
        # A part's own keys stay, also without a value: reading asks for them.
        classified = {name: value for name, value in content.items() if value is not None}
        told = {"classified": classified, "arrays": arrays, "chunks": chunks}
        self._write_attributes(self.attributes.model_copy(update=told))

    def discard_predictions(self) -> None:
        """Mark the cells as not classified; raise SampleStateError if the sample is signed."""
        refuse_if_signed(self.path)
        kept = {
            name: digest
            for name, digest in self.attributes.arrays.items()
            if name not in PREDICTIONS
        }
        if len(kept) < len(self.attributes.arrays) or self.is_classified():
            chunks = {
                name: digest
                for name, digest in self.attributes.chunks.items()
                if name not in PREDICTIONS
            }
            told = {"classified": None, "arrays": kept, "chunks": chunks}
            self._write_attributes(self.attributes.model_copy(update=told))

    def _write_attributes(self, attributes: CellAttributes) -> None:
        """Replace the attributes, flushed to the disk."""
        write_json(self.path / METADATA, group_metadata(attributes))
        self._load()

    @classmethod
    def create(
        cls, path: Path, blocks: Iterable[CellBlock], attributes: CellAttributes
    ) -> CellStore:
        """Write a store from blocks of cells, aside, then rename it to ``path``.

        A store that is there already is replaced only once the new one is complete.

        Args:
            path: directory of the store.
            blocks: the cells in their final order, taken one block at a time.
            attributes: what holds for all cells.

        Raises:
            NoCellsError: the blocks hold no cell.
            SampleStateError: the sample is signed.
        """
        refuse_if_signed(path)
        aside = path.with_name(path.name + ".partial")
        old = path.with_name(path.name + ".old")
        for leftover in (aside, old):
            remove_tree(leftover)
        group = zarr.create_group(PatientStore(aside), zarr_format=3)
        writer = _Writer(group, len(attributes.modalities))
        for block in blocks:
            writer.append(block)
        if not writer.finish():
            remove_tree(aside)
            raise NoCellsError(
                f"{path.parent}: no cell to store; check focus, exposure and stain in `raw/`."
            )
        arrays = {name: array_digest(aside / name) for name in sorted(group.array_keys())}
        chunks = {name: chunks_digest(aside / name) for name in arrays if name != "label"}
        written = attributes.model_copy(
            update={
                "arrays": arrays,
                "chunks": chunks,
                "label_digests": (json_digest(writer.labels),),
                "classified": None,
            }
        )
        write_json(aside / METADATA, group_metadata(written))
        sync_tree(aside)
        if path.exists():
            rename(path, old)
        rename(aside, path)
        remove_tree(old)
        return cls(path)


class _Writer:
    """Writes blocks of cells: crops chunk by chunk, columns at the end."""

    def __init__(self, group: zarr.Group, channels: int) -> None:
        self._group, self._channels = group, channels
        self._images, self._half, self._masks = (
            _ChunkWriter(group, name) for name in ("images", HALF, "masks")
        )
        self._columns: dict[str, list[NDArray[Any]]] = {}
        self.labels: list[str] = []

    def append(self, block: CellBlock) -> None:
        if not len(block):
            return
        if block.images.shape[1] != self._channels:
            raise SampleStateError(
                f"a block of cells has {block.images.shape[1]} channels, the sample has "
                f"{self._channels}."
            )
        if not self._columns:
            self._columns = {name: [] for name in dict.fromkeys([*COLUMNS, *block.columns])}
        if set(self._columns) != set(block.columns):
            odd = sorted(set(self._columns) ^ set(block.columns))
            raise SampleStateError(
                f"blocks of cells differ in the columns {', '.join(odd)}; segment the sample again."
            )
        images = block.images.astype(np.uint16, copy=False)
        self._images.append(images)
        if images.shape[-1] % 2 == images.shape[-2] % 2 == 0:
            self._half.append(bin_2x2(images))
        self._masks.append(block.masks.astype(np.uint8, copy=False))
        for name, values in block.columns.items():
            self._columns[name].append(values)
        self.labels += block.label

    def finish(self) -> int:
        """Write the last chunks and the columns; return the number of cells."""
        if not self.labels:
            return 0
        for writer in (self._images, self._half, self._masks):
            writer.finish()
        for name, parts in self._columns.items():
            values = np.concatenate(parts)
            _create_column(
                self._group, name, values.astype(COLUMNS[name].dtype) if name in COLUMNS else values
            )
        _create_column(self._group, "label", _strings(self.labels))
        return len(self.labels)


class _ChunkWriter:
    """Writes cells to one array in complete chunks, each of them once.

    Its memory is that of one chunk.
    """

    def __init__(self, group: zarr.Group, name: str) -> None:
        self._group, self._name = group, name
        self._array: zarr.Array[Any] | None = None
        self._filled = 0

    def append(self, cells: NDArray[Any]) -> None:
        """Write cells (n, ...)."""
        if self._array is None:
            self._array = self._create(cells)
            self._chunk = np.empty(self._array.chunks, cells.dtype)
        while len(cells):
            some = cells[: CELLS_PER_CHUNK - self._filled]
            self._chunk[self._filled : self._filled + len(some)] = some
            self._filled += len(some)
            if self._filled == CELLS_PER_CHUNK:
                self.finish()
            cells = cells[len(some) :]

    def finish(self) -> None:
        """Write the cells that are gathered."""
        if self._array is None or not self._filled:
            return
        start = self._array.shape[0]
        self._array.resize((start + self._filled, *self._array.shape[1:]))
        self._array[start:] = self._chunk[: self._filled]
        self._filled = 0

    def _create(self, cells: NDArray[Any]) -> zarr.Array[Any]:
        packing: tuple[BytesBytesCodec, ...] = ()
        if self._name == "masks":
            packing = (ZstdCodec(),)
        elif self._name == "images" and _is_worth_packing(cells[:_CELLS_TRIED]):
            packing = (BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"),)
        return self._group.create_array(
            self._name,
            shape=(0, *cells.shape[1:]),
            dtype=cells.dtype.newbyteorder("<"),
            chunks=(CELLS_PER_CHUNK, *cells.shape[1:]),
            compressors=(*packing, Crc32cCodec()),
            chunk_key_encoding=CHUNK_KEYS,
            config={
                "write_empty_chunks": True
            },  # so that a missing file is a damage, not a chunk of zeros
        )


def _is_worth_packing(cells: NDArray[Any]) -> bool:
    packed = Blosc("zstd", 1, Blosc.SHUFFLE).encode(np.ascontiguousarray(cells))
    return len(packed) < _WORTH_PACKING * cells.nbytes


def _strings(values: list[str]) -> NDArray[Any]:
    return np.array(values, dtype=np.dtypes.StringDType())


def _create_column(
    group: zarr.Group, name: str, values: NDArray[Any], *, overwrite: bool = False
) -> None:
    chunks = (max(len(values), 1), *values.shape[1:])
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=chunks,
        compressors=(Crc32cCodec(),),
        chunk_key_encoding=CHUNK_KEYS,
        config={"write_empty_chunks": True},
        overwrite=overwrite,
    )
    array[...] = values
