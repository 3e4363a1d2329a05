"""The laboratory's file, TOML: everything that a laboratory decides, with its version."""

from __future__ import annotations

import difflib
import hashlib
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self, TypeAlias

from pydantic import AfterValidator, Field, ValidationError, model_validator

from wbcpipe.errors import ConfigError
from wbcpipe.laboratory.destinations import Destination, SendRules
from wbcpipe.laboratory.languages import Language, words
from wbcpipe.laboratory.loinc import CLASS_TERMS, LOINC_VERSION, check_loinc
from wbcpipe.laboratory.reference_intervals import CriticalValues, ReferenceSettings
from wbcpipe.laboratory.reflex import ReflexRule
from wbcpipe.laboratory.toml_lines import line_of_key
from wbcpipe.samples.cell_columns import UNIDENTIFIED
from wbcpipe.samples.records import Part
from wbcpipe.samples.review.entries import ARTEFACT, NOT_CLASSED
from wbcpipe.samples.review.sign_basis import LabReference
from wbcpipe.samples.review.texts import ClassText
from wbcpipe.system.file_kinds import is_file
from wbcpipe.system.user_files import UserFile
from wbcpipe.system.validation_messages import explain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

__all__ = [
    "LAB_FILE",
    "ClassSettings",
    "ExtraClass",
    "Lab",
    "Severity",
    "SignRules",
    "find_lab",
    "load_lab",
]

LAB_FILE: Final = "lab.toml"
"""Name of the file in the data root."""
Severity: TypeAlias = Literal["hard", "soft", "off"]
Key = Annotated[str, Field(pattern="^[a-z]$")]
LoincCode = Annotated[str, AfterValidator(check_loinc)]
#: Keys of the classes that have one by default; others take the first letter of their name that is
#: free.
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


class ExtraClass(Part):
    """A class that the model does not know.

    Attributes:
        name: short name.
        meaning: in words.
        white_cell: a class of the differential; else it is counted per 100 white cells, as smudge
            cells are.
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
        min_cells: see above; CLSI H20-A2 asks for 200 by each of two examiners, a routine count for
            100.
    """

    unidentified: Severity = "hard"
    doubtful: Severity = "hard"
    gates: Severity = "soft"
    count: Severity = "soft"
    min_cells: Annotated[int, Field(ge=1, le=100_000)] = 100


class ClassSettings(Part):
    """Table ``[class.NAME]``: how a class is named and coded in a result.

    Attributes:
        name: in the language of the results.
        loinc_percent, loinc_absolute: LOINC codes of its share and of its concentration.
        loinc_percent_display, loinc_absolute_display: their long common names.
    """

    name: ClassText = ""
    loinc_percent: LoincCode | None = None
    loinc_percent_display: ClassText = ""
    loinc_absolute: LoincCode | None = None
    loinc_absolute_display: ClassText = ""

    @model_validator(mode="after")
    def _with_texts(self) -> Self:
        for kind in ("percent", "absolute"):
            if bool(getattr(self, f"loinc_{kind}")) != bool(getattr(self, f"loinc_{kind}_display")):
                raise ValueError(f"loinc_{kind} and loinc_{kind}_display belong together")
        return self


class ResultSettings(Part):
    """Table ``[result]``.

    Attributes:
        language: of names and notes.
        percent_decimals, absolute_decimals: of the figures that are sent.
        loinc_version: of the display texts.
    """

    language: Language = "en"
    percent_decimals: Annotated[int, Field(ge=0, le=4)] = 1
    absolute_decimals: Annotated[int, Field(ge=0, le=4)] = 2
    loinc_version: Annotated[str, Field(pattern=r"^\d{1,2}\.\d{1,3}$")] = LOINC_VERSION


class _LabFile(Part):
    """The content of the file."""

    version: Annotated[ClassText, Field(min_length=1)]
    laboratory: ClassText = ""
    reference: ReferenceSettings | None = None
    critical: dict[str, CriticalValues] = Field(default_factory=dict)
    reflex: tuple[ReflexRule, ...] = ()
    classes: dict[str, ClassSettings] = Field(default_factory=dict, alias="class")
    extra_class: tuple[ExtraClass, ...] = ()
    keys: dict[Key, Annotated[ClassText, Field(min_length=1)]] = Field(default_factory=dict)
    sign: SignRules = SignRules()
    result: ResultSettings = ResultSettings()
    send: SendRules = SendRules()
    destination: tuple[Destination, ...] = ()

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        taken = {UNIDENTIFIED, NOT_CLASSED, ARTEFACT}
        for extra in self.extra_class:
            if extra.name in taken:
                raise ValueError(
                    f"the class {extra.name!r} exists already; give each extra class a name of "
                    f"its own"
                )
            taken.add(extra.name)
        keys = [*self.keys, *(extra.key for extra in self.extra_class if extra.key)]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"the key {twice[0]!r} is given twice; each key stands for one class")
        return self

    def misused_names(self) -> Iterable[tuple[tuple[str | int, ...], str]]:
        """Yield the location of each name that is not known or given twice, and the reason."""
        known = [*CLASS_TERMS, *self.classes, *(extra.name for extra in self.extra_class)]
        for place, name in self._class_names():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                hint = f", did you mean {near[0]!r}?" if near else ""
                yield (
                    place,
                    f"the class {name!r} is not known{hint} (known: {', '.join(known)}; a table "
                    f"[class.{name}] would declare it)",
                )
        names = [destination.name for destination in self.destination]
        for number, name in enumerate(names):
            if name in names[:number]:
                yield ("destination", number, "name"), f"two destinations have the name {name!r}"

    def _class_names(self) -> Iterable[tuple[tuple[str | int, ...], str]]:
        for name in self.critical:
            yield ("critical", name), name
        for number, rule in enumerate(self.reflex):
            if rule.of_class:
                yield ("reflex", number, "class"), rule.of_class
        if self.reference is None:
            return
        tables: list[tuple[tuple[str | int, ...], Mapping[str, object]]] = [
            (("reference", "percent"), self.reference.percent),
            (("reference", "absolute"), self.reference.absolute),
        ]
        for number, group in enumerate(self.reference.group):
            tables.append((("reference", "group", number, "percent"), group.percent))
            tables.append((("reference", "group", number, "absolute"), group.absolute))
        for place, table in tables:
            for name in table:
                yield (*place, name), name


