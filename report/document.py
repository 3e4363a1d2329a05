"""``differential.json``: everything a machine, or a person years later, must know about a differential."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from wbcpipe.report.agreement import head_agreement
from wbcpipe.report.gates import failed_fields, limits_of, quality_gates
from wbcpipe.report.model_checks import check_model
from wbcpipe.samples.field_status import read_missing, read_skipped
from wbcpipe.samples.fields import fields_on_disk
from wbcpipe.samples.scan_outcome import load_scan_outcome
from wbcpipe.system.version import VERSION

if TYPE_CHECKING:
    from wbcpipe.report.differential import ClassCount, Differential
    from wbcpipe.report.model_checks import ClassShare, ModelChecks
    from wbcpipe.report.rows import CellRows
    from wbcpipe.samples.cell_store import CellStore
    from wbcpipe.samples.records import SampleRecord
    from wbcpipe.samples.sample import Sample

__all__ = ["FORMAT_VERSION", "NOTICE", "FieldCount", "build_document", "count_fields", "differential_schema"]

FORMAT_VERSION: Final = 1
NOTICE: Final = "Not for diagnostic use: research software that no laboratory has validated for this purpose."
_LONG_LIST: Final = 20
_PASSES: Final = ("single", "brightfield", "fluorescence")


@dataclass(frozen=True)
class FieldCount:
    """Fields of view of a sample.

    Attributes:
        planned: positions in the plan; ``None`` where there is no plan (imported pictures).
        wanted: fields asked for by the user; ``None`` when the number of cells decides.
        taken: fields whose frames are all on disk.
        missing: index and reason of the fields that could not be taken.
        empty: index of the fields that showed bare glass and were skipped.
    """

    planned: int | None
    wanted: int | None
    taken: int
    missing: tuple[tuple[int, str], ...]
    empty: tuple[int, ...] = ()


def count_fields(sample: Sample, record: SampleRecord) -> FieldCount:
    """Look what the plan asked for and what is on disk.

    Raises:
        SampleStateError: ``missing.json`` or ``skipped_fields.json`` is damaged.
    """
    by_pass = {name: set(fields_on_disk(sample.raw_path(name))) for name in _PASSES}
    both = by_pass["brightfield"] & by_pass["fluorescence"]
    # A field that was taken after all, on a later run, is missing no more.
    missing = {
        index: why
        for name in _PASSES
        for index, why in read_missing(sample.raw_path(name)).items()
        if index not in by_pass[name]
    }
    # Fields are taken in the plan's order, so those asked for are all up to the last one that was tried.
    empty = {index for name in _PASSES for index in read_skipped(sample.raw_path(name)) if index not in by_pass[name]}
    tried = [*by_pass["single"], *both, *missing, *empty]
    return FieldCount(
        planned=record.plan.rows * record.plan.columns if record.plan else None,
        wanted=max(tried) + 1 if tried else None,
        taken=len(by_pass["single"] or both),
        missing=tuple(sorted((index, why) for index, why in missing.items() if index not in empty)),
        empty=tuple(sorted(empty)),
    )


def build_document(
    sample: Sample, store: CellStore, rows: CellRows, differential: Differential, *, created: str
) -> dict[str, Any]:
    """Put the differential, its gates and its provenance into one object.

    The same cells, calls and options give the same object, but for ``created``.

    Args:
        sample: whose it is.
        store: the sample's cells.
        rows: the same cells' table.
        differential: the answer.
        created: UTC time, ISO 8601.
    """
    record = sample.record()
    fields = count_fields(sample, record)
    tally = differential.tally
    checks = check_model(rows)
    limits = limits_of(record.quality)
    figures = store.attributes.get("field_quality") or {}
    beyond = failed_fields(figures, limits)
    gates = quality_gates(
        rows,
        tally,
        fields_taken=fields.taken,
        fields_missing=len(fields.missing),
        figures=figures,
        limits=limits,
        failed=len(beyond),
    )
    return {
        "format_version": FORMAT_VERSION,
        "notice": NOTICE,
        "created": created,
        "sample": sample.name,
        "kind": record.kind,
        "cells": {
            "found": tally.cells,
            "counted": tally.identified,
            "unidentified": {
                "count": tally.unidentified,
                "percent": _rounded(differential.unidentified_percent),
                "interval_percent": [_rounded(bound) for bound in differential.unidentified_interval_percent],
            },
            "rejected": dict(tally.rejected),
            "counted_with_warning": dict(tally.counted_with_warning),
        },
        "classes": [_class_entry(line, checks.corrected.get(line.name)) for line in differential.classes],
        "interval": {"confidence": 0.95, "method": "Clopper-Pearson"},
        "reference_source": differential.reference.source,
        "wbc_1e9_per_l": differential.wbc_1e9_per_l,
        "fields": {
            "planned": fields.planned,
            "wanted": fields.wanted,
            "taken": fields.taken,
            "missing": [{"index": index, "reason": reason} for index, reason in fields.missing],
            "empty": list(fields.empty),
        },
        "scan": _scan_entry(sample),
        "quality": {
            "passed": all(gate.passed is not False for gate in gates),
            "gates": [
                {
                    "name": gate.name,
                    "title": gate.title,
                    "figure": _rounded(gate.figure),
                    "comparison": gate.comparison,
                    "limit": gate.limit,
                    "unit": gate.unit,
                    "passed": gate.passed,
                }
                for gate in gates
            ],
            "failed_fields": [{"index": failed.index, "reasons": list(failed.reasons)} for failed in beyond],
        },
        "heads": [
            {
                "name": head.head,
                "agreement_percent": _rounded(head.percent),
                "class_agreement_percent": {name: _rounded(value) for name, value in head.class_percent.items()},
                "mean_probability": _rounded(head.mean_probability),
            }
            for head in head_agreement(rows)
        ],
        "model_checks": _model_checks_entry(checks),
        "provenance": _provenance(record, store, rows),
    }


def _model_checks_entry(checks: ModelChecks) -> dict[str, Any]:
    return {
        "head_disagreement": [
            {
                "head": name,
                "beyond_percent": None if check.share is None else _rounded(100 * check.share),
                "limit_percent": _rounded(100 * check.limit),
                "exceeded": check.exceeded,
            }
            for name, check in checks.heads.items()
        ],
        "risk_control": checks.risk_control,
        "excluded_modalities": list(checks.excluded_modalities),
        "f1_weighted": checks.f1_weighted,
    }


def _scan_entry(sample: Sample) -> dict[str, Any] | None:
    """Why the scan ended, with a line for people; ``None`` where that was not noted."""
    end = load_scan_outcome(sample)
    if end is None:
        return None
    entry = {name: value for name, value in end.to_json().items() if name != "format_version"}
    return {**entry, "met": end.reason in ("cells", "precision", "fields"), "text": end.text}


def _class_entry(line: ClassCount, corrected: ClassShare | None) -> dict[str, Any]:
    absolute, bounds = line.concentration_1e9_per_l, line.concentration_interval_1e9_per_l
    return {
        "name": line.name,
        "count": line.count,
        "percent": _rounded(line.percent),
        "interval_percent": [_rounded(bound) for bound in line.interval_percent],
        "reference_percent": list(line.reference_percent) if line.reference_percent else None,
        "corrected_percent": None if corrected is None else _rounded(corrected.percent),
        "corrected_interval_percent": None
        if corrected is None
        else [_rounded(bound) for bound in corrected.interval_percent],
        "flag": line.flag,
        "concentration_1e9_per_l": _rounded(absolute),
        "concentration_interval_1e9_per_l": [_rounded(bound) for bound in bounds] if bounds else None,
    }


def _provenance(record: SampleRecord, store: CellStore, rows: CellRows) -> dict[str, Any]:
    attributes = store.attributes
    classified = attributes["classified"]
    origin = record.content()
    derived = {*record.derived, *attributes.get("derived", ())}
    return {
        "report_software": {"wbcpipe": VERSION},
        "sample_software": record.software,
        "scope": {"name": record.scope.name, "sha256": record.scope.sha256} if record.scope else None,
        "slot": record.slot,
        "specimen": origin.get("specimen"),
        "plan_sha256": _json_digest(origin["plan"]) if record.plan else None,
        "modalities": [{"name": name, "derived": name in derived} for name in store.modalities],
        "pixel_um": store.pixel_um,
        "cells": {"sha256": rows.digest(), "provenance": _short(attributes.get("provenance") or {})},
        "bundle": {
            "name": str(classified.get("bundle", "")),
            "sha256": classified.get("sha256"),
            "classes": list(rows.classes),
            "heads": list(rows.heads),
            "threshold": classified.get("threshold"),
        },
    }


def _short(content: Any) -> Any:
    """The same with long lists (a thousand file names) replaced by their length and hash."""
    if isinstance(content, dict):
        return {str(name): _short(value) for name, value in content.items()}
    if isinstance(content, list) and len(content) > _LONG_LIST:
        return {"count": len(content), "sha256": _json_digest(content)}
    return content


def _json_digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _rounded(value: float | None) -> float | None:
    # Four decimals hide the last bits, in which mathematics libraries of different machines differ.
    return None if value is None or not math.isfinite(value) else round(value, 4)


def differential_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) that every ``differential.json`` of this version obeys."""
    text = files("wbcpipe.report").joinpath("differential.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema
