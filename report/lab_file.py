"""The laboratory's file, TOML: reference intervals, extra classes, keys of the review page, checks before signing."""

from __future__ import annotations

import hashlib
import re
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import Field, ValidationError, model_validator

from wbcpipe.errors import ConfigError
from wbcpipe.report.differential import Reference
from wbcpipe.report.reference import ReferenceIntervals
from wbcpipe.samples.cell_columns import UNIDENTIFIED
from wbcpipe.samples.records import Part
from wbcpipe.samples.review.entries import ARTEFACT, NOT_CLASSED
from wbcpipe.samples.review.sign_basis import LabReference
from wbcpipe.samples.review.texts import ClassText
from wbcpipe.system.user_files import UserFile
from wbcpipe.system.validation_messages import explain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["LAB_FILE", "ExtraClass", "Lab", "Severity", "SignRules", "find_lab", "load_lab"]

LAB_FILE: Final = "lab.toml"
"""Name of the file in the data root."""
Severity: TypeAlias = Literal["hard", "soft", "off"]
Key = Annotated[str, Field(pattern="^[a-z]$")]
#: Keys of the classes that have one by default; others take the first letter of their name that is free.
_KEYS: Final = {
    "NEU": "n",
    "LYM": "l",
    "EOS": "e",
    "MO": "m",
    "BAS": "b",
    UNIDENTIFIED: "u",
    NOT_CLASSED: "x",
    ARTEFACT: "a",
}
_HEADER: Final = re.compile(r"\s*(\[\[?)\s*([\w.\"' -]+?)\s*\]\]?\s*(#.*)?$")
_ENTRY: Final = re.compile(r"\s*([\w-]+|\"[^\"]*\"|'[^']*')\s*=")


class ExtraClass(Part):
    """A class that the model does not know.

    Attributes:
        name: short name.
        meaning: in words.
        white_cell: a class of the differential; else it is counted per 100 white cells, as smudge cells are.
        key: on the review page.
    """

    name: Annotated[ClassText, Field(min_length=1)]
    meaning: ClassText = ""
    white_cell: bool = False
    key: Key | None = None


class SignRules(Part):
    """Checks before signing: a hard one forbids to sign while it fails, a soft one is noted.

    Attributes:
        unidentified: no cell is left unidentified.
        doubtful: all cells that could change the differential were looked at.
        gates: no quality gate failed.
        count: at least ``min_cells`` cells were counted.
        min_cells: see above; CLSI H20-A2 asks for 200 by each of two examiners, a routine count for 100.
    """

    unidentified: Severity = "hard"
    doubtful: Severity = "hard"
    gates: Severity = "soft"
    count: Severity = "soft"
    min_cells: Annotated[int, Field(ge=1, le=100_000)] = 100


class _LabFile(Part):
    """The content of the file."""

    version: Annotated[ClassText, Field(min_length=1)]
    laboratory: ClassText = ""
    reference: ReferenceIntervals | None = None
    extra_class: tuple[ExtraClass, ...] = ()
    keys: dict[Key, Annotated[ClassText, Field(min_length=1)]] = Field(default_factory=dict)
    sign: SignRules = SignRules()

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        taken = {UNIDENTIFIED, NOT_CLASSED, ARTEFACT}
        for extra in self.extra_class:
            if extra.name in taken:
                raise ValueError(f"the class {extra.name!r} exists already; give each extra class a name of its own")
            taken.add(extra.name)
        keys = [*self.keys, *(extra.key for extra in self.extra_class if extra.key)]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"the key {twice[0]!r} is given twice; each key stands for one class")
        return self


@dataclass(frozen=True)
class Lab:
    """What a laboratory asks for; without a file, the defaults.

    Attributes:
        extra_classes: classes that the model does not know.
        keys: letter to class, as far as the file gives them.
        reference: reference intervals; ``None`` for those of the report.
        sign: checks before signing.
        file: version and SHA-256 of the file; ``None`` without one.
        laboratory: its name.
    """

    extra_classes: tuple[ExtraClass, ...] = ()
    keys: Mapping[str, str] = field(default_factory=dict)
    reference: Reference | None = None
    sign: SignRules = field(default_factory=SignRules)
    file: LabReference | None = None
    laboratory: str = ""

    def per_100_white_cells(self) -> dict[str, bool]:
        """Return the name of each extra class to whether it is counted per 100 white cells."""
        return {extra.name: not extra.white_cell for extra in self.extra_classes}

    def key_map(self, classes: Sequence[str]) -> dict[str, str]:
        """Return letter to class for all classes: those given, the usual ones, then the first free letter of a name.

        Args:
            classes: of the model.
        """
        found = dict(self.keys) | {extra.key: extra.name for extra in self.extra_classes if extra.key}
        wanted = [*classes, UNIDENTIFIED, NOT_CLASSED, ARTEFACT, *(extra.name for extra in self.extra_classes)]
        left = [name for name in wanted if name not in found.values()]
        for name in [name for name in left if name in _KEYS and _KEYS[name] not in found]:
            found[_KEYS[name]] = name
            left.remove(name)
        for name in left:
            letters = [*(letter for letter in name.lower() if "a" <= letter <= "z"), *"abcdefghijklmnopqrstuvwxyz"]
            if letter := next((letter for letter in letters if letter not in found), None):
                found[letter] = name
        return found


def find_lab(root: Path, given: Path | None = None) -> Lab:
    """Return the laboratory's settings: of the file given, else of ``lab.toml`` in the data root, else the defaults.

    Raises:
        ConfigError: the file is not valid.
    """
    if given is not None:
        return load_lab(given)
    path = root / LAB_FILE
    return load_lab(path) if path.is_file() else Lab()


def load_lab(path: Path) -> Lab:
    """Read a laboratory's file.

    Raises:
        ConfigError: it is absent or not TOML, or a key or value is not allowed; the text names the line.
    """
    file = UserFile(path, "a laboratory's file", ConfigError)
    text = file.read_text()
    try:
        content = tomllib.loads(text)
    except RecursionError as error:
        raise file.refuse("TOML nested too deep to be a laboratory's file.") from error
    except ValueError as error:
        raise file.refuse(f"not readable as TOML ({error}).") from error
    try:
        found = _LabFile.model_validate(content)
    except ValidationError as error:
        findings = "; ".join(
            f"line {_line_of(text, item['loc'])}: {explain(item, _LabFile)}" for item in error.errors()[:3]
        )
        raise file.refuse(f"{findings}; docs/review.md describes the file.") from error
    reference = found.reference
    return Lab(
        extra_classes=found.extra_class,
        keys=found.keys,
        reference=Reference(reference.percent, reference.source or path.name) if reference else None,
        sign=found.sign,
        file=LabReference(version=found.version, sha256=hashlib.sha256(text.encode()).hexdigest()),
        laboratory=found.laboratory,
    )


def _line_of(text: str, location: Sequence[Any]) -> int:
    """Return the line of the key at a location such as ``("extra_class", 1, "name")``, or of the nearest one above."""
    wanted = tuple(str(part) for part in location)
    best, best_length = 1, 0
    table: tuple[str, ...] = ()
    arrays: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            name = header[2].replace('"', "").replace("'", "")
            table = tuple(part.strip() for part in name.split("."))
            if header[1] == "[[":
                arrays[name] = arrays.get(name, -1) + 1
                table = (*table, str(arrays[name]))
            here = table
        elif entry := _ENTRY.match(line):
            here = (*table, entry[1].strip("\"'"))
        else:
            continue
        if len(here) > best_length and wanted[: len(here)] == here:
            best, best_length = number, len(here)
    return best
