"""Check the files of one sample, in the order of the stages."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from wbcpipe.classify.models.bundle import load_bundle, shipped_bundles
from wbcpipe.errors import BundleError, SampleStateError
from wbcpipe.laboratory.lab_file import find_lab
from wbcpipe.report.cells_csv import cells_csv
from wbcpipe.report.document import document_paths, read_document
from wbcpipe.report.reviewed_cells import review_cells
from wbcpipe.report.reviewed_sample import replay_signature
from wbcpipe.report.rows import read_rows
from wbcpipe.report.signed_document import missing_entries
from wbcpipe.report.stage import page_is_complete
from wbcpipe.report.verify_journal import verify_journal
from wbcpipe.samples.cell_store import PREDICTIONS, CellStore
from wbcpipe.samples.order_record import OrderRecord, order_path
from wbcpipe.samples.results import MARKER, RESULTS, check_result, find_result
from wbcpipe.samples.review.journal import Journal, journal_path
from wbcpipe.samples.truth import read_truth
from wbcpipe.verify.check_raw import check_raw
from wbcpipe.verify.check_work import check_work
from wbcpipe.verify.findings import Findings

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.report.reviewed_cells import ReviewedCells
    from wbcpipe.report.rows import CellRows
    from wbcpipe.samples.records import SampleRecord
    from wbcpipe.samples.sample import Sample
    from wbcpipe.verify.records import SampleCheck

__all__ = ["verify_sample"]


def verify_sample(
    sample: Sample,
    *,
    quick: bool = False,
    progress: Callable[[str, int, int], None] = lambda _task, _done, _total: None,
) -> SampleCheck:
    """Check every file of a sample; nothing is changed.

    Args:
        sample: on the disk.
        quick: check descriptions, records, tables and documents, but not the pixels of fields and
            cells.
        progress: called with (task, units done, units in all).
    """
    findings = Findings(sample, quick=quick, progress=progress)
    record: SampleRecord | None = None
    with findings.file(sample.info_path, "", lost="who, when and how the slide was scanned"):
        record = sample.record()
    if order_path(sample).exists():
        with findings.file(order_path(sample), "", lost="the order and the patient of the result"):
            OrderRecord.read(order_path(sample))
    store = _check_store(findings, record)
    fields = [] if store is None else store.fields()
    check_raw(findings, record, fields)
    check_work(findings, fields)
    if store is not None:
        _check_truth(findings, store)
        _check_results(findings, store)
    elif document_paths(sample)[0].exists():
        findings.add(
            sample.cells_path, "the folder is missing, but the sample was reported", _CELLS
        )
    _check_further_results(findings)
    return findings.result()


_CELLS: Final = "wbcpipe run --sample {name}"
_CLASSES: Final = "wbcpipe classify --sample {name}"
_LOST_REVIEW: Final = "who looked at which cell, and what was signed"
_REPORT: Final = "wbcpipe report --sample {name}"


def _check_further_results(findings: Findings) -> None:
    """Compare every file of the further results with their markers."""
    for path in sorted((findings.sample.path / RESULTS).glob(f"*/{MARKER}")):
        remedy = "remove the folder of the result and process the sample again (wbcpipe process)"
        with findings.file(path, remedy):
            record = find_result(findings.sample, path.parent.name)
            if record is not None and not findings.quick:
                check_result(path.parent, record)


def _check_store(findings: Findings, record: SampleRecord | None) -> CellStore | None:
    """Check every array of ``cells.zarr``; return the store if its attributes can be used."""
    path = findings.sample.cells_path
    if not path.exists():
        return None
    imported = record is not None and record.inputs is not None and record.inputs.content == "cells"
    remedy = "wbcpipe import cells (with the same images and options)" if imported else _CELLS
    store: CellStore | None = None
    with findings.file(path / "zarr.json", remedy):
        store = CellStore(path)
    if store is None:
        return None
    heavy = ("images", "images_half", "masks")
    names = [name for name in store.names if not (findings.quick and name in heavy)]
    for done, name in enumerate(names, 1):
        with findings.file(path / name, _CLASSES if name in PREDICTIONS else remedy):
            store.check(name)
        findings.progress("arrays of cells.zarr", done, len(names))
    return store


def _check_truth(findings: Findings, store: CellStore) -> None:
    path, stated = findings.sample.truth_path, store.attributes.provenance.get("truth_sha256")
    if stated is None and not path.exists():
        return
    lost = (
        "the true classes of the virtual specimen; `wbcpipe acquire` writes them again when it "
        "takes a field"
    )
    with findings.file(path, "", lost=lost):
        read_truth(path)
        if stated is not None and hashlib.sha256(path.read_bytes()).hexdigest() != stated:
            findings.add(path, "not the file that the cells were labelled from", "", lost=lost)


def _check_results(findings: Findings, store: CellStore) -> None:
    """Check the classes, the bundle and the documents."""
    json_path, csv_path, html_path = document_paths(findings.sample)
    if not store.is_classified():
        if json_path.exists():
            findings.add(store.path, "not classified, but the sample was reported", _CLASSES)
        return
    rows: CellRows | None = None
    with findings.file(store.path / "zarr.json", _CLASSES, count=False):
        rows = read_rows(store)
        _check_bundle(findings, rows)
    reviewed = None if rows is None else _check_review(findings, rows)
    if (
        rows is None
        or reviewed is None
        or not any(path.exists() for path in (json_path, csv_path, html_path))
    ):
        return
    with findings.file(json_path, _REPORT):
        document = read_document(findings.sample)
        if document.provenance.cells.sha256 != rows.digest():
            findings.add(json_path, "not of the cells and classes in cells.zarr", _REPORT)
        journal = Journal(journal_path(findings.sample))
        if missing := missing_entries(
            findings.sample, document, journal.entries(), journal.state()
        ):
            findings.add(journal_path(findings.sample), missing, "", lost=_LOST_REVIEW)
    with findings.file(csv_path, _REPORT):
        if csv_path.read_bytes() != cells_csv(rows, reviewed):
            findings.add(
                csv_path, "not of the cells and classes in cells.zarr, or damaged", _REPORT
            )
    with findings.file(html_path, _REPORT):
        if not page_is_complete(html_path):
            findings.add(html_path, "missing or damaged (SHA-256)", _REPORT)


def _check_review(findings: Findings, rows: CellRows) -> ReviewedCells | None:
    """Check the review journal and what was signed.

    Return the cells after the review if it can be replayed.
    """
    path = journal_path(findings.sample)
    lost = _LOST_REVIEW
    reviewed: ReviewedCells | None = None
    with findings.file(path, "", lost=lost, count=path.exists()):
        journal = Journal(path)
        entries, state = journal.entries(), journal.state()
        if state.signed is not None:
            reviewed = replay_signature(rows, entries, state.signed).reviewed
        else:
            reviewed = review_cells(rows, state, _extra_classes(findings.sample, rows))
        if torn := journal.torn_bytes():
            findings.add(
                path,
                f"the last line was cut short by a crash ({torn} bytes)",
                "",
                lost="nothing acknowledged",
            )
        if entries:
            for problem in verify_journal(findings.sample).problems:
                findings.add(path, problem, "", lost=lost)
    return reviewed


def _extra_classes(sample: Sample, rows: CellRows) -> dict[str, bool]:
    """Return the extra classes as the report used them: name to whether it is counted per 100 white
    cells.
    """
    try:
        document = read_document(sample)
    except SampleStateError:
        return find_lab(sample.path.parent).per_100_white_cells()
    white = {entry.name: False for entry in document.classes if entry.name not in rows.classes}
    return white | {entry.name: True for entry in document.verification.extra}


def _check_bundle(findings: Findings, rows: CellRows) -> None:
    """Check the weights of a bundle that is shipped; where another bundle lies is not recorded."""
    name = rows.classification.bundle
    if name not in shipped_bundles():
        return
    try:
        bundle = load_bundle(name)
    except BundleError as error:
        findings.add(shipped_bundles()[name], str(error), "pip install --force-reinstall wbcpipe")
        return
    if bundle.info.sha256 != rows.classification.sha256:
        findings.add(
            findings.sample.cells_path,
            f"classified by other weights than those of {name!r} now",
            _CLASSES,
        )
