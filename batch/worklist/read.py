"""Read a worklist: its rows, or all its mistakes at once; nothing moves and nothing is written."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from wbcpipe.batch.worklist.check_rows import RowChecker, check_duplicates
from wbcpipe.batch.worklist.decode import decode, read_bytes
from wbcpipe.batch.worklist.mistakes import Mistake, Mistakes, mistakes_text
from wbcpipe.batch.worklist.parse_row import RowParser
from wbcpipe.batch.worklist.table import TableRow, read_table
from wbcpipe.errors import WorklistError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.batch.records import WorklistRow

__all__ = ["Worklist", "inspect_worklist", "new_row", "read_worklist"]


@dataclass(frozen=True)
class Worklist:
    """A worklist as read.

    Attributes:
        path: of the file.
        rows: in the order of the file.
        content: bytes of the file; empty if it cannot be read.
        sha256: of the content.
        scopes: those that could be read, by the name or path that the rows have.
        mistakes: all of them; the rows are worth nothing if there is one.
        warnings: what works and may not be meant.
    """

    path: Path
    rows: tuple[WorklistRow, ...]
    content: bytes
    sha256: str
    scopes: dict[str, Scope]
    mistakes: tuple[Mistake, ...] = ()
    warnings: tuple[Mistake, ...] = ()


def read_worklist(
    path: Path,
    *,
    data: Path,
    scope: str = "demo",
    now: datetime | None = None,
    started: Mapping[str, WorklistRow] | None = None,
) -> Worklist:
    """Read a worklist without mistakes.

    Args:
        path: of the CSV file; it is only read.
        data: data root; samples there are compared with the rows.
        scope: of rows that name none.
        now: for deadlines; the present time by default. A batch that resumes keeps the rows of its
            ``batch.json``: a time of day that is read a second time may be of the next day.
        started: by sample: the rows of the batch that were started or given up, or are done. An
            unchanged deadline of theirs may be past.

    Raises:
        WorklistError: the file cannot be read, or has mistakes; the text lists all of them with
            their line numbers.
    """
    worklist = inspect_worklist(path, data=data, scope=scope, now=now, started=started)
    if worklist.mistakes:
        raise WorklistError(mistakes_text(str(path), worklist.mistakes))
    return worklist


def inspect_worklist(
    path: Path,
    *,
    data: Path,
    scope: str = "demo",
    now: datetime | None = None,
    started: Mapping[str, WorklistRow] | None = None,
) -> Worklist:
    """Read a worklist with its mistakes, if any; for the arguments see `read_worklist`.

    Raises:
        WorklistError: the file cannot be read at all.
    """
    content = read_bytes(path)
    mistakes, warnings = Mistakes(), Mistakes()
    table: list[TableRow] = []
    try:
        table = read_table(decode(content), mistakes)
    except ValueError as error:
        mistakes.add(0, str(error))
    now = now or datetime.now().astimezone()
    parser = RowParser(scope, path.absolute().parent, now, mistakes, warnings, started or {})
    rows, scopes = _check([parser.parse(row) for row in table], parser, data, ())
    sha256 = hashlib.sha256(content).hexdigest()
    return Worklist(
        path, tuple(rows), content, sha256, scopes, mistakes.listed(), warnings.listed()
    )


def _check(
    rows: Sequence[WorklistRow], parser: RowParser, data: Path, others: Sequence[WorklistRow]
) -> tuple[list[WorklistRow], dict[str, Scope]]:
    checker = RowChecker(data, parser.mistakes, parser.warnings)
    checked = [checker.check(row) for row in rows]
    scopes = checker.scopes()
    for name, scope in scopes.items():
        number, places = sum(row.scope == name for row in (*rows, *others)), scope.loader.capacity
        if scope.loader_slot and places is not None and number > places:
            text = (
                f"scope {scope.name!r}: {number} slides, and the loader holds {places}; it "
                f"must be filled again."
            )
            parser.warnings.add(0, text)
    return check_duplicates(checked, scopes, parser.mistakes, others=others), scopes


def new_row(
    cells: dict[str, str],
    *,
    data: Path,
    scope: str,
    others: Sequence[WorklistRow],
    now: datetime | None = None,
) -> WorklistRow:
    """Return a row that is not of a file, checked in the same way.

    Args:
        cells: column to text.
        data: data root.
        scope: if the cells name none.
        others: rows of the batch that may not be given twice.
        now: for the deadline; the present time by default.

    Raises:
        WorklistError: the text lists all mistakes.
    """
    mistakes = Mistakes()
    now = now or datetime.now().astimezone()
    parser = RowParser(scope, Path.cwd(), now, mistakes, Mistakes())
    rows, _ = _check([parser.parse(TableRow(0, cells))], parser, data, others)
    if found := mistakes.listed():
        raise WorklistError(
            mistakes_text(f"sample {cells.get('sample', '')!r} is not added", found)
        )
    return rows[0]
