"""Check the raw fields of a sample, and the records and journals beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from wbcpipe.samples.field_status import read_missing, read_skipped
from wbcpipe.samples.fields import PASSES, fields_on_disk, read_field, read_info
from wbcpipe.samples.light_record import light_path, read_exposures
from wbcpipe.samples.records import FocusRecord, SlideTransformRecord
from wbcpipe.samples.scan_outcome import load_scan_outcome
from wbcpipe.samples.staining_record import read_staining, staining_path
from wbcpipe.system.files import file_errors, parse_json_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wbcpipe.samples.fields import Pass
    from wbcpipe.samples.records import SampleRecord
    from wbcpipe.verify.findings import Findings

__all__ = ["check_raw"]

_RUN: Final = "wbcpipe run --sample {name}"
_FRAMES: Final = "the frames; `wbcpipe run` takes the field again while the same slide is on the microscope"


def check_raw(findings: Findings, record: SampleRecord | None, fields: Sequence[int]) -> None:
    """Check ``raw/``, ``scan.json`` and ``log.jsonl``.

    Args:
        findings: receives the damages.
        record: of the sample, if it can be read.
        fields: whose cells are in ``cells.zarr``.
    """
    sample = findings.sample
    there: set[int] = set()
    for name in PASSES:
        if sample.raw_path(name).exists():
            there |= _check_pass(findings, record, name)
    for index in fields:
        if index not in there:
            path = sample.raw_path("single") / f"field {index}"
            findings.add(path, "the file is missing, but cells.zarr holds the field's cells", "", lost=_FRAMES)
    if staining_path(sample).exists():
        with findings.file(staining_path(sample), "", lost="when the slide was stained"):
            read_staining(sample)
    scanned = record is not None and record.kind == "scope" and fields
    if (sample.path / "scan.json").exists():
        with findings.file(sample.path / "scan.json", "", lost="why the scan ended"):
            load_scan_outcome(sample)
    if scanned or (sample.path / "log.jsonl").exists():
        _check_lines(findings, sample.path / "log.jsonl", "events of the run; results do not depend on them")


def _check_pass(findings: Findings, record: SampleRecord | None, name: Pass) -> set[int]:
    """Check the folder of a pass; return the fields that have a file there."""
    raw = findings.sample.raw_path(name)
    taken = fields_on_disk(raw)
    read = read_info if findings.quick else read_field
    for done, path in enumerate(taken.values(), 1):
        with findings.file(path, "", lost=_FRAMES):
            read(path)
        findings.progress(f"fields, {name}", done, len(taken))
    recorded: set[int] = set()
    with findings.file(raw / "missing.json", "", lost="why fields are missing; a run tries them again"):
        recorded |= set(read_missing(raw))
    with findings.file(raw / "skipped_fields.json", "", lost="which fields showed bare glass; a run looks again"):
        recorded |= set(read_skipped(raw))
    scope = record is not None and record.kind == "scope"
    if scope and taken:
        _check_gaps(findings, raw, taken, recorded)
        _check_focus(findings, raw)
        _check_light(findings, raw, taken, name)
    transforms = raw / "slide_transforms.json"
    if name == "fluorescence" and (scope or transforms.exists()):
        with findings.file(transforms, "", lost="where the slide was found; a run locates it again"):
            SlideTransformRecord.read(transforms)
    return set(taken)


def _check_gaps(findings: Findings, raw: Path, taken: dict[int, Path], recorded: set[int]) -> None:
    """Find fields before the last one that neither have a file nor are recorded as missing or empty."""
    if raw.name == "fluorescence":
        recorded = (
            recorded | set(read_skipped(raw.parent / "brightfield")) | set(read_missing(raw.parent / "brightfield"))
        )
    for index in range(max(taken)):
        if index not in taken and index not in recorded:
            path = raw / f"field_{index:05d}.ome.tif"
            findings.add(path, "the file is missing, and no record says why", "", lost=_FRAMES)


def _check_focus(findings: Findings, raw: Path) -> None:
    path = raw / "focus.json"
    with findings.file(path, _RUN):
        FocusRecord.read(path)


def _check_light(findings: Findings, raw: Path, taken: dict[int, Path], name: Pass) -> None:
    """Check the ledger of light: every line, and a line for every field that fluorescence has lit."""
    if "fluorescence" not in PASSES[name]:
        return
    path, lost = light_path(raw), "exposures of attempts that failed; those of fields are in their files"
    _check_lines(findings, path, lost)
    with findings.file(path, "", lost=lost, count=False):
        without = sorted(set(taken) - {exposure.field for exposure in read_exposures(raw)})
        if without:
            findings.add(path, f"no exposure of fields {', '.join(map(str, without[:5]))}", "", lost=lost)


def _check_lines(findings: Findings, path: Path, lost: str) -> None:
    """Check each line of a journal; the last one may be cut short by a crash, and is told too."""
    with findings.file(path, "", lost=lost):
        with file_errors(path, "restore it"):
            lines = path.read_bytes().split(b"\n")
        if not any(lines):
            findings.add(path, "empty", "", lost=lost)
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            try:
                parse_json_line(line)
            except ValueError as error:
                findings.add(path, f"line {number} is damaged ({error})", "", lost=lost)
                return
