"""``differential.json``: the differential with its quality gates and its provenance."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from wbcpipe.errors import SampleStateError
from wbcpipe.report.gates import check_quality
from wbcpipe.report.model_checks import check_model, corrected_shares, head_agreement
from wbcpipe.report.verification import describe_review
from wbcpipe.samples.differential_record import (
    BundleReference,
    CellCounts,
    CellsReference,
    ClassEntry,
    DifferentialRecord,
    ExcludedByReader,
    FieldCounts,
    MissingField,
    ModalityEntry,
    Provenance,
    RejectedCells,
    ScopeEntry,
    UnidentifiedCells,
    WarnedCells,
)
from wbcpipe.samples.field_status import read_missing, read_skipped, unrecorded_gaps
from wbcpipe.samples.freed import known_fields
from wbcpipe.samples.review.entries import ARTEFACT, NOT_CLASSED
from wbcpipe.samples.scan_outcome import ScanEntry, is_outcome_lost, load_scan_outcome

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import JsonValue

    from wbcpipe.report.reviewed_sample import ReviewedSample
    from wbcpipe.report.rows import CellRows
    from wbcpipe.samples.cell_store import CellStore
    from wbcpipe.samples.records import SampleRecord
    from wbcpipe.samples.sample import Sample

__all__ = ["build_document", "count_fields", "document_paths", "read_document"]

_log = logging.getLogger(__name__)

_LONG_LIST: Final = 20
_PASSES: Final = ("single", "brightfield", "fluorescence")


def count_fields(sample: Sample, record: SampleRecord) -> FieldCounts:
    """Count the fields that the plan asked for and those that were taken: on disk, or freed.

    Raises:
        SampleStateError: ``missing.json``, ``skipped_fields.json`` or ``freed.json`` is damaged.
    """
    by_pass = {name: known_fields(sample, name) for name in _PASSES}
    both = by_pass["brightfield"] & by_pass["fluorescence"]
    # A field that was taken after all, on a later run, is missing no more.
    missing = {
        index: why
        for name in _PASSES
        for index, why in read_missing(sample.raw_path(name)).items()
        if index not in by_pass[name]
    }
    missing |= {
        index: "its file is missing, and no record says why"
        for name in _PASSES
        for index in unrecorded_gaps(sample.raw_path(name), by_pass[name])
    }
    # Fields are taken in the plan's order, so those asked for are all up to the last one that was
    # tried.
    empty = {
        index
        for name in _PASSES
        for index in read_skipped(sample.raw_path(name))
        if index not in by_pass[name]
    }
    tried = [*by_pass["single"], *both, *missing, *empty]
    return FieldCounts(
        planned=record.plan.rows * record.plan.columns if record.plan else None,
        wanted=max(tried) + 1 if tried else None,
        taken=len(by_pass["single"] or both),
        missing=tuple(
            MissingField(index=index, reason=why)
            for index, why in sorted(missing.items())
            if index not in empty
        ),
        empty=tuple(sorted(empty)),
    )


def document_paths(sample: Sample) -> tuple[Path, Path, Path]:
    """Return the paths of ``differential.json``, ``cells.csv`` and ``report.html``."""
    return sample.path / "differential.json", sample.path / "cells.csv", sample.path / "report.html"


def read_document(sample: Sample) -> DifferentialRecord:
    """Read ``differential.json``.

    Raises:
        SampleStateError: there is none, or it is damaged, or of another sample.
    """
    path = document_paths(sample)[0]
    found = DifferentialRecord.read(path)
    if sample.exists() and found.sample != (name := sample.record().sample):
        raise SampleStateError(
            f"{path}: of the sample {found.sample!r}, not of {name!r}; {found.remedy}."
        )
    return found


def build_document(
    sample: Sample, store: CellStore, reviewed: ReviewedSample
) -> DifferentialRecord:
    """Combine the differential, its quality gates, the review and its provenance.

    The same cells, predictions, journal and basis give the same record.
    """
    record = sample.record()
    fields = count_fields(sample, record)
    rows, differential = reviewed.rows, reviewed.differential
    tally = differential.tally
    checks = check_model(rows, sample.name, record.kind)
    # The correction knows the model's errors, not those that a reader has corrected.
    corrected = {} if reviewed.reviewed.changed.any() else corrected_shares(rows, checks)
    excluded = dict(tally.excluded_by_reader)
    by_reader = {name: excluded.pop(name, 0) for name in (NOT_CLASSED, ARTEFACT)}
    return DifferentialRecord(
        created=reviewed.basis.created,
        sample=sample.name,
        kind=record.kind,
        cells=CellCounts(
            found=tally.cells,
            counted=tally.identified,
            unidentified=UnidentifiedCells(
                count=tally.unidentified,
                percent=differential.unidentified_percent,
                interval_percent=differential.unidentified_interval_percent,
            ),
            rejected=RejectedCells.model_validate(tally.rejected),
            counted_with_warning=WarnedCells.model_validate(tally.counted_with_warning),
            excluded_by_reader=ExcludedByReader(
                **by_reader, not_white_cells=sum(excluded.values())
            ),
        ),
        classes=tuple(
            ClassEntry(
                **asdict(line),
                corrected_percent=share.percent if (share := corrected.get(line.name)) else None,
                corrected_interval_percent=share.interval_percent if share else None,
            )
            for line in differential.classes
        ),
        reference_source=differential.reference.source,
        wbc_1e9_per_l=differential.wbc_1e9_per_l,
        fields=fields,
        scan=_scan_entry(sample),
        quality=check_quality(
            rows, tally, checks, fields, store.attributes.field_quality, record.quality
        ),
        heads=head_agreement(rows),
        model_checks=checks,
        verification=describe_review(
            rows, reviewed.reviewed, reviewed.state, reviewed.basis, reviewed.signing
        ),
        provenance=_provenance(record, store, rows, reviewed.basis.software),
    )


def _scan_entry(sample: Sample) -> ScanEntry | None:
    """Return why the scan ended; ``None`` for imported images."""
    outcome = load_scan_outcome(sample)
    if outcome is None:
        if is_outcome_lost(sample):
            _log.warning(
                "%s: the file is missing, but log.jsonl records the end of the scan; the report "
                "does not say why the scan ended",
                sample.path / "scan.json",
            )
        return None
    figures = outcome.model_dump(exclude={"format_version"})
    return ScanEntry(
        **figures, met=outcome.reason in ("cells", "precision", "fields"), text=outcome.text
    )


def _provenance(
    record: SampleRecord, store: CellStore, rows: CellRows, software: str
) -> Provenance:
    derived = {*record.derived, *store.attributes.derived}
    return Provenance(
        report_software={"wbcpipe": software},
        sample_software=record.software,
        scope=ScopeEntry(name=record.scope.name, sha256=record.scope.sha256 or None)
        if record.scope
        else None,
        slot=record.slot,
        specimen=record.specimen,
        plan_sha256=_json_digest(record.content()["plan"]) if record.plan else None,
        modalities=tuple(
            ModalityEntry(name=name, derived=name in derived) for name in store.modalities
        ),
        pixel_um=store.pixel_um,
        cells=CellsReference(
            sha256=rows.digest(),
            provenance={
                name: _shorten(value) for name, value in store.attributes.provenance.items()
            },
        ),
        bundle=BundleReference(
            name=rows.classification.bundle,
            sha256=rows.classification.sha256,
            classes=rows.classes,
            heads=rows.heads,
            threshold=rows.classification.threshold,
        ),
    )


def _shorten(value: JsonValue) -> JsonValue:
    """Replace long lists (a thousand file names) by their length and hash."""
    if isinstance(value, dict):
        return {name: _shorten(entry) for name, entry in value.items()}
    if isinstance(value, list) and len(value) > _LONG_LIST:
        return {"count": len(value), "sha256": _json_digest(value)}
    return value


def _json_digest(content: JsonValue) -> str:
    return hashlib.sha256(
        json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()
