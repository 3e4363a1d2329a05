"""What specimen to generate: the only inputs from outside."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from wbcpipe.acquire.simulation.specimen.random_streams import Purpose, stream

__all__ = [
    "CELL_CLASSES",
    "REFERENCE_INTERVALS_PERCENT",
    "Preparation",
    "SpecimenPlan",
    "class_frequencies",
]

Preparation = Literal["blood-film", "buffy-coat"]

CELL_CLASSES = ("NEU", "LYM", "EOS", "MO", "BAS")

REFERENCE_INTERVALS_PERCENT: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "NEU": (45.0, 70.0),
        "LYM": (20.0, 42.0),
        "EOS": (1.0, 5.0),
        "MO": (2.0, 8.0),
        "BAS": (0.2, 1.5),
    }
)
"""Adult reference intervals; a blood film's class frequencies are drawn within them."""


@dataclass(frozen=True)
class SpecimenPlan:
    """What specimen to generate.

    ``blood-film`` holds 2 to 6 white cells per 205 um field with class frequencies of a healthy
    adult; ``buffy-coat`` is the enriched preparation for training: about 14 per field, every class
    equally frequent.
    """

    seed: int = 7
    preparation: Preparation = "blood-film"

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"specimen seed is {self.seed}: give an integer from 0 up")
        if self.preparation not in get_args(Preparation):
            allowed = ", ".join(get_args(Preparation))
            raise ValueError(f"preparation is {self.preparation!r}: allowed are {allowed}")


def class_frequencies(plan: SpecimenPlan) -> dict[str, float]:
    """Return the fraction of each class among the plan's white cells; they sum to 1."""
    if plan.preparation == "buffy-coat":
        return dict.fromkeys(CELL_CLASSES, 1.0 / len(CELL_CLASSES))
    rng = stream(Purpose.FREQUENCIES, plan.seed)
    while True:
        drawn = {
            name: float(rng.uniform(*REFERENCE_INTERVALS_PERCENT[name])) for name in CELL_CLASSES
        }
        total = sum(drawn.values())
        percent = {name: 100.0 * value / total for name, value in drawn.items()}
        # Normalising may push a class out of its interval again: such a draw is not a healthy
        # adult.
        if all(
            low <= percent[name] <= high
            for name, (low, high) in REFERENCE_INTERVALS_PERCENT.items()
        ):
            return {name: value / 100.0 for name, value in percent.items()}
