"""Westgard's control rules for a series of standardised values.

J. O. Westgard, P. L. Barry, M. R. Hunt, T. Groth, "A multi-rule Shewhart chart for quality control
in clinical chemistry", Clinical Chemistry 27 (1981) 493-501, doi 10.1093/clinchem/27.3.493: rules
1-2s, 1-3s, 2-2s, R-4s, 4-1s and 10x, table 1. A microscope gives one value of a figure a night, so
the rules are used across runs; R-4s, which the paper uses within a run of several controls, then
compares two successive values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from wbcpipe.batch.qc.records import RuleName

__all__ = ["RULES", "WARNING", "ControlRule", "rules_broken"]

#: The rule that warns only: one of 22 values of a microscope that has not changed breaks it.
WARNING: Final[RuleName] = "1-2s"


class ControlRule(NamedTuple):
    """A rule: how many values it looks at, whether they break it, and what that means for
    people.
    """

    values: int
    broken: Callable[[Sequence[float]], bool]
    meaning: str


def _beyond(limit: float) -> Callable[[Sequence[float]], bool]:
    """All values exceed a limit on the same side of the mean."""
    return lambda z: all(value > limit for value in z) or all(value < -limit for value in z)


#: Each rule judges the last values of the series, the newest last.
RULES: Final[Mapping[RuleName, ControlRule]] = {
    "1-2s": ControlRule(1, _beyond(2.0), "more than 2 SD from the mean: a warning"),
    "1-3s": ControlRule(1, _beyond(3.0), "more than 3 SD from the mean"),
    "2-2s": ControlRule(
        2, _beyond(2.0), "the second in succession more than 2 SD from the mean on one side"
    ),
    "R-4s": ControlRule(
        2,
        lambda z: max(z) > 2.0 and min(z) < -2.0,
        "more than 2 SD from the mean, the one before on the other side",
    ),
    "4-1s": ControlRule(
        4, _beyond(1.0), "the fourth in succession more than 1 SD from the mean on one side"
    ),
    "10x": ControlRule(10, _beyond(0.0), "the tenth in succession on one side of the mean"),
}


def rules_broken(z: Sequence[float]) -> list[tuple[RuleName, ...]]:
    """Return, for each value of a series, the rules that it breaks together with those before it.

    Args:
        z: differences from the baseline's mean in its standard deviations, the oldest first.

    >>> rules_broken([0.4, 2.3, 2.1])
    [(), ('1-2s',), ('1-2s', '2-2s')]
    """
    return [
        tuple(
            name
            for name, rule in RULES.items()
            if end >= rule.values and rule.broken(z[end - rule.values : end])
        )
        for end in range(1, len(z) + 1)
    ]
