"""Read the labels that people gave.

An exported folder after its pictures were moved, or a table with boxes.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wbcpipe.errors import ImportDataError
from wbcpipe.labels.export import LABELS_FILE, UNLABELLED
from wbcpipe.segment.importers.find_files import class_of

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["GivenLabel", "read_labels"]

_BOX: Final = ("xmin", "ymin", "xmax", "ymax")
_EXPORTED: Final = ("file", "sample", "field", "y_px", "x_px", "label", "exported_label")
_MAX_LENGTH: Final = 64
_POINT_PX: Final = 1.0
"""Half the side of the box around an exported cell's centre, which ``labels.csv`` gives with two
digits.
"""


@dataclass(frozen=True)
class GivenLabel:
    """A label for the cell in a box of a field.

    Attributes:
        label: class name; empty takes a label away.
        field: index of the field, or the name of the file that it was imported from.
        box_px: xmin, ymin, xmax, ymax in the field's pixels.
        where: file and line, for messages.
    """

    label: str
    field: int | str
    box_px: tuple[float, float, float, float]
    where: str


def read_labels(path: Path, sample: str) -> list[GivenLabel]:
    """Read labels from an exported folder, from its ``labels.csv``, or from a table of boxes.

    In an exported folder a label is the name of the folder that a picture lies in, or what was
    written into the column ``label``. Cells of which neither was changed are left out.

    Args:
        path: the folder or the file.
        sample: name of the sample that the labels are for.

    Raises:
        ImportDataError: the path, a column or a value is missing or not allowed, or folder and
            table contradict each other.
    """
    table = path / LABELS_FILE if path.is_dir() else path
    rows = _rows(table)
    columns = set(rows[0]) if rows else set()
    if set(_EXPORTED) <= columns:
        return _exported(rows, table, path if path.is_dir() else table.parent, sample)
    if {"label", *_BOX} <= columns and columns & {"file", "field"}:
        return [_box(row, f"{table}, line {number}") for number, row in enumerate(rows, 2)]
    raise ImportDataError(
        f"{table}: columns {', '.join(sorted(columns)) or 'none'}; needed are those of `wbcpipe "
        f"labels export`, or file (or field), label, {', '.join(_BOX)}."
    )


def _rows(table: Path) -> list[dict[str, str]]:
    try:
        text = table.read_text(encoding="utf-8-sig")
        reader = csv.DictReader(
            io.StringIO(text), delimiter=";" if ";" in text.partition("\n")[0] else ","
        )
        return [
            {key: value or "" for key, value in row.items() if isinstance(key, str)}
            for row in reader
        ]
    except OSError as error:
        raise ImportDataError(
            f"{table}: labels cannot be read ({error.strerror or error})."
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ImportDataError(
            f"{table}: not a CSV file in UTF-8 ({error}); save it as one."
        ) from error


def _exported(
    rows: list[dict[str, str]], table: Path, folder: Path, sample: str
) -> list[GivenLabel]:
    here = {
        path.name: path.parent.name for path in folder.rglob("*_cell-*.*") if path.parent != folder
    }
    given = []
    for number, row in enumerate(rows, 2):
        where = f"{table}, line {number}"
        if row["sample"] != sample:
            raise ImportDataError(
                f"{where}: of sample {row['sample']!r}, not {sample!r}; name that sample."
            )
        before = row["exported_label"]
        parent = here.get(row["file"])
        moved = before if parent is None else "" if parent == UNLABELLED else parent
        written = class_of(row["label"]) if row["label"] else ""
        moved = class_of(moved) if moved and moved != before else moved
        if moved != before and written not in (before, moved):
            raise ImportDataError(
                f"{where}: {row['file']} lies in the folder {parent!r} and is labelled "
                f"{row['label']!r}; choose one."
            )
        label = moved if moved != before else written
        if label != before:
            x_px, y_px = _number(row, "x_px", where), _number(row, "y_px", where)
            box = (x_px - _POINT_PX, y_px - _POINT_PX, x_px + _POINT_PX, y_px + _POINT_PX)
            given.append(
                GivenLabel(_checked(label, where), int(_number(row, "field", where)), box, where)
            )
    return given


def _box(row: dict[str, str], where: str) -> GivenLabel:
    x0, y0, x1, y1 = (_number(row, name, where) for name in _BOX)
    if x0 >= x1 or y0 >= y1:
        raise ImportDataError(
            f"{where}: box {x0:g}, {y0:g}, {x1:g}, {y1:g}; xmin < xmax and ymin < ymax are needed."
        )
    label = class_of(row["label"])
    if not label:
        raise ImportDataError(f"{where}: no label; write one, or remove the line.")
    field: int | str = int(_number(row, "field", where)) if row.get("field") else row["file"]
    return GivenLabel(_checked(label, where), field, (x0, y0, x1, y1), where)


def _number(row: dict[str, str], column: str, where: str) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ImportDataError(f"{where}: {column} is {row[column]!r}; a number is needed.")
    return value


def _checked(label: str, where: str) -> str:
    if len(label) > _MAX_LENGTH or not label.isprintable():
        raise ImportDataError(
            f"{where}: label {label[:80]!r}; at most {_MAX_LENGTH} printable characters are "
            f"allowed."
        )
    return label
