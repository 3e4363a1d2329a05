"""Write a sample's documents; one that says the same already stays as it is, to the byte."""

from __future__ import annotations

import hashlib
import json
import math
from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from wbcpipe.errors import ConfigError, SampleStateError
from wbcpipe.report.differential import ADULT, Differential, count_cells
from wbcpipe.report.document import build_document
from wbcpipe.report.html import render_page
from wbcpipe.report.reference import load_reference
from wbcpipe.report.rows import read_rows
from wbcpipe.report.tables import cells_csv
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.system.files import read_json, write_atomic, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.samples.sample import Sample

__all__ = ["document_paths", "read_document", "write_report"]


def document_paths(sample: Sample) -> tuple[Path, Path, Path]:
    """Where the documents lie: ``differential.json``, ``cells.csv``, ``report.html``."""
    return sample.path / "differential.json", sample.path / "cells.csv", sample.path / "report.html"


def read_document(sample: Sample) -> dict[str, Any]:
    """The content of ``differential.json``.

    Raises:
        SampleStateError: there is none, or it is damaged.
    """
    path = document_paths(sample)[0]
    content = read_json(path)
    if not isinstance(content, dict):
        raise SampleStateError(f"{path}: an object was expected; move the file away and run `wbcpipe report` again.")
    return content


def write_report(sample: Sample, *, reference: Path | None = None, wbc: float | None = None) -> Differential:
    """Count the cells and write ``cells.csv``, ``report.html`` and, last, ``differential.json``.

    The caller holds the sample's lock. Documents that stem from the same cells and options are left alone.

    Args:
        sample: a classified sample.
        reference: file of the laboratory's reference intervals; adult textbook intervals without it.
        wbc: white-cell concentration in 10^9/L, for absolute counts.

    Raises:
        SampleStateError: no such sample, or its cells are not classified.
        ConfigError: ``reference`` or ``wbc`` does not hold.
    """
    if wbc is not None and not (math.isfinite(wbc) and 0 < wbc <= 2000):
        raise ConfigError(f"WBC concentration {wbc:g}: a number above 0 and up to 2000, in 10^9/L, was expected.")
    sample.record()
    store = CellStore(sample.cells_path)
    rows = read_rows(store)
    differential = Differential.from_tally(
        count_cells(rows.predicted_class, rows.qc_flags, rows.classes),
        reference=load_reference(reference, rows.classes) if reference else ADULT,
        wbc_1e9_per_l=wbc,
    )
    json_path, csv_path, html_path = document_paths(sample)
    document = build_document(
        sample, store, rows, differential, created=datetime.now(UTC).isoformat(timespec="seconds")
    )
    unchanged = _keep_created(document, json_path)
    _write_if_changed(csv_path, cells_csv(rows))
    content_id = _content_id(document)
    if not _holds(html_path, content_id):
        page = render_page(sample, store, rows, document, content_id=content_id)
        _write_if_changed(html_path, page.encode())
    if not unchanged:
        write_json(json_path, document)
        sample.log("report_written", counted=differential.tally.identified, cells_sha256=rows.digest())
    return differential


def _keep_created(document: dict[str, Any], path: Path) -> bool:
    """True when ``path`` says the same as ``document``, which then takes over its time."""
    try:
        old = read_json(path)
    except SampleStateError:
        return False  # none yet, or damaged: it is written anew
    if not isinstance(old, dict) or not isinstance(old.get("created"), str):
        return False
    # Through JSON and back, for tuples and keys to look as they do in the file.
    if {**json.loads(json.dumps(document)), "created": old["created"]} != old:
        return False
    document["created"] = old["created"]
    return True


def _content_id(document: dict[str, Any]) -> str:
    template = files("wbcpipe.report").joinpath("templates", "report.html.j2").read_bytes()
    return hashlib.sha256(template + json.dumps(document, sort_keys=True).encode()).hexdigest()


def _holds(path: Path, content_id: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as handle:
        return content_id.encode() in handle.read(1024)


def _write_if_changed(path: Path, content: bytes) -> None:
    if path.is_file() and path.read_bytes() == content:
        return
    with write_atomic(path) as handle:
        handle.write(content)
