"""A classified sample with its review: what every document of it is made from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from wbcpipe.errors import ConfigError
from wbcpipe.laboratory.lab_file import Lab, find_lab
from wbcpipe.report.differential import ADULT, Differential, Reference
from wbcpipe.report.reference import lab_reference, load_reference
from wbcpipe.report.reviewed_cells import ReviewedCells, review_cells, row_keys
from wbcpipe.report.rows import CellRows, read_rows
from wbcpipe.report.verification import Signing
from wbcpipe.samples.review.carry_over import carry_over
from wbcpipe.samples.review.journal import Journal, journal_path
from wbcpipe.samples.review.replay import ReviewState, Signature, replay
from wbcpipe.samples.review.sign_basis import ReferenceUsed, SignBasis
from wbcpipe.system.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wbcpipe.samples.cell_store import CellStore
    from wbcpipe.samples.review.entries import Entry
    from wbcpipe.samples.sample import Sample

__all__ = ["ReportOptions", "ReviewedSample", "new_basis", "read_reviewed", "replay_signature"]


@dataclass(frozen=True)
class ReportOptions:
    """What a user gives for a report.

    Attributes:
        reference: file of the laboratory's reference intervals; those of ``lab`` by default, else
            textbook ones.
        wbc_1e9_per_l: white-cell concentration, for absolute counts.
        lab: the laboratory's file; by default ``lab.toml`` in the data root, if it is there.
    """

    reference: Path | None = None
    wbc_1e9_per_l: float | None = None
    lab: Path | None = None


@dataclass(frozen=True)
class ReviewedSample:
    """The cells, the review, and what else the differential depends on.

    Attributes:
        rows: the cells as the model classified them.
        reviewed: the same after the review.
        state: of the review; of a signed sample, before the signature.
        basis: what else the differential depends on.
        signing: the signature in force; ``None`` without one.
        signature: its entry.
    """

    rows: CellRows
    reviewed: ReviewedCells
    state: ReviewState = field(default_factory=ReviewState)
    basis: SignBasis = field(kw_only=True)
    signing: Signing | None = None
    signature: Signature | None = None

    @property
    def differential(self) -> Differential:
        """The percentages, intervals and flags after the review."""
        return Differential.from_tally(
            self.reviewed.tally(self.rows.qc_flags),
            reference=Reference(self.basis.reference.percent, self.basis.reference.source),
            wbc_1e9_per_l=self.basis.wbc_1e9_per_l,
        )


def new_basis(rows: CellRows, reference: Reference, wbc: float | None, lab: Lab) -> SignBasis:
    """Return what a differential depends on, as of now.

    Args:
        rows: the cells.
        reference: intervals for the flags.
        wbc: white-cell concentration in 10^9/L.
        lab: the laboratory's settings.
    """
    return SignBasis(
        cells_sha256=rows.digest(),
        reference=ReferenceUsed(percent=dict(reference.percent), source=reference.source),
        wbc_1e9_per_l=wbc,
        extra_classes=lab.per_100_white_cells(),
        lab=lab.file,
        software=VERSION,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def read_reviewed(
    sample: Sample, store: CellStore, options: ReportOptions | None = None
) -> ReviewedSample:
    """Read the cells and the journal of a sample.

    If the cells were segmented or classified again since the review, the journal notes that first.

    Args:
        sample: a classified sample.
        store: its cells.
        options: of the user.

    Raises:
        SampleStateError: the cells are not classified, the journal is damaged, or a class in it is
            not known.
        ConfigError: an option is not valid, or contradicts what was signed.
    """
    given = options or ReportOptions()
    wbc = given.wbc_1e9_per_l
    if wbc is not None and not (math.isfinite(wbc) and 0 < wbc <= 2000):
        raise ConfigError(
            f"--wbc {wbc:g} is no white-cell concentration; give a number above 0 and up to 2000, "
            f"in 10^9/L."
        )
    rows = read_rows(store)
    keys = row_keys(rows)
    journal = Journal(journal_path(sample))
    carry_over(journal, keys, rows.digest())
    state = journal.state()
    if state.signed is not None:
        if given.reference or wbc is not None or given.lab:
            raise ConfigError(
                f"sample {sample.name!r} is signed by {state.signed.entry.reader} with its own "
                f"reference intervals and concentration; withdraw or amend the signature before "
                "--reference, --wbc or --lab."
            )
        return replay_signature(rows, journal.entries(), state.signed, keys)
    lab = find_lab(sample.path.parent, given.lab)
    # A sample that was signed keeps what it was signed with until the user gives another.
    before = state.signatures[-1].sign.basis if state.signatures else None
    default = Reference(before.reference.percent, before.reference.source) if before else ADULT
    reference = (
        load_reference(given.reference, rows.classes)
        if given.reference
        else lab_reference(lab, sample) or default
    )
    basis = new_basis(rows, reference, before.wbc_1e9_per_l if before and wbc is None else wbc, lab)
    return ReviewedSample(
        rows, review_cells(rows, state, basis.extra_classes, keys), state, basis=basis
    )


def replay_signature(
    rows: CellRows,
    entries: Sequence[Entry],
    signature: Signature,
    keys: Sequence[str] | None = None,
) -> ReviewedSample:
    """Return a sample as it was signed: the journal is replayed up to the signature.

    Args:
        rows: the cells.
        entries: all of the journal.
        signature: one of them.
        keys: of the cells, if they are known.

    Raises:
        SampleStateError: a class in the journal is not known.
    """
    state = replay(entries[: signature.entry.n - 1])
    sign = signature.sign
    return ReviewedSample(
        rows,
        review_cells(rows, state, sign.basis.extra_classes, keys),
        state,
        basis=sign.basis,
        signing=Signing(signature.entry.reader, sign.comment, sign.checks),
        signature=signature,
    )
