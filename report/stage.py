"""Write a sample's documents; a document that would not change is left as it is, to the byte."""

from __future__ import annotations

import hashlib
import json
import logging
from importlib.resources import files
from typing import TYPE_CHECKING

from wbcpipe.errors import SampleStateError
from wbcpipe.report.cells_csv import cells_csv
from wbcpipe.report.document import build_document, document_paths
from wbcpipe.report.html import render_page
from wbcpipe.report.reviewed_sample import ReportOptions, read_reviewed
from wbcpipe.report.signed_document import missing_entries, signed_bytes, signed_path
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.differential_record import DifferentialRecord
from wbcpipe.samples.review.journal import Journal, journal_path
from wbcpipe.system.files import write_atomic
from wbcpipe.system.version import VERSION

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.report.differential import Differential
    from wbcpipe.samples.review.replay import Signature
    from wbcpipe.samples.sample import Sample

__all__ = ["page_is_complete", "write_documents", "write_report"]

_log = logging.getLogger(__name__)


def write_report(
    sample: Sample,
    *,
    reference: Path | None = None,
    wbc_1e9_per_l: float | None = None,
    lab: Path | None = None,
) -> Differential:
    """Count the cells and write ``cells.csv``, ``report.html`` and, last, ``differential.json``.

    What readers did to the cells is applied. Documents of the same cells, review and options are
    not written again. The sample is locked meanwhile.

    Args:
        sample: a classified sample.
        reference: file of the laboratory's reference intervals; by default those of its file, else
            textbook intervals of adults.
        wbc_1e9_per_l: white-cell concentration in 10^9/L, for absolute counts.
        lab: the laboratory's file; by default ``lab.toml`` in the data root, if it is there.

    Returns:
        The percentage of each class with its interval and flag, and the counts.

    Raises:
        SampleStateError: no such sample, its cells are not classified, or its review journal is
            damaged.
        SampleBusyError: another process uses the sample.
        ConfigError: an option is not valid, or contradicts what was signed.

    Example:
        ``wbcpipe.write_report(sample, wbc_1e9_per_l=6.2).classes[0].percent``
    """
    sample.record()  # before the lock, which would create the folder
    with sample.lock("report"):
        return write_documents(sample, ReportOptions(reference, wbc_1e9_per_l, lab))


def write_documents(sample: Sample, options: ReportOptions | None = None) -> Differential:
    """Do the work of `write_report`; the caller holds the lock, and the errors are the same."""
    sample.record()
    store = CellStore(sample.cells_path)
    json_path, csv_path, html_path = document_paths(sample)
    earlier = _read_earlier(json_path)
    if earlier is not None:
        _check_journal(sample, earlier)
    reviewed = read_reviewed(sample, store, options)
    document = build_document(sample, store, reviewed)
    unchanged = (
        earlier is not None and document.model_copy(update={"created": earlier.created}) == earlier
    )
    if reviewed.signature is not None:
        document, content = _signed_document(sample, document, reviewed.signature)
        _write_if_changed(signed_path(sample, reviewed.signature.entry.n), content)
        unchanged = json_path.is_file() and json_path.read_bytes() == content
    else:
        document = earlier if earlier is not None and unchanged else document
        content = document.to_bytes()
    _write_if_changed(csv_path, cells_csv(reviewed.rows, reviewed.reviewed))
    content_id = _content_id(document)
    if not _contains(html_path, content_id):
        page = render_page(sample, store, reviewed, document, content_id=content_id)
        _write_if_changed(html_path, _seal(page.encode()))
    if not unchanged:
        with write_atomic(json_path) as handle:
            handle.write(content)
        counted, state = document.cells.counted, document.verification.state
        sample.log(
            "report_written", counted=counted, cells_sha256=reviewed.rows.digest(), state=state
        )
    _log.info(
        "sample %s: %s of %d counted cells, documents %s",
        sample.name,
        json_path.name,
        document.cells.counted,
        "unchanged" if unchanged else "written",
    )
    return reviewed.differential


def _check_journal(sample: Sample, earlier: DifferentialRecord) -> None:
    """Refuse to replace a document that rests on entries which are gone."""
    journal = Journal(journal_path(sample))
    if missing := missing_entries(sample, earlier, journal.entries(), journal.state()):
        raise SampleStateError(
            f"{missing}; restore it from a copy, or move {document_paths(sample)[0].name} away to "
            f"begin a new review."
        )


def _signed_document(
    sample: Sample, document: DifferentialRecord, signature: Signature
) -> tuple[DifferentialRecord, bytes]:
    """Return what was signed: the replay of the journal, or the file itself if another version
    wrote it.

    Raises:
        SampleStateError: the journal gives another differential.
    """
    if document.digest() == signature.sign.differential:
        return document, document.to_bytes()
    path = signed_path(sample, signature.entry.n)
    if (
        signature.sign.basis.software != VERSION
        and (content := signed_bytes(sample, signature)) is not None
    ):
        return DifferentialRecord.read(path), content
    raise SampleStateError(
        f"{path}: the journal gives another differential than the one that "
        f"{signature.entry.reader} signed; no "
        f"document was written. `wbcpipe report --sample {sample.name} --verify-journal` says "
        f"what differs."
    )


def _read_earlier(path: Path) -> DifferentialRecord | None:
    try:
        return DifferentialRecord.read_if_present(path)
    except SampleStateError:
        return None  # it is damaged and will be written again


def _content_id(document: DifferentialRecord) -> str:
    folder = files("wbcpipe.report").joinpath("templates")
    template = b"".join(
        folder.joinpath(name).read_bytes() for name in ("report.html.j2", "style.css.j2")
    )
    return hashlib.sha256(
        template + json.dumps(document.content(), sort_keys=True).encode()
    ).hexdigest()


def _seal(page: bytes) -> bytes:
    """Return a page with the digest of itself as its last line."""
    return page + f"<!-- sha256 {hashlib.sha256(page).hexdigest()} -->\n".encode()


def page_is_complete(path: Path) -> bool:
    """Return whether ``report.html`` is as it was written, to the byte."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    page = content[: content.rfind(b"<!-- sha256 ")]
    return _seal(page) == content


def _contains(path: Path, content_id: str) -> bool:
    if not page_is_complete(path):
        return False
    with path.open("rb") as handle:
        return content_id.encode() in handle.read(1024)


def _write_if_changed(path: Path, content: bytes) -> None:
    if path.is_file() and path.read_bytes() == content:
        return
    with write_atomic(path) as handle:
        handle.write(content)