@dataclass(frozen=True)
class Lab:
    """What a laboratory asks for; without a file, the defaults.

    Attributes:
        extra_classes: classes that the model does not know.
        keys: letter to class, as far as the file gives them.
        reference: reference intervals; ``None`` for those of the report.
        critical: class to critical values.
        reflex: rules.
        classes: class to its name and codes, where they differ from the built-in ones.
        sign: checks before signing.
        result: how results are written.
        send: what may be sent.
        destinations: receivers.
        file: version and SHA-256 of the file; ``None`` without one.
        laboratory: its name.
        path: of the file; ``None`` without one.
    """

    extra_classes: tuple[ExtraClass, ...] = ()
    keys: Mapping[str, str] = field(default_factory=dict)
    reference: ReferenceSettings | None = None
    critical: Mapping[str, CriticalValues] = field(default_factory=dict)
    reflex: tuple[ReflexRule, ...] = ()
    classes: Mapping[str, ClassSettings] = field(default_factory=dict)
    sign: SignRules = field(default_factory=SignRules)
    result: ResultSettings = field(default_factory=ResultSettings)
    send: SendRules = field(default_factory=SendRules)
    destinations: tuple[Destination, ...] = ()
    file: LabReference | None = None
    laboratory: str = ""
    path: Path | None = None

    def per_100_white_cells(self) -> dict[str, bool]:
        """Return the name of each extra class to whether it is counted per 100 white cells."""
        return {extra.name: not extra.white_cell for extra in self.extra_classes}

    def name_of(self, name: str) -> str:
        """Return a class's name in the language of the results."""
        given = self.classes.get(name)
        meaning = next((extra.meaning for extra in self.extra_classes if extra.name == name), "")
        return (
            (given.name if given else "")
            or meaning
            or words(self.result.language).classes.get(name, name)
        )

    def key_map(self, classes: Sequence[str]) -> dict[str, str]:
        """Return letter to class for all classes: those given, the usual ones, then the first free
        letter of a name.

        Args:
            classes: of the model.
        """
        found = dict(self.keys) | {
            extra.key: extra.name for extra in self.extra_classes if extra.key
        }
        wanted = [
            *classes,
            UNIDENTIFIED,
            NOT_CLASSED,
            ARTEFACT,
            *(extra.name for extra in self.extra_classes),
        ]
        left = [name for name in wanted if name not in found.values()]
        for name in [name for name in left if name in _KEYS and _KEYS[name] not in found]:
            found[_KEYS[name]] = name
            left.remove(name)
        for name in left:
            letters = [
                *(letter for letter in name.lower() if "a" <= letter <= "z"),
                *"abcdefghijklmnopqrstuvwxyz",
            ]
            if letter := next((letter for letter in letters if letter not in found), None):
                found[letter] = name
        return found


def find_lab(root: Path, given: Path | None = None) -> Lab:
    """Return the laboratory's settings: of the file given, else of ``lab.toml`` in the data root,
    else the defaults.

    Raises:
        ConfigError: the file is not valid.
    """
    if given is not None:
        return load_lab(given)
    path = root / LAB_FILE
    return load_lab(path) if is_file(path) else Lab()


def load_lab(path: Path) -> Lab:
    """Read a laboratory's file.

    Raises:
        ConfigError: it is absent or not TOML, or a key or value is not allowed; the text names the
            line.
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
        findings = [(item["loc"], explain(item, _LabFile)) for item in error.errors()[:3]]
        raise _refuse(file, text, findings) from error
    if misused := list(found.misused_names()):
        raise _refuse(file, text, misused[:3])
    return Lab(
        extra_classes=found.extra_class,
        keys=found.keys,
        reference=found.reference,
        critical=found.critical,
        reflex=found.reflex,
        classes=found.classes,
        sign=found.sign,
        result=found.result,
        send=found.send,
        destinations=found.destination,
        file=LabReference(version=found.version, sha256=hashlib.sha256(text.encode()).hexdigest()),
        laboratory=found.laboratory,
        path=path,
    )


def _refuse(
    file: UserFile, text: str, findings: Iterable[tuple[Sequence[str | int], str]]
) -> Exception:
    lines = "; ".join(f"line {line_of_key(text, place)}: {reason}" for place, reason in findings)
    return file.refuse(f"{lines}; docs/how-to/lis.md describes the file.")
