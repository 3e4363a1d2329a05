"""Reference intervals by age and sex, and critical values."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from wbcpipe.samples.order_record import Sex
from wbcpipe.samples.records import Part
from wbcpipe.samples.review.texts import CommentText

__all__ = ["CriticalValues", "IntervalGroup", "Intervals", "ReferenceSettings"]

Percentage = Annotated[float, Field(ge=0, le=100, strict=True, allow_inf_nan=False)]
Concentration = Annotated[float, Field(ge=0, le=10_000, strict=True, allow_inf_nan=False)]
Age = Annotated[float, Field(ge=0, le=150, allow_inf_nan=False)]


class Intervals(Part):
    """Reference intervals by class.

    Attributes:
        source: where they are from.
        percent: lowest and highest normal percentage.
        absolute: lowest and highest normal concentration, in 10^9/L.
    """

    source: CommentText = ""
    percent: dict[str, tuple[Percentage, Percentage]] = Field(default_factory=dict)
    absolute: dict[str, tuple[Concentration, Concentration]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        for kind, table in (("percent", self.percent), ("absolute", self.absolute)):
            for name, (low, high) in table.items():
                if low >= high:
                    raise ValueError(
                        f"{kind}.{name} is [{low:g}, {high:g}]; the lower limit comes first"
                    )
        return self


class IntervalGroup(Intervals):
    """Reference intervals of some patients; the first group that fits is used.

    Attributes:
        sex: that they hold for; ``None`` for all.
        age_years: from the first, below the second; ``None`` for all.
    """

    sex: Sex | None = None
    age_years: tuple[Age, Age] | None = None

    @model_validator(mode="after")
    def _ages(self) -> Self:
        if self.age_years and self.age_years[0] >= self.age_years[1]:
            low, high = self.age_years
            raise ValueError(f"age_years is [{low:g}, {high:g}]; the lower limit comes first")
        if self.sex is None and self.age_years is None:
            raise ValueError(
                "a group needs sex or age_years; put intervals for all patients into [reference]"
            )
        return self

    def fits(self, sex: Sex, age_years: float | None) -> bool:
        """Return whether the intervals hold for a patient; ``None`` is an age that is not known."""
        if self.sex is not None and self.sex is not sex:
            return False
        low, high = self.age_years or (0.0, 0.0)
        return self.age_years is None or (age_years is not None and low <= age_years < high)


class ReferenceSettings(Intervals):
    """Table ``[reference]``: intervals for all patients, and groups before them."""

    group: tuple[IntervalGroup, ...] = ()

    def of(self, sex: Sex = Sex.UNKNOWN, age_years: float | None = None) -> Intervals:
        """Return the intervals of a patient: of the first group that fits, else those for all.

        >>> adults = IntervalGroup(sex="female", age_years=(18, 120), percent={"NEU": (40.0, 75.0)})
        >>> table = ReferenceSettings(percent={"NEU": (30.0, 80.0)}, group=(adults,))
        >>> table.of(Sex.FEMALE, 40.0).percent["NEU"], table.of(Sex.FEMALE, None).percent["NEU"]
        ((40.0, 75.0), (30.0, 80.0))
        """
        return next((group for group in self.group if group.fits(sex, age_years)), self)


class CriticalValues(Part):
    """Values of one class at or beyond which a person is told at once; ``None`` for no limit.

    Attributes:
        percent_low, percent_high: of the white cells.
        absolute_low, absolute_high: in 10^9/L.
    """

    percent_low: Percentage | None = None
    percent_high: Percentage | None = None
    absolute_low: Concentration | None = None
    absolute_high: Concentration | None = None

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        for kind, low, high in (
            ("percent", self.percent_low, self.percent_high),
            ("absolute", self.absolute_low, self.absolute_high),
        ):
            if low is not None and high is not None and low >= high:
                raise ValueError(f"{kind}_low {low:g} is not below {kind}_high {high:g}")
        if all(value is None for value in self.__dict__.values()):
            raise ValueError(
                "no limit is given; give percent_low, percent_high, absolute_low or absolute_high"
            )
        return self
