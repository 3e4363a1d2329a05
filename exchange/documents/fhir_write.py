"""Write a result as a bundle of FHIR R4B.

Report, observations, specimen, device, patient, signature.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final

from wbcpipe.exchange.documents.envelope import missing_extra
from wbcpipe.exchange.documents.json_text import dump_json
from wbcpipe.exchange.message.codes import PANEL, STATES, UNIT_NAMES, AbnormalFlag, System, Unit
from wbcpipe.exchange.message.facts import FACTS, facts_of

if TYPE_CHECKING:
    from decimal import Decimal

    from wbcpipe.exchange.documents.envelope import Envelope
    from wbcpipe.exchange.message.model import CodeName, Measurement, ResultMessage

__all__ = ["BORDERLINE", "INTERPRETATIONS", "SYSTEMS", "URLS", "write_fhir"]

LOCAL_CODES: Final = "urn:wbcpipe:codes"
CLASSES: Final = "urn:wbcpipe:classes"
CONTROL_IDS: Final = "urn:wbcpipe:control-id"
SYSTEMS: Final = {System.LOINC: "http://loinc.org", System.LOCAL: LOCAL_CODES}
URLS: Final = {
    "ucum": "http://unitsofmeasure.org",
    "interpretation": "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation",
    "category": "http://terminology.hl7.org/CodeSystem/observation-category",
    "section": "http://terminology.hl7.org/CodeSystem/v2-0074",
    "range": "http://terminology.hl7.org/CodeSystem/referencerange-meaning",
    "absent": "http://terminology.hl7.org/CodeSystem/data-absent-reason",
    "specimen": "http://terminology.hl7.org/CodeSystem/v2-0487",
    "participant": "http://terminology.hl7.org/CodeSystem/provenance-participant-type",
    "signature": "urn:iso-astm:E1762-95:2013",
}
#: Codes of v3-ObservationInterpretation.
INTERPRETATIONS: Final = {
    AbnormalFlag.NORMAL: "Normal",
    AbnormalFlag.LOW: "Low",
    AbnormalFlag.HIGH: "High",
    AbnormalFlag.CRITICAL_LOW: "Critical low",
    AbnormalFlag.CRITICAL_HIGH: "Critical high",
}
#: A value outside its reference interval whose confidence interval is not.
BORDERLINE: Final = ("IND", "Indeterminate")
#: Verification signature (ASTM E1762-95): who checked the content, without cryptography.
_VERIFICATION: Final = "1.2.840.10065.1.12.1.5"
_NAMESPACE: Final = uuid.UUID("6c7b5f0a-0f5e-5c0e-9d0b-5a2f1f1c7e19")


def write_fhir(message: ResultMessage, envelope: Envelope) -> bytes:
    """Return the bundle as indented JSON in UTF-8.

    Raises:
        ConfigError: fhir.resources is not installed.
    """
    try:
        from fhir.resources.R4B.bundle import Bundle
    except ImportError as error:
        raise missing_extra("fhir.resources") from error
    content = _Writer(message, envelope).bundle()
    Bundle.model_validate(content)
    return dump_json(content)


class _Writer:
    """The resources of one result."""

    def __init__(self, message: ResultMessage, envelope: Envelope) -> None:
        self._message = message
        self._envelope = envelope
        self._status = STATES[message.state].fhir
        self._has_patient = message.order.has_patient

    def bundle(self) -> dict[str, Any]:
        message = self._message
        entries = [self._entry("report", self._report()), self._entry("panel", self._panel())]
        if message.wbc:
            entries.append(self._entry("wbc", self._figure(message.wbc, "WBC")))
        for number, line in enumerate(message.classes, 1):
            percent = self._figure(line.percent, line.key)
            percent["component"].append(
                {"code": _local("COUNT", "Cells of the class"), "valueInteger": line.count}
            )
            entries.append(self._entry(f"percent-{number}", percent))
            if line.absolute:
                entries.append(
                    self._entry(f"absolute-{number}", self._figure(line.absolute, line.key))
                )
        entries += [
            self._entry("specimen", self._specimen()),
            self._entry("device", self._device()),
        ]
        if self._has_patient:
            entries.append(self._entry("patient", self._patient()))
        if message.signature:
            entries.append(self._entry("signature", self._provenance()))
        return {
            "resourceType": "Bundle",
            "language": message.language,
            "identifier": {"system": CONTROL_IDS, "value": message.control_id},
            "type": "collection",
            "timestamp": message.created,
            "entry": entries,
        }

    def _url(self, name: str) -> str:
        return f"urn:uuid:{uuid.uuid5(_NAMESPACE, f'{self._message.control_id} {name}')}"

    def _entry(self, name: str, resource: dict[str, Any]) -> dict[str, Any]:
        return {"fullUrl": self._url(name), "resource": resource}

    def _reference(self, name: str) -> dict[str, str]:
        return {"reference": self._url(name)}

    def _common(self) -> dict[str, Any]:
        subject = {"subject": self._reference("patient")} if self._has_patient else {}
        performer = (
            {"performer": [{"display": self._message.laboratory}]}
            if self._message.laboratory
            else {}
        )
        return {
            **subject,
            "effectiveDateTime": self._message.observed,
            "issued": self._message.created,
            **performer,
        }

    def _report(self) -> dict[str, Any]:
        order = self._message.order.order
        based_on = {"basedOn": [{"identifier": {"value": order}}]} if order else {}
        return {
            "resourceType": "DiagnosticReport",
            "identifier": [{"system": "urn:wbcpipe:samples", "value": self._message.sample}],
            **based_on,
            "status": self._status,
            "category": [
                {"coding": [{"system": URLS["section"], "code": "HM", "display": "Hematology"}]}
            ],
            "code": self._panel_code(),
            **self._common(),
            "specimen": [self._reference("specimen")],
            "result": [self._reference("panel")],
        }

    def _panel_code(self) -> dict[str, Any]:
        return {
            "coding": [self._coding(PANEL.code, PANEL.display)],
            "text": self._message.panel_name,
        }

    def _coding(self, code: str, display: str) -> dict[str, str]:
        return {
            "system": SYSTEMS[System.LOINC],
            "version": self._message.loinc_version,
            "code": code,
            "display": display,
        }

    def _panel(self) -> dict[str, Any]:
        message = self._message
        names = ["wbc"] if message.wbc else []
        for number, line in enumerate(message.classes, 1):
            names += [f"percent-{number}", *([f"absolute-{number}"] if line.absolute else [])]
        found = self._observation(self._panel_code())
        if names:
            found["hasMember"] = [self._reference(name) for name in names]
        else:
            coding = {"system": URLS["absent"], "code": "not-performed", "display": "Not Performed"}
            found["dataAbsentReason"] = {"coding": [coding]}
        found["component"] = [
            {
                "code": _local(fact.code, FACTS[fact.code].display),
                **(
                    {"valueInteger": int(fact.value)}
                    if FACTS[fact.code].kind == "count"
                    else {"valueString": fact.value}
                ),
            }
            for fact in facts_of(message)
        ]
        return found

    def _observation(self, code: dict[str, Any]) -> dict[str, Any]:
        return {
            "resourceType": "Observation",
            "status": self._status,
            "category": [
                {
                    "coding": [
                        {"system": URLS["category"], "code": "laboratory", "display": "Laboratory"}
                    ]
                }
            ],
            "code": code,
            **self._common(),
            "specimen": self._reference("specimen"),
            "device": self._reference("device"),
        }

    def _figure(self, figure: Measurement, key: str) -> dict[str, Any]:
        found = self._observation(
            {"coding": self._codings(figure.code, key), "text": figure.code.name}
        )
        found["valueQuantity"] = _quantity(figure.value, figure.unit)
        if figure.flag:
            pairs = [
                (figure.flag.value, INTERPRETATIONS[figure.flag]),
                *([BORDERLINE] if figure.borderline else []),
            ]
            found["interpretation"] = [
                {"coding": [{"system": URLS["interpretation"], "code": code, "display": display}]}
                for code, display in pairs
            ]
        if figure.reference:
            normal = {
                "coding": [{"system": URLS["range"], "code": "normal", "display": "Normal Range"}]
            }
            found["referenceRange"] = [{**_range(figure.reference, figure.unit), "type": normal}]
        found["component"] = []
        if figure.interval:
            code = _local("CI95", "95 % confidence interval")
            found["component"].append(
                {"code": code, "valueRange": _range(figure.interval, figure.unit)}
            )
        else:
            del found["component"]
        return found

    def _codings(self, code: CodeName, key: str) -> list[dict[str, str]]:
        own = {"system": CLASSES, "code": key}
        if code.system is System.LOINC:
            return [self._coding(code.code, code.display), own]
        return [{"system": LOCAL_CODES, "code": code.code, "display": code.display}, own]

    def _specimen(self) -> dict[str, Any]:
        order = self._message.order
        collected = (
            {"collection": {"collectedDateTime": order.collected}} if order.collected else {}
        )
        subject = {"subject": self._reference("patient")} if self._has_patient else {}
        return {
            "resourceType": "Specimen",
            "identifier": [{"value": self._message.specimen}],
            "type": {
                "coding": [{"system": URLS["specimen"], "code": "BLD", "display": "Whole blood"}]
            },
            **subject,
            **collected,
        }

    def _device(self) -> dict[str, Any]:
        analyser = self._message.analyser
        return {
            "resourceType": "Device",
            "deviceName": [
                {"name": "wbcpipe", "type": "manufacturer-name"},
                {"name": analyser.model, "type": "model-name"},
            ],
            "version": [{"value": analyser.software}],
        }

    def _patient(self) -> dict[str, Any]:
        order, authority = self._message.order, self._envelope.patient_authority
        assigner = {"assigner": {"display": authority}} if authority else {}
        identifier = {"identifier": [{"value": order.patient, **assigner}]} if order.patient else {}
        born = {"birthDate": order.birth_date} if order.birth_date else {}
        return {
            "resourceType": "Patient",
            **identifier,
            "gender": order.sex.value,
            **born,
        }

    def _provenance(self) -> dict[str, Any]:
        signature = self._message.signature
        assert signature is not None
        who = {"display": signature.reader}
        digest = {
            "system": "urn:wbcpipe:differential-sha256",
            "value": signature.differential_sha256,
        }
        return {
            "resourceType": "Provenance",
            "target": [self._reference("report")],
            "recorded": signature.signed,
            "agent": [
                {
                    "type": {
                        "coding": [
                            {
                                "system": URLS["participant"],
                                "code": "verifier",
                                "display": "Verifier",
                            }
                        ]
                    },
                    "who": who,
                }
            ],
            "entity": [{"role": "source", "what": {"identifier": digest}}],
            "signature": [
                {
                    "type": [
                        {
                            "system": URLS["signature"],
                            "code": _VERIFICATION,
                            "display": "Verification Signature",
                        }
                    ],
                    "when": signature.signed,
                    "who": who,
                }
            ],
        }


def _local(code: str, display: str) -> dict[str, Any]:
    return {"coding": [{"system": LOCAL_CODES, "code": code, "display": display}]}


def _quantity(value: Decimal, unit: Unit) -> dict[str, Any]:
    return {"value": value, "unit": UNIT_NAMES[unit], "system": URLS["ucum"], "code": unit.value}


def _range(interval: tuple[Decimal, Decimal], unit: Unit) -> dict[str, Any]:
    return {"low": _quantity(interval[0], unit), "high": _quantity(interval[1], unit)}
