"""The one model of a result: what every document says, whatever its format.

A model that exists is consistent: the counts add up, each percentage is that of its count, each
flag is that of its reference interval. A document that is read becomes this model or is refused.
"""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from wbcpipe.exchange.message.codes import AbnormalFlag, ResultState, System, Unit
from wbcpipe.exchange.message.numbers import decimal_text
from wbcpipe.samples.order_record import OrderRecord
from wbcpipe.samples.records import Count, Part
from wbcpipe.samples.review.texts import check_text

__all__ = [
    "ClassResult",
    "CodeName",
    "ExtraResult",
    "LabVersion",
    "Measurement",
    "ModelVersion",
    "ResultMessage",
    "Signature",
]

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Time = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?\+00:00$")]
_CONTROL_ID_LENGTH: Final = 20


def _line(text: str) -> str:
    return check_text(text, max_length=400, empty=False)


def _long_line(text: str) -> str:
    return check_text(text, max_length=4000)


def _figure(value: Decimal) -> Decimal:
    decimal_text(value)
    return value


Line = Annotated[str, AfterValidator(_line)]
LongLine = Annotated[str, AfterValidator(_long_line)]
Figure = Annotated[Decimal, Field(ge=0, allow_inf_nan=False), AfterValidator(_figure)]
Interval = tuple[Figure, Figure]


class CodeName(Part):
    """A code, its text in its coding system, and its name in the language of the result."""

    code: Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9_.-]{0,39}$")]
    display: Line
    system: System = System.LOINC
    name: Line


class Measurement(Part):
    """One figure of a result.

    Attributes:
        code: what was measured.
        value: of it.
        interval: 95 % confidence interval; ``None`` for a figure that was given.
        unit: of all figures.
        reference: lowest and highest normal value.
        flag: of the value; ``None`` without reference and critical values.
        borderline: the value lies outside the reference interval, but its confidence interval does
            not.
    """

    code: CodeName
    value: Figure
    interval: Interval | None = None
    unit: Unit
    reference: Interval | None = None
    flag: AbnormalFlag | None = None
    borderline: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.interval and not self.interval[0] <= self.value <= self.interval[1]:
            raise ValueError(
                f"the value {self.value} lies outside its interval {_dash(self.interval)}"
            )
        if self.unit is Unit.PERCENT and max(self.value, *(self.interval or ())) > 100:
            raise ValueError(f"{self.value} % is more than 100 %")
        if self.reference:
            low, high = self.reference
            if low >= high:
                raise ValueError(f"the reference interval {_dash(self.reference)} does not ascend")
            side = (
                AbnormalFlag.LOW
                if self.value < low
                else AbnormalFlag.HIGH
                if self.value > high
                else None
            )
            allowed = _ALLOWED[side]
            if self.flag not in allowed:
                raise ValueError(
                    f"the flag {self.flag or 'none'} contradicts the value {self.value} and the "
                    f"reference interval {_dash(self.reference)}; allowed: {', '.join(allowed)}"
                )
        elif self.flag in (AbnormalFlag.LOW, AbnormalFlag.HIGH, AbnormalFlag.NORMAL):
            raise ValueError(f"the flag {self.flag} needs a reference interval")
        if self.borderline and (
            self.flag not in (AbnormalFlag.LOW, AbnormalFlag.HIGH) or self.interval is None
        ):
            raise ValueError(
                "borderline needs a value outside its reference interval, and a confidence interval"
            )
        return self


def _plain(value: object) -> str:
    """Return the text of a figure, the same for equal figures."""
    if not isinstance(value, Decimal):
        raise TypeError(f"{type(value).__name__} has no text")
    return f"{value.normalize():f}"


_CRITICAL: Final = (AbnormalFlag.CRITICAL_LOW, AbnormalFlag.CRITICAL_HIGH)
_ALLOWED: Final = {
    None: (AbnormalFlag.NORMAL, *_CRITICAL),
    AbnormalFlag.LOW: (AbnormalFlag.LOW, AbnormalFlag.CRITICAL_LOW),
    AbnormalFlag.HIGH: (AbnormalFlag.HIGH, AbnormalFlag.CRITICAL_HIGH),
}


def _dash(interval: tuple[Decimal, Decimal]) -> str:
    return f"{interval[0]} to {interval[1]}"


class ClassResult(Part):
    """One class of the differential.

    Attributes:
        key: name of the class in the model.
        count: cells; zero is a result.
        percent: of the counted cells.
        absolute: concentration; ``None`` where that of the white cells is not known.
    """

    key: Annotated[Line, Field(max_length=64)]
    count: Count
    percent: Measurement
    absolute: Measurement | None = None

    @model_validator(mode="after")
    def _units(self) -> Self:
        if self.percent.unit is not Unit.PERCENT or self.percent.interval is None:
            raise ValueError("a percentage has the unit % and an interval")
        if self.absolute and self.absolute.unit is not Unit.PER_UL:
            raise ValueError("a concentration has the unit 10*3/uL")
        return self


class ExtraResult(Part):
    """Cells of a class that is no white cell, such as smudge cells, per 100 white cells."""

    key: Annotated[Line, Field(max_length=64)]
    count: Count
    per_100_wbc: Figure


