"""Entries of the review journal: one model for each action, and the line that holds it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, TypeAlias, get_args

from pydantic import (
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from wbcpipe.samples.records import Count, Part
from wbcpipe.samples.review.cell_identity import CellKey
from wbcpipe.samples.review.sign_basis import EntryId, SignBasis, SignCheck
from wbcpipe.samples.review.texts import ClassText, CommentText, ReaderText
from wbcpipe.system.files import parse_json
from wbcpipe.system.validation_messages import explain

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "ARTEFACT",
    "MAX_CELLS",
    "NOT_CLASSED",
    "SYSTEM_READER",
    "Action",
    "Adjudicate",
    "Amend",
    "Assign",
    "Call",
    "CellsReplaced",
    "Change",
    "Comment",
    "Entry",
    "LocationMark",
    "Look",
    "Reading",
    "Redo",
    "Sign",
    "Undo",
    "Unsign",
    "VerificationState",
    "cells_of",
    "parse_action",
    "parse_entry",
]

NOT_CLASSED: Final = "not_classed"
"""Class of a cell that a reader excludes from the count."""
ARTEFACT: Final = "artefact"
"""Class of what a reader says is no cell."""
MAX_CELLS: Final = 20_000
"""Cells of one entry."""

SYSTEM_READER: Final = "wbcpipe"
"""Reader of the entries that the software writes of itself."""

VerificationState: TypeAlias = Literal["preliminary", "verified", "corrected"]
ReadingId = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9_-]{1,64}$")]
Cells = Annotated[tuple[CellKey, ...], Field(max_length=MAX_CELLS)]
Via = Literal["key", "drag", "menu", "adjudication", "import"]
OneClass = Annotated[ClassText, Field(min_length=1)]


class Change(Part):
    """The class of one cell before and after an edit.

    Attributes:
        cell: its name.
        before: its class before, in JSON ``from``.
        to: a class, ``unidentified``, ``not_classed``, ``artefact``, or empty for the machine's
            class again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    cell: CellKey
    before: ClassText = Field(validation_alias="from", serialization_alias="from")
    to: ClassText


class Assign(Part):
    """A reader gave cells a class."""

    action: Literal["assign"] = "assign"
    cells: Annotated[tuple[Change, ...], Field(min_length=1, max_length=MAX_CELLS)]
    why: CommentText = ""
    via: Via = "key"

    @model_validator(mode="after")
    def _each_cell_once(self) -> Self:
        if len({change.cell for change in self.cells}) < len(self.cells):
            raise ValueError("a cell is named twice; name each cell once")
        return self


class Look(Part):
    """A reader looked at cells.

    Attributes:
        cells: their names.
        seen: the class that each was shown with; empty if that is not known. A look at another
            class than the cell has now does not count.
    """

    action: Literal["look"] = "look"
    cells: Annotated[Cells, Field(min_length=1)]
    seen: tuple[ClassText, ...] = ()

    @model_validator(mode="after")
    def _of_each_cell(self) -> Self:
        if self.seen and len(self.seen) != len(self.cells):
            raise ValueError(
                f"seen has {len(self.seen)} classes for {len(self.cells)} cells; one for each is "
                f"needed"
            )
        return self


class Undo(Part):
    """A reader took an own entry back: an assign, an adjudication or a comment."""

    action: Literal["undo"] = "undo"
    target: EntryId


class Redo(Part):
    """A reader brought back an own entry that was undone."""

    action: Literal["redo"] = "redo"
    target: EntryId


class Comment(Part):
    """A comment on a cell, or on the sample where ``cell`` is ``None``."""

    action: Literal["comment"] = "comment"
    cell: CellKey | None = None
    text: Annotated[CommentText, Field(min_length=1)]


class Reading(Part):
    """The start or the end of a blind reading.

    Attributes:
        event: which of the two.
        reading: name of the reading.
        mode: ``blind``: without the machine's classes and other readers' entries.
        seed: of the order of the cells.
        cells: in the order in which they are shown; at the start alone.
    """

    action: Literal["reading"] = "reading"
    event: Literal["start", "finish"]
    reading: ReadingId
    mode: Literal["blind"] = "blind"
    seed: Count | None = None
    cells: Cells = ()


class Call(Part):
    """The class that a reader gave a cell in a blind reading; a later one replaces it."""

    action: Literal["call"] = "call"
    reading: ReadingId
    cell: CellKey
    to: OneClass


class Adjudicate(Part):
    """The class that a reader gave a cell on which others differ."""

    action: Literal["adjudicate"] = "adjudicate"
    cell: CellKey
    to: OneClass
    why: CommentText = ""
    between: Annotated[tuple[ReaderText, ...], Field(min_length=2, max_length=20)]


class Sign(Part):
    """A reader signed the differential.

    Attributes:
        differential: SHA-256 of the content of ``differential.json``, its key ``sha256``.
        counts: cells by class.
        checks: the sign checks and their results.
        basis: see `SignBasis`.
        comment: of the reader.
    """

    action: Literal["sign"] = "sign"
    differential: EntryId
    counts: dict[str, Count]
    checks: tuple[SignCheck, ...] = ()
    basis: SignBasis
    comment: CommentText = ""


class Unsign(Part):
    """A reader withdrew the signature."""

    action: Literal["unsign"] = "unsign"
    why: Annotated[CommentText, Field(min_length=1)]


