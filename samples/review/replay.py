"""From entries to the state of a review; pure: the same entries give the same state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from wbcpipe.samples.review.entries import (
    SYSTEM_READER,
    Adjudicate,
    Amend,
    Assign,
    Call,
    CellsReplaced,
    Comment,
    LocationMark,
    Look,
    Reading,
    Redo,
    Sign,
    Undo,
    Unsign,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from wbcpipe.samples.review.entries import Action, Entry, VerificationState

__all__ = [
    "Assignment",
    "CellComment",
    "Edit",
    "ReadingState",
    "RefusedEntryError",
    "ReviewState",
    "Signature",
    "refusal",
    "replay",
]

ValueT = TypeVar("ValueT")


class RefusedEntryError(ValueError):
    """An entry does not fit the state before it; nothing was changed.

    Attributes:
        reason: one clause.
    """

    def __init__(self, entry: Entry, reason: str) -> None:
        super().__init__(f"{entry.action.action}: {reason}")
        self.reason = reason


@dataclass(frozen=True)
class Assignment:
    """The class that a person gave a cell: what, who, when, why, and by which entry."""

    to: str
    reader: str
    time: str
    why: str
    entry: str


@dataclass(frozen=True)
class CellComment:
    """A comment on a cell, or on the sample where ``cell`` is ``None``."""

    cell: str | None
    text: str
    reader: str
    time: str
    entry: str


@dataclass
class Edit:
    """An entry that can be undone.

    Attributes:
        entry: the line of the journal.
        cells: name of each cell, as it is now, to the class it was given; of a comment, empty.
        about: name, as it is now, of the cell that a comment is about; ``None`` for the sample.
        active: false while it is undone.
        lost: names of its cells that are there no more.
    """

    entry: Entry
    cells: dict[str, str]
    about: str | None = None
    active: bool = True
    lost: list[str] = field(default_factory=list)


@dataclass
class ReadingState:
    """A blind reading.

    Attributes:
        reading: its name.
        reader: whose.
        seed: of the order of the cells.
        cells: names in the order in which they are shown.
        calls: name of a cell to the class that the reader gave it.
        finished: the reader ended it.
        started: UTC time.
    """

    reading: str
    reader: str
    seed: int | None
    cells: tuple[str, ...]
    started: str
    calls: dict[str, str] = field(default_factory=dict)
    finished: bool = False


@dataclass(frozen=True)
class Signature:
    """A signed differential.

    Attributes:
        entry: the line of the journal.
        sign: its action.
        state: ``verified``, or ``corrected`` after an amendment.
        reason: of the amendment; empty without one.
    """

    entry: Entry
    sign: Sign
    state: VerificationState
    reason: str = ""


@dataclass
class ReviewState:
    """What a journal says, up to its last entry that was applied.

    Attributes:
        head: ``id`` of the last entry; empty without one.
        entries: number of entries.
        edits: by the id of their entry, in order, those that are undone too.
        looked: name of a cell to reader to the class it was seen with; empty where that is not
            known.
        readings: by name.
        marks: of the cell-location test: the entries.
        signatures: all that were ever given, in order.
        signed: the one in force.
        corrected: a signed sample was amended: the next signature is a correction.
        reason: of the last amendment.
        voided: why a signature is not in force any more, other than by a reader; empty if none was
            voided.
    """

    head: str = ""
    entries: int = 0
    edits: dict[str, Edit] = field(default_factory=dict)
    looked: dict[str, dict[str, str]] = field(default_factory=dict)
    readings: dict[str, ReadingState] = field(default_factory=dict)
    marks: list[Entry] = field(default_factory=list)
    signatures: list[Signature] = field(default_factory=list)
    signed: Signature | None = None
    corrected: bool = False
    reason: str = ""
    voided: str = ""

    @property
    def state(self) -> VerificationState:
        """``verified`` or ``corrected`` while a signature is in force, else ``preliminary``."""
        return self.signed.state if self.signed else "preliminary"

    def assigned(self, reader: str | None = None) -> dict[str, Assignment]:
        """Return the class in force of each cell that a person gave one: the last edit counts.

        Args:
            reader: whose edits count; all by default.
        """
        found: dict[str, Assignment] = {}
        for edit in self.edits.values():
            entry = edit.entry
            if edit.active and (reader is None or entry.reader == reader):
                why = "" if isinstance(entry.action, Comment) else getattr(entry.action, "why", "")
                for cell, to in edit.cells.items():
                    found[cell] = Assignment(to, entry.reader, entry.time, why, entry.id)
        return {cell: assignment for cell, assignment in found.items() if assignment.to}

    def looked_by(self, cell: str, now: str) -> tuple[str, ...]:
        """Return who looked at a cell while it had the class that it has now."""
        return tuple(
            reader for reader, seen in self.looked.get(cell, {}).items() if seen in ("", now)
        )

    def comments(self) -> list[CellComment]:
        """Return the comments that were not undone, in order."""
        return [
            CellComment(edit.about, comment.text, edit.entry.reader, edit.entry.time, edit.entry.id)
            for edit in self.edits.values()
            if edit.active and isinstance(comment := edit.entry.action, Comment)
        ]

    def cells(self) -> set[str]:
        """Return the names, as they are now, of all cells that the entries name and that are still
        there.
        """
        found = {*self.looked, *(cell for edit in self.edits.values() for cell in edit.cells)}
        found |= {cell for reading in self.readings.values() for cell in reading.cells}
        return found | {edit.about for edit in self.edits.values() if edit.about and not edit.lost}

    def lost(self) -> dict[str, tuple[str, ...]]:
        """Return ``id`` of each entry to the names of its cells that are there no more."""
        return {key: tuple(edit.lost) for key, edit in self.edits.items() if edit.lost}

    def undoable(self, reader: str) -> list[str]:
        """Return the ids of a reader's entries that can be undone, the next one last."""
        return [
            key for key, edit in self.edits.items() if edit.active and edit.entry.reader == reader
        ]

    def redoable(self, reader: str) -> list[str]:
        """Return the ids of a reader's entries that can be brought back, the next one last.

        As in every editor, an edit after an undo ends what could be brought back.
        """
        return list(self._redo.get(reader, ()))

    def __post_init__(self) -> None:
        self._redo: dict[str, list[str]] = {}

    def apply(self, entry: Entry) -> None:
        """Advance by one entry.

        Raises:
            RefusedEntryError: it does not fit the state: see `refusal`.
        """
        if reason := refusal(self, entry.action, entry.reader):
            raise RefusedEntryError(entry, reason)
        match entry.action:
            case Assign() | Adjudicate() | Comment():
                self._edit(entry)
            case Undo() | Redo():
                self._undo(entry)
            case Look() as action:
                for position, cell in enumerate(action.cells):
                    seen = action.seen[position] if action.seen else ""
                    self.looked.setdefault(cell, {})[entry.reader] = seen
            case Reading() | Call():
                self._read(entry)
            case Sign() | Unsign() | Amend():
                self._sign(entry)
            case CellsReplaced() as action:
                self._rename(action)
            case LocationMark():
                self.marks.append(entry)
        self.head, self.entries = entry.id, entry.n

    def _edit(self, entry: Entry) -> None:
        match entry.action:
            case Assign() as action:
                edit = Edit(entry, {change.cell: change.to for change in action.cells})
            case Adjudicate() as action:
                edit = Edit(entry, {action.cell: action.to})
            case Comment() as action:
                edit = Edit(entry, {}, about=action.cell)
            case _:
                return
        self.edits[entry.id] = edit
        self._redo.pop(entry.reader, None)

    def _undo(self, entry: Entry) -> None:
        stack = self._redo.setdefault(entry.reader, [])
        match entry.action:
            case Undo() as action:
                self.edits[action.target].active = False
                stack.append(action.target)
            case Redo() as action:
                self.edits[action.target].active = True
                stack.remove(action.target)
            case _:
                pass

    def _read(self, entry: Entry) -> None:
        match entry.action:
            case Reading(event="start") as action:
                self.readings[action.reading] = ReadingState(
                    action.reading, entry.reader, action.seed, action.cells, entry.time
                )
            case Reading() as action:
                self.readings[action.reading].finished = True
            case Call() as action:
                self.readings[action.reading].calls[action.cell] = action.to

    def _sign(self, entry: Entry) -> None:
        match entry.action:
            case Sign() as action:
                state: VerificationState = "corrected" if self.corrected else "verified"
                self.signed = Signature(entry, action, state, self.reason)
                self.signatures.append(self.signed)
                self.voided = ""
            case Amend() as action:
                self.signed, self.corrected, self.reason = None, True, action.why
            case _:
                self.signed = None

    def _rename(self, action: CellsReplaced) -> None:
        names: dict[str, str | None] = {**dict.fromkeys(action.unmatched), **action.matched}
        for edit in self.edits.values():
            if not edit.lost or edit.cells:
                named = [edit.about] if edit.about else list(edit.cells)
                edit.lost += [cell for cell in named if cell in names and names[cell] is None]
                # A comment stays readable by the earlier name of its cell.
                edit.about = names.get(edit.about) or edit.about if edit.about else None
                edit.cells = _renamed(edit.cells, names)
        self.looked = _renamed(self.looked, names)
        for reading in self.readings.values():
            reading.calls = _renamed(reading.calls, names)
            reading.cells = tuple(_renamed(dict.fromkeys(reading.cells, ""), names))
        if self.signed:
            by, time = self.signed.entry.reader, self.signed.entry.time
            self.voided = (
                f"the cells or their classes were replaced after {by} had signed at {time}"
            )
            self.signed = None