class LabVersion(Part):
    """The laboratory's file in force."""

    version: Annotated[Line, Field(max_length=64)]
    sha256: Sha256


class ModelVersion(Part):
    """The software and the model that counted."""

    software: Annotated[Line, Field(max_length=64)]
    model: Annotated[Line, Field(max_length=64)]
    sha256: Sha256 | None = None


class Signature(Part):
    """Who signed which differential.

    Attributes:
        reader: who.
        signed: UTC time.
        differential_sha256: key ``sha256`` of the signed ``differential.json``.
        comment: of the reader.
        correction: why a signed result was corrected; empty otherwise.
    """

    reader: Annotated[Line, Field(max_length=64)]
    signed: Time
    differential_sha256: Sha256
    comment: LongLine = ""
    correction: LongLine = ""


class ResultMessage(Part):
    """A result as it is sent.

    Attributes:
        sequence: number of this result of the sample, from 1: a later one replaces an earlier one.
        destination: name of the receiver: each has messages of its own, under ids of their own.
        sample: name of the sample.
        order: the order and the patient.
        state: of the result.
        reason: why it was cancelled or withdrawn; empty otherwise.
        created: of this message, UTC.
        observed: of the differential, UTC.
        language: of names and notes.
        laboratory: its name.
        panel_name: of the differential, in that language.
        classes: in the model's order; empty where the state has no values.
        counted: cells in the denominator.
        unidentified: cells that were not identified.
        extra: cells that are no white cells.
        wbc: concentration of white cells; ``None`` where it is not known.
        analyser: see `ModelVersion`.
        signature: ``None`` for a result that nobody signed.
        lab: the laboratory's file; ``None`` without one.
        loinc_version: of the display texts.
        failed_gates: quality gates that failed, in words.
        reflex: reflex rules that apply, in words.
        notes: for people.
    """

    sequence: Annotated[int, Field(ge=1)] = 1
    destination: Annotated[str, Field(pattern="^([a-z0-9][a-z0-9_-]{0,31})?$")] = ""
    sample: Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    order: OrderRecord
    state: ResultState
    reason: LongLine = ""
    created: Time
    observed: Time
    language: Literal["en", "de", "ar"] = "en"
    laboratory: Annotated[str, AfterValidator(lambda text: check_text(text, max_length=64))] = ""
    panel_name: Line
    classes: tuple[ClassResult, ...] = ()
    counted: Count = 0
    unidentified: Count = 0
    extra: tuple[ExtraResult, ...] = ()
    wbc: Measurement | None = None
    analyser: ModelVersion
    signature: Signature | None = None
    lab: LabVersion | None = None
    loinc_version: Annotated[str, Field(pattern=r"^\d{1,2}\.\d{1,3}$")]
    failed_gates: tuple[Line, ...] = ()
    reflex: tuple[Line, ...] = ()
    notes: tuple[Line, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.state.signed != (self.signature is not None):
            raise ValueError(
                f"a result that is {self.state} has {'no ' if self.signature else 'a '}signature"
            )
        if not self.state.has_values:
            if self.classes or self.counted or not self.reason:
                raise ValueError(f"a result that is {self.state} has a reason and no figures")
            return self
        if not self.counted:
            raise ValueError("no cell was counted: there is no differential to send")
        if (total := sum(line.count for line in self.classes)) != self.counted:
            raise ValueError(
                f"the counts of the classes add up to {total}, and {self.counted} cells were "
                f"counted"
            )
        if len({line.key for line in self.classes}) < len(self.classes):
            raise ValueError("a class is given twice")
        for line in self.classes:
            self._check_class(line)
        return self

    def _check_class(self, line: ClassResult) -> None:
        step = Decimal(1).scaleb(int(line.percent.value.as_tuple().exponent))
        share = Decimal(100 * line.count) / self.counted
        if abs(share - line.percent.value) > step:
            raise ValueError(
                f"{line.key}: {line.count} of {self.counted} cells are {share:.2f} %, and the "
                f"result says {line.percent.value} %"
            )
        if (line.absolute is None) != (self.wbc is None):
            raise ValueError(
                f"{line.key}: a concentration is given if, and only if, that of all white cells "
                f"is known"
            )
        if line.absolute and self.wbc:
            step = Decimal(1).scaleb(int(line.absolute.value.as_tuple().exponent))
            expected = self.wbc.value * line.count / self.counted
            if abs(expected - line.absolute.value) > step:
                raise ValueError(
                    f"{line.key}: {line.absolute.value} {Unit.PER_UL} is not the share of "
                    f"{self.wbc.value}"
                )

    @property
    def specimen(self) -> str:
        """Number of the specimen: the order's, else the sample's name."""
        return self.order.specimen or self.sample

    @property
    def control_id(self) -> str:
        """Identifier that is the same for the same content: 20 characters, as MSH-10 holds.

        The time of the message does not matter: a result that is built again has the same one.
        """
        content = self.model_dump(exclude={"created"})
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=_plain)
        return hashlib.sha256(text.encode()).hexdigest()[:_CONTROL_ID_LENGTH].upper()
