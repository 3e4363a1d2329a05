"""Progress of each sample, read from the disk."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from wbcpipe.errors import SampleNameError, WbcpipeError
from wbcpipe.report.document import count_fields, document_paths, read_document
from wbcpipe.report.rows import read_rows
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.freed import known_fields, missing_here, read_freed
from wbcpipe.samples.results import count_results
from wbcpipe.samples.sample import OTHER_FOLDERS, Sample, check_sample_name
from wbcpipe.samples.staining_record import staining_state
from wbcpipe.system.file_kinds import kind_of_special
from wbcpipe.system.user_files import printable

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.samples.records import SampleKind
    from wbcpipe.samples.review.entries import VerificationState

__all__ = [
    "SampleStatus",
    "StrayEntry",
    "list_samples",
    "sample_names",
    "sample_status",
    "stray_entries",
]


@dataclass(frozen=True)
class SampleStatus:
    """Progress of one sample.

    Attributes:
        name: of the sample.
        state: the last finished stage, or ``damaged``.
        kind: origin of its images.
        fields_taken: fields whose frames are all on disk.
        passes: of a sample of two passes, each pass and its fields on disk; else empty.
        staining: between the passes: see `staining_state`.
        fields_planned: positions in the plan; ``None`` without a plan.
        fields_missing: fields that could not be taken.
        fields_empty: fields that were skipped because they showed no cells.
        cells: cells in ``cells.zarr``; ``None`` before segment.
        bundle: the model that classified them; ``None`` before classify.
        counted: identified cells in the report; ``None`` before report.
        passed: whether the report's quality gates passed; ``None`` before report.
        verification: of the report: ``preliminary``, ``verified`` or ``corrected``; empty before
            report.
        verified_by: who signed it; empty without a signature.
        fields_freed: fields whose files were removed here, because a bucket holds them.
        freed_to: location of that bucket; empty if none were.
        further_results: complete results in ``results/``, beside the one that is shown.
        problem: of a damaged sample, of the staining, or of a report that is older than its cells.
    """

    name: str
    state: Literal["created", "acquiring", "segmented", "classified", "reported", "damaged"] = (
        "created"
    )
    kind: SampleKind | Literal[""] = ""
    fields_taken: int = 0
    passes: dict[str, int] = field(default_factory=dict)
    staining: str = ""
    fields_planned: int | None = None
    fields_missing: int = 0
    fields_empty: int = 0
    cells: int | None = None
    bundle: str | None = None
    counted: int | None = None
    passed: bool | None = None
    verification: VerificationState | Literal[""] = ""
    verified_by: str = ""
    further_results: int = 0
    fields_freed: int = 0
    freed_to: str = ""
    problem: str = ""


class StrayEntry(NamedTuple):
    """A file or folder of the data root that is no sample.

    Attributes:
        name: as it can be printed.
        reason: why it is none, as the end of a sentence.
    """

    name: str
    reason: str


def stray_entries(root: Path) -> list[StrayEntry]:
    """Return what lies below a data root beside samples and wbcpipe's own folders.

    Names with a dot are left out.
    """
    if not root.is_dir():
        return []
    entries = (
        (path, _why_no_sample(path))
        for path in sorted(root.iterdir())
        if not path.name.startswith(".")
    )
    return [StrayEntry(printable(path.name), reason) for path, reason in entries if reason]


def _why_no_sample(path: Path) -> str:
    """Return why ``path`` is no sample, as the end of a sentence.

    Empty for a sample, and for wbcpipe's own folders.
    """
    if path.name in OTHER_FOLDERS:
        return (
            ""
            if path.is_dir()
            else "is no folder, and wbcpipe keeps files of its own below that name"
        )
    if not path.is_dir():
        return f"is {kind_of_special(path) or 'a file'}, and samples are folders"
    try:
        check_sample_name(path.name)
        return "" if _is_sample(path) else "holds no sample.json, no raw images and no cells"
    except SampleNameError:
        return "has a name that no sample may have"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _is_sample(path: Path) -> bool:
    return any((path / name).exists() for name in ("sample.json", "raw", "cells.zarr"))


def sample_names(root: Path) -> list[str]:
    """Return the names of the samples below a data root.

    See `stray_entries` for everything else.
    """
    if not root.is_dir():
        return []
    return [
        path.name
        for path in sorted(root.iterdir())
        if path.name not in OTHER_FOLDERS and not _why_no_sample(path)
    ]


def list_samples(root: Path) -> list[SampleStatus]:
    """Return the status of the samples below a data root, by name."""
    return [sample_status(Sample.open(root, name)) for name in sample_names(root)]


def sample_status(sample: Sample) -> SampleStatus:
    """Return the status of one sample; a damaged one is reported as such, not raised."""
    status = SampleStatus(sample.name, further_results=count_results(sample))
    if not sample.info_path.exists():
        problem = (
            f"{sample.info_path}: the file is missing; restore it: nothing else says what "
            f"was scanned."
        )
        return replace(status, state="damaged", problem=problem)
    try:
        status = _add_fields(status, sample)
        return _add_cells(status, sample) if sample.cells_path.exists() else status
    except (WbcpipeError, OSError) as error:
        return replace(status, state="damaged", problem=f"{error}")


def _add_fields(status: SampleStatus, sample: Sample) -> SampleStatus:
    record = sample.record()
    fields = count_fields(sample, record)
    passes, staining = {}, ""
    if record.protocol == "two-pass":
        passes = {
            "brightfield": len(known_fields(sample, "brightfield")),
            "fluorescence": len(known_fields(sample, "fluorescence")),
        }
        staining = staining_state(sample)
    interrupted = staining == "started"
    freed = read_freed(sample)
    freed_here = len(missing_here(sample, freed))
    tried = fields.taken or fields.missing or fields.empty or any(passes.values())
    return replace(
        status,
        state="acquiring" if tried else "created",
        kind=record.kind,
        fields_taken=fields.taken,
        passes=passes,
        staining=staining,
        fields_planned=fields.planned,
        fields_missing=len(fields.missing),
        fields_empty=len(fields.empty),
        fields_freed=freed_here,
        freed_to=freed.location if freed is not None and freed_here else "",
        problem="the staining did not finish: inspect the slide; the next command explains how to "
        "continue"
        if interrupted
        else "",
    )


def _add_cells(status: SampleStatus, sample: Sample) -> SampleStatus:
    store = CellStore(sample.cells_path)
    status = replace(status, state="segmented", cells=len(store))
    if not store.is_classified():
        return status
    rows = read_rows(store)
    status = replace(status, state="classified", bundle=rows.classification.bundle)
    if not document_paths(sample)[0].is_file():
        return status
    document = read_document(sample)
    if document.provenance.cells.sha256 != rows.digest():
        return replace(
            status,
            problem="the report is older than the predicted classes; run `wbcpipe report` again",
        )
    return replace(
        status,
        state="reported",
        counted=document.cells.counted,
        passed=document.quality.passed,
        verification=document.verification.state,
        verified_by=document.verification.signed_by or "",
    )
