"""Write a sample's documents; a document that would not change is left as it is, to the byte."""

from __future__ import annotations

import hashlib
import json
import math
from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING

from wbcpipe.errors import ConfigError, SampleStateError
from wbcpipe.report.differential import ADULT, Differential, count_cells
from wbcpipe.report.document import build_document, document_paths
from wbcpipe.report.html import render_page
from wbcpipe.report.reference import load_reference
from wbcpipe.report.rows import read_rows
from wbcpipe.report.tables import cells_csv
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.differential_record import DifferentialRecord
from wbcpipe.system.files import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.samples.sample import Sample

__all__ = ["page_is_complete", "write_report"]


def write_report(sample: Sample, *, reference: Path | None = None, wbc: float | None = None) -> Differential:
    """Count the cells and write ``cells.csv``, ``report.html`` and, last, ``differential.json``.

    The caller holds the sample's lock. Documents of the same cells and options are not written again.

    Args:
        sample: a classified sample.
        reference: file of the laboratory's reference intervals; textbook intervals of adults by default.
        wbc: white-cell concentration in 10^9/L, for absolute counts.

    Raises:
        SampleStateError: no such sample, or its cells are not classified.
        ConfigError: ``reference`` or ``wbc`` is not valid.
    """
    if wbc is not None and not (math.isfinite(wbc) and 0 < wbc <= 2000):
        raise ConfigError(
            f"--wbc {wbc:g} is no white-cell concentration; give a number above 0 and up to 2000, in 10^9/L."
        )
    sample.record()
    store = CellStore(sample.cells_path)
    rows = read_rows(store)
    differential = Differential.from_tally(
        count_cells(rows.predicted_class, rows.qc_flags, rows.classes),
        reference=load_reference(reference, rows.classes) if reference else ADULT,
        wbc_1e9_per_l=wbc,
    )
    json_path, csv_path, html_path = document_paths(sample)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    document = build_document(sample, store, rows, differential, created=created)
    earlier = _read_earlier(json_path)
    unchanged = earlier is not None and document.model_copy(update={"created": earlier.created}) == earlier
    if earlier is not None and unchanged:
        document = earlier
    _write_if_changed(csv_path, cells_csv(rows))
    content_id = _content_id(document)
    if not _contains(html_path, content_id):
        page = render_page(sample, store, rows, document, content_id=content_id)
        _write_if_changed(html_path, _seal(page.encode()))
    if not unchanged:
        document.write(json_path)
        sample.log("report_written", counted=differential.tally.identified, cells_sha256=rows.digest())
    return differential


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
