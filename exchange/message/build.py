"""From a differential to the result that is sent; reads no files."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from pydantic import ValidationError

from wbcpipe.errors import ConfigError, NoCellsError
from wbcpipe.exchange.message.codes import WBC, AbnormalFlag, ResultState, System, Unit
from wbcpipe.exchange.message.model import (
    ClassResult,
    CodeName,
    ExtraResult,
    LabVersion,
    Measurement,
    ModelVersion,
    ResultMessage,
    Signature,
)
from wbcpipe.exchange.message.numbers import rounded
from wbcpipe.laboratory.languages import words
from wbcpipe.laboratory.loinc import CLASS_TERMS
from wbcpipe.laboratory.reference_intervals import Intervals
from wbcpipe.samples.order_record import OrderRecord
from wbcpipe.system.validation_messages import explain
from wbcpipe.system.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wbcpipe.laboratory.lab_file import Lab
    from wbcpipe.laboratory.reflex import ReflexRule
    from wbcpipe.samples.differential_record import ClassEntry, DifferentialRecord
    from wbcpipe.samples.review.sign_basis import LabReference

__all__ = [
    "ResultInputs",
    "Review",
    "applying_rules",
    "build_cancellation",
    "build_message",
    "held_rules",
    "utc_seconds",
]

_Interval = tuple[float, float]


@dataclass(frozen=True)
class Review:
    """What people did to a differential, as far as a result says it.

    Attributes:
        state: of the result.
        signature: ``None`` without one.
        readers: who gave a class or looked at cells.
        extra: (class, count, per 100 white cells) of classes that are no white cells.
        lab: the laboratory's file in force at the signature.
    """

    state: ResultState = ResultState.PRELIMINARY
    signature: Signature | None = None
    readers: tuple[str, ...] = ()
    extra: tuple[tuple[str, int, float], ...] = ()
    lab: LabReference | None = None


@dataclass(frozen=True)
class ResultInputs:
    """Everything that a result is built from.

    Attributes:
        document: the differential.
        lab: the laboratory's settings.
        order: the order and the patient.
        review: see `Review`.
        sequence: number of the result, from 1.
        created: time of the message.
        destination: name of the receiver; empty for none.
    """

    document: DifferentialRecord
    lab: Lab
    order: OrderRecord = field(default_factory=OrderRecord)
    review: Review = field(default_factory=Review)
    sequence: int = 1
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    destination: str = ""


def utc_seconds(time: datetime | str) -> str:
    """Return a time in UTC, to the second, in ISO 8601."""
    at = datetime.fromisoformat(time) if isinstance(time, str) else time
    return at.astimezone(UTC).isoformat(timespec="seconds")


def build_message(inputs: ResultInputs) -> ResultMessage:
    """Return the result of a differential.

    Raises:
        NoCellsError: no cell was counted.
        ConfigError: the laboratory's file asks for what contradicts the result.
    """
    document, lab, review = inputs.document, inputs.lab, inputs.review
    if not document.cells.counted:
        raise NoCellsError(
            f"{document.sample}: no cell was counted; there is no differential to send (`wbcpipe "
            f"send --cancel` tells the laboratory system)."
        )
    own = words(lab.result.language)
    intervals = _intervals(inputs)
    wbc = document.wbc_1e9_per_l
    rules = applying_rules(document, lab)
    content = {
        **_common(inputs),
        "state": review.state,
        "classes": tuple(_class_result(line, lab, intervals) for line in document.classes),
        "counted": document.cells.counted,
        "unidentified": document.cells.unidentified.count,
        "extra": tuple(
            ExtraResult(key=name, count=count, per_100_wbc=rounded(share, 1))
            for name, count, share in review.extra
        ),
        "wbc": None if wbc is None else _wbc(wbc, own.wbc),
        "signature": review.signature,
        "failed_gates": tuple(
            gate.title for gate in document.quality.gates if gate.passed is False
        ),
        "reflex": tuple(_rule_text(rule, document, lab) for rule in rules),
        "notes": _notes(inputs),
    }
    return _validated(content, lab)


def build_cancellation(inputs: ResultInputs, reason: str) -> ResultMessage:
    """Return the message that takes a result back; its state is that of ``inputs.review``.

    Raises:
        ConfigError: the reason is empty or too long.
    """
    line = " / ".join(part.strip() for part in reason.splitlines() if part.strip())
    return _validated({**_common(inputs), "state": inputs.review.state, "reason": line}, inputs.lab)


def _validated(content: dict[str, object], lab: Lab) -> ResultMessage:
    try:
        return ResultMessage.model_validate(content)
    except ValidationError as error:
        version = f" (laboratory's file, version {lab.file.version})" if lab.file else ""
        findings = "; ".join(explain(item, ResultMessage) for item in error.errors()[:3])
        raise ConfigError(
            f"{content['sample']}: the result cannot be sent{version}: {findings}."
        ) from error


def _common(inputs: ResultInputs) -> dict[str, object]:
    document, lab = inputs.document, inputs.lab
    bundle = document.provenance.bundle
    return {
        "sequence": inputs.sequence,
        "destination": inputs.destination,
        "sample": document.sample,
        "order": inputs.order,
        "created": utc_seconds(inputs.created),
        "observed": utc_seconds(document.created),
        "language": lab.result.language,
        "laboratory": lab.laboratory,
        "panel_name": words(lab.result.language).panel,
        "analyser": ModelVersion(
            software=document.provenance.report_software.get("wbcpipe", VERSION),
            model=bundle.name,
            sha256=bundle.sha256,
        ),
        "lab": LabVersion(version=lab.file.version, sha256=lab.file.sha256) if lab.file else None,
        "loinc_version": lab.result.loinc_version,
    }


def _intervals(inputs: ResultInputs) -> Intervals:
    """Return the reference intervals of concentrations of the patient.

    Those of percentages are in the differential.
    """
    if inputs.lab.reference is None:
        return Intervals()
    order = inputs.order
    on = date.fromisoformat((order.collected or inputs.document.created)[:10])
    return inputs.lab.reference.of(order.sex, order.age_years(on))


def _class_result(line: ClassEntry, lab: Lab, intervals: Intervals) -> ClassResult:
    critical = lab.critical.get(line.name)
    percent, absolute = _codes(line.name, lab)
    figures = lab.result
    assert line.percent is not None
    return ClassResult(
        key=line.name,
        count=line.count,
        percent=_measurement(
            _Figure(
                percent, line.percent, line.interval_percent, Unit.PERCENT, figures.percent_decimals
            ),
            line.reference_percent,
            (critical.percent_low, critical.percent_high) if critical else (None, None),
            borderline=line.flag == "borderline",
        ),
        absolute=None
        if line.concentration_1e9_per_l is None or line.concentration_interval_1e9_per_l is None
        else _measurement(
            _Figure(
                absolute,
                line.concentration_1e9_per_l,
                line.concentration_interval_1e9_per_l,
                Unit.PER_UL,
                figures.absolute_decimals,
            ),
            intervals.absolute.get(line.name),
            (critical.absolute_low, critical.absolute_high) if critical else (None, None),
        ),
    )


def _codes(name: str, lab: Lab) -> tuple[CodeName, CodeName]:
    """Return the codes of a class's share and concentration: LOINC's where there is one, else our
    own.
    """
    given, terms, shown = lab.classes.get(name), CLASS_TERMS.get(name), lab.name_of(name)
    found = []
    for kind, suffix in (("percent", "PCT"), ("absolute", "ABS")):
        code = getattr(given, f"loinc_{kind}", None) if given else None
        if code is not None:
            display = getattr(given, f"loinc_{kind}_display")
            found.append(CodeName(code=code, display=display, name=shown))
        elif terms:
            term = getattr(terms, kind)
            found.append(CodeName(code=term.code, display=term.display, name=shown))
        else:
            own = re.sub("[^A-Za-z0-9]+", "-", name).strip("-")[:30] or "CLASS"
            found.append(
                CodeName(code=f"{own}-{suffix}", display=name, system=System.LOCAL, name=shown)
            )
    return found[0], found[1]


@dataclass(frozen=True)
class _Figure:
    code: CodeName
    value: float
    interval: _Interval
    unit: Unit
    decimals: int


def _measurement(
    figure: _Figure,
    reference: _Interval | None,
    critical: tuple[float | None, float | None],
    *,
    borderline: bool = False,
) -> Measurement:
    value = rounded(figure.value, figure.decimals)
    limits = (
        None if reference is None else (_limit(reference[0], figure), _limit(reference[1], figure))
    )
    flag = _flag(value, limits, critical)
    outside = flag in (AbnormalFlag.LOW, AbnormalFlag.HIGH)
    return Measurement(
        code=figure.code,
        value=value,
        interval=(
            rounded(figure.interval[0], figure.decimals),
            rounded(figure.interval[1], figure.decimals),
        ),
        unit=figure.unit,
        reference=limits,
        flag=flag,
        borderline=borderline and outside,
    )


def _limit(value: float, figure: _Figure) -> Decimal:
    """Return a limit with the decimals of the figure, or all of its own where these are more."""
    own = -int(Decimal(repr(value)).normalize().as_tuple().exponent)
    return rounded(value, min(max(own, figure.decimals), 4))


def _flag(
    value: Decimal,
    reference: tuple[Decimal, Decimal] | None,
    critical: tuple[float | None, float | None],
) -> AbnormalFlag | None:
    low, high = critical
    if low is not None and value <= Decimal(repr(low)):
        return AbnormalFlag.CRITICAL_LOW
    if high is not None and value >= Decimal(repr(high)):
        return AbnormalFlag.CRITICAL_HIGH
    if reference is None:
        return None
    # Of the figure that is sent: a reader who compares the two finds the same.
    return (
        AbnormalFlag.LOW
        if value < reference[0]
        else AbnormalFlag.HIGH
        if value > reference[1]
        else AbnormalFlag.NORMAL
    )


def _wbc(wbc: float, name: str) -> Measurement:
    return Measurement(
        code=CodeName(code=WBC.code, display=WBC.display, name=name),
        value=Decimal(repr(round(wbc, 4))),
        unit=Unit.PER_UL,
    )


def _notes(inputs: ResultInputs) -> tuple[str, ...]:
    own, review, lab = words(inputs.lab.result.language), inputs.review, inputs.lab
    notes = [] if review.state.signed else [own.preliminary]
    if (
        review.state.signed
        and review.lab
        and (lab.file is None or review.lab.sha256 != lab.file.sha256)
    ):
        notes.append(own.other_lab_file.format(version=review.lab.version))
    return tuple(notes)


def applying_rules(document: DifferentialRecord, lab: Lab) -> list[ReflexRule]:
    """Return the reflex rules whose limit a differential is beyond."""
    return [rule for rule in lab.reflex if rule.applies(_rule_figure(rule, document))]


def held_rules(document: DifferentialRecord, lab: Lab, readers: Sequence[str]) -> list[ReflexRule]:
    """Return the rules that hold a result back: a second reader is asked for, and fewer than two
    read it.
    """
    return [rule for rule in applying_rules(document, lab) if rule.hold and len(set(readers)) < 2]


def _rule_figure(rule: ReflexRule, document: DifferentialRecord) -> float | None:
    if rule.figure == "counted":
        return document.cells.counted
    if rule.figure == "unidentified_percent":
        return document.cells.unidentified.percent
    line = next((line for line in document.classes if line.name == rule.of_class), None)
    if line is None:
        return None
    return line.percent if rule.figure == "percent" else line.concentration_1e9_per_l


def _rule_text(rule: ReflexRule, document: DifferentialRecord, lab: Lab) -> str:
    own = words(lab.result.language)
    unit = {"counted": "", "absolute": f" {Unit.PER_UL}"}.get(rule.figure, " %")
    name = lab.name_of(rule.of_class) if rule.of_class else getattr(own, rule.figure)
    value = _rule_figure(rule, document) or 0.0
    return f"{name} {value:.4g}{unit} {rule.comparison}{unit}: {own.actions[rule.action]}"
