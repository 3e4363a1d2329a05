"""Sign a differential, withdraw the signature, or open it for correction."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pydantic import ValidationError

from wbcpipe.report.document import build_document
from wbcpipe.report.reviewed_sample import ReportOptions
from wbcpipe.report.stage import write_documents
from wbcpipe.samples.review.conflicts import find_conflict
from wbcpipe.samples.review.entries import Amend, Sign, Unsign
from wbcpipe.samples.review.journal import JournalConflictError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from wbcpipe.report.reviewed_sample import ReviewedSample
    from wbcpipe.report.verification import Signing
    from wbcpipe.samples.cell_store import CellStore
    from wbcpipe.samples.review.entries import Entry
    from wbcpipe.samples.review.journal import Journal
    from wbcpipe.samples.review.sign_basis import SignCheck
    from wbcpipe.samples.sample import Sample

__all__ = ["SignRefusedError", "reopen", "sign"]

WAIT_S = 10.0


class SignRefusedError(Exception):
    """Hard checks failed: nothing was signed.

    Attributes:
        failed: their results.
    """

    def __init__(self, failed: Sequence[SignCheck]) -> None:
        super().__init__("; ".join(check.text for check in failed))
        self.failed = tuple(failed)


def sign(
    sample: Sample,
    store: CellStore,
    journal: Journal,
    review: Callable[[], tuple[ReviewedSample, Sequence[SignCheck]]],
    signing: Signing,
    base: str,
) -> tuple[Entry, ...]:
    """Sign the differential of the journal as it is now, and write the documents.

    Return the entries after ``base``.

    If the program dies between the two, the next `wbcpipe report` writes the documents that were
    signed.

    Args:
        sample: under review.
        store: its cells.
        journal: of the sample.
        review: returns the sample after the review, and the results of the sign checks; called
            while the journal is held.
        signing: who signs, and the comment.
        base: `id` of the last entry that the reader had seen.

    Raises:
        SignRefusedError: a hard check failed.
        JournalConflictError: the sample was changed meanwhile, or is signed already; nothing was
            written.
        ValueError: the comment or the reader's name is refused.
        SampleBusyError: a stage works on the sample.
    """
    with sample.lock("sign", wait_s=WAIT_S):
        with journal.transaction() as transaction:
            newer = transaction.after(base)
            reviewed, checks = review()
            if failed := [check for check in checks if check.hard and not check.passed]:
                raise SignRefusedError(failed)
            full = dataclasses.replace(signing, checks=tuple(checks))
            document = build_document(sample, store, dataclasses.replace(reviewed, signing=full))
            counts = {entry.name: entry.count for entry in document.classes}
            try:
                action = Sign(
                    differential=document.digest(),
                    counts=counts,
                    checks=full.checks,
                    basis=reviewed.basis,
                    comment=full.comment,
                )
            except ValidationError as error:
                raise ValueError(f"comment: {error.errors()[0]['msg']}") from error
            if reason := find_conflict([action], transaction.entries, newer, signing.reader):
                raise JournalConflictError(reason, newer)
            entries = transaction.append([action], reader=signing.reader, newer=newer)
        write_documents(sample)
    return (*newer, *entries)


def reopen(
    sample: Sample,
    journal: Journal,
    action: Unsign | Amend,
    *,
    reader: str,
    base: str,
    lab: Path | None = None,
) -> tuple[Entry, ...]:
    """Withdraw a signature, or open a signed sample for correction.

    Return the entries after ``base``.

    The document that was signed is kept as ``review/signed_<entry>.json``. Errors as for `sign`.
    """
    with sample.lock("unsign", wait_s=WAIT_S):
        entries = journal.append([action], reader=reader, base=base)
        write_documents(sample, ReportOptions(lab=lab))
    return entries
