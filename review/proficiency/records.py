"""Results of proficiency tests: ``proficiency/<test>.jsonl`` in the data root, one flushed line a
test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, TypeVar

from pydantic import Field, ValidationError

from wbcpipe.errors import SampleStateError
from wbcpipe.samples.records import Count, Part
from wbcpipe.samples.review.texts import ReaderText
from wbcpipe.system.files import append_line, json_line, make_folder, parse_json_line, read_text
from wbcpipe.system.validation_messages import explain

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "PROFICIENCY",
    "ClassResult",
    "CompetenceResult",
    "LocationResult",
    "append_result",
    "read_results",
]

PROFICIENCY: Final = "proficiency"
"""Folder of the results, in the data root."""
_REMEDY: Final = "restore it from a copy, or move it away; a new one is begun"
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
ResultT = TypeVar("ResultT", bound="_Result")


class _Result(Part):
    """What every test has.

    Attributes:
        date: UTC, ISO 8601.
        reader: who was tested, or who tested the machine.
        limit_percent: from which the test is passed.
        passed: it was.
    """

    date: str
    reader: ReaderText
    limit_percent: Percent
    passed: bool


class LocationResult(_Result):
    """A cell-location test: how many of a slide's white cells the machine found.

    Attributes:
        sample: name of the slide's sample.
        scope: name of the microscope; empty for imported images.
        fields: that the reader looked through.
        found: white cells that the machine found in them.
        missed: cells that the reader marked beside these.
        percent: found, of found and missed.
        interval_percent: its 95 % Clopper-Pearson interval.
        already_found: marks on cells that the machine has.
    """

    sample: str
    scope: str
    fields: Count
    found: Count
    missed: Count
    percent: Percent
    interval_percent: tuple[Percent, Percent]
    already_found: Count = 0


class ClassResult(Part):
    """One class of a competence test: its cells, and those called so."""

    cells: Count
    right: Count


class CompetenceResult(_Result):
    """A competence test: a reader's blind calls of cells whose class others decided.

    Attributes:
        readings: sample and name of each blind reading.
        cells: called.
        right: called as decided.
        percent: right, of all.
        interval_percent: its 95 % Clopper-Pearson interval.
        kappa: Cohen's, with its interval; ``None`` where it is not defined.
        classes: by class.
    """

    readings: tuple[tuple[str, str], ...]
    cells: Count
    right: Count
    percent: Percent
    interval_percent: tuple[Percent, Percent]
    kappa: tuple[float, float, float] | None
    classes: dict[str, ClassResult]


_FILES: Final[dict[type[_Result], str]] = {
    LocationResult: "location.jsonl",
    CompetenceResult: "competence.jsonl",
}


def append_result(root: Path, result: _Result) -> Path:
    """Append the result of a test to its file, flushed; return the path.

    Args:
        root: the data root.
        result: of the test.
    """
    path = root / PROFICIENCY / _FILES[type(result)]
    make_folder(path.parent)
    append_line(path, json_line(result.model_dump(mode="json")).decode().rstrip("\n"))
    return path


def read_results(root: Path, kind: type[ResultT]) -> list[ResultT]:
    """Read the results of a kind of test, the earliest first; none where there is no file.

    A last line that a crash cut short is left out.

    Raises:
        SampleStateError: another line is damaged, or was changed.
    """
    path = root / PROFICIENCY / _FILES[kind]
    if not path.exists():
        return []
    *lines, _torn = read_text(path, _REMEDY, newline="").split("\n")
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(kind.model_validate(parse_json_line(line.encode())))
        except ValidationError as error:
            reason = explain(error.errors()[0], kind)
            raise SampleStateError(f"{path}, line {number}: {reason}; {_REMEDY}.") from error
        except ValueError as error:
            raise SampleStateError(f"{path}, line {number}: {error}; {_REMEDY}.") from error
    return found
