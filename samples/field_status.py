"""The fields of a pass that have no frames: ``missing.json`` and ``skipped_fields.json``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wbcpipe.samples.records import MissingFields, SkippedFields

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

__all__ = ["read_missing", "read_skipped", "unrecorded_gaps", "write_missing", "write_skipped"]


def read_missing(raw: Path) -> dict[int, str]:
    """Read the reason of each field that could not be taken.

    Args:
        raw: folder of the pass.

    Raises:
        SampleStateError: ``missing.json`` is damaged.
    """
    record = MissingFields.read_if_present(raw / "missing.json")
    return {} if record is None else dict(record.reasons)


def write_missing(raw: Path, reasons: Mapping[int, str]) -> None:
    """Write the reason of each field that could not be taken."""
    MissingFields(reasons=dict(sorted(reasons.items()))).write(raw / "missing.json")


def read_skipped(raw: Path) -> dict[int, float]:
    """Read the foreground area (um2) of each field that was skipped as empty.

    Args:
        raw: folder of the pass.

    Raises:
        SampleStateError: ``skipped_fields.json`` is damaged.
    """
    record = SkippedFields.read_if_present(raw / "skipped_fields.json")
    return {} if record is None else dict(record.foreground_area_um2)


def write_skipped(raw: Path, foreground_area_um2: Mapping[int, float]) -> None:
    """Write the foreground area (um2) of each field that was skipped as empty."""
    areas = dict(sorted(foreground_area_um2.items()))
    SkippedFields(foreground_area_um2=areas).write(raw / "skipped_fields.json")


def unrecorded_gaps(raw: Path, taken: Collection[int]) -> list[int]:
    """Return the fields before the last one taken that are neither taken nor recorded as missing or
    empty: their files are gone.

    Args:
        raw: folder of the pass.
        taken: fields of the pass that were taken.

    Raises:
        SampleStateError: ``missing.json`` or ``skipped_fields.json`` is damaged.
    """
    first = raw.parent / "brightfield"
    recorded = set(taken)
    for folder in {raw, first} if raw.name == "fluorescence" else {raw}:
        recorded |= {*read_missing(folder), *read_skipped(folder)}
    return [index for index in range(max(taken, default=0)) if index not in recorded]
