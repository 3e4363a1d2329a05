"""What a document says about a result beside its figures: one closed table for all formats."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from wbcpipe.exchange.message.numbers import decimal_text, parse_count, parse_decimal
from wbcpipe.samples.differential_record import NOTICE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wbcpipe.exchange.message.model import ResultMessage

__all__ = ["FACTS", "NOTICE_TEXT", "Fact", "FactKind", "FactType", "facts_of", "message_parts"]

NOTICE_TEXT: Final = NOTICE
FactKind = Literal["text", "count"]


class FactType(NamedTuple):
    """A row of the table: its meaning, its kind, and whether a document may hold several."""

    display: str
    kind: FactKind
    repeats: bool = False


#: Code to its meaning, in the order in which documents hold them.
FACTS: Final[dict[str, FactType]] = {
    "STATE": FactType("State of the result", "text"),
    "SEQUENCE": FactType("Number of this result of the sample", "count"),
    "DESTINATION": FactType("Name of the destination", "text"),
    "REASON": FactType("Reason of the cancellation", "text"),
    "LANGUAGE": FactType("Language of names and notes", "text"),
    "COUNTED": FactType("Cells counted", "count"),
    "UNIDENTIFIED": FactType("Cells not identified", "count"),
    "EXTRA": FactType("Cells that are no white cells", "text", True),
    "FAILED-GATE": FactType("Quality gate that failed", "text", True),
    "REFLEX": FactType("Reflex rule that applies", "text", True),
    "SIGNED-BY": FactType("Signed by", "text"),
    "SIGNED-AT": FactType("Time of the signature (UTC)", "text"),
    "SIGNED-SHA256": FactType("SHA-256 of the signed differential", "text"),
    "SIGN-COMMENT": FactType("Comment of the signature", "text"),
    "CORRECTION": FactType("Reason of the correction", "text"),
    "SOFTWARE": FactType("Version of wbcpipe", "text"),
    "MODEL": FactType("Model that classified the cells", "text"),
    "MODEL-SHA256": FactType("SHA-256 of the model", "text"),
    "LAB-VERSION": FactType("Version of the laboratory's file", "text"),
    "LAB-SHA256": FactType("SHA-256 of the laboratory's file", "text"),
    "LOINC-VERSION": FactType("Version of LOINC", "text"),
    "NOTE": FactType("Note", "text", True),
    "NOTICE": FactType("Notice", "text"),
}
_EXTRA: Final = re.compile(r"(.+): ([0-9]+) cells, ([0-9.]+) /100\{WBCs\}")


class Fact(NamedTuple):
    """One row: its code in `FACTS`, and its text; a count as digits."""

    code: str
    value: str


def facts_of(message: ResultMessage) -> list[Fact]:
    """Return what a document says beside the figures, in the order of `FACTS`."""
    signature, lab = message.signature, message.lab
    found: dict[str, Sequence[str | int | None]] = {
        "STATE": [message.state.value],
        "SEQUENCE": [message.sequence],
        "DESTINATION": [message.destination],
        "REASON": [message.reason],
        "LANGUAGE": [message.language],
        "EXTRA": [
            f"{line.key}: {line.count} cells, {decimal_text(line.per_100_wbc)} /100{{WBCs}}"
            for line in message.extra
        ],
        "FAILED-GATE": message.failed_gates,
        "REFLEX": message.reflex,
        "SOFTWARE": [message.analyser.software],
        "MODEL": [message.analyser.model],
        "MODEL-SHA256": [message.analyser.sha256],
        "LOINC-VERSION": [message.loinc_version],
        "NOTE": message.notes,
        "NOTICE": [NOTICE_TEXT],
    }
    if message.state.has_values:
        found |= {"COUNTED": [message.counted], "UNIDENTIFIED": [message.unidentified]}
    if signature:
        found |= {
            "SIGNED-BY": [signature.reader],
            "SIGNED-AT": [signature.signed],
            "SIGNED-SHA256": [signature.differential_sha256],
            "SIGN-COMMENT": [signature.comment],
            "CORRECTION": [signature.correction],
        }
    if lab:
        found |= {"LAB-VERSION": [lab.version], "LAB-SHA256": [lab.sha256]}
    return [
        Fact(code, str(value))
        for code in FACTS
        for value in found.get(code, ())
        if value not in (None, "")
    ]


def message_parts(facts: Sequence[Fact]) -> dict[str, Any]:
    """Return the part of a `ResultMessage` that facts hold, not yet validated.

    Raises:
        ValueError: a fact is not in the table, is missing, or is given twice.
    """
    values: dict[str, list[str]] = {}
    for code, value in facts:
        if code not in FACTS:
            raise ValueError(f"the code {code[:40]!r} is not known")
        values.setdefault(code, []).append(value)
        if len(values[code]) > 1 and not FACTS[code].repeats:
            raise ValueError(f"{code} is given twice")

    def one(code: str) -> str:
        if code not in values:
            raise ValueError(f"{code} is missing")
        return values[code][0]

    def optional(code: str) -> str:
        return values.get(code, [""])[0]

    if one("NOTICE") != NOTICE_TEXT:
        raise ValueError("NOTICE has another text")
    parts: dict[str, Any] = {
        "state": one("STATE"),
        "sequence": parse_count(one("SEQUENCE")),
        "destination": optional("DESTINATION"),
        "reason": optional("REASON"),
        "language": one("LANGUAGE"),
        "counted": parse_count(optional("COUNTED") or "0"),
        "unidentified": parse_count(optional("UNIDENTIFIED") or "0"),
        "extra": [_extra(text) for text in values.get("EXTRA", ())],
        "failed_gates": values.get("FAILED-GATE", []),
        "reflex": values.get("REFLEX", []),
        "analyser": {
            "software": one("SOFTWARE"),
            "model": one("MODEL"),
            "sha256": optional("MODEL-SHA256") or None,
        },
        "loinc_version": one("LOINC-VERSION"),
        "notes": values.get("NOTE", []),
    }
    if "SIGNED-BY" in values:
        parts["signature"] = {
            "reader": one("SIGNED-BY"),
            "signed": one("SIGNED-AT"),
            "differential_sha256": one("SIGNED-SHA256"),
            "comment": optional("SIGN-COMMENT"),
            "correction": optional("CORRECTION"),
        }
    if "LAB-VERSION" in values:
        parts["lab"] = {"version": one("LAB-VERSION"), "sha256": one("LAB-SHA256")}
    return parts


def _extra(text: str) -> dict[str, Any]:
    found = _EXTRA.fullmatch(text)
    if found is None:
        raise ValueError(f"EXTRA {text[:60]!r} is not 'class: n cells, x /100{{WBCs}}'")
    return {"key": found[1], "count": parse_count(found[2]), "per_100_wbc": parse_decimal(found[3])}
