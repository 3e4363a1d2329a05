"""The text of a worklist as a table of cells, each row with the number of its line in the file."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wbcpipe.batch.worklist.columns import COLUMNS, find_columns, known_column

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wbcpipe.batch.worklist.mistakes import Mistakes

__all__ = ["MAX_ROWS", "TableRow", "read_table"]

MAX_ROWS: Final = 2000
_MAX_CELL: Final = 1000
_MAX_LINES_IN_CELL: Final = 50
_SEPARATORS: Final = {",": "comma", ";": "semicolon", "\t": "tab"}
#: The first line by which Excel is told the separator.
_SEP_LINE: Final = re.compile(r'"?sep=([,;\t])"?[,;\t]*', re.IGNORECASE)
#: Excel's way to keep digits as text: ="00123".
_FORMULA: Final = re.compile(r'="([^"]*)"')
#: Invisible characters that tables from web pages and mails contain.
_INVISIBLE: Final = "\ufeff\u200b\u200c\u200d\u2060\u200e\u200f\u00ad"


@dataclass(frozen=True)
class TableRow:
    """A row of the table.

    Attributes:
        line: of the file, from 1; of the first line if a cell holds line breaks.
        cells: column to text, without blanks around it; empty cells are left out.
    """

    line: int
    cells: dict[str, str]


def read_table(text: str, mistakes: Mistakes) -> list[TableRow]:
    r"""Return the rows below the header; what is wrong goes to ``mistakes``.

    The separator is that of a line ``sep=;``, else the one with which the header names most
    columns.

    Args:
        text: lines end with ``\n``.
        mistakes: of the form of the file, its header and its cells' positions.
    """
    lines = text.split("\n")
    start, separator = _first_line(lines)
    if start is None:
        mistakes.add(0, "the file is empty; its first line names the columns, at least 'sample'.")
        return []
    separator = separator or max(_SEPARATORS, key=lambda one: _named(lines[start], one))
    if not _named(lines[start], separator):
        mistakes.add(
            start + 1,
            f"this is no header, it begins with {lines[start].strip()[:40]!r}; the first line "
            f"names the columns, at least 'sample'. The columns are {', '.join(COLUMNS)}, "
            f"separated by comma, semicolon or tab.",
        )
        return []
    records = _records(lines, start, separator, mistakes)
    line, header = next(records)
    columns = find_columns(header, line, mistakes)
    known_header = all(known_column(name) for name in header if name)
    rows: list[TableRow] = []
    for line, cells in records:
        if any(cells):
            rows.append(
                TableRow(
                    line,
                    {columns[i]: cell for i, cell in enumerate(cells) if cell and i in columns},
                )
            )
            _check_width(cells, header, line, separator, mistakes if known_header else None)
        if len(rows) > MAX_ROWS:
            mistakes.add(line, f"a worklist has at most {MAX_ROWS} rows; split it into several.")
            break
    if not rows and not mistakes:
        mistakes.add(0, "there is no row below the header; give one line for each slide.")
    return rows


def _first_line(lines: Sequence[str]) -> tuple[int | None, str]:
    """Return the index of the header's line, ``None`` without one, and the separator that ``sep=``
    gives.
    """
    separator = ""
    for index, line in enumerate(lines):
        if not line.strip('\t ,;"' + _INVISIBLE):
            continue
        if not separator and (sep := _SEP_LINE.fullmatch(line.strip(" " + _INVISIBLE))):
            separator = sep[1]
            continue
        return index, separator
    return None, separator


def _named(line: str, separator: str) -> int:
    """Count the columns that a header names if this is the separator."""
    try:
        cells = next(csv.reader([line], delimiter=separator, skipinitialspace=True))
    except (csv.Error, StopIteration):
        return 0
    return sum(bool(known_column(cell)) for cell in cells)


def _records(
    lines: Sequence[str], start: int, separator: str, mistakes: Mistakes
) -> Iterator[tuple[int, list[str]]]:
    """Yield each record with the number of its first line.

    The first is the header, also where it is damaged.
    """
    index = start
    while index < len(lines):
        used, cells, problem = _record(lines, index, separator)
        if problem:
            mistakes.add(index + 1, problem)
        if cells is not None:
            for cell in cells:
                if len(cell) > _MAX_CELL:
                    mistakes.add(
                        index + 1,
                        f"a cell has {len(cell)} characters; at most {_MAX_CELL} are allowed.",
                    )
            yield index + 1, [_clean(cell) for cell in cells]
        elif index == start:
            yield index + 1, []
        index += used


def _record(lines: Sequence[str], index: int, separator: str) -> tuple[int, list[str] | None, str]:
    """Return the number of lines of a record, its cells, and what is wrong with it."""
    for used in range(1, min(_MAX_LINES_IN_CELL, len(lines) - index) + 1):
        part = [f"{line}\n" for line in lines[index : index + used]]
        part[-1] = part[-1][:-1]
        try:
            # A blank after the separator belongs to the file's look: it must not stand before a
            # quotation mark.
            reader = csv.reader(
                part, delimiter=separator, skipinitialspace=separator != "\t", strict=True
            )
            return used, next(reader, []), ""
        except csv.Error as error:
            if "unexpected end of data" not in str(error):
                return (
                    1,
                    None,
                    f"the quotation marks do not match ({error}); write a mark within a cell "
                    f"twice.",
                )
    return (
        1,
        None,
        "a quotation mark opens a cell and none closes it; close it, or write a mark within a "
        "cell twice.",
    )


def _clean(cell: str) -> str:
    text = cell.strip().strip(_INVISIBLE).strip()
    return formula[1].strip() if (formula := _FORMULA.fullmatch(text)) else text


def _check_width(
    cells: Sequence[str],
    header: Sequence[str],
    line: int,
    separator: str,
    mistakes: Mistakes | None,
) -> None:
    """Report a cell that stands below no name."""
    if mistakes is None:
        return
    for index, cell in enumerate(cells):
        if cell and not (index < len(header) and header[index]):
            mistakes.add(
                line,
                f"{cell[:40]!r} stands in column {index + 1}, which the header does not name. A "
                f"cell that holds a {_SEPARATORS[separator]}, such as a decimal comma, must be in "
                f"quotation marks."
                if separator == ","
                else f"{cell[:40]!r} stands in column {index + 1}, which the header does not name.",
            )
            return
