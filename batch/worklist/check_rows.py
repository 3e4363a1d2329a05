"""Checks of the rows against the microscopes, the models, the samples on disk, and one another.

Nothing moves.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from wbcpipe.acquire.capture.sample_record import check_sample
from wbcpipe.acquire.config.micromanager_cfg import check_configuration
from wbcpipe.acquire.config.scope import Scope, load_scope
from wbcpipe.acquire.staining.checks import staining_faults
from wbcpipe.batch.row_request import row_request
from wbcpipe.classify.models.bundle import Bundle, find_bundle
from wbcpipe.errors import WbcpipeError
from wbcpipe.samples.sample import Sample
from wbcpipe.scan.targets import check_targets, parse_target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from wbcpipe.batch.records import WorklistRow
    from wbcpipe.batch.worklist.mistakes import Mistakes

__all__ = ["RowChecker", "check_duplicates"]

_Found = TypeVar("_Found")


@dataclass
class RowChecker:
    """Checks rows one by one; scopes and bundles are read once.

    Attributes:
        data: data root.
        mistakes: receives what is wrong.
        warnings: receives what works and may not be meant.
    """

    data: Path
    mistakes: Mistakes
    warnings: Mistakes
    _scopes: dict[str, Scope | WbcpipeError] = field(default_factory=dict)
    _configurations: dict[str, list[str] | WbcpipeError] = field(default_factory=dict)
    _bundles: dict[str, Bundle | WbcpipeError] = field(default_factory=dict)

    def check(self, row: WorklistRow) -> WorklistRow:
        """Return the row with its slot and its classes as the scope and the bundle write them."""
        if row.fields is not None and (row.precision or row.cells is not None):
            other = "precision" if row.precision else "cells"
            self._add(
                row,
                f"both fields and {other} are given; fields takes that many in any case: give one "
                f"of them.",
            )
        bundle = self._read(
            row, self._bundles, row.bundle, lambda name: find_bundle(name, kind="scope")
        )
        if bundle is not None and row.precision:
            row = self._with_classes(row, bundle)
        scope = self._read(row, self._scopes, row.scope, load_scope)
        if scope is None:
            return row
        if (
            self._read(row, self._configurations, row.scope, lambda _: check_configuration(scope))
            is None
        ):
            return row
        if not scope.loader_slot:  # with a loader the slot is a place in it
            row = _with_slot(row, scope)
        if row.slot and row.slot not in scope.slots and not scope.loader_slot:
            self._add(
                row,
                f"scope {scope.name!r} has no slot {row.slot!r}; its slots: "
                f"{', '.join(scope.slots)}.",
            )
            return row
        self._check_request(row, scope)
        return row

    def scopes(self) -> dict[str, Scope]:
        """Return the scopes that were read, by the name or path of the rows."""
        return {name: scope for name, scope in self._scopes.items() if isinstance(scope, Scope)}

    def _add(self, row: WorklistRow, text: str) -> None:
        self.mistakes.add(row.line, text)

    def _read(
        self,
        row: WorklistRow,
        known: dict[str, _Found | WbcpipeError],
        name: str,
        read: Callable[[str], _Found],
    ) -> _Found | None:
        """Return what ``name`` names, from ``known`` if it was read before.

        Report why it cannot be read.
        """
        if name not in known:
            try:
                known[name] = read(name)
            except WbcpipeError as error:
                known[name] = error
            except (OSError, ValueError) as error:  # a name that no file can have
                known[name] = WbcpipeError(f"{name[:60]!r} cannot be read: {error}.")
        found = known[name]
        if isinstance(found, WbcpipeError):
            self._add(row, str(found))
            return None
        return found

    def _with_classes(self, row: WorklistRow, bundle: Bundle) -> WorklistRow:
        names = {name.casefold(): name for name in bundle.info.classes}
        targets = []
        for text in row.precision:
            name, _, width = text.partition(":")
            targets.append(f"{names.get(name.casefold(), name)}:{width}")
        try:
            check_targets(
                [parse_target(text) for text in targets], bundle.info.classes, bundle.info.name
            )
        except WbcpipeError as error:
            self._add(row, str(error))
        return row.model_copy(update={"precision": tuple(targets)})

    def _check_request(self, row: WorklistRow, scope: Scope) -> None:
        try:
            request = row_request(row, scope, self.data)
            if row.sample and (sample := Sample.open(self.data, row.sample)).path.exists():
                check_sample(request.acquisition(sample, request.first_pass))
        except WbcpipeError as error:
            self._add(row, str(error))
            return
        if request.two_pass:
            for fault in staining_faults(scope):
                self._add(row, f"{scope.path}: {fault}.")
            if scope.staining.method == "prompt":
                self.warnings.add(
                    row.line,
                    f"scope {scope.name!r}: an operator stains this slide; the batch waits.",
                )
        area = (
            f"slot {request.plan.slot!r} of scope {scope.name!r} holds {request.max_fields} fields"
        )
        if row.fields is not None and row.fields > request.max_fields:
            self.warnings.add(row.line, f"{row.fields} fields are asked for, and {area}.")
        expected = request.max_fields * scope.expected_cells_per_field
        if row.fields is None and request.estimated_cells() > expected:
            self.warnings.add(
                row.line, f"{area} with about {expected:.0f} cells; more are asked for."
            )


def _with_slot(row: WorklistRow, scope: Scope) -> WorklistRow:
    """Return the row with its slot as the scope file writes it: case does not matter if it is not
    needed.
    """
    alike = [name for name in scope.slots if name.casefold() == row.slot.casefold()]
    if row.slot in scope.slots or len(alike) != 1:
        return row
    return row.model_copy(update={"slot": alike[0]})


def check_duplicates(
    rows: Sequence[WorklistRow],
    scopes: dict[str, Scope],
    mistakes: Mistakes,
    *,
    others: Sequence[WorklistRow] = (),
) -> list[WorklistRow]:
    """Report a sample, a slide or a slot that is given twice, and a missing slot.

    Return the rows with their slots.

    Args:
        rows: a sample that is empty is not compared.
        scopes: by the rows' names; a row without a scope there is not checked for its slot.
        mistakes: receives them, at the later row.
        others: rows that are in the batch already.
    """
    # File systems that ignore case would give S1 and s1 one folder.
    _repeated(
        rows, others, lambda row: row.sample.casefold(), "sample", lambda row: row.sample, mistakes
    )
    _repeated(
        rows,
        others,
        lambda row: row.slide if row.sample else "",
        "slide",
        lambda row: row.slide,
        mistakes,
    )
    placed = []
    rows_of = Counter(row.scope for row in (*rows, *others))
    for row in rows:
        scope = scopes.get(row.scope)
        if not row.slot and scope is not None and not scope.loader_slot:
            if rows_of[row.scope] > 1:
                mistakes.add(
                    row.line,
                    f"no slot is given, and scope {scope.name!r} has no loader that brings the "
                    f"slides; give one of {', '.join(scope.slots)}.",
                )
            else:
                row = row.model_copy(update={"slot": next(iter(scope.slots))})
        placed.append(row)

    def slot(row: WorklistRow) -> str:
        known = scopes.get(row.scope)
        return f"{known.path}:{row.slot}" if row.slot and known is not None else ""

    _repeated(placed, others, slot, "slot", lambda row: row.slot, mistakes)
    return placed


def _repeated(
    rows: Iterable[WorklistRow],
    others: Iterable[WorklistRow],
    key: Callable[[WorklistRow], str],
    what: str,
    name: Callable[[WorklistRow], str],
    mistakes: Mistakes,
) -> None:
    first = {key(row): row for row in others}
    for row in rows:
        if not key(row):
            continue
        earlier = first.setdefault(key(row), row)
        if earlier is not row:
            if what == "slide" and earlier.sample.casefold() == row.sample.casefold():
                continue  # told of the sample already
            where = (
                f"line {earlier.line} has it too"
                if earlier.line
                else f"sample {earlier.sample!r} has it already"
            )
            mistakes.add(
                row.line, f"{what} {name(row)!r} is given twice: {where}; each row needs its own."
            )
