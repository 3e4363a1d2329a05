"""Documents of three samples.

Parsed back to the same figures, and refused with line and reason when changed.
"""

from __future__ import annotations

import functools
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import hl7
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wbcpipe.errors import DocumentError
from wbcpipe.exchange.documents.envelope import Envelope
from wbcpipe.exchange.documents.formats import DocumentFormat, read_document, write_document
from wbcpipe.exchange.documents.hl7_text import escape, unescape
from wbcpipe.exchange.message.build import ResultInputs, Review, build_cancellation
from wbcpipe.exchange.message.codes import ResultState
from wbcpipe.laboratory.lab_file import Lab

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.exchange.message.model import ResultMessage
    from wbcpipe.samples.differential_record import DifferentialRecord

ENVELOPE = Envelope(sending_facility="", receiving_application="LIS", patient_authority="KIS & Co")
FORMATS = list(DocumentFormat)
HL7 = (DocumentFormat.ORU, DocumentFormat.OUL)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_document_reads_back_to_the_same_result(
    result: ResultMessage, kind: DocumentFormat
) -> None:
    content = write_document(result, ENVELOPE, kind)
    found, envelope = read_document(content)
    assert found == result
    assert found.control_id == result.control_id
    assert envelope.patient_authority == "KIS & Co"
    assert write_document(found, envelope, kind) == content


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("state", [ResultState.CANCELLED, ResultState.WITHDRAWN])
def test_a_cancellation_has_a_reason_and_no_figures(
    make_document: Callable[..., DifferentialRecord], kind: DocumentFormat, state: ResultState
) -> None:
    inputs = ResultInputs(
        document=make_document({"NEU": 5}), lab=Lab(), review=Review(state=state), sequence=3
    )
    message = build_cancellation(inputs, "slides exchanged")
    content = write_document(message, ENVELOPE, kind)
    assert read_document(content)[0] == message
    assert b"26511-6" not in content


def test_the_figures_of_hl7_are_those_that_another_library_reads(result: ResultMessage) -> None:
    for kind in HL7:
        parsed = hl7.parse(write_document(result, ENVELOPE, kind).decode())
        rows = {
            (str(row[3][0][0]), str(row[4])): row
            for row in parsed.segments("OBX")
            if str(row[2]) in ("NM", "SN")
        }
        for number, line in enumerate(result.classes, 1):
            row = rows[(line.percent.code.code, str(number))]
            assert Decimal(str(row[5])) == line.percent.value
            assert str(row[6][0][0]) == "%"
            assert line.percent.interval is not None
            interval = rows[("CI95", str(number))][5][0]
            assert (Decimal(str(interval[1])), Decimal(str(interval[3]))) == line.percent.interval
            assert int(str(rows[("COUNT", str(number))][5])) == line.count


def test_the_figures_of_fhir_are_in_its_observations(result: ResultMessage) -> None:
    bundle = json.loads(write_document(result, ENVELOPE, DocumentFormat.FHIR), parse_float=Decimal)
    resources = {entry["fullUrl"]: entry["resource"] for entry in bundle["entry"]}
    report = next(one for one in resources.values() if one["resourceType"] == "DiagnosticReport")
    panel = resources[report["result"][0]["reference"]]
    assert panel["code"]["coding"][0]["code"] == "69738-3"
    members = [resources[member["reference"]] for member in panel["hasMember"]]
    values = {one["code"]["coding"][0]["code"]: one["valueQuantity"] for one in members}
    for line in result.classes:
        assert values[line.percent.code.code]["value"] == line.percent.value
        if line.absolute:
            assert values[line.absolute.code.code]["code"] == "10*3/uL"
    signature = next(one for one in resources.values() if one["resourceType"] == "Provenance")
    assert signature["entity"][0]["what"]["identifier"]["value"] == "ab" * 32
    # References lead to resources of the bundle.
    for text in _references(bundle):
        assert text in resources


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["reference"]] if "reference" in value else []
        return own + [text for inner in value.values() for text in _references(inner)]
    return (
        [text for inner in value for text in _references(inner)] if isinstance(value, list) else []
    )


