"""A differential of the same blood from elsewhere (flow cytometry, an analyser, two readers).

Read it, compare it.

The file is TOML, JSON or CSV. TOML and JSON hold ``source``, optionally ``method`` and ``cells``,
and ``percent`` or ``count``: class name to number. CSV has the columns ``class`` and ``percent`` or
``count``.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from wbcpipe.errors import ConfigError
from wbcpipe.report.count_comparison import differ_by_chance, differ_from_share
from wbcpipe.report.differential import interval_percent
from wbcpipe.segment.importers.find_files import class_of
from wbcpipe.system.user_files import UserFile
from wbcpipe.system.validation_messages import explain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from wbcpipe.report.differential import Differential

__all__ = [
    "OTHER",
    "ReferenceComparison",
    "ReferenceDifferential",
    "ReferenceShare",
    "compare_with_reference",
    "read_reference_differential",
]

OTHER: Final = "other"
"""Name of a reference's cells that are of none of the model's classes."""
_WHAT: Final = "a reference differential (TOML, JSON or CSV)"
_TOLERANCE_PERCENT: Final = 2.5
"""By which percentages may miss 100: five of them, each rounded to a whole number."""
_LEVEL: Final = 0.05

_Percentage = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
_Text = Annotated[
    str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")
]


class _File(BaseModel):
    """The content of a file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    source: _Text
    method: _Text | None = None
    cells: Annotated[int, Field(gt=0, le=10**9)] | None = None
    percent: dict[str, _Percentage] = Field(default_factory=dict)
    count: dict[str, Annotated[int, Field(ge=0, le=10**9)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if bool(self.percent) == bool(self.count):
            raise ValueError("give either percent or count of each class")
        if self.count and self.cells not in (None, sum(self.count.values())):
            raise ValueError(
                f"cells is {self.cells}, the counts add up to {sum(self.count.values())}; leave "
                f"cells out"
            )
        if self.count and not sum(self.count.values()):
            raise ValueError("all counts are 0; nothing can be compared")
        total = sum(self.percent.values())
        if self.percent and abs(total - 100) > _TOLERANCE_PERCENT:
            raise ValueError(
                f"the percentages add up to {total:g}; they must make 100 (give cells of no "
                f"listed class as {OTHER!r})"
            )
        return self


@dataclass(frozen=True)
class ReferenceDifferential:
    """A differential from elsewhere.

    Attributes:
        source: who or what counted, as the file says.
        method: how; empty if the file does not say.
        cells: counted, of all classes; ``None`` if the file does not say.
        percent: class name to its share of the cells of the model's classes, which make 100.
        other_percent: share of the cells that are of none of them, of all cells.
    """

    source: str
    method: str
    cells: int | None
    percent: dict[str, float]
    other_percent: float


@dataclass(frozen=True)
class ReferenceShare:
    """One class, in per cent.

    Attributes:
        name: class name.
        reference_percent: of the reference; ``None`` if it does not list the class.
        reference_interval_percent: 95 % Clopper-Pearson interval; ``None`` if its number of cells
            is not known.
        percent, interval_percent: of the sample; ``None`` without cells.
        difference: percent minus reference_percent.
        p_value: probability that chance alone makes them differ as much.
        compatible: it is at least 0.05.
    """

    name: str
    reference_percent: float | None
    reference_interval_percent: tuple[float, float] | None
    percent: float | None
    interval_percent: tuple[float, float]
    difference: float | None
    p_value: float | None
    compatible: bool | None


@dataclass(frozen=True)
class ReferenceComparison:
    """A sample's differential compared with one from elsewhere."""

    file: str
    source: str
    method: str
    cells: int | None
    other_percent: float
    classes: tuple[ReferenceShare, ...]


def compare_with_reference(
    differential: Differential, reference: ReferenceDifferential, file: str
) -> ReferenceComparison:
    """Compare the differential of a sample with one from elsewhere, class by class.

    The probability is that of Fisher's exact test; of the exact binomial test where the number of
    the reference's cells is not known, so that it is taken as exact.

    Args:
        differential: of the sample.
        reference: of the same blood.
        file: name of the reference's file.
    """
    total = differential.tally.identified
    known = (
        None
        if reference.cells is None
        else round(reference.cells * (1 - reference.other_percent / 100))
    )
    shares = []
    for line in differential.classes:
        share = reference.percent.get(line.name)
        seen = None if share is None or known is None else round(share / 100 * known)
        p_value = None
        if share is not None and total:
            p_value = (
                differ_from_share(line.count, total, share / 100)
                if seen is None or known is None
                else differ_by_chance(line.count, total, seen, known)
            )
        shares.append(
            ReferenceShare(
                name=line.name,
                reference_percent=share,
                reference_interval_percent=None
                if seen is None or known is None
                else interval_percent(seen, known),
                percent=line.percent,
                interval_percent=line.interval_percent,
                difference=None if share is None or line.percent is None else line.percent - share,
                p_value=p_value,
                compatible=None if p_value is None else p_value >= _LEVEL,
            )
        )
    return ReferenceComparison(
        file,
        reference.source,
        reference.method,
        reference.cells,
        reference.other_percent,
        tuple(shares),
    )


def read_reference_differential(path: Path, classes: Sequence[str]) -> ReferenceDifferential:
    """Read a differential from elsewhere.

    neutrophil, lymphocyte and other common names stand for NEU, LYM, EOS, MO and BAS. A class that
    the file does not list is not compared.

    Args:
        path: of the file.
        classes: of the model.

    Raises:
        ConfigError: the file cannot be read, or a key, class or number is not allowed; the text
            gives file, line and reason.
    """
    file = UserFile(path, _WHAT, ConfigError)
    suffix = path.suffix.lower()
    lines: Mapping[str, int]
    if suffix == ".csv":
        content, lines = _read_csv(file)
    else:
        content = file.read_json() if suffix == ".json" else file.read_toml()
        lines = _key_lines(file.read_text())
    try:
        found = _File.model_validate(content)
    except ValidationError as error:
        item = error.errors()[0]
        raise file.refuse(f"{_where(lines, item['loc'])}{explain(item, _File)}.") from error
    numbers: dict[str, float] = {}
    for name, number in (found.percent or found.count).items():
        label = name if name in classes or name == OTHER else class_of(name)
        if label not in classes and label != OTHER:
            raise file.refuse(
                f"{_where(lines, (name,))}class {name!r} is none of the model's "
                f"({', '.join(classes)}); count its cells with one of them, or name it {OTHER!r}."
            )
        if label in numbers:
            raise file.refuse(
                f"{_where(lines, (name,))}class {label!r} is given twice; give it once."
            )
        numbers[label] = float(number)
    other = numbers.pop(OTHER, 0.0)
    listed = sum(numbers.values())
    if not listed:
        raise file.refuse("no cell is of the model's classes; nothing can be compared.")
    return ReferenceDifferential(
        source=found.source,
        method=found.method or "",
        cells=found.cells or (sum(found.count.values()) if found.count else None),
        percent={name: 100 * number / listed for name, number in numbers.items()},
        other_percent=100 * other / (listed + other),
    )


def _where(lines: Mapping[str, int], location: Sequence[Any]) -> str:
    """Return the line of the last part of a location that has one, as the beginning of a
    sentence.
    """
    line = next((lines[str(part)] for part in reversed(location) if str(part) in lines), None)
    return "" if line is None else f"line {line}: "


def _key_lines(text: str) -> dict[str, int]:
    """Return the line of each key of a TOML or JSON file, from 1.

    The first one of a key that occurs twice.
    """
    found: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        for match in re.finditer(
            r"""(?:^|[{,\[])\s*["']?([^"'=:{},\[\]]+?)["']?\s*(?:[=:]|\]\s*$)""", line
        ):
            found.setdefault(match[1].strip(), number)
    return found


def _read_csv(file: UserFile) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the content of a CSV as the other formats hold it, and the line of each class."""
    text = file.read_text()
    separator = ";" if ";" in text.partition("\n")[0] else ","
    try:
        rows = list(
            csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True, strict=True)
        )
    except csv.Error as error:
        raise file.refuse(f"not readable as CSV ({error}).") from error
    header = [name.strip().lower() for name in rows[0]] if rows else []
    kind = next((name for name in ("percent", "count") if name in header), None)
    if "class" not in header or kind is None:
        raise file.refuse(
            f"line 1: columns {', '.join(header) or 'none'}; needed are class, and percent or "
            f"count."
        )
    numbers: dict[str, float | int] = {}
    lines: dict[str, int] = {}
    for line, row in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            raise file.refuse(
                f"line {line}: {len(row)} cells; the header names {len(header)} columns."
            )
        name, shown = row[header.index("class")].strip(), row[header.index(kind)].strip()
        if name in numbers:
            raise file.refuse(f"line {line}: class {name!r} is given twice; give it once.")
        # Where a semicolon separates, a comma is that of a decimal number.
        number = (
            shown.removesuffix("%").strip().replace(",", ".")
            if separator == ";"
            else shown.removesuffix("%")
        )
        try:
            numbers[name] = int(number) if kind == "count" else float(number)
        except ValueError as error:
            needed = "a whole number" if kind == "count" else "a number"
            raise file.refuse(
                f"line {line}: {kind} is {shown[:40]!r}; {needed} is needed."
            ) from error
        lines[name] = line
    return {"source": file.path.name, kind: numbers}, lines
