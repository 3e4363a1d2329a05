"""Segment the fields of a sample, one by one, into ``cells.zarr``; what is done stays done.

Call ``estimate_statistics`` once, ``segment_field`` for each field, then ``write_store``. Each
step's result is on the disk, complete, before the next step starts. It depends only on the frames,
never on the order of processing: a stage that was killed and run again ends in the same cells as
one that was not.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from wbcpipe.errors import FrameFileError, NoCellsError, SampleStateError
from wbcpipe.samples.cell_attributes import CellAttributes
from wbcpipe.samples.cell_columns import CLASSES, CROP_SIDE_PX
from wbcpipe.samples.field_status import read_missing, read_skipped
from wbcpipe.samples.fields import (
    complete_fields,
    passes_digest,
    passes_on_disk,
    read_passes,
    read_passes_info,
)
from wbcpipe.samples.records import json_digest
from wbcpipe.samples.segment_settings.of_sample import sample_settings
from wbcpipe.segment.detection.detectors import OWN, load_detector
from wbcpipe.segment.features.field_quality import stack_figures
from wbcpipe.segment.field_cells import FieldCells, load_field, no_cells, save_field
from wbcpipe.segment.sample_cells import SampleCells
from wbcpipe.segment.segment_field import FieldOptions, process_field
from wbcpipe.segment.slide_statistics import (
    STATISTICS_FIELDS,
    SlideStatistics,
    estimate_slide_statistics,
    load_slide_statistics,
    save_slide_statistics,
)
from wbcpipe.segment.store_writer import (
    FieldInputs,
    cells_provenance,
    load_store_of,
    write_cells,
)
from wbcpipe.system.version import RELEASE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from wbcpipe.errors import WbcpipeError
    from wbcpipe.samples.cell_store import CellStore
    from wbcpipe.samples.fields import FieldInfo
    from wbcpipe.samples.records import SampleRecord
    from wbcpipe.samples.sample import Sample
    from wbcpipe.samples.segment_settings.settings import SegmentSettings
    from wbcpipe.segment.sample_cells import CellSelection

__all__ = ["SampleSegmenter"]

_log = logging.getLogger(__name__)

#: Changes whenever the same frames would give other cells.
_METHOD_VERSION: Final = 2


class SampleSegmenter:
    """Segments one sample, field by field.

    Args:
        sample: the caller holds its lock.
        pixel_um: pixel size of the crops.
        detector: name of the nucleus detector, see `segment.detection.detectors`.
        settings: of the segmentation; those of the sample if ``None``, see `sample_settings`.
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
        settings: SegmentSettings | None = None,
        progress: Callable[[str, int, int], None] = lambda _task, _done, _total: None,
    ) -> None:
        if not 0.01 <= pixel_um <= 2:
            raise SampleStateError(
                f"crops with a pixel size of {pixel_um:g} um; allowed are 0.01 to 2 um, so that "
                f"{CROP_SIDE_PX} px hold a white cell: give the pixel size of the model."
            )
        self._sample = sample
        self._raw = sample.path / "raw"
        self.pixel_um = pixel_um
        self._detector_name = detector
        self._given_settings = settings
        self.detector = load_detector(detector)
        self._progress = progress
        self._statistics: SlideStatistics | None = None
        self._basis_sha256 = ""
        self._cells = SampleCells()

    @functools.cached_property
    def _record(self) -> SampleRecord:
        # Not before a field is there: the record is written once the microscope has opened.
        return self._sample.record()

    @functools.cached_property
    def settings(self) -> SegmentSettings:
        """Settings of the segmentation."""
        return self._given_settings or sample_settings(self._sample)

    @property
    def options(self) -> FieldOptions:
        """How the cells of a field are found and cut out."""
        return FieldOptions(self.pixel_um, detector=self.detector, settings=self.settings)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Channel names of the crops; known after `estimate_statistics`."""
        return () if self._statistics is None else self._statistics.modalities

    @property
    def statistics(self) -> SlideStatistics:
        """Statistics of the slide; known after `estimate_statistics`."""
        if self._statistics is None:
            raise RuntimeError(
                "the slide statistics are not known yet; call estimate_statistics() first"
            )
        return self._statistics

    def estimate_statistics(self, indices: Sequence[int], *, keep: bool = True) -> None:
        """Load the statistics of the slide, or estimate them from the first of these fields that
        can be read.

        Args:
            indices: fields on the disk.
            keep: write them to the disk; ``False`` for a scan that stopped early and may continue
                with more fields.

        Raises:
            FrameFileError: none of the fields can be read, or none was taken.
            NoCellsError: there is no field, since all that were imaged are empty.
        """
        found = load_slide_statistics(
            self._sample.work_path,
            functools.partial(passes_digest, self._raw),
            self.settings.statistics_digest(),
        )
        if found is None:
            registered = functools.partial(self._progress, "slide registration")
            found = estimate_slide_statistics(
                self._readings(indices),
                self._record.kind,
                settings=self.settings,
                progress=registered,
            )
            if keep:
                save_slide_statistics(self._sample.work_path, found)
        self._statistics = found
        basis = [
            _METHOD_VERSION,
            RELEASE,
            self.pixel_um,
            CROP_SIDE_PX,
            found.digest(),
            self._detector_name,
            self.settings.field_digest(),
        ]
        self._basis_sha256 = hashlib.sha256(json.dumps(basis).encode()).hexdigest()

    def segment_field(self, index: int) -> FieldCells:
        """Segment a field, or load its result.

        A damaged field has no cells and states its damage.
        """
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
        """Segment a field for a later `segment_field`, also in another process.

        A damaged field is skipped.
        """
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
        return self._cells.select(indices, flag_debris=one_slide, settings=self.settings)

    def write_store(self, indices: Sequence[int]) -> CellStore:
        """Write ``cells.zarr`` from these fields.

        A store that holds exactly their cells stays untouched.

        Raises:
            FrameFileError: no field can be read, or none was taken.
            NoCellsError: the fields hold no cell, or all were empty.
        """
        indices = sorted(set(indices))
        for index in indices:
            if index not in self._cells:
                self.segment_field(index)
        damaged = self._cells.damaged(indices)
        if len(damaged) == len(indices):
            raise self._without_field(next(iter(damaged.values()), ""))
        provenance = cells_provenance(
            self._sample,
            self.statistics,
            detector=self._detector_name,
            basis_sha256=self._basis_sha256,
            inputs=FieldInputs(
                indices, sorted(damaged), json_digest(self._cells.pixel_digests(indices))
            ),
            settings=self.settings,
        )
        store = load_store_of(self._sample, provenance)
        if store is not None:
            return store
        selection = self.current_cells(indices)
        if not len(selection):
            raise NoCellsError(
                f"{self._sample.path}: no white cell in {len(indices)} fields; check focus, "
                f"exposure and stain."
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
            self._sample,
            selection,
            lambda index: self.segment_field(index).block,
            attributes,
            self._progress,
        )
        self._sample.log(
            "segmented", cells=len(store), fields=len(indices), damaged=sorted(damaged)
        )
        return store

    def _field_path(self, index: int) -> Path:
        return self._sample.work_path / "fields" / f"field_{index:05d}.npz"

    def _load(self, index: int) -> FieldCells | None:
        return load_field(
            self._field_path(index), index, self._basis_sha256, passes_digest(self._raw, index)
        )

    def _segmented(self, index: int) -> FieldCells:
        frames, info = read_passes(self._raw, index)
        cells = process_field(frames, info, self.statistics, self.options)
        cells = replace(cells, input_digest=info.digest)
        save_field(self._field_path(index), cells, self._basis_sha256)
        return cells

    def _damaged(self, index: int, damage: str) -> FieldCells:
        if index not in self._cells:
            self._sample.log("field_damaged", field=index, reason=damage)
            _log.warning("field %d is left out: %s", index, damage)
        return FieldCells(index, (0.0, 0.0), no_cells(self.modalities, CROP_SIDE_PX), damage=damage)

    def _without_field(self, damage: str) -> WbcpipeError:
        """Return the error of a sample without a field that can be read.

        Args:
            damage: of one of its fields; "" if it has no file of a field.
        """
        passes = [self._raw / name for name in passes_on_disk(self._raw)]
        missing = {index: why for one in passes for index, why in read_missing(one).items()}
        empty = {index: area for one in passes for index, area in read_skipped(one).items()}
        if damage:
            return FrameFileError(f"{self._raw}: no field can be read, one of them: {damage}")
        if missing:
            why = next(iter(missing.values())).rstrip(".")
            return FrameFileError(
                f"{self._raw}: no field was taken; {len(missing)} are missing, the first one since "
                f"{why}. The same command tries them again."
            )
        if empty:
            return NoCellsError(
                f"{self._raw}: no cells show in any of the {len(empty)} fields that were "
                f"imaged (at most {max(empty.values()):.1f} um2 of cells); scan more fields, or "
                f"another part of the slide under another sample name."
            )
        return FrameFileError(
            f"{self._raw}: no field there; run `wbcpipe acquire` or `wbcpipe import fields` first."
        )

    def _readings(self, indices: Sequence[int]) -> Iterator[tuple[NDArray[np.uint16], FieldInfo]]:
        """Read the first fields that have every modality.

        If none has, those with the modalities of the first.
        """
        readable, reason = {}, ""
        for index in indices:
            try:
                readable[index] = read_passes_info(self._raw, index).modalities
            except FrameFileError as error:
                reason = str(error)
        if not readable:
            raise self._without_field(reason)
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
