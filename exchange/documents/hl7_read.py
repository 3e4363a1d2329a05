"""Read a message of `hl7_write` back, strictly.

What is not what the writer makes of the same result is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from wbcpipe.errors import DocumentError
from wbcpipe.exchange.documents.differences import refuse_differences
from wbcpipe.exchange.documents.envelope import Envelope, missing_extra, refuse
from wbcpipe.exchange.documents.hl7_text import SegmentText, from_time
from wbcpipe.exchange.documents.hl7_write import BORDERLINE, HL7_TYPES, NULL, write_hl7
from wbcpipe.exchange.message.codes import (
    LOCAL,
    PANEL,
    SEXES,
    STATES,
    UNIT_NAMES,
    AbnormalFlag,
    System,
    Unit,
)
from wbcpipe.exchange.message.facts import FACTS, Fact, message_parts
from wbcpipe.exchange.message.model import ResultMessage
from wbcpipe.exchange.message.numbers import parse_count, parse_decimal
from wbcpipe.samples.order_record import Sex
from wbcpipe.system.validation_messages import explain

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal

    from wbcpipe.exchange.documents.hl7_write import MessageType

__all__ = ["is_read_back", "read_hl7"]

_MAX_BYTES: Final = 1_000_000
_FLAGS: Final = {flag.value for flag in AbnormalFlag}
_OBX_11: Final = {codes.obx_11 for codes in STATES.values()}
_SEX_OF: Final = {code: sex for sex, code in SEXES.items()}


def read_hl7(content: bytes) -> tuple[ResultMessage, Envelope]:
    """Read a message.

    Raises:
        DocumentError: it is not one that `write_hl7` writes; the text names the line and the
            reason.
        ConfigError: hl7apy is not installed.
    """
    segments = _segments(content)
    reader = _Reader(segments)
    message, envelope = reader.message(), reader.envelope()
    # Everything that was not looked at: names, texts, the order of the segments. The structure of
    # what the writer makes was checked when it was written.
    expected = write_hl7(message, envelope, reader.kind)
    if content != expected:
        _check_structure(segments)
        refuse_differences(content, expected, b"\r")
    return message, envelope


def is_read_back(content: bytes, message: ResultMessage, envelope: Envelope) -> bool:
    """Return whether what `write_hl7` has just made says the same of result, sender and receiver.

    `read_hl7` would write it again, which can but give the same document.

    Raises:
        DocumentError: as in `read_hl7`.
    """
    segments = _segments(content)
    _check_structure(segments)
    reader = _Reader(segments)
    return (reader.message(), reader.envelope()) == (message, envelope)


def _segments(content: bytes) -> list[SegmentText]:
    if len(content) > _MAX_BYTES:
        raise refuse(1, "the message", f"{len(content)} bytes; at most {_MAX_BYTES} are read")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise refuse(content[: error.start].count(b"\r") + 1, "the text", "not UTF-8") from error
    lines = text.removesuffix("\r").split("\r")
    segments = [SegmentText.parse(number, line) for number, line in enumerate(lines, 1)]
    header = segments[0]
    if header.name != "MSH" or header.raw(2) != "^~\\&":
        raise refuse(1, "MSH-1", "the message does not begin with MSH|^~\\&|")
    if header.raw(9) not in HL7_TYPES.values():
        raise header.refuse(9, f"{header.raw(9)[:40]!r}; allowed: {', '.join(HL7_TYPES.values())}")
    return segments


def _check_structure(segments: list[SegmentText]) -> None:
    """Have hl7apy check the message: its groups, segments, fields and their types."""
    try:
        from hl7apy.consts import VALIDATION_LEVEL
        from hl7apy.exceptions import HL7apyException
        from hl7apy.parser import parse_message
    except ImportError as error:
        raise missing_extra("hl7apy") from error
    text = "\r".join(segment.er7 for segment in segments)
    try:
        parsed = parse_message(text, validation_level=VALIDATION_LEVEL.STRICT, find_groups=True)
        parsed.validate()
    except (HL7apyException, ValueError, KeyError, IndexError, AttributeError) as error:
        raise refuse(1, "the structure", f"{error or type(error).__name__}") from error
    if parsed.to_er7() != text:
        raise refuse(1, "the structure", "hl7apy reads another message")


class _Reader:
    """Turns the segments of one message into a result."""

    def __init__(self, segments: list[SegmentText]) -> None:
        self._segments = segments
        self.kind: MessageType = next(
            kind for kind, text in HL7_TYPES.items() if text == segments[0].raw(9)
        )
        self._classes: dict[str, dict[str, Any]] = {}
        self._class_lines: dict[str, int] = {}
        self._facts: list[Fact] = []
        self._wbc: dict[str, Any] | None = None

    def envelope(self) -> Envelope:
        """Return sender and receiver."""
        header, patient = self._segments[0], self._patient()
        try:
            return Envelope(
                sending_facility=header.text(4),
                receiving_application=header.text(5),
                receiving_facility=header.text(6),
                processing=header.text(11),  # type: ignore[arg-type]  # pydantic refuses others
                patient_authority=patient.parts(3, 5)[3],
            )
        except ValidationError as error:
            raise refuse(1, "MSH", explain(error.errors()[0], Envelope)) from error

    def message(self) -> ResultMessage:
        """Return the result."""
        header, request, specimen = self._segments[0], self._one("OBR"), self._one("SPM")
        obx = [segment for segment in self._segments if segment.name == "OBX"]
        for number, segment in enumerate(obx, 1):
            if segment.raw(1) != str(number):
                raise segment.refuse(1, f"{segment.raw(1)[:20]!r}, where {number} is expected")
            self._observation(segment)
        panel = request.parts(4, 6)
        if (panel[0], panel[2]) != (PANEL.code, PANEL.system):
            raise request.refuse(
                4, f"{panel[0][:40]!r} of {panel[2][:20]!r} is not the panel {PANEL.code}"
            )
        order = self._order(request, specimen)
        content = {
            "sample": request.parts(3, 2)[0],
            "order": order,
            "created": self._value(header, 7, from_time),
            "observed": self._value(request, 7, from_time),
            "laboratory": header.text(4),
            "panel_name": panel[4],
            "classes": list(self._classes.values()),
            "wbc": self._wbc,
        }
        message = self._validated(content)
        self._check_states(message, request, obx)
        if header.raw(10) != message.control_id:
            raise header.refuse(
                10, f"{header.raw(10)[:40]!r} is not the identifier of this content"
            )
        return message

    def _one(self, name: str) -> SegmentText:
        found = [segment for segment in self._segments if segment.name == name]
        if len(found) != 1:
            raise refuse(
                found[1].line if found else 1, name, f"{len(found)} segments, where one is expected"
            )
        return found[0]

    def _patient(self) -> SegmentText:
        """Return the patient's segment, or one of a patient who is not known."""
        if not any(segment.name == "PID" for segment in self._segments):
            return SegmentText(1, "PID", ("PID", *[""] * 7, SEXES[Sex.UNKNOWN]))
        return self._one("PID")

    def _order(self, request: SegmentText, specimen: SegmentText) -> dict[str, Any]:
        patient = self._patient()
        number, born = specimen.raw(2).partition("&")[0], patient.text(7)
        sample = request.parts(3, 2)[0]
        sex = _SEX_OF.get(patient.text(8))
        if sex is None:
            raise patient.refuse(8, f"{patient.raw(8)[:20]!r}; allowed: {', '.join(_SEX_OF)}")
        specimen_number = SegmentText(specimen.line, specimen.name, ("", number)).text(1)
        return {
            "order": request.text(2) or None,
            "specimen": specimen_number if specimen_number != sample else None,
            "patient": (patient.parts(3, 5)[0] or None) if patient.raw(3) != NULL else None,
            "birth_date": f"{born[:4]}-{born[4:6]}-{born[6:]}" if born else None,
            "sex": sex,
            "collected": self._value(specimen, 17, from_time) if specimen.raw(17) else None,
        }

    def _validated(self, content: dict[str, Any]) -> ResultMessage:
        first = next((one.line for one in self._segments if one.name == "OBX"), 1)
        try:
            parts = message_parts(self._facts)
        except ValueError as error:
            raise refuse(first, "OBX", str(error)) from error
        try:
            return ResultMessage.model_validate({**content, **parts})
        except ValidationError as error:
            item = error.errors()[0]
            place = item["loc"]
            line = first
            if len(place) > 1 and place[0] == "classes":
                line = list(self._class_lines.values())[int(place[1])]
            for key, found in self._class_lines.items():
                name = self._classes[key].get("key")
                if name and f"{name}: " in item["msg"]:
                    line = found
            raise refuse(
                line,
                "OBX" if place[:1] != ("order",) else "the order",
                explain(item, ResultMessage),
            ) from error

    def _observation(self, segment: SegmentText) -> None:
        if segment.raw(11) not in _OBX_11:
            raise segment.refuse(
                11, f"{segment.raw(11)[:20]!r}; allowed: {', '.join(sorted(_OBX_11))}"
            )
        sub_id = segment.raw(4)
        code = segment.parts(3, 6)
        if sub_id.startswith("0."):
            self._fact(segment, code)
        elif sub_id == "0":
            if segment.raw(2):
                self._wbc = self._measurement(segment, code)
        else:
            self._class_figure(segment, sub_id, code)

    def _fact(self, segment: SegmentText, code: list[str]) -> None:
        if code[0] not in FACTS or code[2] != LOCAL:
            raise segment.refuse(3, f"the code {code[0][:40]!r} of {code[2][:20]!r} is not known")
        kind = FACTS[code[0]].kind
        self._expect(segment, 2, "NM" if kind == "count" else "ST")
        value = segment.text(5)
        if kind == "count":
            self._value(segment, 5, parse_count)
        self._facts.append(Fact(code[0], value))

    def _class_figure(self, segment: SegmentText, sub_id: str, code: list[str]) -> None:
        line = self._classes.setdefault(sub_id, {})
        self._class_lines.setdefault(sub_id, segment.line)
        name, system = code[0], code[2]
        if system == LOCAL and not code[3] and name in ("CI95", "ABS-CI95"):
            target = line.get("percent" if name == "CI95" else "absolute")
            if target is None or target["interval"]:
                raise segment.refuse(3, f"{name} without its figure, or twice")
            self._expect(segment, 2, "SN")
            self._unit(segment, target["unit"])
            target["interval"] = self._interval(segment)
        elif system == LOCAL and not code[3] and name == "COUNT":
            self._expect(segment, 2, "NM")
            line["count"] = self._value(segment, 5, parse_count)
        else:
            figure = self._measurement(segment, code)
            key = "percent" if figure["unit"] == Unit.PERCENT else "absolute"
            if key in line or (code[3] and line.setdefault("key", code[3]) != code[3]):
                raise segment.refuse(4, "two figures, or two classes, under one number")
            line[key] = figure

    def _measurement(self, segment: SegmentText, code: list[str]) -> dict[str, Any]:
        self._expect(segment, 2, "NM")
        if code[2] not in (System.LOINC, System.LOCAL) or code[5] != LOCAL:
            raise segment.refuse(
                3, f"the coding system {code[2][:20]!r} is not known; allowed: LN, {LOCAL}"
            )
        flag = segment.raw(8)
        if flag and flag not in _FLAGS:
            raise segment.refuse(
                8, f"the flag {flag[:20]!r} is not known; allowed: {', '.join(sorted(_FLAGS))}"
            )
        value = self._value(segment, 5, parse_decimal)
        unit = self._unit(segment, None)
        return {
            "code": {"code": code[0], "display": code[1], "system": code[2], "name": code[4]},
            "value": value,
            "interval": None,
            "unit": unit,
            "reference": self._reference(segment),
            "flag": flag or None,
            "borderline": self._note_below(segment) == BORDERLINE,
        }

    def _unit(self, segment: SegmentText, wanted: str | None) -> str:
        unit, name, system = segment.parts(6, 3)
        allowed = [wanted] if wanted else [Unit.PERCENT, Unit.PER_UL]
        if unit not in allowed or system != "UCUM" or UNIT_NAMES[Unit(unit)] != name:
            raise segment.refuse(
                6, f"the unit {segment.raw(6)[:40]!r} is not allowed; in UCUM: {', '.join(allowed)}"
            )
        return unit

    def _reference(self, segment: SegmentText) -> tuple[Decimal, Decimal] | None:
        text = segment.raw(7)
        if not text:
            return None
        low, _, high = text.partition("-")
        try:
            return parse_decimal(low), parse_decimal(high)
        except ValueError as error:
            raise segment.refuse(7, f"{text[:40]!r} is no interval, such as 40.0-75.0") from error

    def _interval(self, segment: SegmentText) -> tuple[Decimal, Decimal]:
        sign, low, dash, high = segment.parts(5, 4)
        if sign or dash != "-":
            raise segment.refuse(5, f"{segment.raw(5)[:40]!r} is no interval, such as ^40.1^-^61.2")
        try:
            return parse_decimal(low), parse_decimal(high)
        except ValueError as error:
            raise segment.refuse(5, str(error)) from error

    def _note_below(self, segment: SegmentText) -> str:
        below = self._segments[segment.line] if segment.line < len(self._segments) else None
        return below.text(3) if below and below.name == "NTE" else ""

    def _expect(self, segment: SegmentText, number: int, value: str) -> None:
        if segment.raw(number) != value:
            raise segment.refuse(number, f"{segment.raw(number)[:20]!r}, where {value} is expected")

    def _value(self, segment: SegmentText, number: int, parse: Callable[[str], Any]) -> Any:
        try:
            return parse(segment.text(number))
        except DocumentError:
            raise
        except ValueError as error:
            raise segment.refuse(number, str(error)) from error

    def _check_states(
        self, message: ResultMessage, request: SegmentText, obx: list[SegmentText]
    ) -> None:
        codes = STATES[message.state]
        self._expect(request, 25, codes.obr_25)
        for segment in obx:
            self._expect(segment, 11, codes.obx_11)
