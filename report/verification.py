"""The part of ``differential.json`` that says what people did to the count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wbcpipe.report.differential import Differential, count_cells
from wbcpipe.samples.differential_record import (
    ExtraCount,
    JournalReference,
    MachineCount,
    SampleComment,
    SignedReport,
    Verification,
)

if TYPE_CHECKING:
    from wbcpipe.report.differential import Tally
    from wbcpipe.report.reviewed_cells import ReviewedCells
    from wbcpipe.report.rows import CellRows
    from wbcpipe.samples.review.entries import VerificationState
    from wbcpipe.samples.review.replay import ReviewState
    from wbcpipe.samples.review.sign_basis import SignBasis, SignCheck

__all__ = ["Signing", "describe_review"]


@dataclass(frozen=True)
class Signing:
    """A signature, as the document that is signed names it.

    Attributes:
        reader: who signs.
        comment: of the reader.
        checks: results of the sign checks.
    """

    reader: str
    comment: str = ""
    checks: tuple[SignCheck, ...] = ()


def machine_differential(rows: CellRows) -> Differential:
    """Return the differential as the model counted it."""
    return Differential.from_tally(count_cells(rows.predicted_class, rows.qc_flags, rows.classes))


def extra_counts(tally: Tally, basis: SignBasis) -> tuple[ExtraCount, ...]:
    """Return the cells of the classes that are no white cells, per 100 counted white cells."""
    return tuple(
        ExtraCount(
            name=name,
            count=(count := tally.excluded_by_reader.get(name, 0)),
            per_100_wbc=100 * count / tally.identified if tally.identified else None,
        )
        for name, apart in basis.extra_classes.items()
        if apart
    )


def describe_review(
    rows: CellRows,
    reviewed: ReviewedCells,
    state: ReviewState,
    basis: SignBasis,
    signing: Signing | None,
) -> Verification:
    """Describe a review.

    Args:
        rows: the cells as the model classified them.
        reviewed: the same after the review.
        state: of the review, before a signature.
        basis: what else the differential depends on.
        signing: the signature; ``None`` without one.
    """
    if not state.entries and signing is None:
        return Verification(lab=basis.lab)
    machine = machine_differential(rows)
    signed_state: VerificationState = "corrected" if state.corrected else "verified"
    readers = {name for name in reviewed.reader if name} | {
        name for seen in state.looked.values() for name in seen
    }
    return Verification(
        state=signed_state if signing else "preliminary",
        signed_by=signing.reader if signing else None,
        signed=basis.created if signing else None,
        comment=signing.comment if signing else "",
        correction=state.reason if signing else "",
        corrects=_corrected_report(state) if signing else None,
        journal=JournalReference(entries=state.entries, head=state.head) if state.entries else None,
        readers=tuple(sorted(readers)),
        looked=int(reviewed.looked.sum()),
        changed=int(reviewed.changed.sum()),
        lost=len({cell for cells in state.lost().values() for cell in cells}),
        voided="" if signing else state.voided,
        checks=signing.checks if signing else (),
        comments=tuple(
            SampleComment(reader=one.reader, time=one.time, text=one.text)
            for one in state.comments()
            if one.cell is None
        ),
        extra=extra_counts(reviewed.tally(rows.qc_flags), basis),
        machine=tuple(
            MachineCount(
                name=line.name,
                count=line.count,
                percent=line.percent,
                interval_percent=line.interval_percent,
            )
            for line in machine.classes
        ),
        lab=basis.lab,
    )


def _corrected_report(state: ReviewState) -> SignedReport | None:
    """Return the report that a signature replaces, if the last one was amended."""
    if not state.corrected or not state.signatures:
        return None
    last = state.signatures[-1]
    return SignedReport(
        entry=last.entry.n,
        signed_by=last.entry.reader,
        signed=last.sign.basis.created,
        sha256=last.sign.differential,
    )
