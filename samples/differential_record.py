"""Typed model of ``differential.json``, from which its JSON Schema is generated."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Final, Literal

from pydantic import BeforeValidator, Field, JsonValue

from wbcpipe.samples.records import DIGEST, Count, Part, Record, SampleKind, SpecimenRecord
from wbcpipe.samples.review.entries import VerificationState
from wbcpipe.samples.review.sign_basis import LabReference, SignCheck
from wbcpipe.samples.scan_outcome import ScanEntry

__all__ = [
    "NOTICE",
    "BundleReference",
    "CellCounts",
    "CellsReference",
    "ClassEntry",
    "DifferentialRecord",
    "ExcludedByReader",
    "ExtraCount",
    "FailedField",
    "FieldCounts",
    "Flag",
    "GateName",
    "HeadAgreement",
    "HeadDisagreement",
    "JournalReference",
    "MachineCount",
    "MissingField",
    "ModalityEntry",
    "ModelChecks",
    "ModelDoubt",
    "ModelF1",
    "Provenance",
    "Quality",
    "QualityGate",
    "RejectedCells",
    "RiskControl",
    "SampleComment",
    "ScopeEntry",
    "SignedReport",
    "UnidentifiedCells",
    "Verification",
    "WarnedCells",
    "differential_schema",
]

NOTICE: Final = (
    "Not for diagnostic use: research software that no laboratory has validated for this purpose."
)

Flag = Literal["low", "normal", "high", "borderline"]
GateName = Literal[
    "cells_counted",
    "unidentified_percent",
    "blurred_percent",
    "unregistered_percent",
    "saturated_cells_percent",
    "doublets_percent",
    "missing_fields_percent",
    "head_disagreement",
    "accepted_percent",
    "failed_fields_percent",
    "blur_um",
    "saturated_percent",
    "residual_px",
    "nuclear_contrast_percent",
    "nucleus_cytoplasm_contrast_ratio",
    "red_cover_percent",
    "light_drift_percent",
    "error_bound_percent",
    "clumps_percent",
    "cells_per_mm2",
    "white_per_100_red",
    "unassigned_fluorescence_percent",
    "min_nucleus_um2",
    "max_nucleus_um2",
]


def _rounded(value: object) -> object:
    # Four decimals hide the last bits, in which mathematics libraries of different machines differ.
    return round(value, 4) if isinstance(value, float) and math.isfinite(value) else value


Number = Annotated[float, BeforeValidator(_rounded), Field(allow_inf_nan=False)]
NotNegative = Annotated[Number, Field(ge=0)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
Percent = Annotated[Number, Field(ge=0, le=100)]
IntervalPercent = tuple[Percent, Percent]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class UnidentifiedCells(Part):
    """Cells whose class the model is not sure of.

    Per cent of the counted and the unidentified cells.
    """

    count: Count
    percent: Percent | None
    interval_percent: IntervalPercent


class RejectedCells(Part):
    """Cells excluded from the differential, each under one reason."""

    debris: Count
    border: Count
    missing_modality: Count
    clump: Count
    blurred: Count


class WarnedCells(Part):
    """Cells that count or are unidentified but carry a warning flag; one cell may carry several."""

    doublet: Count
    saturated: Count
    unregistered: Count


class ExcludedByReader(Part):
    """Cells that a reader excluded from the differential.

    Attributes:
        not_classed: white cells that are left out of the count.
        artefact: what is no cell.
        not_white_cells: of the classes in ``verification.extra``.
    """

    not_classed: Count = 0
    artefact: Count = 0
    not_white_cells: Count = 0


class CellCounts(Part):
    """Every cell of the sample, counted once.

    Attributes:
        found: counted, unidentified and rejected cells, and those that a reader excluded.
        counted: identified cells: the denominator of the percentages.
        unidentified: see `UnidentifiedCells`.
        rejected: see `RejectedCells`.
        counted_with_warning: see `WarnedCells`.
        excluded_by_reader: see `ExcludedByReader`.
    """

    found: Count
    counted: Count
    unidentified: UnidentifiedCells
    rejected: RejectedCells
    counted_with_warning: WarnedCells
    excluded_by_reader: ExcludedByReader = ExcludedByReader()


class ClassEntry(Part):
    """One class of the differential."""

    name: Annotated[str, Field(min_length=1)]
    count: Count
    percent: Annotated[Percent | None, Field(description="of the counted cells")]
    interval_percent: IntervalPercent
    reference_percent: IntervalPercent | None
    corrected_percent: Annotated[
        Percent | None,
        Field(
            description="estimated true share of all valid cells, unidentified ones too, "
            "corrected for the model's errors; null if the bundle has not shown on test cells that "
            "this helps"
        ),
    ]
    corrected_interval_percent: Annotated[
        IntervalPercent | None,
        Field(
            description="95 %, with the uncertainty of the counted cells and of the bundle's "
            "validation cells"
        ),
    ]
    flag: Annotated[
        Flag | None,
        Field(
            description="low, high: the interval lies outside the reference; borderline: only the "
            "percentage does"
        ),
    ]
    concentration_1e9_per_l: NotNegative | None
    concentration_interval_1e9_per_l: tuple[NotNegative, NotNegative] | None


class IntervalMethod(Part):
    """The confidence intervals of the percentages."""

    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    method: Literal["Clopper-Pearson"] = "Clopper-Pearson"


class MissingField(Part):
    """A field that could not be taken."""

    index: Count
    reason: str


class FieldCounts(Part):
    """Fields of view; ``wanted`` is the sum of taken, missing and empty fields.

    Attributes:
        planned: positions in the plan; ``None`` for imported images.
        wanted: fields up to the last one that was tried; ``None`` for imported images.
        taken: fields whose frames are all on disk.
        missing: fields that could not be taken.
        empty: indices of the fields that were skipped because their first frame showed no cells.
    """

    planned: Count | None
    wanted: Count | None
    taken: Count
    missing: tuple[MissingField, ...]
    empty: tuple[Count, ...]


class QualityGate(Part):
    """One figure of the sample and its limit.

    Attributes:
        name: key of the limit in the scope file's ``[quality]``.
        title: for people.
        figure: ``None`` when there is nothing to measure (no fields, no cells, one head), or the
            error is not known.
        comparison: how the figure must compare with the limit.
        limit: the limit.
        unit: of both.
        passed: ``None`` without a figure; an error that is not known does not pass.
    """

    name: GateName
    title: str
    figure: Number | None
    comparison: Literal[">=", "<="]
    limit: float
    unit: Literal["cells", "%", "um", "px", "um2", "/mm2", ""]
    passed: bool | None


class FailedField(Part):
    """A field beyond the limits, with reasons such as ``blur_um 0.71 (limit <= 0.6)``."""

    index: Count
    reasons: Annotated[tuple[str, ...], Field(min_length=1)]


class Quality(Part):
    """The quality gates; passed if no gate failed."""

    passed: bool
    gates: tuple[QualityGate, ...]
    failed_fields: tuple[FailedField, ...]


class HeadAgreement(Part):
    """One head alone against the fused prediction, over the counted cells.

    Attributes:
        name: of the head.
        agreement_percent: share of the cells for which the head alone predicts the same class.
        class_agreement_percent: the same by predicted class.
        mean_probability: mean of the head's own highest probability.
    """

    name: str
    agreement_percent: Percent | None
    class_agreement_percent: dict[str, Percent | None]
    mean_probability: Fraction | None


class HeadDisagreement(Part):
    """Check of one head against the others.

    Attributes:
        head: its name.
        beyond_percent: share of the cells in which it disagrees more than in 95 % of the validation
            cells.
        limit_percent: largest share that is accepted.
        exceeded: the bundle may not know this stain or camera; of a microscope, the modality may be
            misregistered, or its lamp dead.
    """

    head: str
    beyond_percent: Percent | None
    limit_percent: Percent
    exceeded: bool


class RiskControl(Part):
    """Upper bound of the share of wrong predictions among the counted cells, from the bundle's test
    cells.
    """

    error_bound: Annotated[float, Field(ge=0, le=1)]
    confidence: Annotated[float, Field(gt=0, lt=1)]
    cells: Count
    assumption: str


class ModelDoubt(Part):
    """One reason why the bundle's error bound and its corrected percentages are not given for a
    sample.

    Attributes:
        reason: what was found.
        text: the same with its figures, for people.
    """

    reason: Literal["heads_disagree", "unidentified", "few_identified"]
    text: str


class ModelF1(Part):
    """Weighted F1 of the bundle, with all modalities and with the remaining ones."""

    all_modalities: float | None
    remaining_modalities: float | None


class ModelChecks(Part):
    """Checks of the sample against the bundle's validation cells.

    Attributes:
        head_disagreement: one entry per head; empty if the bundle has no limits for these
            modalities.
        doubts: why the bundle's error bound and its corrected percentages are not given; empty
            where they are.
        remedy: what to do about them; empty without one.
        risk_control: the error bound at the threshold in use; ``None`` without one, or with a
            doubt.
        excluded_modalities: modalities that were not used.
        f1_weighted: ``None`` if no modality was excluded.
        trained_on_sample: the bundle was trained on cells of a sample of this name, so figures on
            its cells are too good.
    """

    head_disagreement: tuple[HeadDisagreement, ...] = ()
    doubts: tuple[ModelDoubt, ...] = ()
    remedy: str = ""
    risk_control: RiskControl | None = None
    excluded_modalities: tuple[str, ...] = ()
    f1_weighted: ModelF1 | None = None
    trained_on_sample: bool = False


class ScopeEntry(Part):
    """The scope file that the sample was acquired with."""

    name: str
    sha256: Sha256 | None


class ModalityEntry(Part):
    """One modality; a derived one is computed from the others, not recorded by a camera."""

    name: str
    derived: bool


class CellsReference(Part):
    """The cells that were counted.

    Attributes:
        sha256: of the cell table and the predictions.
        provenance: as segment or import wrote it; long lists are replaced by their length and hash.
    """

    sha256: Sha256
    provenance: dict[str, JsonValue]


class BundleReference(Part):
    """The model that predicted the classes."""

    name: str
    sha256: Sha256 | None
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    heads: Annotated[tuple[str, ...], Field(min_length=1)]
    threshold: float | None


class Provenance(Part):
    """Origin of the sample and of the figures."""

    report_software: dict[str, str]
    sample_software: dict[str, str]
    scope: ScopeEntry | None
    slot: str | None
    specimen: SpecimenRecord | None
    plan_sha256: Sha256 | None
    modalities: Annotated[tuple[ModalityEntry, ...], Field(min_length=1)]
    pixel_um: Annotated[float, Field(gt=0)]
    cells: CellsReference
    bundle: BundleReference


class ExtraCount(Part):
    """Cells of a class that is no white cell, such as smudge cells, per 100 counted white cells."""

    name: Annotated[str, Field(min_length=1)]
    count: Count
    per_100_wbc: NotNegative | None


class MachineCount(Part):
    """One class as the model counted it, before the review."""

    name: Annotated[str, Field(min_length=1)]
    count: Count
    percent: Percent | None
    interval_percent: IntervalPercent


class SignedReport(Part):
    """An earlier signed report, which is kept as ``review/signed_<entry>.json``.

    Attributes:
        entry: number of its signature in the journal.
        signed_by: reader who signed.
        signed: UTC time, ISO 8601.
        sha256: of its content.
    """

    entry: Annotated[int, Field(ge=1)]
    signed_by: str
    signed: str
    sha256: Sha256


class SampleComment(Part):
    """A comment of a reader on the sample; comments on cells are in the journal alone."""

    reader: str
    time: str
    text: str


class JournalReference(Part):
    """The part of the review journal on which the figures rest: its entries, and the ``id`` of the
    last of them.
    """

    entries: Annotated[int, Field(ge=1)]
    head: Sha256


class Verification(Part):
    """What people did to the count.

    Attributes:
        state: ``preliminary``: the model's count, or a review that is not signed; ``verified``:
            signed; ``corrected``: signed again after an amendment.
        signed_by: reader who signed; ``None`` without a signature.
        signed: UTC time, ISO 8601.
        comment: of the signature.
        correction: reason of the amendment; empty without one.
        corrects: the report that this one replaces; ``None`` for the first one.
        journal: ``None`` if nobody reviewed the sample.
        readers: who gave a class or looked, by name.
        looked: cells that were looked at with the class that they have now, or were given one.
        changed: cells that have another class than the model's, or count because a reader gave them
            one.
        lost: cells of the journal that a new segmentation did not find again; their entries count
            no more.
        voided: why an earlier signature is not in force any more; empty if none was voided.
        checks: results of the sign checks.
        comments: on the sample, in order.
        extra: cells that are no white cells.
        machine: the model's count; empty if nobody reviewed the sample.
        lab: the laboratory's file in force; ``None`` without one.
    """

    state: VerificationState = "preliminary"
    signed_by: str | None = None
    signed: str | None = None
    comment: str = ""
    correction: str = ""
    corrects: SignedReport | None = None
    journal: JournalReference | None = None
    readers: tuple[str, ...] = ()
    looked: Count = 0
    changed: Count = 0
    lost: Count = 0
    voided: str = ""
    checks: tuple[SignCheck, ...] = ()
    comments: tuple[SampleComment, ...] = ()
    extra: tuple[ExtraCount, ...] = ()
    machine: tuple[MachineCount, ...] = ()
    lab: LabReference | None = None


class DifferentialRecord(Record):
    """White-cell differential of wbcpipe, format 1.

    Percentages are of the counted cells. Not for diagnostic use.
    """

    remedy: ClassVar[str] = "move the file away and run `wbcpipe report` again"

    notice: Annotated[str, Field(pattern="^Not for diagnostic use")] = NOTICE
    created: Annotated[
        str,
        Field(
            description="UTC; the only part in which two reports on the same cells differ",
            json_schema_extra={"format": "date-time"},
        ),
    ]
    sample: Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    kind: Annotated[
        SampleKind, Field(description="origin of the images: a microscope, or an import")
    ]
    cells: CellCounts
    classes: Annotated[tuple[ClassEntry, ...], Field(min_length=1)]
    interval: IntervalMethod = IntervalMethod()
    reference_source: str
    wbc_1e9_per_l: Annotated[
        Annotated[float, Field(gt=0)] | None,
        Field(
            description="white-cell concentration given by the user; without it there are no "
            "absolute counts"
        ),
    ]
    fields: FieldCounts
    scan: Annotated[ScanEntry | None, Field(description="null for imported images")]
    quality: Quality
    heads: Annotated[tuple[HeadAgreement, ...], Field(min_length=1)]
    model_checks: ModelChecks
    verification: Verification = Verification()
    provenance: Provenance


def differential_schema() -> dict[str, JsonValue]:
    """Return the JSON Schema (draft 2020-12) of ``differential.json``."""
    schema = DifferentialRecord.model_json_schema(mode="serialization")
    schema["properties"][DIGEST] = {
        "description": "SHA-256 of everything else as compact JSON with sorted keys; of the file "
        "alone.",
        "pattern": "^[0-9a-f]{64}$",
        "type": "string",
    }
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:wbcpipe:differential:1",
    }
    return {**head, **schema}
