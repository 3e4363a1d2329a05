"""Check the intermediate results of a sample."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from wbcpipe.samples.fields import field_path, passes_digest, passes_on_disk
from wbcpipe.samples.records import FieldPredictions
from wbcpipe.segment.field_cells import stored_field
from wbcpipe.segment.slide_statistics import load_slide_statistics
from wbcpipe.segment.work_files import check_work_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wbcpipe.verify.findings import Findings

__all__ = ["check_work"]

_SEGMENT: Final = "wbcpipe segment --sample {name}"
_RUN: Final = "wbcpipe run --sample {name}"
_NAME: Final = re.compile(r"field_(\d{5,})\.(npz|json)")


def check_work(findings: Findings, fields: Sequence[int]) -> None:
    """Check ``work/``, which may be absent as a whole.

    Args:
        findings: receives the damages.
        fields: whose cells are in ``cells.zarr``.
    """
    work = findings.sample.work_path
    if not work.is_dir():
        return
    path = work / "slide_statistics.npz"
    findings.count(path)
    if check_work_file(path) is None:
        findings.add(path, "missing or damaged (checksum)", _SEGMENT)
    elif load_slide_statistics(work, lambda index: _frames_digest(findings, index)) is None:
        findings.add(path, "of other frames than those in raw/", _SEGMENT)
    damaged = set()
    for folder, suffix in (("fields", "npz"), ("predictions", "json")):
        if not (work / folder).is_dir():
            continue
        names = {entry.name for entry in (work / folder).iterdir()}
        expected = {f"field_{index:05d}.{suffix}" for index in fields}
        for name in sorted(expected - names):
            damaged.add(name)
            findings.add(
                work / folder / name, "the file is missing", _SEGMENT if suffix == "npz" else _RUN
            )
        for done, name in enumerate(sorted(names), 1):
            match = _NAME.fullmatch(name)
            if match and match[2] == "npz":
                _check_field(findings, folder, name, int(match[1]))
            elif match:
                _check_predictions(findings, folder, name, int(match[1]))
            findings.progress(f"results of {folder}", done, len(names))


def _frames_digest(findings: Findings, index: int) -> str:
    """Return the checksums that a field's files state.

    Empty if one is damaged, which has been told.
    """
    raw = findings.sample.path / "raw"
    if any(findings.is_damaged(field_path(raw / name, index)) for name in passes_on_disk(raw)):
        return ""
    return passes_digest(raw, index)


def _check_field(findings: Findings, folder: str, name: str, index: int) -> None:
    path = findings.sample.work_path / folder / name
    findings.count(path)
    found, frames = stored_field(path), _frames_digest(findings, index)
    if found is None:
        findings.add(path, "damaged (checksum)", _SEGMENT)
    elif found.field_index != index:
        findings.add(path, f"holds the cells of field {found.field_index}", _SEGMENT)
    elif frames and found.input_digest != frames:
        findings.add(path, "of other frames than those in raw/", _SEGMENT)


def _check_predictions(findings: Findings, folder: str, name: str, index: int) -> None:
    path = findings.sample.work_path / folder / name
    with findings.file(path, _RUN):
        found = FieldPredictions.read(path).field_index
        if found != index:
            findings.add(path, f"holds the classes of field {found}", _RUN)
