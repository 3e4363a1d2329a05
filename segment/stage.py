"""Segment the fields of a sample, one by one, into ``cells.zarr``; what is done stays done.

Call ``estimate_statistics`` once, ``segment_field`` for each field, then ``write_store``. Each step's result is on the
disk, complete, before the next step starts. It depends only on the frames, never on the order of processing: a stage
that was killed and run again ends in the same cells as one that was not.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wbcpipe.errors import FrameFileError, NoCellsError, SampleStateError
from wbcpipe.samples.cell_columns import CLASSES, CROP_SIDE_PX, RED_FLUORESCENCE, QcFlag
from wbcpipe.samples.cell_store import CellBlock, CellStore
from wbcpipe.samples.field_status import read_missing
from wbcpipe.samples.fields import passes_on_disk, read_passes, read_passes_info, whole_fields
from wbcpipe.segment.deduplicate import deduplicate, label_from_truth
from wbcpipe.segment.detection.detectors import OWN, load_detector
from wbcpipe.segment.features.crop_quality import blurred, find_debris
from wbcpipe.segment.features.field_quality import stack_figures
from wbcpipe.segment.field_cells import FieldCells, load_field, no_cells, save_field
from wbcpipe.segment.segment_field import process_field
from wbcpipe.segment.slide_statistics import (
    STATISTICS_FIELDS,
    SlideStatistics,
    estimate_slide_statistics,
    load_slide_statistics,
    save_slide_statistics,
)
from wbcpipe.system.version import SOFTWARE, VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.samples.fields import FieldInfo
    from wbcpipe.samples.records import SampleRecord
    from wbcpipe.samples.sample import Sample
    from wbcpipe.segment.detection.detectors import Detector

__all__ = ["SampleSegmenter"]

#: Changes whenever the same frames would give other cells.
_METHOD: Final = 7
#: Changes whenever the same cells of a microscope's fields would get other flags by what only the whole sample tells.
_SAMPLE_FLAGS: Final = 1
#: Columns that decide what becomes of a cell, kept of every field.
_KEPT: Final = ("field_index", "y_um", "x_um", "sharpness", "qc_flags", "nucleus_absorbance", "nucleus_fluorescence")


@dataclass(frozen=True)
class _Summary:
    """A processed field without its pictures, and of its columns only ``_KEPT``."""

    centre_um: tuple[float, float]
    columns: dict[str, NDArray[Any]]
    figures: Mapping[str, NDArray[np.float32]]
    damaged: str


class SampleSegmenter:
    """Segments one sample, field by field.

    Args:
        sample: its fields lie below ``raw``.
        pixel_um: pixel size of the crops.
        detector: name of what finds the nuclei, see `segment.detection.detectors`.

    Raises:
        SampleStateError: crops of such pixels hold no cell.
        ConfigError: no such detector.

    The caller holds the sample's lock.
    """

    def __init__(
        self,
        sample: Sample,
        *,
        pixel_um: float = 0.1,
        detector: str = OWN,
    ) -> None:
        if not 0.01 <= pixel_um <= 2:
            raise SampleStateError(
                f"crops of {pixel_um} um a pixel; 0.01 to 2 um hold a white cell in {CROP_SIDE_PX} px."
            )
        self._sample = sample
        self._raw = sample.path / "raw"
        self._pixel_um = pixel_um
        self._detector_name = detector
        self._detector = load_detector(detector)
        self._statistics: SlideStatistics | None = None
        self._basis = ""
        self._fields: dict[int, _Summary] = {}

    @functools.cached_property
    def _record(self) -> SampleRecord:
        # Not before a field is there: the record is written once the microscope has opened.
        return self._sample.record()

    @property
    def pixel_um(self) -> float:
        """Pixel size of the crops."""
        return self._pixel_um

    @property
    def detector(self) -> Detector | None:
        """What finds the nuclei; ``None`` is our own."""
        return self._detector

    @property
    def modalities(self) -> tuple[str, ...]:
        """Channel names of the crops; known from `estimate_statistics` on."""
        return () if self._statistics is None else self._statistics.modalities

    @property
    def statistics(self) -> SlideStatistics:
        """What all fields share; known from `estimate_statistics` on."""
        if self._statistics is None:
            raise RuntimeError("estimate_statistics() comes first")
        return self._statistics

    def estimate_statistics(self, indices: Sequence[int], *, keep: bool = True) -> None:
        """Find what all fields share, from the first of these that can be read; or take it from the disk.

        Args:
            indices: fields on the disk.
            keep: write it to the disk; not so for a scan that was ended early and may go on with more fields.

        Raises:
            FrameFileError: none of them can be read.
        """
        found = load_slide_statistics(self._sample.work_path)
        if found is None:
            found = estimate_slide_statistics(self._readings(indices), self._kind())
            if keep:
                save_slide_statistics(self._sample.work_path, found)
        self._statistics = found
        basis: list[Any] = [
            _METHOD,
            VERSION,
            self._pixel_um,
            CROP_SIDE_PX,
            found.digest(),
            self.affine().tolist(),
        ]
        if self._detector is not None:
            basis.append(self._detector_name)
        self._basis = hashlib.sha256(json.dumps(basis).encode()).hexdigest()

    def segment_field(self, index: int) -> FieldCells:
        """Segment a field, or load it if that was done before; a damaged one holds no cells and says why."""
        if self._statistics is None:
            self.estimate_statistics(whole_fields(self._raw))
        assert self._statistics is not None
        cells = load_field(self._field_path(index), self._basis)
        if cells is None:
            try:
                cells = self._segmented(index)
            except FrameFileError as error:
                cells = self._damaged(index, str(error))
        columns = {name: cells.block.columns[name] for name in _KEPT}
        self._fields[index] = _Summary(cells.centre_um, columns, cells.figures, cells.damaged)
        return cells

    def segment_ahead(self, index: int) -> None:
        """Segment a field for a later `segment_field`, maybe of another process; nothing is said of a damaged one."""
        if load_field(self._field_path(index), self._basis) is None:
            with contextlib.suppress(FrameFileError):
                self._segmented(index)

    def current_cells(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint16]]:
        """The cells that `write_store` would write of the fields so far, in its order.

        Returns:
            (N,) field; (N,) number of the cell within its field's block; (N,) quality flags as ``cells.zarr`` would
            hold them, those of the whole sample included.
        """
        indices = [index for index in sorted(self._fields) if not self._fields[index].damaged]
        if not indices:
            return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint16)
        sizes = [len(self._fields[index].columns["field_index"]) for index in indices]
        keep = self._unique(indices)
        number = np.concatenate([np.arange(size) for size in sizes])
        return np.repeat(indices, sizes)[keep].astype(np.int64), number[keep], self._quality(indices, keep)

    def write_store(self, indices: Sequence[int]) -> CellStore:
        """Write ``cells.zarr`` from these fields; nothing is done if it holds exactly that already.

        Raises:
            FrameFileError: no field can be read.
            NoCellsError: they hold no cell.
        """
        indices = sorted(set(indices))
        for index in indices:
            if index not in self._fields:
                self.segment_field(index)
        damaged = {index: self._fields[index].damaged for index in indices if self._fields[index].damaged}
        if len(damaged) == len(indices):
            raise FrameFileError(
                f"{self._raw}: no field can be read"
                + (f", first {next(iter(damaged.values()))}" if damaged else "; run `wbcpipe acquire` first.")
            )
        provenance = self._provenance(indices, sorted(damaged))
        path = self._sample.cells_path
        if (path / "zarr.json").is_file():
            store = CellStore(path)
            if store.attributes.get("provenance") == provenance:
                return store
        assert self._statistics is not None
        if not any(len(self._fields[index].columns["field_index"]) for index in indices):
            raise NoCellsError(
                f"{self._sample.path}: no white cell in {len(indices)} fields; check focus, exposure and stain."
            )
        store = CellStore.create(
            path,
            self._blocks(indices),
            modalities=self._statistics.modalities,
            attributes={
                "pixel_um": self._pixel_um,
                "classes": list(CLASSES),
                "derived": self._derived(),
                "field_quality": stack_figures(
                    (index, self._fields[index].figures) for index in indices if index not in damaged
                ),
                "provenance": provenance,
            },
        )
        self._sample.log("segmented", cells=len(store), fields=len(indices), damaged=sorted(damaged))
        return store

    def _field_path(self, index: int) -> Path:
        return self._sample.work_path / "fields" / f"field_{index:05d}.npz"

    def _segmented(self, index: int) -> FieldCells:
        frames, info = read_passes(self._raw, index)
        cells = process_field(
            frames,
            info,
            self.statistics,
            crop_pixel_um=self._pixel_um,
            stage_affine=self.affine(),
            detector=self._detector,
        )
        save_field(self._field_path(index), cells, self._basis)
        return cells

    def _kind(self) -> str:
        return self._record.kind

    def affine(self) -> NDArray[np.float64]:
        """(2, 2) image axes on the stage, acting on (x, y)."""
        return np.eye(2)  # frames are turned to the stage's axes as they are taken

    def _derived(self) -> list[str]:
        return list(self._record.derived)

    def _readings(self, indices: Sequence[int]) -> Iterator[tuple[NDArray[np.uint16], FieldInfo]]:
        """The first fields that can be read and have every modality; failing these, those like the first."""
        readable, reason = {}, "no field there; run `wbcpipe acquire` or `wbcpipe import fields` first."
        for index in indices:
            try:
                readable[index] = read_passes_info(self._raw, index).modalities
            except FrameFileError as error:
                reason = str(error)
        if not readable:
            raise FrameFileError(f"{self._raw}: no field can be read, last: {reason}")
        wanted = self._record.modalities
        if wanted not in readable.values():
            wanted = next(iter(readable.values()))
        taken = 0
        for index in (index for index, modalities in readable.items() if modalities == wanted):
            with contextlib.suppress(FrameFileError):
                yield read_passes(self._raw, index)
                taken += 1
            if taken == STATISTICS_FIELDS:
                return

    def _damaged(self, index: int, reason: str) -> FieldCells:
        assert self._statistics is not None
        if index not in self._fields:
            self._sample.log("field_damaged", field=index, reason=reason)
            print(f"field {index} is left out: {reason}", file=sys.stderr, flush=True)
        nothing = no_cells(len(self.modalities), CROP_SIDE_PX, red=RED_FLUORESCENCE in self.modalities)
        return FieldCells(index, (0.0, 0.0), nothing, damaged=reason)

    def _unique(self, indices: Sequence[int]) -> NDArray[np.bool_]:
        summaries = [self._fields[index] for index in indices]
        columns = {
            name: np.concatenate([summary.columns[name] for summary in summaries])
            for name in ("y_um", "x_um", "field_index", "qc_flags")
        }
        off_centre = [
            np.hypot(summary.columns["y_um"] - summary.centre_um[0], summary.columns["x_um"] - summary.centre_um[1])
            for summary in summaries
        ]
        return deduplicate(**columns, off_centre_um=np.concatenate(off_centre))

    def _gathered(self, indices: Sequence[int], keep: NDArray[np.bool_], *names: str) -> list[NDArray[Any]]:
        """Columns of ``_KEPT`` of the cells to keep, of all these fields."""
        return [np.concatenate([self._fields[index].columns[name] for index in indices])[keep] for name in names]

    def _quality(self, indices: Sequence[int], keep: NDArray[np.bool_]) -> NDArray[np.uint16]:
        """The flags of the cells to keep, (N,) uint16, with those that only the whole sample tells: blur and dirt."""
        quality, focus, absorbance, fluorescence = self._gathered(
            indices, keep, "qc_flags", "sharpness", "nucleus_absorbance", "nucleus_fluorescence"
        )
        told = quality | np.where(blurred(focus), np.uint16(QcFlag.BLURRED), np.uint16(0))
        if self.statistics.kind == "scope":  # imported pictures may be of several slides, each stained in its way
            unlike = find_debris(absorbance, fluorescence, quality)
            told |= np.where(unlike, np.uint16(QcFlag.DEBRIS), np.uint16(0))
        return np.asarray(told, np.uint16)

    def _blocks(self, indices: Sequence[int]) -> Iterator[CellBlock]:
        """The unique cells, field after field, with what only the whole sample tells: some flags, and labels."""
        keep = self._unique(indices)
        y_um, x_um = self._gathered(indices, keep, "y_um", "x_um")
        labels = [""] * len(y_um)
        if self._sample.truth_path.is_file():
            labels = label_from_truth(self._sample.truth_path, y_um, x_um)
        quality = self._quality(indices, keep)
        start, row = 0, 0
        for index in indices:
            number = len(self._fields[index].columns["field_index"])
            here = keep[start : start + number]
            start += number
            if not here.any():
                continue
            block = self.segment_field(index).block
            columns = {name: values[here] for name, values in block.columns.items()}
            stop = row + int(here.sum())
            columns["qc_flags"] = quality[row:stop]
            yield CellBlock(block.images[here], block.masks[here], columns, labels[row:stop])
            row = stop

    def _provenance(self, indices: Sequence[int], damaged: Sequence[int]) -> dict[str, Any]:
        missing = {index for name in passes_on_disk(self._raw) for index in read_missing(self._raw / name)}
        truth = self._sample.truth_path
        plan = self._record.model_dump(
            mode="json", include={"kind", "scope", "slot", "plan", "specimen", "inputs"}, exclude_none=True
        )
        assert self._statistics is not None
        flags = {"sample_flags": _SAMPLE_FLAGS} if self._statistics.kind == "scope" else {}
        return flags | {
            "software": SOFTWARE,
            "scope": plan.get("scope"),
            "detector": self._detector_name,
            "plan_sha256": hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest(),
            "basis_sha256": self._basis,
            "statistics_fields": list(self._statistics.indices),
            "fields": list(indices),
            "missing": sorted(missing),
            "damaged_fields": list(damaged),
            "truth_sha256": hashlib.sha256(truth.read_bytes()).hexdigest() if truth.is_file() else None,
        }