def test_a_class_with_a_count_of_zero_is_sent_with_its_interval(
    make_message: Callable[..., ResultMessage],
) -> None:
    line = make_message({"NEU": 99, "LYM": 1, "BAS": 0}).classes[2]
    assert (line.count, line.percent.value) == (0, Decimal("0.0"))
    assert line.percent.interval == (Decimal("0.0"), Decimal("3.6"))


@functools.cache
def written(make_message: Callable[..., ResultMessage], kind: DocumentFormat) -> bytes:
    """Return the document of all classes: hl7apy takes half a second for one."""
    return write_document(make_message(wbc=6.2), ENVELOPE, kind)


#: What is replaced in the HL7 document of all classes, by what, and what the refusal says.
HL7_MUTATIONS = {
    "text_as_number": (
        "|NM|26511-6",
        "|60.0|",
        "|sixty|",
        "line 5, OBX-5: 'sixty' is not a figure",
    ),
    "exponent": ("|NM|26511-6", "|60.0|", "|6e1|", "'6e1' is not a figure"),
    "comma": ("|NM|26511-6", "|60.0|", "|60,0|", "'60,0' is not a figure"),
    "negative": ("|NM|26511-6", "|60.0|", "|-60.0|", "'-60.0' is not a figure"),
    "not_a_number": ("|NM|26511-6", "|60.0|", "|NaN|", "'NaN' is not a figure"),
    "another_value": ("|NM|26511-6", "|60.0|", "|61.0|", "120 of 200 cells are 60.00 %"),
    "above_100": ("|NM|26511-6", "|60.0|", "|600.0|", "OBX: key 'classes.0.percent'"),
    "status_unknown": (
        "|NM|26511-6",
        "|||F|||",
        "|||Q9|||",
        "OBX-11: 'Q9'; allowed: C, F, P, W, X",
    ),
    "status_of_one": ("|NM|26511-6", "|||F|||", "|||P|||", "OBX-11: 'P', where F is expected"),
    "status_of_the_order": ("OBR|", "|HM|F", "|HM|P", "OBR-25: 'P', where F is expected"),
    "unit_unknown": ("|NM|26511-6", "%^percent^UCUM", "%%^percent^UCUM", "OBX-6: the unit"),
    "unit_exchanged": (
        "|NM|26511-6",
        "%^percent^UCUM",
        "10*3/uL^thousand per microliter^UCUM",
        "CI95 without its figure",
    ),
    "unit_system": ("|NM|26511-6", "%^percent^UCUM", "%^percent^ANSI", "OBX-6: the unit"),
    "flag_unknown": (
        "|NM|26511-6",
        "|40.0-75.0|N|",
        "|40.0-75.0|ZZ|",
        "OBX-8: the flag 'ZZ' is not known",
    ),
    "flag_wrong": (
        "|NM|26511-6",
        "|40.0-75.0|N|",
        "|40.0-75.0|H|",
        "the flag H contradicts the value 60.0",
    ),
    "reference": ("|NM|26511-6", "|40.0-75.0|", "|75.0-40.0|", "does not ascend"),
    "reference_text": ("|NM|26511-6", "|40.0-75.0|", "|normal|", "OBX-7: 'normal' is no interval"),
    "code": ("|NM|26511-6", "26511-6", "26511-7", "MSH-10"),
    "code_system": ("|NM|26511-6", "^LN^NEU", "^XX^NEU", "the coding system 'XX' is not known"),
    "interval": ("|SN|CI95", "^-^66", "^-^56", "lies outside its interval"),
    "interval_text": ("|SN|CI95", "^-^66", "^to^66", "is no interval"),
    "count": ("|NM|COUNT", "|120|", "|119|", "the counts of the classes add up to 199"),
    "count_text": ("|NM|COUNT", "|120|", "|120.0|", "is not a count"),
    "total": ("|NM|COUNTED", "|200|", "|210|", "add up to 200, and 210"),
    "fact": ("|ST|STATE", "STATE^", "STAT^", "the code 'STAT' of '99WBC' is not known"),
    "state": ("|ST|STATE", "|final|", "|bogus|", "'preliminary', 'final'"),
    "state_other": ("|ST|STATE", "|final|", "|cancelled|", "has no signature"),
    "control_id": ("MSH|", "|P|2.5.1", "0|P|2.5.1", "MSH-10"),
    "message_type": ("MSH|", "^R", "^Z", "MSH-9"),
    "sex": ("PID|", "|F", "|Q", "PID-8: 'Q'; allowed: F, M, O, U"),
    "display": ("|NM|26511-6", "Neutrophils/100", "Lymphocytes/100", "line "),
    "time": ("OBR|", "20261130060000+0000", "yesterday", "OBR-7: 'yesterday' is no time"),
    "set_id": ("|NM|26511-6", "OBX|2|", "OBX|1|", "OBX-1: '1', where 2 is expected"),
    "segment": ("SPM|", "SPM|", "ZZZ|", "line "),
}


