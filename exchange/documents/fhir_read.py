"""Read a bundle of `fhir_write` back, strictly.

What is not what the writer makes of the same result is refused.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from wbcpipe.exchange.documents.differences import refuse_differences
from wbcpipe.exchange.documents.envelope import Envelope, missing_extra, refuse
from wbcpipe.exchange.documents.fhir_write import (
    BORDERLINE,
    CLASSES,
    LOCAL_CODES,
    SYSTEMS,
    URLS,
    write_fhir,
)
from wbcpipe.exchange.documents.json_text import JsonPath, line_of, load_json, value_lines
from wbcpipe.exchange.message.codes import STATES, UNIT_NAMES, AbnormalFlag, Unit
from wbcpipe.exchange.message.facts import FACTS, Fact, message_parts
from wbcpipe.exchange.message.model import ResultMessage
from wbcpipe.exchange.message.numbers import parse_decimal
from wbcpipe.system.validation_messages import explain

if TYPE_CHECKING:
    from wbcpipe.errors import DocumentError

__all__ = ["read_fhir"]

_MAX_BYTES: Final = 4_000_000
_FLAGS: Final = {flag.value for flag in AbnormalFlag}
_SYSTEM_OF: Final = {url: system for system, url in SYSTEMS.items()}
_STATUSES: Final = {codes.fhir for codes in STATES.values()}


def read_fhir(content: bytes) -> tuple[ResultMessage, Envelope]:
    """Read a bundle.

    Of the envelope, it holds the laboratory and who assigned the patient's identifier.

    Raises:
        DocumentError: it is not one that `write_fhir` writes; the text names the line and the
            reason.
        ConfigError: fhir.resources is not installed.
    """
    try:
        from fhir.resources.R4B.bundle import Bundle
    except ImportError as error:
        raise missing_extra("fhir.resources") from error
    if len(content) > _MAX_BYTES:
        raise refuse(1, "the bundle", f"{len(content)} bytes; at most {_MAX_BYTES} are read")
    try:
        text = content.decode()
        raw = load_json(text)
    except UnicodeDecodeError as error:
        raise refuse(content[: error.start].count(b"\n") + 1, "the text", "not UTF-8") from error
    except ValueError as error:
        raise refuse(getattr(error, "lineno", 1), "the text", f"not JSON: {error}") from error
    lines = value_lines(text)
    reader = _Reader(raw, lines)
    try:
        Bundle.model_validate(raw)
    except (ValidationError, ValueError, TypeError) as error:
        item = error.errors()[0] if isinstance(error, ValidationError) else None
        place: JsonPath = tuple(item["loc"]) if item else ()
        raise refuse(
            line_of(lines, place), _dotted(place), item["msg"] if item else str(error)
        ) from error
    message = reader.message()
    envelope = reader.envelope()
    refuse_differences(content, write_fhir(message, envelope), b"\n")
    return message, envelope


def _dotted(path: JsonPath) -> str:
    return ".".join(str(part) for part in path) or "the bundle"


class _Reader:
    """Turns the JSON of one bundle into a result."""

    def __init__(self, raw: Any, lines: dict[JsonPath, int]) -> None:
        self._raw = raw
        self._lines = lines
        self._classes: dict[str, dict[str, Any]] = {}
        self._paths: dict[str, JsonPath] = {}
        self._wbc: dict[str, Any] | None = None

    def envelope(self) -> Envelope:
        """Return what the bundle holds of it."""
        authority = ""
        for resource, path in self._resources("Patient"):
            if "identifier" in resource and "assigner" in self._at((*path, "identifier", 0), dict):
                authority = self._text((*path, "identifier", 0, "assigner", "display"))
        return Envelope(patient_authority=authority)

    def message(self) -> ResultMessage:
        """Return the result."""
        report, report_path = self._one("DiagnosticReport")
        observations = list(self._resources("Observation"))
        if not observations:
            raise self._refuse(("entry",), "there is no Observation")
        panel_path = observations[0][1]
        for resource, path in [(report, report_path), *observations]:
            self._choice((*path, "status"), resource.get("status"), _STATUSES)
        facts = self._facts(panel_path)
        for _, path in observations[1:]:
            self._figure(path)
        content = {
            "sample": self._text((*report_path, "identifier", 0, "value")),
            "order": self._order(report, report_path),
            "created": self._text(("timestamp",)),
            "observed": self._text((*report_path, "effectiveDateTime")),
            "laboratory": self._text((*report_path, "performer", 0, "display"))
            if "performer" in report
            else "",
            "panel_name": self._text((*report_path, "code", "text")),
            "classes": list(self._classes.values()),
            "wbc": self._wbc,
        }
        try:
            parts = message_parts(facts)
        except ValueError as error:
            raise self._refuse((*panel_path, "component"), str(error)) from error
        message = self._validated({**content, **parts}, panel_path)
        for resource, path in [(report, report_path), *observations]:
            self._choice((*path, "status"), resource["status"], {STATES[message.state].fhir})
        self._choice(
            ("identifier", "value"), self._text(("identifier", "value")), {message.control_id}
        )
        return message

    def _validated(self, content: dict[str, Any], panel_path: JsonPath) -> ResultMessage:
        try:
            return ResultMessage.model_validate(content)
        except ValidationError as error:
            item = error.errors()[0]
            place, path = item["loc"], panel_path
            if len(place) > 1 and place[0] == "classes":
                path = list(self._paths.values())[int(place[1])]
            for key, found in self._paths.items():
                if f"{key}: " in item["msg"]:
                    path = found
            raise self._refuse(path, explain(item, ResultMessage)) from error

    def _resources(self, kind: str) -> list[tuple[dict[str, Any], JsonPath]]:
        entries = self._at(("entry",), list)
        found = []
        for number in range(len(entries)):
            path: JsonPath = ("entry", number, "resource")
            resource = self._at(path, dict)
            if resource.get("resourceType") == kind:
                found.append((resource, path))
        return found

    def _one(self, kind: str) -> tuple[dict[str, Any], JsonPath]:
        found = self._resources(kind)
        if len(found) != 1:
            raise self._refuse(("entry",), f"{len(found)} resources {kind}, where one is expected")
        return found[0]

    def _order(self, report: dict[str, Any], report_path: JsonPath) -> dict[str, Any]:
        specimen, path = self._one("Specimen")
        sample = self._text((*report_path, "identifier", 0, "value"))
        number = self._text((*path, "identifier", 0, "value"))
        found: dict[str, Any] = {
            "order": self._text((*report_path, "basedOn", 0, "identifier", "value"))
            if "basedOn" in report
            else None,
            "specimen": number if number != sample else None,
            "collected": self._text((*path, "collection", "collectedDateTime"))
            if "collection" in specimen
            else None,
        }
        for resource, where in self._resources("Patient"):
            found |= {
                "patient": self._text((*where, "identifier", 0, "value"))
                if "identifier" in resource
                else None,
                "birth_date": resource.get("birthDate"),
                "sex": self._text((*where, "gender")),
            }
        return found

    def _facts(self, panel_path: JsonPath) -> list[Fact]:
        facts = []
        for number in range(len(self._at((*panel_path, "component"), list))):
            path = (*panel_path, "component", number)
            code = self._choice((*path, "code", "coding", 0, "code"), None, set(FACTS))
            if FACTS[code].kind == "count":
                facts.append(Fact(code, str(self._at((*path, "valueInteger"), int))))
            else:
                facts.append(Fact(code, self._text((*path, "valueString"))))
        return facts

    def _figure(self, path: JsonPath) -> None:
        resource = self._at(path, dict)
        coding = (*path, "code", "coding")
        url = self._choice((*coding, 0, "system"), None, set(_SYSTEM_OF))
        self._choice((*coding, 1, "system"), None, {CLASSES})
        key = self._text((*coding, 1, "code"))
        value, unit = self._quantity((*path, "valueQuantity"))
        flag, borderline = self._flag(resource, path)
        figure: dict[str, Any] = {
            "code": {
                "code": self._text((*coding, 0, "code")),
                "display": self._text((*coding, 0, "display")),
                "system": _SYSTEM_OF[url],
                "name": self._text((*path, "code", "text")),
            },
            "value": value,
            "interval": None,
            "unit": unit,
            "reference": self._range((*path, "referenceRange", 0))
            if "referenceRange" in resource
            else None,
            "flag": flag,
            "borderline": borderline,
        }
        count = None
        for number in range(len(resource.get("component", ()))):
            where = (*path, "component", number)
            self._choice((*where, "code", "coding", 0, "system"), None, {LOCAL_CODES})
            if (
                self._choice((*where, "code", "coding", 0, "code"), None, {"CI95", "COUNT"})
                == "COUNT"
            ):
                count = self._at((*where, "valueInteger"), int)
            else:
                figure["interval"] = self._range((*where, "valueRange"))
        self._place(path, key, figure, count)

    def _place(self, path: JsonPath, key: str, figure: dict[str, Any], count: int | None) -> None:
        """Put a figure where it belongs: that of all white cells is the only one before the first
        class.
        """
        if figure["unit"] == Unit.PER_UL and not self._classes and self._wbc is None:
            self._wbc = figure
            return
        line = self._classes.setdefault(key, {"key": key})
        self._paths.setdefault(key, path)
        name = "percent" if figure["unit"] == Unit.PERCENT else "absolute"
        if name in line:
            raise self._refuse(path, f"a second {name} of {key}")
        line[name] = figure
        if count is not None:
            line["count"] = count

    def _flag(self, resource: dict[str, Any], path: JsonPath) -> tuple[str | None, bool]:
        found = resource.get("interpretation", [])
        codes = [
            self._choice(
                (*path, "interpretation", number, "coding", 0, "code"),
                None,
                {*_FLAGS, BORDERLINE[0]},
            )
            for number in range(len(found))
        ]
        for number in range(len(found)):
            self._choice(
                (*path, "interpretation", number, "coding", 0, "system"),
                None,
                {URLS["interpretation"]},
            )
        return (codes[0] if codes else None), BORDERLINE[0] in codes

    def _quantity(self, path: JsonPath) -> tuple[Decimal, str]:
        value = self._at((*path, "value"), (Decimal, int))
        try:
            figure = parse_decimal(f"{value:f}" if isinstance(value, Decimal) else str(value))
        except ValueError as error:
            raise self._refuse((*path, "value"), str(error)) from error
        self._choice((*path, "system"), None, {URLS["ucum"]})
        unit = self._choice((*path, "code"), None, {Unit.PERCENT.value, Unit.PER_UL.value})
        self._choice((*path, "unit"), None, {UNIT_NAMES[Unit(unit)]})
        return figure, unit

    def _range(self, path: JsonPath) -> tuple[Decimal, Decimal]:
        (low, one), (high, other) = self._quantity((*path, "low")), self._quantity((*path, "high"))
        if one != other:
            raise self._refuse(path, f"the units {one} and {other} in one interval")
        return low, high

    def _choice(self, path: JsonPath, value: object, allowed: set[str]) -> str:
        found = self._text(path) if value is None else value
        if not isinstance(found, str) or found not in allowed:
            raise self._refuse(path, f"{str(found)[:40]!r}; allowed: {', '.join(sorted(allowed))}")
        return found

    def _text(self, path: JsonPath) -> str:
        return str(self._at(path, str))

    def _at(self, path: JsonPath, kind: type | tuple[type, ...]) -> Any:
        found = self._get(path)
        if not isinstance(found, kind) or isinstance(found, bool):
            names = kind if isinstance(kind, tuple) else (kind,)
            raise self._refuse(
                path, f"{str(found)[:40]!r} is no {' or '.join(_KINDS[name] for name in names)}"
            )
        return found

    def _get(self, path: JsonPath) -> Any:
        value = self._raw
        for number, part in enumerate(path):
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError) as error:
                raise self._refuse(path[: number + 1], f"{part!r} is missing") from error
        return value

    def _refuse(self, path: JsonPath, reason: str) -> DocumentError:
        return refuse(line_of(self._lines, path), _dotted(path), reason)


_KINDS: Final[dict[type, str]] = {
    str: "text",
    int: "whole number",
    Decimal: "figure",
    list: "list",
    dict: "table",
}
