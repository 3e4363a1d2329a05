"""Write a sample's documents; a document that would not change is left as it is, to the byte."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from typing import TYPE_CHECKING

from wbcpipe.errors import SampleStateError
from wbcpipe.report.document import build_document, document_paths
from wbcpipe.report.html import render_page
from wbcpipe.report.reviewed_sample import ReportOptions, read_reviewed
from wbcpipe.report.tables import cells_csv
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.differential_record import DifferentialRecord
from wbcpipe.samples.review.journal import journal_path
from wbcpipe.system.files import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.report.differential import Differential
    from wbcpipe.report.reviewed_sample import ReviewedSample
    from wbcpipe.samples.sample import Sample

__all__ = ["page_is_complete", "signed_path", "write_report"]


def write_report(
    sample: Sample, *, reference: Path | None = None, wbc: float | None = None, lab: Path | None = None
) -> Differential:
    """Count the cells and write ``cells.csv``, ``report.html`` and, last, ``differential.json``.

    What readers did to the cells is applied. Documents of the same cells, review and options are not written again.
    The caller holds the sample's lock.

    Args:
        sample: a classified sample.
        reference: file of the laboratory's reference intervals; by default those of its file, else textbook intervals
            of adults.
        wbc: white-cell concentration in 10^9/L, for absolute counts.
        lab: the laboratory's file; by default ``lab.toml`` in the data root, if it is there.

    Raises:
        SampleStateError: no such sample, its cells are not classified, or its review journal is damaged.
        ConfigError: an option is not valid, or contradicts what was signed.
    """
    sample.record()
    store = CellStore(sample.cells_path)
    reviewed = read_reviewed(sample, store, ReportOptions(reference, wbc, lab))
    json_path, csv_path, html_path = document_paths(sample)
    document = build_document(sample, store, reviewed)
    earlier = _read_earlier(json_path)
    unchanged = earlier is not None and document.model_copy(update={"created": earlier.created}) == earlier
    if reviewed.signature is None and earlier is not None and unchanged:
        document = earlier
    _write_if_changed(csv_path, cells_csv(reviewed.rows, reviewed.reviewed))
    content_id = _content_id(document)
    if not _contains(html_path, content_id):
        page = render_page(sample, store, reviewed, document, content_id=content_id)
        _write_if_changed(html_path, _seal(page.encode()))
    _write_document(sample, document, reviewed, changed=not unchanged)
    return reviewed.differential


def signed_path(sample: Sample, entry: int) -> Path:
    """Return where the differential that an entry of the journal signed is kept, also when it is amended."""
    return journal_path(sample).with_name(f"signed_{entry}.json")


def _write_document(sample: Sample, document: DifferentialRecord, reviewed: ReviewedSample, *, changed: bool) -> None:
    path, content = document_paths(sample)[0], document.to_bytes()
    if reviewed.signature is not None:
        sign = reviewed.signature.sign
        if document.digest() != sign.differential:
            raise SampleStateError(
                f"{path}: not written: the journal gives another differential than the one that "
                f"{reviewed.signature.entry.reader} signed; `wbcpipe report --sample {sample.name} --verify-journal` "
                "says what differs."
            )
        _write_if_changed(signed_path(sample, reviewed.signature.entry.n), content)
        changed = not path.is_file() or path.read_bytes() != content
    if changed:
        document.write(path)
        counted, state = document.cells.counted, document.verification.state
        sample.log("report_written", counted=counted, cells_sha256=reviewed.rows.digest(), state=state)


def _read_earlier(path: Path) -> DifferentialRecord | None:
    try:
        return DifferentialRecord.read_if_present(path)
    except SampleStateError:
        return None  # it is damaged and will be written again


def _content_id(document: DifferentialRecord) -> str:
    folder = files("wbcpipe.report").joinpath("templates")
    template = b"".join(folder.joinpath(name).read_bytes() for name in ("report.html.j2", "style.css.j2"))
    return hashlib.sha256(template + json.dumps(document.content(), sort_keys=True).encode()).hexdigest()


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