@pytest.mark.parametrize("name", HL7_MUTATIONS)
@pytest.mark.parametrize("kind", HL7)
def test_a_changed_message_is_refused(
    make_message: Callable[..., ResultMessage], kind: DocumentFormat, name: str
) -> None:
    where, old, new, reason = HL7_MUTATIONS[name]
    lines = written(make_message, kind).decode().split("\r")
    number = next(k for k, line in enumerate(lines) if where in line)
    assert old in lines[number]
    lines[number] = lines[number].replace(old, new, 1)
    with pytest.raises(DocumentError) as refused:
        read_document("\r".join(lines).encode())
    assert str(refused.value).startswith("line ")
    if not (
        kind is DocumentFormat.OUL and reason.startswith("line 5")
    ):  # it has two more segments before
        assert reason in str(refused.value)


#: Path of a value in the bundle of all classes, what it becomes, and what the refusal says.
FIRST = ("entry", 3, "resource")
FHIR_MUTATIONS: dict[str, tuple[tuple[str | int, ...], Any, str]] = {
    "status_unknown": ((*FIRST, "status"), "bogus", "entry.3.resource.status: 'bogus'; allowed"),
    "status_of_one": ((*FIRST, "status"), "preliminary", "allowed: final"),
    "status_of_report": (("entry", 0, "resource", "status"), "amended", "allowed: final"),
    "value": ((*FIRST, "valueQuantity", "value"), 61.0, "120 of 200 cells are 60.00 %"),
    "value_text": ((*FIRST, "valueQuantity", "value"), "60.0", "is no figure or whole number"),
    "value_negative": ((*FIRST, "valueQuantity", "value"), -60.0, "is not a figure"),
    "value_missing": ((*FIRST, "valueQuantity", "value"), None, "valueQuantity.value"),
    "unit": ((*FIRST, "valueQuantity", "code"), "percent", "allowed: %, 10*3/uL"),
    "unit_text": ((*FIRST, "valueQuantity", "unit"), "per mille", "allowed: percent"),
    "unit_system": ((*FIRST, "valueQuantity", "system"), "http://example.org", "unitsofmeasure"),
    "flag": (
        (*FIRST, "interpretation", 0, "coding", 0, "code"),
        "ZZ",
        "allowed: H, HH, IND, L, LL, N",
    ),
    "flag_wrong": (
        (*FIRST, "interpretation", 0, "coding", 0, "code"),
        "L",
        "the flag L contradicts",
    ),
    "flag_display": ((*FIRST, "interpretation", 0, "coding", 0, "display"), "High", "where"),
    "reference": ((*FIRST, "referenceRange", 0, "low", "value"), 80.0, "does not ascend"),
    "code": ((*FIRST, "code", "coding", 0, "code"), "26478-8", "identifier.value"),
    "code_system": (
        (*FIRST, "code", "coding", 0, "system"),
        "http://snomed.info/sct",
        "allowed: http://loinc.org",
    ),
    "interval": (
        (*FIRST, "component", 0, "valueRange", "high", "value"),
        50.0,
        "lies outside its interval",
    ),
    "count": ((*FIRST, "component", 1, "valueInteger"), 121, "add up to 201"),
    "count_half": ((*FIRST, "component", 1, "valueInteger"), 120.5, "line "),
    "count_code": (
        (*FIRST, "component", 1, "code", "coding", 0, "code"),
        "CELLS",
        "allowed: CI95, COUNT",
    ),
    "fact": (
        ("entry", 1, "resource", "component", 0, "code", "coding", 0, "code"),
        "STAT",
        "'STAT'; allowed",
    ),
    "state": (
        ("entry", 1, "resource", "component", 0, "valueString"),
        "bogus",
        "'preliminary', 'final'",
    ),
    "control_id": (("identifier", "value"), "0" * 20, "identifier.value"),
    "bundle_type": (("type",), "message", "where"),
    "reference_url": (("entry", 0, "resource", "result", 0, "reference"), "urn:uuid:0", "where"),
    "signer": (("entry", -1, "resource", "agent", 0, "who", "display"), "Somebody", "where"),
    "device": (("entry", -3, "resource", "version", 0, "value"), "9", "where"),
    "time": (("entry", 0, "resource", "effectiveDateTime"), "yesterday", "effectiveDateTime"),
    "resource_type": (("entry", 3, "resource", "resourceType"), "Medication", "line "),
    "unknown_key": ((*FIRST, "colour"), "red", "line "),
    "no_report": (("entry", 0, "resource", "resourceType"), "Basic", "line "),
}


