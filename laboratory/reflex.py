"""Reflex rules: what a figure of the result makes necessary."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from wbcpipe.samples.records import Part
from wbcpipe.samples.review.texts import ClassText

__all__ = ["ReflexAction", "ReflexFigure", "ReflexRule"]

ReflexFigure = Literal["counted", "unidentified_percent", "percent", "absolute"]
ReflexAction = Literal["second_reader", "count_more", "smear_review", "call_physician"]
_OF_A_CLASS: Final = ("percent", "absolute")
Limit = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class ReflexRule(Part):
    """One rule, table ``[[reflex]]``.

    Attributes:
        figure: that is compared: cells counted, per cent of cells not identified, per cent of a
            class, or its concentration in 10^9/L.
        of_class: the class, in the file ``class``.
        below, above: the limit; one of the two.
        action: that is needed.
        hold: nothing is sent while the action is not done; for ``second_reader`` alone.
    """

    figure: ReflexFigure
    of_class: Annotated[ClassText, Field(alias="class")] = ""
    below: Limit | None = None
    above: Limit | None = None
    action: ReflexAction
    hold: bool = False

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.below is None) == (self.above is None):
            raise ValueError("a rule needs one limit: below or above")
        if (self.figure in _OF_A_CLASS) != bool(self.of_class):
            need = "needs" if self.figure in _OF_A_CLASS else "has no"
            raise ValueError(f"a rule on {self.figure!r} {need} 'class'")
        if self.hold and self.action != "second_reader":
            raise ValueError(
                "hold is for the action 'second_reader': the others leave no trace that could be "
                "checked"
            )
        return self

    def applies(self, value: float | None) -> bool:
        """Return whether a figure is beyond the limit; ``None``, a figure that is not known, is
        not.
        """
        if value is None:
            return False
        return value < self.below if self.below is not None else value > (self.above or 0.0)

    @property
    def comparison(self) -> str:
        """The limit with its sign, such as ``< 100``."""
        return f"< {self.below:g}" if self.below is not None else f"> {self.above:g}"