def _renamed(cells: Mapping[str, ValueT], names: Mapping[str, str | None]) -> dict[str, ValueT]:
    return {
        now: value for cell, value in cells.items() if (now := names.get(cell, cell)) is not None
    }


def refusal(state: ReviewState, action: Action, reader: str) -> str:
    """Return why an action does not fit a state; empty if it does."""
    if isinstance(action, CellsReplaced):
        return "" if reader == SYSTEM_READER else "the software alone writes this entry"
    if reader.casefold() == SYSTEM_READER:
        return f"the name {reader!r} is that of the software; log in with another name"
    if state.signed and isinstance(action, (Assign, Adjudicate, Comment, Undo, Redo, Sign)):
        return "the sample is signed; amend it, or withdraw the signature, first"
    match action:
        case Unsign() | Amend() if state.signed is None:
            return "the sample is not signed"
        case Undo() | Redo():
            return _undo_refusal(state, action, reader)
        case Reading() | Call():
            return _reading_refusal(state, action, reader)
    return ""


def _undo_refusal(state: ReviewState, action: Undo | Redo, reader: str) -> str:
    edit = state.edits.get(action.target)
    if edit is None:
        return "there is no such entry to undo or bring back"
    if edit.entry.reader != reader:
        return f"the entry is of {edit.entry.reader}; only who made it can undo it or bring it back"
    if isinstance(action, Undo):
        return "" if edit.active else "the entry is undone already"
    return "" if action.target in state.redoable(reader) else "the entry can not be brought back"


def _reading_refusal(state: ReviewState, action: Reading | Call, reader: str) -> str:
    known = state.readings.get(action.reading)
    if isinstance(action, Reading) and action.event == "start":
        return (
            "there is a reading of that name"
            if known
            else ""
            if action.cells
            else "a reading needs cells"
        )
    if known is None:
        return "there is no reading of that name"
    if known.reader != reader:
        return f"the reading is of {known.reader}"
    if known.finished:
        return "the reading is finished"
    if isinstance(action, Call) and action.cell not in known.cells:
        return "the cell does not belong to the reading"
    return ""


def replay(entries: Iterable[Entry]) -> ReviewState:
    """Return the state after entries, which follow each other from the first on.

    Raises:
        RefusedEntryError: an entry does not fit the state before it.
    """
    state = ReviewState()
    for entry in entries:
        state.apply(entry)
    return state
