"""A sample under review.

Its cells, differential and doubt as they are now, and what a reader does to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wbcpipe.classify.uncertainty.probability_calibration import fuse
from wbcpipe.errors import SampleStateError
from wbcpipe.report.differential import ADULT, Differential, Reference, count_cells
from wbcpipe.report.document import count_fields, document_paths, read_document
from wbcpipe.report.gates import check_quality
from wbcpipe.report.model_checks import check_model
from wbcpipe.report.reference import lab_reference
from wbcpipe.report.reviewed_cells import ReviewedCells, review_cells
from wbcpipe.report.reviewed_sample import ReviewedSample, new_basis
from wbcpipe.report.verification import Signing, extra_counts
from wbcpipe.review.signing.checks import sign_checks
from wbcpipe.review.signing.sign import reopen, sign
from wbcpipe.review.statistics.remaining_doubt import (
    NOT_COUNTED,
    UNIDENTIFIED_CLASS,
    RemainingDoubt,
    UnreviewedCells,
    remaining_doubt,
)
from wbcpipe.samples.cell_columns import UNIDENTIFIED
from wbcpipe.samples.review.carry_over import carry_over
from wbcpipe.samples.review.conflicts import find_conflict
from wbcpipe.samples.review.entries import (
    ARTEFACT,
    NOT_CLASSED,
    Adjudicate,
    Amend,
    Assign,
    Call,
    Look,
    Unsign,
    parse_action,
)
from wbcpipe.samples.review.journal import JournalConflictError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.laboratory.lab_file import Lab
    from wbcpipe.report.rows import CellRows
    from wbcpipe.samples.cell_store import CellStore
    from wbcpipe.samples.review.entries import Action, Entry
    from wbcpipe.samples.review.journal import Journal
    from wbcpipe.samples.review.sign_basis import SignBasis, SignCheck
    from wbcpipe.samples.sample import Sample

__all__ = ["ReviewSession"]

#: Of the cells to look at next, an answer names the first ones.
_MAX_NEXT: Final = 200


@dataclass(frozen=True)
class _Now:
    """What follows from the journal up to its entry ``head``."""

    head: str
    basis: SignBasis
    reviewed: ReviewedCells
    differential: Differential
    doubt: RemainingDoubt
    checks: tuple[SignCheck, ...]


class ReviewSession:
    """One sample under review; threads may share it.

    Args:
        sample: a classified sample.
        store: its cells.
        rows: the cells as the model classified them.
        keys: N names of the cells, see `report.reviewed_cells.row_keys`.
        journal: of the sample.
        lab: settings of the laboratory.

    Raises:
        SampleStateError: the journal, or the report that gives the reference intervals, is damaged.
    """

    def __init__(
        self,
        sample: Sample,
        store: CellStore,
        rows: CellRows,
        keys: Sequence[str],
        journal: Journal,
        lab: Lab,
    ) -> None:
        self.sample, self.store, self.rows, self.keys, self.journal, self.lab = (
            sample,
            store,
            rows,
            keys,
            journal,
            lab,
        )
        carry_over(journal, keys, rows.digest())
        record = sample.record()
        self._model = check_model(rows, sample.name, record.kind)
        self._fields = count_fields(sample, record)
        self._limits = record.quality
        self._probability = _fused(rows)
        self._machine = count_cells(rows.predicted_class, rows.qc_flags, rows.classes)
        self._report_mark: object = None
        self._reference: Reference = ADULT
        self._wbc: float | None = None
        self._row_of = {key: row for row, key in enumerate(keys)}
        self._index = {name: number for number, name in enumerate(rows.classes)}
        self._cached: _Now | None = None

    @property
    def known_classes(self) -> tuple[str, ...]:
        """Everything that a reader may say a cell is."""
        extra = self.lab.per_100_white_cells()
        return tuple(
            dict.fromkeys((*self.rows.classes, *extra, UNIDENTIFIED, NOT_CLASSED, ARTEFACT))
        )

    def describe_classes(self) -> dict[str, Any]:
        """Return the classes, those of the laboratory, and the key of each, for JSON."""
        return {
            "classes": list(self.rows.classes),
            "extra_classes": [
                {"name": extra.name, "meaning": extra.meaning, "per_100_wbc": not extra.white_cell}
                for extra in self.lab.extra_classes
            ],
            "keys": self.lab.key_map(self.rows.classes),
        }

    def columns(self) -> dict[str, list[Any]]:
        """Return what the review says of each cell: columns ``now, looked, changed, excluded,
        doubt``, for JSON.
        """
        with self.journal.held():
            now = self._now()
            return {
                "now": list(now.reviewed.now),
                "looked": now.reviewed.looked.astype(int).tolist(),
                "changed": now.reviewed.changed.astype(int).tolist(),
                "excluded": list(now.reviewed.exclusion_reason),
                "doubt": [round(value, 6) for value in now.doubt.doubt.tolist()],
            }

    def differential(self) -> dict[str, Any]:
        """Return the differential before and after the review, and when the review may stop, for
        JSON.
        """
        with self.journal.held():
            now = self._now()
            tally = now.differential.tally
            reference = Reference(now.basis.reference.percent, now.basis.reference.source)
            return {
                "before": _lines(Differential.from_tally(self._machine, reference=reference)),
                "after": _lines(now.differential),
                "counted": tally.identified,
                "unidentified": tally.unidentified,
                "not_classed": tally.excluded_by_reader.get(NOT_CLASSED, 0),
                "artefact": tally.excluded_by_reader.get(ARTEFACT, 0),
                "extra": [item.model_dump(mode="json") for item in extra_counts(tally, now.basis)],
                "stop": self._stop(now),
            }

    def checks(self) -> list[dict[str, Any]]:
        """Return the results of the sign checks, for JSON."""
        with self.journal.held():
            return [check.model_dump(mode="json") for check in self._now().checks]

    def append(
        self, contents: Sequence[Action | Mapping[str, Any]], *, reader: str, base: str
    ) -> tuple[Entry, ...]:
        """Append a reader's edits; return the entries after ``base``, own ones last.

        The class that a cell had before an edit, and the class with which it was looked at, are
        those of the journal.

        Args:
            contents: actions, or what JSON holds of them.
            reader: name of the person.
            base: ``id`` of the last entry that the person had seen.

        Raises:
            JournalConflictError: a newer entry concerns the same; nothing was written.
            ValueError: an action, a cell or a class is not known.
            SampleBusyError, DiskFullError: see `Journal.append`.
        """
        actions = [
            self._check(parse_action(item) if isinstance(item, Mapping) else item)
            for item in contents
        ]
        with self.journal.transaction() as transaction:
            newer = transaction.after(base)
            if reason := find_conflict(actions, transaction.entries, newer, reader):
                raise JournalConflictError(reason, newer)
            return (
                *newer,
                *transaction.append(self._complete(actions), reader=reader, newer=newer),
            )

    def sign(self, *, reader: str, base: str, comment: str = "") -> tuple[Entry, ...]:
        """Sign the differential as it is now; see `review.signing.sign.sign`."""

        def reviewed() -> tuple[ReviewedSample, Sequence[SignCheck]]:
            now = self._now()
            return ReviewedSample(
                self.rows, now.reviewed, self.journal.state(), basis=self._new_basis()
            ), now.checks

        return sign(self.sample, self.store, self.journal, reviewed, Signing(reader, comment), base)

    def unsign(self, *, reader: str, base: str, why: str) -> tuple[Entry, ...]:
        """Withdraw the signature; raise ValueError without a reason.

        See `review.signing.sign.reopen`.
        """
        action = parse_action({"action": "unsign", "why": why})
        assert isinstance(action, Unsign)
        return reopen(
            self.sample, self.journal, action, reader=reader, base=base, lab=self.lab.path
        )

    def amend(self, *, reader: str, base: str, why: str) -> tuple[Entry, ...]:
        """Open a signed sample for correction; raise ValueError without a reason.

        See `review.signing.sign.reopen`.
        """
        action = parse_action({"action": "amend", "why": why})
        assert isinstance(action, Amend)
        return reopen(
            self.sample, self.journal, action, reader=reader, base=base, lab=self.lab.path
        )

    def _now(self) -> _Now:
        """Return what follows from the journal and the last report.

        Computed once for each of their states.
        """
        state = self.journal.state()
        if (
            mark := _mark(document_paths(self.sample)[0])
        ) != self._report_mark or self._cached is None:
            self._report_mark, self._cached = mark, None
            self._reference, self._wbc = _of_last_report(self.sample, self.lab)
        if self._cached is None or self._cached.head != state.head:
            basis = state.signed.sign.basis if state.signed else self._new_basis()
            reviewed = review_cells(self.rows, state, basis.extra_classes, self.keys)
            tally = reviewed.tally(self.rows.qc_flags)
            reference = Reference(basis.reference.percent, basis.reference.source)
            differential = Differential.from_tally(
                tally, reference=reference, wbc_1e9_per_l=basis.wbc_1e9_per_l
            )
            doubt = self._doubt(reviewed, differential)
            figures = self.store.attributes.field_quality
            quality = check_quality(
                self.rows, tally, self._model, self._fields, figures, self._limits
            )
            decisive = doubt.decisive if self._is_calibrated() else doubt.unreviewed
            checks = (
                state.signed.sign.checks
                if state.signed
                else sign_checks(tally, quality, decisive, self.lab.sign)
            )
            self._cached = _Now(state.head, basis, reviewed, differential, doubt, checks)
        return self._cached

    def _new_basis(self) -> SignBasis:
        """Return what a differential depends on now."""
        return new_basis(self.rows, self._reference, self._wbc, self.lab)

    def _doubt(self, reviewed: ReviewedCells, differential: Differential) -> RemainingDoubt:
        known = len(self.rows.classes)
        now = np.array(
            [
                NOT_COUNTED
                if reason
                else UNIDENTIFIED_CLASS
                if name == UNIDENTIFIED
                else self._index.get(name, -2)
                for name, reason in zip(reviewed.now, reviewed.exclusion_reason, strict=True)
            ],
            np.intp,
        )
        lines = differential.classes[:known]
        return remaining_doubt(
            UnreviewedCells(
                probability=self._probability,
                now=now,
                looked=reviewed.looked,
                counts=[line.count for line in lines],
                total=differential.tally.identified,
                reference_percent=[line.reference_percent for line in lines],
            )
        )

    def _is_calibrated(self) -> bool:
        return self.rows.calibration is not None and not self._model.doubts

    def _stop(self, now: _Now) -> dict[str, Any]:
        left = now.doubt.unreviewed
        if self._is_calibrated():
            decisive, sentence = now.doubt.decisive, now.doubt.sentence()
        else:
            decisive = left
            sentence = (
                f"The model's error is not known for this sample: look at every cell ({left} left)."
                if left
                else "Every cell that counts was looked at."
            )
        rows = now.doubt.order[: min(decisive or _MAX_NEXT, _MAX_NEXT)]
        return {
            "unreviewed": left,
            "decisive": decisive,
            "next": rows.tolist(),
            "sentence": sentence,
        }

    def _check(self, action: Action) -> Action:
        """Return an action if its classes are known; raise ValueError."""
        match action:
            case Assign():
                given = {change.to for change in action.cells} - {""}
            case Adjudicate() | Call():
                given = {action.to}
            case _:
                given = set()
        if unknown := sorted(given - set(self.known_classes)):
            raise ValueError(
                f"class {unknown[0]!r} is not known; allowed: {', '.join(self.known_classes)}"
            )
        return action

    def _complete(self, actions: Sequence[Action]) -> list[Action]:
        """Return the actions with the classes that their cells have before them.

        The journal is held.
        """
        rows = self._row_of
        reviewed, machine = self._now().reviewed, self.rows.predicted_class
        given: dict[str, str] = {}

        def before(cell: str) -> str:
            if cell not in rows:
                raise ValueError(
                    f"the sample has no cell {cell}; its cells were replaced: load the page again"
                )
            return given.get(cell) or reviewed.now[rows[cell]]

        found: list[Action] = []
        for action in actions:
            match action:
                case Assign():
                    cells = tuple(
                        one.model_copy(update={"before": before(one.cell)}) for one in action.cells
                    )
                    given |= {one.cell: one.to or machine[rows[one.cell]] for one in cells}
                    found.append(action.model_copy(update={"cells": cells}))
                case Look():
                    found.append(
                        action.model_copy(
                            update={"seen": tuple(before(cell) for cell in action.cells)}
                        )
                    )
                case _:
                    found.append(action)
        return found


def _fused(rows: CellRows) -> NDArray[np.float64]:
    """Return the probability (N, K) of each class, of all heads together."""
    if rows.calibration is not None:
        return fuse(rows.probability, rows.calibration)
    weights = np.asarray(rows.classification.weights or np.ones(len(rows.heads)), np.float64)
    mean: NDArray[np.float64] = (
        np.einsum("nhk,h->nk", rows.probability.astype(np.float64), weights) / weights.sum()
    )
    return mean


def _mark(path: Path) -> object:
    """Return what changes with a file; ``None`` where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _of_last_report(sample: Sample, lab: Lab) -> tuple[Reference, float | None]:
    """Return the reference intervals, of the laboratory's file if it has any, and the white-cell
    concentration.
    """
    try:
        document = read_document(sample)
    except SampleStateError:
        return lab_reference(lab, sample) or ADULT, None
    percent = {
        line.name: line.reference_percent for line in document.classes if line.reference_percent
    }
    return lab_reference(lab, sample) or Reference(
        percent, document.reference_source
    ), document.wbc_1e9_per_l


def _lines(differential: Differential) -> list[dict[str, Any]]:
    return [
        {
            "name": line.name,
            "count": line.count,
            "percent": line.percent,
            "interval_percent": line.interval_percent,
            "flag": line.flag,
            "reference_percent": line.reference_percent,
        }
        for line in differential.classes
    ]
