"""The columns of a worklist and the names that laboratories give them."""

from __future__ import annotations

import difflib
import re
import unicodedata
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wbcpipe.batch.worklist.mistakes import Mistakes

__all__ = ["COLUMNS", "find_columns", "known_column"]

#: Each column with its other names; case, blanks, dots, underscores and dashes do not matter.
COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "sample": (
        "sample id",
        "sample name",
        "sample no",
        "probe",
        "proben id",
        "probennummer",
        "proben nr",
        "probenname",
    ),
    "slot": ("position", "stage slot", "steckplatz", "platz", "einschub"),
    "slide": (
        "slide id",
        "slide label",
        "label",
        "barcode",
        "objektträger",
        "objektträger id",
        "objektträgernummer",
    ),
    "scope": ("microscope", "mikroskop"),
    "protocol": ("pass", "passes", "protokoll", "durchgang", "durchgänge"),
    "cells": ("cell count", "number of cells", "zellen", "zellzahl", "anzahl zellen"),
    "precision": ("genauigkeit", "präzision"),
    "fields": ("fields of view", "number of fields", "felder", "gesichtsfelder", "anzahl felder"),
    "bundle": ("model", "modell"),
    "priority": ("prio", "priorität", "dringlichkeit"),
    "deadline": ("frist", "bis", "until"),
    "control": ("qc", "control slide", "kontrolle", "kontrollprobe"),
    "notes": (
        "note",
        "comment",
        "comments",
        "remark",
        "remarks",
        "bemerkung",
        "bemerkungen",
        "notiz",
        "kommentar",
    ),
    "specimen_seed": ("seed",),
    "specimen_preparation": ("preparation", "präparation"),
}


def _key(name: str) -> str:
    """Return a name without what does not matter.

    >>> _key(" Slide_ID "), _key("Objekttraeger") == _key("OBJEKTTRÄGER")
    ('slideid', True)
    """
    folded = unicodedata.normalize("NFC", name).casefold()
    for umlaut, letters in (("ä", "ae"), ("ö", "oe"), ("ü", "ue")):
        folded = folded.replace(umlaut, letters)
    return re.sub(r"[\W_]+", "", folded)


_KNOWN: Final = {
    _key(name): column for column, others in COLUMNS.items() for name in (column, *others)
}


def known_column(name: str) -> str:
    """Return the column that a cell of the header names; empty if it names none."""
    return _KNOWN.get(_key(name), "")


def find_columns(header: Sequence[str], line: int, mistakes: Mistakes) -> dict[int, str]:
    """Return the column of each position of the header; blank cells have none.

    Args:
        header: the cells.
        line: its number.
        mistakes: receives unknown and repeated columns, and a missing column ``sample``.
    """
    found: dict[int, str] = {}
    for index, name in enumerate(header):
        if not name:
            continue
        column = known_column(name)
        if not column:
            near = difflib.get_close_matches(_key(name), _KNOWN, n=1, cutoff=0.6)
            hint = f"; did you mean {_KNOWN[near[0]]!r}?" if near else ";"
            mistakes.add(
                line,
                f"there is no column {name[:60]!r}{hint} The columns are {', '.join(COLUMNS)}.",
            )
        elif column in found.values():
            mistakes.add(
                line,
                f"two columns are {column!r} (the second is headed {name!r}); keep one of them.",
            )
        else:
            found[index] = column
    if "sample" not in found.values():
        mistakes.add(
            line,
            f"the header has no column 'sample'; it has: {', '.join(filter(None, header))[:200]}.",
        )
    return found
