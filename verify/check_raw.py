"""Check the raw fields of a sample, and the records and journals beside them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from wbcpipe.errors import SampleStateError
from wbcpipe.samples.belonging import place_of, sample_identity, why_foreign
from wbcpipe.samples.field_status import read_missing, read_skipped, unrecorded_gaps
from wbcpipe.samples.fields import PASSES, field_path, fields_on_disk, read_field, read_info
from wbcpipe.samples.freed import freed_path, missing_here, read_freed
from wbcpipe.samples.light_record import light_path, read_exposures
from wbcpipe.samples.records import FocusRecord, SlideTransformRecord
from wbcpipe.samples.scan_outcome import is_outcome_lost, load_scan_outcome
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
_WHY_ENDED: Final = "why the scan ended; `wbcpipe run` writes it anew when it scans to the end"
_FRAMES: Final = (
    "the frames; `wbcpipe run` takes the field again while the same slide is on the microscope"
)


def check_raw(findings: Findings, record: SampleRecord | None, fields: Sequence[int]) -> None:
    """Check ``raw/``, ``scan.json`` and ``log.jsonl``.

    Args:
        findings: receives the damages.
        record: of the sample, if it can be read.
        fields: whose cells are in ``cells.zarr``.
    """
    sample = findings.sample
    there: set[int] = set()
    freed = _check_freed(findings)
    for name in PASSES:
        if sample.raw_path(name).exists():
            there |= _check_pass(findings, record, name, freed.get(name, set()))
    for index in fields:
        if index not in there:
            path = sample.raw_path("single") / f"field {index}"
            findings.add(
                path,
                "the file is missing, but cells.zarr holds the field's cells",
                "",
                lost=_FRAMES,
            )
    if staining_path(sample).exists():
        with findings.file(staining_path(sample), "", lost="when the slide was stained"):
            read_staining(sample)
    scanned = record is not None and record.kind == "scope" and fields
    outcome_path = sample.path / "scan.json"
    if outcome_path.exists():
        with findings.file(outcome_path, "", lost=_WHY_ENDED):
            load_scan_outcome(sample)
    elif is_outcome_lost(sample):
        problem = "the file is missing, but log.jsonl records the end of the scan"
        findings.add(outcome_path, problem, "", lost=_WHY_ENDED)
    if scanned or (sample.path / "log.jsonl").exists():
        _check_lines(
            findings, sample.path / "log.jsonl", "events of the run; results do not depend on them"
        )


def _check_freed(findings: Findings) -> dict[str, set[int]]:
    """Check which fields were freed; return their indices by pass."""
    sample, freed = findings.sample, None
    path, fields = freed_path(sample), dict[str, set[int]]()
    if not path.exists():
        return fields
    with findings.file(path, "", lost="which bucket holds the fields that were freed here"):
        freed = read_freed(sample)
    for one in missing_here(sample, freed):
        fields.setdefault(one.pass_name, set()).add(one.index)
    findings.freed = sum(map(len, fields.values()))
    findings.freed_to = freed.location if freed is not None and findings.freed else ""
    return fields


def _check_pass(
    findings: Findings, record: SampleRecord | None, name: Pass, freed: set[int]
) -> set[int]:
    """Check the folder of a pass; return the fields that have a file there, or were freed."""
    raw = findings.sample.raw_path(name)
    taken = fields_on_disk(raw)
    read = read_info if findings.quick else read_field
    for done, path in enumerate(taken.values(), 1):
        with findings.file(path, "", lost=_FRAMES):
            read(path)
        findings.progress(f"fields, {name}", done, len(taken))
    with findings.file(
        raw / "missing.json", "", lost="why fields are missing; a run tries them again"
    ):
        read_missing(raw)
    with findings.file(
        raw / "skipped_fields.json", "", lost="which fields showed bare glass; a run looks again"
    ):
        read_skipped(raw)
    with contextlib.suppress(SampleStateError):  # which is found above
        for index in unrecorded_gaps(raw, {*taken, *freed}):
            problem = "the file is missing, and no record says why"
            findings.add(field_path(raw, index), problem, "", lost=_FRAMES)
    scope = record is not None and record.kind == "scope"
    if scope and taken:
        _check_focus(findings, raw)
        _check_light(findings, raw, {*taken, *freed}, name)
    transforms = raw / "slide_transforms.json"
    if name == "fluorescence" and (scope or transforms.exists()):
        with findings.file(
            transforms, "", lost="where the slide was found; a run locates it again"
        ):
            SlideTransformRecord.read(transforms)
    return set(taken) | freed


def _check_focus(findings: Findings, raw: Path) -> None:
    path = raw / "focus.json"
    with findings.file(path, _RUN):
        FocusRecord.read(path)


def _check_light(findings: Findings, raw: Path, taken: set[int], name: Pass) -> None:
    """Check the ledger of light: every line, and a line for every field that fluorescence has
    lit.
    """
    if "fluorescence" not in PASSES[name]:
        return
    path, lost = (
        light_path(raw),
        "exposures of attempts that failed; those of fields are in their files",
    )
    _check_lines(findings, path, lost)
    with findings.file(path, "", lost=lost, count=False):
        without = sorted(taken - {exposure.field for exposure in read_exposures(raw)})
        if without:
            findings.add(
                path, f"no exposure of fields {', '.join(map(str, without[:5]))}", "", lost=lost
            )


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
                stated = str(parse_json_line(line).get("belongs_to", ""))
            except ValueError as error:
                findings.add(path, f"line {number} is damaged ({error})", "", lost=lost)
                return
            # A line of light.jsonl names its place too, a line of log.jsonl its sample alone.
            here = place_of(path) if stated == place_of(path) else sample_identity(path)
            if foreign := why_foreign(stated, here):
                findings.add(path, f"line {number} {foreign}", "", lost=lost)
                return
