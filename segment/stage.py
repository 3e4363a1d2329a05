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
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from wbcpipe.errors import FrameFileError, NoCellsError, SampleStateError
from wbcpipe.samples.cell_attributes import CellAttributes
from wbcpipe.samples.cell_columns import CLASSES, CROP_SIDE_PX
from wbcpipe.samples.fields import complete_fields, passes_digest, read_passes, read_passes_info
from wbcpipe.samples.records import json_digest
from wbcpipe.segment.detection.detectors import OWN, load_detector
from wbcpipe.segment.features.field_quality import stack_figures
from wbcpipe.segment.field_cells import FieldCells, load_field, no_cells, save_field
from wbcpipe.segment.sample_cells import SampleCells
from wbcpipe.segment.segment_field import process_field
from wbcpipe.segment.slide_statistics import (
    STATISTICS_FIELDS,
    SlideStatistics,
    estimate_slide_statistics,
    load_slide_statistics,
    save_slide_statistics,
)
from wbcpipe.segment.store_writer import cells_provenance, load_store_of, write_cells
from wbcpipe.system.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from wbcpipe.samples.cell_store import CellStore
    from wbcpipe.samples.fields import FieldInfo
    from wbcpipe.samples.records import SampleRecord
    from wbcpipe.samples.sample import Sample
    from wbcpipe.segment.sample_cells import CellSelection

__all__ = ["SampleSegmenter"]

#: Changes whenever the same frames would give other cells.
_METHOD_VERSION: Final = 2


