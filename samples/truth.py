"""``truth.csv``: the true cells, platelets and debris of a virtual scope's specimen."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Final, NamedTuple

import google_crc32c

from wbcpipe.errors import SampleStateError
from wbcpipe.samples.belonging import specimen_identity
from wbcpipe.system.files import read_text, write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

__all__ = ["TruthRow", "read_truth", "write_truth"]

_REMEDY: Final = "move it away; `wbcpipe acquire` writes it anew"
_COLUMNS: Final = ("x_um", "y_um", "field", "class", "kind", "crc32c")


class TruthRow(NamedTuple):
    """One object.

    Attributes:
        x_um, y_um: its centre on the stage.
        field: index of the field that shows the centre; -1 where none does.
        label: its class; empty for platelets and debris.
        kind: ``cell``, ``doublet``, ``debris`` or ``platelet``.
    """

    x_um: float
    y_um: float
    field: int
    label: str
    kind: str

    @property
    def is_white_cell(self) -> bool:
        """Return whether it is a white cell, alone or touching another one."""
        return self.kind in ("cell", "doublet")


def write_truth(path: Path, rows: Iterable[TruthRow]) -> None:
    """Write ``truth.csv``, atomically.

    The last cell of the first row is the checksum of everything else and of the specimen in
    ``sample.json`` beside it.

    Raises:
        DiskFullError: no space left; an earlier file stays.
    """
    lines = [
        [f"{row.x_um:.3f}", f"{row.y_um:.3f}", str(row.field), row.label, row.kind, ""]
        for row in rows
    ]
    if lines:
        lines[0][-1] = _checksum(lines, specimen_identity(path))
    with write_atomic(path) as handle:
        handle.write(_text(lines).encode())


def read_truth(path: Path) -> list[TruthRow]:
    """Read ``truth.csv``.

    Raises:
        SampleStateError: the file cannot be read, a column is missing, a value is not a number, or
            it was changed.
    """
    text = read_text(path, _REMEDY, newline="")
    lines: list[list[str]] = []
    try:
        header, *lines = csv.reader(io.StringIO(text, newline=""), strict=True)
        if missing := [name for name in _COLUMNS if name not in header]:
            raise SampleStateError(
                f"{path}: column {missing[0]!r} is missing; it needs {', '.join(_COLUMNS)}; "
                f"{_REMEDY}."
            )
        rows = [
            TruthRow(float(x), float(y), int(field), label, kind)
            for x, y, field, label, kind, _ in lines
        ]
    except (ValueError, csv.Error) as error:
        raise SampleStateError(f"{path}: damaged ({error}); {_REMEDY}.") from error
    if _text(lines) != text or (
        lines and lines[0][-1] != _checksum(lines, specimen_identity(path))
    ):
        raise SampleStateError(
            f"{path}: changed since it was written, or of another specimen (checksum); {_REMEDY}."
        )
    return rows


def _text(lines: Sequence[Sequence[str]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([_COLUMNS, *lines])
    return text.getvalue()


def _checksum(lines: Sequence[Sequence[str]], specimen: str) -> str:
    (*first, _), *others = lines
    return f"{google_crc32c.value((_text([[*first, ''], *others]) + specimen).encode()):08x}"
