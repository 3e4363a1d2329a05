"""Carry a review over to the cells of a new segmentation, and void a signature of other cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wbcpipe.samples.review.cell_identity import match_keys
from wbcpipe.samples.review.entries import SYSTEM_READER, CellsReplaced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wbcpipe.samples.review.journal import Journal
    from wbcpipe.samples.review.replay import ReviewState

__all__ = ["carry_over"]


def carry_over(journal: Journal, keys: Sequence[str], digest: str) -> bool:
    """Note in a journal that the cells or their classes are others now; return whether they are.

    The cells are others if one that the journal names is there no more. Their classes are others if
    what was signed rests on another ``digest``: the signature is voided.

    Args:
        journal: of the sample.
        keys: names of all cells of the sample now.
        digest: of the cell table and the classes now.

    Raises:
        SampleStateError: the journal is damaged.
    """
    if not journal.entries() or _replacement(journal.state(), keys, digest) is None:
        return False
    with journal.transaction() as transaction:
        entry = _replacement(transaction.state, keys, digest)
        if entry is not None:
            transaction.append([entry], reader=SYSTEM_READER)
    return True


def _replacement(state: ReviewState, keys: Sequence[str], digest: str) -> CellsReplaced | None:
    named, present = state.cells(), set(keys)
    signed = state.signed.sign.basis.cells_sha256 if state.signed else ""
    if signed in ("", digest) and named <= present:
        return None
    # A name that stays keeps its cell: it takes part in the match, so that no other is matched to
    # it.
    found = match_keys(sorted(named), keys)
    renamed = {earlier: now for earlier, now in found.matched.items() if earlier != now}
    return CellsReplaced(old=signed, new=digest, matched=renamed, unmatched=found.unmatched)
