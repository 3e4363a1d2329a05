"""One row of the table as a `WorklistRow`.

What cannot be read is reported, and its default is taken.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Final, TypeVar

from wbcpipe.batch.records import WorklistRow
from wbcpipe.batch.worklist.cells import (
    check_spreadsheet_damage,
    parse_deadline,
    parse_flag,
    parse_precision,
    parse_preparation,
    parse_protocol,
    parse_whole_number,
    rounded_digits,
)
from wbcpipe.samples.sample import check_sample_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from wbcpipe.batch.worklist.mistakes import Mistakes
    from wbcpipe.batch.worklist.table import TableRow

__all__ = ["RowParser"]

_Value = TypeVar("_Value")
_MAX_CELLS: Final = 1_000_000
_MAX_FIELDS: Final = 1_000_000
_MAX_PRIORITY: Final = 1_000_000
_MAX_SLIDE: Final = 128


@dataclass(frozen=True)
class RowParser:
    """Turns rows of a table into rows of a worklist.

    Attributes:
        scope: of rows that name none.
        folder: to which paths of scope files and bundles are relative.
        now: with its time zone.
        mistakes: receives what cannot be read.
        warnings: receives what can be read and may be wrong.
        started: by sample: the rows of the batch that were started; an unchanged deadline of theirs
            may be past.
    """

    scope: str
    folder: Path
    now: datetime
    mistakes: Mistakes
    warnings: Mistakes
    started: Mapping[str, WorklistRow] = field(default_factory=dict)

    def parse(self, row: TableRow) -> WorklistRow:
        """Return the row; its sample is empty where none can be read."""
        sample = self._value(row, "sample", _sample_name, "")
        if "sample" not in row.cells:
            self.mistakes.add(row.line, "the cell 'sample' is empty; give the name of the sample.")
        slide = self._value(row, "slide", _slide_id, sample)
        accepted = self.started[sample].deadline if sample in self.started else None
        for name in {sample, slide}:
            if rounded_digits(name):
                self.warnings.add(
                    row.line,
                    f"{name} ends in zeros after 15 digits: did a spreadsheet program round it?",
                )
        return WorklistRow(
            line=row.line,
            sample=sample,
            slide=slide,
            slot=row.cells.get("slot", ""),
            scope=self._path(row.cells.get("scope", self.scope), ".toml"),
            protocol=self._value(row, "protocol", parse_protocol, "one-pass"),
            cells=self._number(row, "cells", 1, _MAX_CELLS),
            precision=self._value(row, "precision", parse_precision, ()),
            fields=self._number(row, "fields", 1, _MAX_FIELDS),
            bundle=self._path(row.cells.get("bundle", "auto"), ""),
            priority=self._number(row, "priority", -_MAX_PRIORITY, _MAX_PRIORITY) or 0,
            deadline=self._value(
                row, "deadline", lambda text: parse_deadline(text, self.now, accepted), None
            ),
            control=self._value(row, "control", parse_flag, False),
            notes=row.cells.get("notes", ""),
            specimen_seed=self._number(row, "specimen_seed", 0, 2**32 - 1),
            specimen_preparation=self._value(row, "specimen_preparation", parse_preparation, None),
        )

    def _value(
        self, row: TableRow, column: str, parse: Callable[[str], _Value], default: _Value
    ) -> _Value:
        if column not in row.cells:
            return default
        try:
            return parse(row.cells[column])
        except ValueError as error:
            self.mistakes.add(row.line, f"{column}: {str(error).rstrip('.')}.")
            return default

    def _number(self, row: TableRow, column: str, lowest: int, highest: int) -> int | None:
        def parse(text: str) -> int | None:
            return parse_whole_number(text, lowest=lowest, highest=highest)

        return self._value(row, column, parse, None)

    def _path(self, text: str, ending: str) -> str:
        """Return a name as it is, and a path as seen from the worklist's folder."""
        is_path = PurePath(text).name != text or (ending and text.endswith(ending))
        return str((self.folder / text).absolute()) if is_path and text.isprintable() else text


def _sample_name(text: str) -> str:
    check_spreadsheet_damage(text)
    return check_sample_name(text)


def _slide_id(text: str) -> str:
    check_spreadsheet_damage(text)
    if len(text) > _MAX_SLIDE or not text.isprintable():
        raise ValueError(
            f"{text[:40]!r} is no id of a slide; give at most {_MAX_SLIDE} printable characters"
        )
    return text