@pytest.mark.parametrize("name", FHIR_MUTATIONS)
def test_a_changed_bundle_is_refused(make_message: Callable[..., ResultMessage], name: str) -> None:
    path, new, reason = FHIR_MUTATIONS[name]
    bundle = json.loads(written(make_message, DocumentFormat.FHIR))
    place = bundle
    for part in path[:-1]:
        place = place[part]
    if new is None:
        del place[path[-1]]
    else:
        place[path[-1]] = new
    content = (json.dumps(bundle, indent=2, ensure_ascii=False) + "\n").encode()
    with pytest.raises(DocumentError) as refused:
        read_document(content)
    assert str(refused.value).startswith("line ")
    assert reason in str(refused.value)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "damage", [lambda text: text[:-40], lambda text: b"\xff" + text, lambda _text: b""]
)
def test_a_damaged_document_is_refused(
    make_message: Callable[..., ResultMessage],
    kind: DocumentFormat,
    damage: Callable[[bytes], bytes],
) -> None:
    with pytest.raises(DocumentError, match=r"^line [0-9]+, "):
        read_document(damage(written(make_message, kind)))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_removed_line_is_refused(
    make_message: Callable[..., ResultMessage], kind: DocumentFormat
) -> None:
    separator = "\n" if kind is DocumentFormat.FHIR else "\r"
    lines = written(make_message, kind).decode().split(separator)
    for number in range(0, len(lines) - 1, len(lines) // 15):
        with pytest.raises(DocumentError):
            read_document(separator.join(lines[:number] + lines[number + 1 :]).encode())


@given(st.text(max_size=40))
def test_escaping_is_undone(text: str) -> None:
    assert unescape(escape(text)) == text


def test_any_counts_read_back(make_message: Callable[..., ResultMessage]) -> None:
    names = ("NEU", "LYM", "EOS", "MO", "BAS")

    @settings(max_examples=3, deadline=None)
    @given(st.lists(st.integers(0, 400), min_size=5, max_size=5).filter(any), st.floats(0.01, 400))
    def check(counts: list[int], wbc: float) -> None:
        message = make_message(dict(zip(names, counts, strict=True)), wbc=round(wbc, 2))
        for kind in FORMATS:
            assert read_document(write_document(message, ENVELOPE, kind))[0] == message

    check()
