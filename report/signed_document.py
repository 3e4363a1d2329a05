"""Documents that were signed: where they are kept, and whether a file is one, to the byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wbcpipe.errors import SampleStateError
from wbcpipe.samples.records import DIGEST, json_digest
from wbcpipe.samples.review.journal import journal_path
from wbcpipe.system.files import read_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wbcpipe.samples.differential_record import DifferentialRecord
    from wbcpipe.samples.review.entries import Entry
    from wbcpipe.samples.review.replay import ReviewState, Signature
    from wbcpipe.samples.sample import Sample

__all__ = ["is_signed_content", "missing_entries", "signed_bytes", "signed_path"]


def signed_path(sample: Sample, entry: int) -> Path:
    """Return where the differential that an entry of the journal signed is kept, also when it is
    amended.
    """
    return journal_path(sample).with_name(f"signed_{entry}.json")


def is_signed_content(path: Path, signature: Signature) -> bool:
    """Return whether a file holds what was signed, whichever version of wbcpipe wrote it.

    Raises:
        SampleStateError: it is absent, or not JSON.
    """
    content = read_json(path, remedy="restore it from a copy")
    if isinstance(content, dict):
        content.pop(DIGEST, None)
    return json_digest(content) == signature.sign.differential


def missing_entries(
    sample: Sample, document: DifferentialRecord, entries: Sequence[Entry], state: ReviewState
) -> str:
    """Return which entries a document rests on that the journal does not have.

    Empty if it has them.

    Args:
        sample: its sample.
        document: as it was written earlier.
        entries: of the journal.
        state: after them.
    """
    found, path = document.verification, journal_path(sample)
    if found.journal is not None:
        number = found.journal.entries
        if len(entries) < number or entries[number - 1].id != found.journal.head:
            return (
                f"{path}: does not have the {number} entries on which the report rests: the file "
                f"is missing, was cut, or is another one"
            )
    if found.signed is not None:
        digest = document.digest()
        if not any(signature.sign.differential == digest for signature in state.signatures):
            return (
                f"{path}: does not have the signature of {found.signed_by} at {found.signed}, "
                f"which the report shows"
            )
    return ""


def signed_bytes(sample: Sample, signature: Signature) -> bytes | None:
    """Return the file that was signed, if it is there as it was."""
    path = signed_path(sample, signature.entry.n)
    try:
        return path.read_bytes() if is_signed_content(path, signature) else None
    except (OSError, SampleStateError):
        return None
