"""Planned = taken + missing, counted from the files on disk, never from what the run believes it did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wbcpipe.acquire.frames import fields_on_disk
from wbcpipe.acquire.writer import read_missing
from wbcpipe.errors import AcquisitionError
from wbcpipe.samples import write_json

if TYPE_CHECKING:
    from collections.abc import Container, Iterable
    from pathlib import Path

__all__ = ["Outcome", "drop_stale", "reconcile"]


@dataclass(frozen=True)
class Outcome:
    """What became of the fields that were wanted.

    Attributes:
        taken: indices of those with a file, in order.
        missing: index to the reason of the others.
    """

    taken: tuple[int, ...]
    missing: dict[int, str]


def reconcile(raw: Path, wanted: Iterable[int], empty: Container[int] = ()) -> Outcome:
    """Look each wanted field up on the disk.

    Args:
        raw: folder of the fields and of ``missing.json``.
        wanted: indices of planned fields.
        empty: those that were skipped as bare glass.

    Raises:
        AcquisitionError: a field is neither on disk nor recorded as missing, or is both; the text names them.
    """
    there, recorded = fields_on_disk(raw), read_missing(raw)
    indices = [index for index in sorted(set(wanted)) if index not in empty]
    lost = [index for index in indices if index not in there and index not in recorded]
    twice = [index for index in indices if index in there and index in recorded]
    if lost or twice:
        parts = [f"fields {_some(lost)} have neither a file nor an entry in missing.json"] if lost else []
        parts += [f"fields {_some(twice)} have a file and an entry in missing.json"] if twice else []
        raise AcquisitionError(
            f"{raw}: {'; '.join(parts)}. Nothing but wbcpipe may write there; run the same command again."
        )
    return Outcome(
        tuple(index for index in indices if index in there),
        {index: recorded[index] for index in indices if index in recorded},
    )


def drop_stale(raw: Path, there: Iterable[int]) -> None:
    """Take fields that are whole on disk out of ``missing.json``: a kill fell between the two writings."""
    recorded = read_missing(raw)
    stale = recorded.keys() & set(there)
    if stale:
        kept = {str(index): text for index, text in sorted(recorded.items()) if index not in stale}
        write_json(raw / "missing.json", kept)


def _some(indices: list[int]) -> str:
    shown = ", ".join(str(index) for index in indices[:20])
    return shown + (f" and {len(indices) - 20} more" if len(indices) > 20 else "")