class SampleSegmenter:
    """Segments one sample, field by field.

    Args:
        sample: the caller holds its lock.
        pixel_um: pixel size of the crops.
        detector: name of the nucleus detector, see `segment.detection.detectors`.
        progress: called with (task, units done, units in all) in the tasks that take long.

    Attributes:
        pixel_um: pixel size of the crops.
        detector: of nuclei; ``None`` is the built-in one.

    Raises:
        SampleStateError: a crop of such pixels does not hold a cell.
        ConfigError: no such detector.
    """

    def __init__(
        self,
        sample: Sample,
        *,
        pixel_um: float = 0.1,
        detector: str = OWN,
        progress: Callable[[str, int, int], None] = lambda _task, _done, _total: None,
    ) -> None:
        if not 0.01 <= pixel_um <= 2:
            raise SampleStateError(
                f"crops with a pixel size of {pixel_um:g} um; allowed are 0.01 to 2 um, so that {CROP_SIDE_PX} px hold "
                "a white cell: give the pixel size of the model."
            )
        self._sample = sample
        self._raw = sample.path / "raw"
        self.pixel_um = pixel_um
        self._detector_name = detector
        self.detector = load_detector(detector)
        self._progress = progress
        self._statistics: SlideStatistics | None = None
        self._basis_sha256 = ""
        self._cells = SampleCells()

    @functools.cached_property
    def _record(self) -> SampleRecord:
        # Not before a field is there: the record is written once the microscope has opened.
        return self._sample.record()

    @property
    def modalities(self) -> tuple[str, ...]:
        """Channel names of the crops; known after `estimate_statistics`."""
        return () if self._statistics is None else self._statistics.modalities

    @property
    def statistics(self) -> SlideStatistics:
        """Statistics of the slide; known after `estimate_statistics`."""
        if self._statistics is None:
            raise RuntimeError("the slide statistics are not known yet; call estimate_statistics() first")
        return self._statistics

    def estimate_statistics(self, indices: Sequence[int], *, keep: bool = True) -> None:
        """Load the statistics of the slide, or estimate them from the first of these fields that can be read.

        Args:
            indices: fields on the disk.
            keep: write them to the disk; ``False`` for a scan that stopped early and may continue with more fields.

        Raises:
            FrameFileError: none of the fields can be read.
        """
        found = load_slide_statistics(self._sample.work_path, functools.partial(passes_digest, self._raw))
        if found is None:
            registered = functools.partial(self._progress, "slide registration")
            found = estimate_slide_statistics(self._readings(indices), self._record.kind, progress=registered)
            if keep:
                save_slide_statistics(self._sample.work_path, found)
        self._statistics = found
        basis = [_METHOD_VERSION, VERSION, self.pixel_um, CROP_SIDE_PX, found.digest(), self._detector_name]
        self._basis_sha256 = hashlib.sha256(json.dumps(basis).encode()).hexdigest()

    def segment_field(self, index: int) -> FieldCells:
        """Segment a field, or load its result; a damaged field has no cells and states its damage."""
        if self._statistics is None:
            self.estimate_statistics(complete_fields(self._raw))
        cells = self._load(index)
        if cells is None:
            try:
                cells = self._segmented(index)
            except FrameFileError as error:
                cells = self._damaged(index, str(error))
        self._cells.add(cells)
        return cells

    def segment_ahead(self, index: int) -> None:
        """Segment a field for a later `segment_field`, also in another process; a damaged field is skipped."""
        if self._load(index) is None:
            with contextlib.suppress(FrameFileError):
                self._segmented(index)

    def current_cells(self, indices: Sequence[int] | None = None) -> CellSelection:
        """Return the cells that `write_store` would write, in its order.

        Args:
            indices: segmented fields, in ascending order; all of them if ``None``.
        """
        # Imported fields may be of several slides, each with its own stain.
        one_slide = self._statistics is not None and self._statistics.kind == "scope"
        return self._cells.select(indices, flag_debris=one_slide)

    def write_store(self, indices: Sequence[int]) -> CellStore:
        """Write ``cells.zarr`` from these fields; a store that holds exactly their cells stays untouched.

        Raises:
            FrameFileError: no field can be read.
            NoCellsError: the fields hold no cell.
        """
        indices = sorted(set(indices))
        for index in indices:
            if index not in self._cells:
                self.segment_field(index)
        damaged = self._cells.damaged(indices)
        if len(damaged) == len(indices):
            raise FrameFileError(
                f"{self._raw}: no field can be read"
                + (f", first {next(iter(damaged.values()))}" if damaged else "; run `wbcpipe acquire` first.")
            )
        provenance = cells_provenance(
            self._sample,
            self.statistics,
            detector=self._detector_name,
            basis_sha256=self._basis_sha256,
            fields=indices,
            damaged=sorted(damaged),
            inputs_sha256=json_digest(self._cells.pixel_digests(indices)),
        )
        store = load_store_of(self._sample, provenance)
        if store is not None:
            return store
        selection = self.current_cells(indices)
        if not len(selection):
            raise NoCellsError(
                f"{self._sample.path}: no white cell in {len(indices)} fields; check focus, exposure and stain."
            )
        attributes = CellAttributes(
            modalities=self.modalities,
            pixel_um=self.pixel_um,
            kind=self._record.kind,
            classes=CLASSES,
            derived=self._record.derived,
            field_quality=stack_figures(self._cells.figures(indices)),
            provenance=provenance.model_dump(mode="json"),
        )
        store = write_cells(
            self._sample, selection, lambda index: self.segment_field(index).block, attributes, self._progress
        )
        self._sample.log("segmented", cells=len(store), fields=len(indices), damaged=sorted(damaged))
        return store

    def _field_path(self, index: int) -> Path:
        return self._sample.work_path / "fields" / f"field_{index:05d}.npz"

    def _load(self, index: int) -> FieldCells | None:
        return load_field(self._field_path(index), index, self._basis_sha256, passes_digest(self._raw, index))

    def _segmented(self, index: int) -> FieldCells:
        frames, info = read_passes(self._raw, index)
        cells = process_field(frames, info, self.statistics, crop_pixel_um=self.pixel_um, detector=self.detector)
        cells = replace(cells, input_digest=info.digest)
        save_field(self._field_path(index), cells, self._basis_sha256)
        return cells

    def _damaged(self, index: int, damage: str) -> FieldCells:
        if index not in self._cells:
            self._sample.log("field_damaged", field=index, reason=damage)
            print(f"field {index} is left out: {damage}", file=sys.stderr, flush=True)
        return FieldCells(index, (0.0, 0.0), no_cells(self.modalities, CROP_SIDE_PX), damage=damage)

    def _readings(self, indices: Sequence[int]) -> Iterator[tuple[NDArray[np.uint16], FieldInfo]]:
        """Read the first fields that have every modality; if none has, those with the modalities of the first."""
        readable, reason = {}, ""
        for index in indices:
            try:
                readable[index] = read_passes_info(self._raw, index).modalities
            except FrameFileError as error:
                reason = str(error)
        if not readable:
            advice = "no field there; run `wbcpipe acquire` or `wbcpipe import fields` first."
            raise FrameFileError(f"{self._raw}: " + (f"no field can be read, last: {reason}" if reason else advice))
        wanted = self._record.modalities
        if wanted not in readable.values():
            wanted = next(iter(readable.values()))
        chosen = [index for index, modalities in readable.items() if modalities == wanted]
        count, done = min(len(chosen), STATISTICS_FIELDS), 0
        for index in chosen:
            with contextlib.suppress(FrameFileError):
                yield read_passes(self._raw, index)
                done += 1
                self._progress("slide statistics", done, count)
            if done == STATISTICS_FIELDS:
                return
