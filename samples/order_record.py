"""``order.json``: the laboratory's order for a sample, and the patient as far as the result needs
it.
"""

from __future__ import annotations

from datetime import date, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator

from wbcpipe.samples.records import Record
from wbcpipe.samples.review.texts import check_text

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.samples.sample import Sample

__all__ = ["OrderRecord", "Sex", "order_path"]


class Sex(StrEnum):
    """Administrative sex, in FHIR's words."""

    FEMALE = "female"
    MALE = "male"
    OTHER = "other"
    UNKNOWN = "unknown"


def _identifier(text: str) -> str:
    return check_text(text, max_length=64, empty=False)


def _past_date(text: str) -> str:
    if date.fromisoformat(text).isoformat() != text:
        raise ValueError("write a date as 1980-12-31")
    return text


def _past_time(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("write a time with its zone, such as 2026-11-30T06:15:00+00:00")
    return text


Identifier = Annotated[str, AfterValidator(_identifier)]


class OrderRecord(Record):
    """The order and the patient; without a name: an identifier is enough to match a result.

    Attributes:
        order: number that the laboratory system gave the order.
        specimen: number of the tube; the sample's name by default.
        patient: identifier of the patient.
        birth_date: ISO 8601.
        sex: selects reference intervals.
        collected: time at which the blood was taken, with its zone.
    """

    names_sample: ClassVar[bool] = True
    remedy: ClassVar[str] = (
        "move the file away and give the order again with `wbcpipe send --order`"
    )

    order: Identifier | None = None
    specimen: Identifier | None = None
    patient: Identifier | None = None
    birth_date: Annotated[str, AfterValidator(_past_date)] | None = None
    sex: Sex = Sex.UNKNOWN
    collected: Annotated[str, AfterValidator(_past_time)] | None = None

    @property
    def has_patient(self) -> bool:
        """Whether anything about the patient is known."""
        return bool(self.patient or self.birth_date or self.sex is not Sex.UNKNOWN)

    def age_years(self, on: date) -> float | None:
        """Return the age on a day, in years of 365.25 days; ``None`` without a date of birth, or
        before it.
        """
        if self.birth_date is None:
            return None
        days = (on - date.fromisoformat(self.birth_date)).days
        return days / 365.25 if days >= 0 else None

    def content(self) -> dict[str, Any]:
        """Return the record as JSON holds it; without what is not given."""
        return self.model_dump(mode="json", exclude_none=True)


def order_path(sample: Sample) -> Path:
    """Return the path of a sample's ``order.json``."""
    return sample.path / "order.json"
