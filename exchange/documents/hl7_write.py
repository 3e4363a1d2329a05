"""Write a result as HL7 v2.5.1: ``ORU^R01`` for a laboratory system, ``OUL^R22`` (IHE LAW, LAB-29)
as an analyser.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from wbcpipe.exchange.documents.envelope import missing_extra
from wbcpipe.exchange.documents.hl7_text import escape, join, to_time
from wbcpipe.exchange.message.codes import LOCAL, PANEL, SEXES, STATES, UNIT_NAMES
from wbcpipe.exchange.message.facts import FACTS, facts_of
from wbcpipe.exchange.message.numbers import decimal_text

if TYPE_CHECKING:
    from decimal import Decimal

    from wbcpipe.exchange.documents.envelope import Envelope
    from wbcpipe.exchange.message.model import Measurement, ResultMessage

__all__ = [
    "BORDERLINE",
    "HL7_TYPES",
    "LAW_PROFILE",
    "NULL",
    "MessageType",
    "Observation",
    "range_text",
    "write_hl7",
]

MessageType = Literal["oru", "oul"]
#: Field MSH-9 of each.
HL7_TYPES: dict[MessageType, str] = {"oru": "ORU^R01^ORU_R01", "oul": "OUL^R22^OUL_R22"}
LAW_PROFILE = "LAB-29^IHE"
#: A field that must be there, and has no value.
NULL = '""'
BORDERLINE = "borderline: the 95 % interval overlaps the reference interval"


class Observation(NamedTuple):
    """An OBX segment without what all of them share.

    Attributes:
        kind: OBX-2: NM, SN or ST.
        code: OBX-3.
        sub_id: OBX-4: number of the class from 1; ``0`` for the sample, ``0.n`` for the n-th fact
            about it. With OBX-3 it is unique.
        value: OBX-5.
        unit: OBX-6.
        reference: OBX-7.
        flag: OBX-8.
        note: NTE below it.
    """

    kind: str
    code: str
    sub_id: str
    value: str
    unit: str = ""
    reference: str = ""
    flag: str = ""
    note: str = ""


def write_hl7(message: ResultMessage, envelope: Envelope, kind: MessageType) -> bytes:
    """Return the message in UTF-8; segments end in a carriage return.

    Raises:
        ConfigError: hl7apy is not installed.
    """
    try:
        from hl7apy.consts import VALIDATION_LEVEL
        from hl7apy.core import Message
        from hl7apy.parser import parse_segment
    except ImportError as error:
        raise missing_extra("hl7apy") from error

    strict = VALIDATION_LEVEL.STRICT

    def segment(text: str) -> Any:
        return parse_segment(text, version="2.5.1", validation_level=strict)

    document = Message(HL7_TYPES[kind].split("^")[2], version="2.5.1", validation_level=strict)
    document.msh = _header(message, envelope, kind)
    if kind == "oru":
        result = document.add_group("ORU_R01_PATIENT_RESULT")
        if message.order.has_patient:
            result.add_group("ORU_R01_PATIENT").add(segment(_patient(message, envelope)))
        order = result.add_group("ORU_R01_ORDER_OBSERVATION")
        order.add(segment(_request(message)))
    else:
        if message.order.has_patient:
            document.add_group("OUL_R22_PATIENT").add(segment(_patient(message, envelope)))
        specimen = document.add_group("OUL_R22_SPECIMEN")
        specimen.add(segment(_specimen(message)))
        specimen.add_group("OUL_R22_CONTAINER").add(segment(f"SAC|||{join(message.specimen)}"))
        order = specimen.add_group("OUL_R22_ORDER")
        order.add(segment(_request(message)))
        order.add(segment("ORC|SC||||CM"))
    for number, observation in enumerate(_observations(message), 1):
        group = order.add_group(
            "ORU_R01_OBSERVATION" if kind == "oru" else "OUL_R22_OBXTCDSIDNTE_SUPPGRP"
        )
        group.add(segment(_observation(number, observation, message)))
        if observation.note:
            group.add(segment(f"NTE|1|L|{escape(observation.note)}"))
    if kind == "oru":
        order.add_group("ORU_R01_SPECIMEN").add(segment(_specimen(message)))
    document.validate()
    return f"{document.to_er7()}\r".encode()


def _header(message: ResultMessage, envelope: Envelope, kind: MessageType) -> str:
    fields = [
        join("wbcpipe"),
        join(envelope.sending_facility),
        join(envelope.receiving_application),
        join(envelope.receiving_facility),
        to_time(message.created),
        "",
        HL7_TYPES[kind],
        message.control_id,
        envelope.processing,
        "2.5.1",
        "",
        "",
        "NE",
        "AL",
        "",
        "UNICODE UTF-8",
        message.language,
        "",
        LAW_PROFILE if kind == "oul" else "",
    ]
    return "MSH|^~\\&|" + "|".join(fields).rstrip("|")


def _patient(message: ResultMessage, envelope: Envelope) -> str:
    order = message.order
    identifier = (
        join(order.patient, "", "", envelope.patient_authority, "PI") if order.patient else NULL
    )
    born = (order.birth_date or "").replace("-", "")
    # Without a name: "U" says that its type is not specified (table 0200).
    return f"PID|1||{identifier}||^^^^^^U||{born}|{SEXES[order.sex]}"


def _specimen(message: ResultMessage) -> str:
    collected = to_time(message.order.collected) if message.order.collected else ""
    role = "|||P^Patient specimen^HL70369||||||" + collected
    return f"SPM|1|{escape(message.specimen)}&wbcpipe||BLD^Whole blood^HL70487||||{role}".rstrip(
        "|"
    )


def _request(message: ResultMessage) -> str:
    panel = join(PANEL.code, PANEL.display, PANEL.system, "DIFF", message.panel_name, LOCAL)
    order = join(message.order.order) if message.order.order else ""
    codes = STATES[message.state]
    # OBR-7 time of the observation, OBR-22 time of the result, OBR-24 section: haematology, OBR-25
    # state.
    end = [
        "",
        "",
        to_time(message.observed),
        *[""] * 14,
        to_time(message.created),
        "",
        "HM",
        codes.obr_25,
    ]
    return f"OBR|1|{order}|{join(message.sample, 'wbcpipe')}|{panel}|" + "|".join(end)


def _observations(message: ResultMessage) -> list[Observation]:
    found: list[Observation] = []
    if message.wbc:
        found.append(_measured(message.wbc, "0", "WBC"))
    for number, line in ((str(n), line) for n, line in enumerate(message.classes, 1)):
        found.append(_measured(line.percent, number, line.key))
        found.append(
            _interval(line.percent, number, "CI95", "95 % confidence interval of the percentage")
        )
        found.append(
            Observation("NM", join("COUNT", "Cells of the class", LOCAL), number, str(line.count))
        )
        if line.absolute:
            found.append(_measured(line.absolute, number, line.key))
            if line.absolute.interval:
                name = "95 % confidence interval of the concentration"
                found.append(_interval(line.absolute, number, "ABS-CI95", name))
    if not message.state.has_values:
        code = join(PANEL.code, PANEL.display, PANEL.system, "DIFF", message.panel_name, LOCAL)
        found.append(Observation("", code, "0", ""))
    for place, fact in enumerate(facts_of(message), 1):
        kind = "NM" if FACTS[fact.code].kind == "count" else "ST"
        code = join(fact.code, FACTS[fact.code].display, LOCAL)
        found.append(Observation(kind, code, f"0.{place}", escape(fact.value)))
    return found


def _measured(figure: Measurement, number: str, key: str) -> Observation:
    code = figure.code
    return Observation(
        "NM",
        join(code.code, code.display, code.system, key, code.name, LOCAL),
        number,
        decimal_text(figure.value),
        join(figure.unit, UNIT_NAMES[figure.unit], "UCUM"),
        range_text(figure.reference) if figure.reference else "",
        figure.flag or "",
        BORDERLINE if figure.borderline else "",
    )


def _interval(figure: Measurement, number: str, code: str, name: str) -> Observation:
    low, high = figure.interval or (figure.value, figure.value)
    value = f"^{decimal_text(low)}^-^{decimal_text(high)}"
    unit = join(figure.unit, UNIT_NAMES[figure.unit], "UCUM")
    return Observation("SN", join(code, name, LOCAL), number, value, unit)


def range_text(interval: tuple[Decimal, Decimal]) -> str:
    """Return a reference interval as OBX-7 holds it, such as ``40.0-75.0``."""
    return f"{decimal_text(interval[0])}-{decimal_text(interval[1])}"


def _observation(number: int, row: Observation, message: ResultMessage) -> str:
    """Return an OBX segment: OBX-14 time, OBX-16 who signed, OBX-18 the analyser, OBX-19 time of
    the analysis.
    """
    reader = join(message.signature.reader) if message.signature else ""
    analyser = join(message.analyser.model, "wbcpipe")
    observed = to_time(message.observed)
    fields = [
        str(number),
        row.kind,
        row.code,
        row.sub_id,
        row.value,
        row.unit,
        row.reference,
        row.flag,
        "",
        "",
        STATES[message.state].obx_11,
        "",
        "",
        observed,
        "",
        reader,
        "",
        analyser,
        observed,
    ]
    return "OBX|" + "|".join(fields)
