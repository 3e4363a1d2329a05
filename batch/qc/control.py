"""The figures of a control slide, for the control charts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from wbcpipe.batch.qc.records import QcEntry
from wbcpipe.batch.qc.store import QcStore, now
from wbcpipe.report.document import read_document
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.system.version import VERSION

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.samples.differential_record import DifferentialRecord
    from wbcpipe.samples.sample import Sample

__all__ = ["control_figures", "record_control"]

#: Gates of the report whose figure is charted too.
_GATES: Final = (
    "unidentified_percent",
    "accepted_percent",
    "blurred_percent",
    "doublets_percent",
    "head_disagreement",
    "blur_um",
    "residual_px",
    "nuclear_contrast_percent",
    "nucleus_cytoplasm_contrast_ratio",
    "red_cover_percent",
)


def control_figures(document: DifferentialRecord) -> dict[str, float]:
    """Return the figures of a control slide's differential.

    The percentages with the ends of their intervals, the cells found per field, and the figures of
    the quality gates that describe the images: a control slide is the same blood every night, so
    what changes is the microscope, the stain or the model.
    """
    figures: dict[str, float] = {"cells_counted": float(document.cells.counted)}
    for entry in document.classes:
        if entry.percent is not None:
            figures[f"percent.{entry.name}"] = entry.percent
            figures[f"percent_low.{entry.name}"], figures[f"percent_high.{entry.name}"] = (
                entry.interval_percent
            )
    fields = document.fields.taken + len(document.fields.empty)
    if fields:
        white = document.cells.found - document.cells.rejected.debris
        figures["cells_per_field"] = round(white / fields, 4)
    for gate in document.quality.gates:
        if gate.name in _GATES and gate.figure is not None:
            figures[gate.name] = gate.figure
    return figures


def record_control(
    sample: Sample, scope_name: str, data: Path, *, batch: str = "", slide: str = ""
) -> QcEntry:
    """Append the figures of a reported control slide to its scope's file.

    A slide that was recorded already, with the same cells and model, is not recorded again.

    Args:
        sample: reported.
        scope_name: that took it.
        data: data root.
        batch: its batch.
        slide: id of the control slide, which is the same every night; where it is the sample's
            name, all control slides of the scope are taken for the same blood.

    Raises:
        SampleStateError: the sample has no report, or a file is damaged.
        DiskFullError: no space left; nothing was appended.
    """
    document = read_document(sample)
    figures = control_figures(document)
    figures |= _background(sample)
    versions = {"wbcpipe": VERSION, "cells": document.provenance.cells.sha256}
    if document.provenance.bundle.sha256:
        versions["bundle"] = document.provenance.bundle.sha256
    calibration = sample.record().calibration
    if calibration is not None:
        versions["calibration"] = calibration.sha256
    store = QcStore.of_scope(data, scope_name)
    material = "" if slide == sample.name else slide
    for earlier in store.entries():
        same = (earlier.kind, earlier.batch, earlier.sample) == ("control", batch, sample.name)
        if same and all(
            earlier.versions.get(key) == versions.get(key) for key in ("cells", "bundle")
        ):
            return earlier
    entry = QcEntry(
        time=now(),
        kind="control",
        batch=batch,
        sample=sample.name,
        material=material,
        figures=figures,
        versions=versions,
    )
    store.append(entry)
    return entry


def _background(sample: Sample) -> dict[str, float]:
    """Return the median background of the fields, in per cent of the camera's range, of each
    bright-field modality.
    """
    attributes = CellStore(sample.cells_path).attributes
    values = attributes.field_quality.get("background_percent", [])
    rows = [
        entry
        for entry in values
        if isinstance(entry, list) and len(entry) == len(attributes.modalities)
    ]
    figures = {}
    for column, name in enumerate(attributes.modalities):
        known = [value for row in rows if (value := row[column]) is not None]
        if known:
            figures[f"background_percent.{name}"] = round(float(np.median(known)), 4)
    return figures
