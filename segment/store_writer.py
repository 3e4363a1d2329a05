"""Write ``cells.zarr`` from the selected cells of a sample, with its provenance."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from wbcpipe.errors import SampleStateError
from wbcpipe.samples.cell_store import PREDICTIONS, CellBlock, CellStore
from wbcpipe.samples.field_status import read_missing
from wbcpipe.samples.fields import passes_on_disk
from wbcpipe.samples.records import Part, ScopeReference
from wbcpipe.samples.segment_settings.settings import SegmentSettings
from wbcpipe.segment.deduplicate import label_from_truth, match_positions
from wbcpipe.system.version import SOFTWARE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from wbcpipe.samples.cell_attributes import CellAttributes
    from wbcpipe.samples.sample import Sample
    from wbcpipe.segment.sample_cells import CellSelection
    from wbcpipe.segment.slide_statistics import SlideStatistics

__all__ = ["CellsProvenance", "FieldInputs", "cells_provenance", "load_store_of", "write_cells"]

#: Changes whenever the same cells of a slide's fields would get other flags from the comparison
#: with each other.
_SAMPLE_FLAGS_VERSION: Final = 1


class CellsProvenance(Part):
    """Origin of the cells, attribute ``provenance`` of ``cells.zarr``.

    Attributes:
        software: name and version.
        scope: that took the fields; ``None`` for imported ones.
        detector: that found the nuclei.
        plan_sha256: of the origin of the fields in ``sample.json``.
        basis_sha256: of everything, apart from the frames, on which the cells of a field depend.
        sample_flags_version: of the flags that follow from all cells of a slide; ``None`` where
            these are not given.
        statistics_fields: fields from which the slide statistics were estimated.
        fields: all fields.
        missing: indices of planned fields that could not be taken.
        damaged_fields: those of ``fields`` that could not be read.
        truth_sha256: of ``truth.csv``; ``None`` without one.
        inputs_sha256: of the checksums of the fields' pixels.
        settings: of the segmentation, all of them, as the tables of `SegmentSettings`.
        settings_sha256: of these.
    """

    software: str = SOFTWARE
    scope: ScopeReference | None
    detector: str
    plan_sha256: str
    basis_sha256: str
    sample_flags_version: int | None
    statistics_fields: tuple[int, ...]
    fields: tuple[int, ...]
    missing: tuple[int, ...]
    damaged_fields: tuple[int, ...]
    truth_sha256: str | None
    inputs_sha256: str
    settings: SegmentSettings
    settings_sha256: str


@dataclass(frozen=True)
class FieldInputs:
    """The fields from which the cells come.

    Attributes:
        fields: all fields.
        damaged: those of them that could not be read.
        sha256: of the checksums of the fields' pixels.
    """

    fields: Sequence[int]
    damaged: Sequence[int]
    sha256: str


def cells_provenance(
    sample: Sample,
    statistics: SlideStatistics,
    *,
    detector: str,
    basis_sha256: str,
    inputs: FieldInputs,
    settings: SegmentSettings,
) -> CellsProvenance:
    """Describe the origin of the cells of a sample's fields; arguments as in `CellsProvenance`."""
    record, truth, raw = sample.record(), sample.truth_path, sample.path / "raw"
    missing = {index for name in passes_on_disk(raw) for index in read_missing(raw / name)}
    origin = record.model_dump_json(include={"kind", "scope", "slot", "plan", "specimen", "inputs"})
    return CellsProvenance(
        scope=record.scope,
        detector=detector,
        plan_sha256=hashlib.sha256(origin.encode()).hexdigest(),
        basis_sha256=basis_sha256,
        sample_flags_version=_SAMPLE_FLAGS_VERSION if statistics.kind == "scope" else None,
        statistics_fields=statistics.field_indices,
        fields=tuple(inputs.fields),
        missing=tuple(sorted(missing)),
        damaged_fields=tuple(inputs.damaged),
        truth_sha256=hashlib.sha256(truth.read_bytes()).hexdigest() if truth.is_file() else None,
        inputs_sha256=inputs.sha256,
        settings=settings,
        settings_sha256=settings.digest(),
    )


def _origin(provenance: Mapping[str, object]) -> dict[str, object]:
    """Return a provenance without the version: ``basis_sha256`` holds the release."""
    return {name: value for name, value in provenance.items() if name != "software"}


def load_store_of(sample: Sample, provenance: CellsProvenance) -> CellStore | None:
    """Return the sample's ``cells.zarr`` if its cells have this origin and no file of it is
    damaged.
    """
    if not sample.cells_path.is_dir():
        return None
    try:
        store = CellStore(sample.cells_path)
        if _origin(store.attributes.provenance) != _origin(provenance.model_dump(mode="json")):
            return None
        for name in store.names:
            if name not in PREDICTIONS:
                store.check(name)
    except SampleStateError as error:
        sample.log("cells_damaged", reason=str(error))
        return None
    return store


def _with_labels_by_people(
    sample: Sample, selection: CellSelection, labels: list[str], attributes: CellAttributes
) -> tuple[list[str], CellAttributes]:
    """Return labels and attributes of the new store, with the labels that people gave to cells of
    the present one.
    """
    try:
        before = CellStore(sample.cells_path) if sample.cells_path.is_dir() else None
        if before is None or not before.attributes.labelled:
            return labels, attributes
        points = np.column_stack([before.column("y_um"), before.column("x_um")])
        known = before.labels()
    except SampleStateError as error:
        sample.log("labels_damaged", reason=str(error))
        return labels, attributes
    partner = match_positions(np.column_stack([selection.y_um, selection.x_um]), points)
    told = {"labelled": before.attributes.labelled, "classes": before.attributes.classes}
    kept = [old if index < 0 else known[index] for old, index in zip(labels, partner, strict=True)]
    return kept, attributes.model_copy(update=told)


def write_cells(
    sample: Sample,
    selection: CellSelection,
    load_block: Callable[[int], CellBlock],
    attributes: CellAttributes,
    progress: Callable[[str, int, int], None],
) -> CellStore:
    """Write ``cells.zarr``, field after field, with true classes where the sample holds them.

    Args:
        sample: the caller holds its lock.
        selection: the cells.
        load_block: gives all cells of a field.
        attributes: of the store.
        progress: called with (task, fields stored, fields in all).

    Raises:
        DiskFullError: no space left.
    """
    labels = [""] * len(selection)
    if sample.truth_path.is_file():
        labels = label_from_truth(sample.truth_path, selection.y_um, selection.x_um)
    labels, attributes = _with_labels_by_people(sample, selection, labels, attributes)

    def blocks() -> Iterator[CellBlock]:
        indices = np.unique(selection.field_index).tolist()
        for done, index in enumerate(indices, 1):
            here = np.flatnonzero(selection.field_index == index)
            block, rows = load_block(index), selection.row[here]
            columns = {name: values[rows] for name, values in block.columns.items()}
            columns["qc_flags"] = selection.qc_flags[here]
            yield CellBlock(
                block.images[rows], block.masks[rows], columns, [labels[k] for k in here]
            )
            progress("fields stored", done, len(indices))

    return CellStore.create(sample.cells_path, blocks(), attributes)
