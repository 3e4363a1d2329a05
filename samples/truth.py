"""``truth.csv``: the true cells, platelets and debris of a virtual scope's specimen."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Final, NamedTuple

from wbcpipe.errors import SampleStateError
from wbcpipe.system.files import read_text, write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["TruthRow", "read_truth", "write_truth"]

_REMEDY: Final = "move it away; `wbcpipe acquire` writes it anew"
_COLUMNS: Final = ("x_um", "y_um", "field", "class", "kind")


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

    Raises:
        DiskFullError: no space left; an earlier file stays.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    writer.writerows([f"{row.x_um:.3f}", f"{row.y_um:.3f}", row.field, row.label, row.kind] for row in rows)
    with write_atomic(path) as handle:
        handle.write(text.getvalue().encode())


def read_truth(path: Path) -> list[TruthRow]:
    """Read ``truth.csv``.

    Raises:
        SampleStateError: the file cannot be read, a column is missing, or a value is not a number.
    """
    with io.StringIO(read_text(path, _REMEDY), newline="") as handle:
        reader = csv.DictReader(handle)
        try:
            if missing := [name for name in _COLUMNS if name not in (reader.fieldnames or ())]:
                raise SampleStateError(
                    f"{path}: column {missing[0]!r} is missing; it needs {', '.join(_COLUMNS)}; {_REMEDY}."
                )
            return [
                TruthRow(float(row["x_um"]), float(row["y_um"]), int(row["field"]), str(row["class"]), str(row["kind"]))
                for row in reader
            ]
        except (TypeError, ValueError, csv.Error) as error:
            raise SampleStateError(f"{path}: line {reader.line_num} is damaged ({error}); {_REMEDY}.") from error