class Amend(Part):
    """A reader opened a signed sample for correction; signed again, it is ``corrected``."""

    action: Literal["amend"] = "amend"
    why: Annotated[CommentText, Field(min_length=1)]


class CellsReplaced(Part):
    """The sample was segmented or classified again: where the cells of the journal are now.

    Attributes:
        old, new: SHA-256 of the cell table and the classes, before and now; ``old`` is empty if
            that is not known.
        matched: earlier name to the name now, of the cells whose name changed.
        unmatched: names of cells that are there no more; their entries are kept, and count no more.
    """

    action: Literal["cells_replaced"] = "cells_replaced"
    old: EntryId | Literal[""] = ""
    new: EntryId
    matched: dict[CellKey, CellKey] = Field(default_factory=dict)
    unmatched: Cells = ()

    @model_validator(mode="after")
    def _one_to_one(self) -> Self:
        if len(set(self.matched.values())) < len(self.matched):
            raise ValueError("two cells are matched to the same one; the match must be one to one")
        return self


class LocationMark(Part):
    """A white cell that a reader marked in a field of the cell-location test, in pixels of the
    field.
    """

    action: Literal["location_mark"] = "location_mark"
    field: Count
    y_px: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
    x_px: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


Action: TypeAlias = (
    Assign
    | Look
    | Undo
    | Redo
    | Comment
    | Reading
    | Call
    | Adjudicate
    | Sign
    | Unsign
    | Amend
    | CellsReplaced
    | LocationMark
)
_MODELS: Final[dict[str, type[Action]]] = {
    model.model_fields["action"].default: model for model in get_args(Action)
}
_READER: Final[TypeAdapter[str]] = TypeAdapter(ReaderText)
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}\+00:00")
_ENVELOPE: Final = ("id", "n", "previous", "reader", "time")


def parse_action(content: object) -> Action:
    """Validate an action, as a line or a request holds it.

    Raises:
        ValueError: it is none; the text is one line.
    """
    name = content.get("action") if isinstance(content, Mapping) else None
    model = _MODELS.get(name) if isinstance(name, str) else None
    if model is None:
        raise ValueError(f"action {str(name)[:40]!r} is not known; allowed: {', '.join(_MODELS)}")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ValueError(_explain(error, model)) from error


def _explain(error: ValidationError, model: type[Part]) -> str:
    return "; ".join(explain(item, model) for item in error.errors()[:3])


@dataclass(frozen=True)
class Entry:
    """One line of a journal.

    Attributes:
        n: its number, from 1.
        previous: ``id`` of the line before; empty for the first.
        time: UTC, ISO 8601, to the millisecond.
        reader: who.
        action: what.
        id: SHA-256 of the rest of the line.
    """

    n: int
    previous: str
    time: str
    reader: str
    action: Action
    id: str

    @classmethod
    def build(cls, n: int, previous: str, time: str, reader: str, action: Action) -> Self:
        """Return the entry with its id.

        Raise ValueError if the reader's name or the time is refused.
        """
        if not _TIME.fullmatch(time):
            raise ValueError(
                "the time is not that of a journal, such as 2026-11-30T06:00:00.000+00:00"
            )
        try:
            name = _READER.validate_python(reader)
        except ValidationError as error:
            raise ValueError(f"the reader's name: {_explain(error, Part)}") from error
        draft = cls(n, previous, time, name, action, "")
        return cls(n, previous, time, name, action, draft._digest())

    def content(self) -> dict[str, Any]:
        """Return the entry as JSON holds it: one flat object."""
        return {**self._rest(), "id": self.id}

    def line(self) -> bytes:
        """Return the line of the journal, without its end."""
        return _compact(self.content())

    def is_intact(self) -> bool:
        """Return whether the id is that of the content."""
        return self.id == self._digest()

    def _digest(self) -> str:
        return hashlib.sha256(_compact(self._rest())).hexdigest()

    def _rest(self) -> dict[str, Any]:
        action = self.action.model_dump(mode="json", by_alias=True)
        return {
            **action,
            "n": self.n,
            "previous": self.previous,
            "reader": self.reader,
            "time": self.time,
        }


def parse_entry(line: bytes) -> Entry:
    """Parse a line of a journal and check its id.

    Raises:
        ValueError: it is no entry, or was changed since it was written.
    """
    content = parse_json(line.decode())
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    envelope = {name: content.pop(name, None) for name in _ENVELOPE}
    for name, value in envelope.items():
        if not isinstance(value, int if name == "n" else str) or isinstance(value, bool):
            raise ValueError(f"key {name!r} is missing or of the wrong type")
    entry = Entry.build(
        envelope["n"],
        envelope["previous"],
        envelope["time"],
        envelope["reader"],
        parse_action(content),
    )
    if entry.id != envelope["id"] or entry.line() != line:
        raise ValueError("changed since it was written")
    return entry


def _compact(content: dict[str, Any]) -> bytes:
    # In ASCII: no character of a text can be mistaken for the end of a line.
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def cells_of(actions: Iterable[Action]) -> list[str]:
    """Return the names of all cells that actions name, each once, in order."""
    found: dict[str, None] = {}
    for action in actions:
        match action:
            case Assign():
                found.update((change.cell, None) for change in action.cells)
            case Look() | Reading():
                found.update((cell, None) for cell in action.cells)
            case Comment() | Call() | Adjudicate():
                if action.cell is not None:
                    found[action.cell] = None
            case _:
                pass
    return list(found)
