"""The range of every number in a scope file: finite, and within what a microscope can be.

The limits are wide. They stop a slipped decimal point or a unit mixed up before it becomes an
endless plan, a wait of years or an arithmetic overflow.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

__all__ = [
    "MAX_FOCUS_POINTS",
    "MAX_PLANNED_FIELDS",
    "MAX_SEARCH_FRAMES",
    "Coordinate",
    "Cosine",
    "Days",
    "Exposure",
    "Fraction",
    "Length",
    "Percent",
    "PixelSide",
    "PixelValue",
    "Pixels",
    "Ratio",
    "Seconds",
    "Settle",
    "Span",
    "Speed",
    "StepLength",
    "Wait",
    "Wavelength",
]

#: Fields of a plan: two hundred times what a differential needs, and laid out in a fraction of a
#: second.
MAX_PLANNED_FIELDS: Final = 100_000
#: Points of the focus surface over a scan area.
MAX_FOCUS_POINTS: Final = 100_000
#: Frames of a focus search through its full range.
MAX_SEARCH_FRAMES: Final = 1_000

#: Position on a stage, or an offset from one, in um: half a metre to each side.
Coordinate = Annotated[float, Field(ge=-500_000, le=500_000, allow_inf_nan=False)]
#: Length on the stage, in um, that may be as short as a nanometre.
Length = Annotated[float, Field(ge=0.001, le=1_000_000, allow_inf_nan=False)]
#: Distance of points, in um.
Span = Annotated[float, Field(ge=1, le=1_000_000, allow_inf_nan=False)]
#: Step or range of the focus drive, in um.
StepLength = Annotated[float, Field(ge=0.01, le=10_000, allow_inf_nan=False)]
#: Speed of a stage, in um/s.
Speed = Annotated[float, Field(ge=1, le=10_000_000, allow_inf_nan=False)]
#: Entry of a rotation or flip.
Cosine = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
#: Side of a pixel on the specimen, in um.
PixelSide = Annotated[float, Field(ge=0.001, le=100, allow_inf_nan=False)]
#: Number of pixels along a side.
Pixels = Annotated[int, Field(ge=0, le=65_535)]
#: Value of a pixel.
PixelValue = Annotated[float, Field(ge=0, le=65_535, allow_inf_nan=False)]
#: Exposure, in ms: a microsecond to ten minutes.
Exposure = Annotated[float, Field(ge=0.001, le=600_000, allow_inf_nan=False)]
#: Wait for a device to settle, in ms: up to ten minutes.
Settle = Annotated[float, Field(ge=0, le=600_000, allow_inf_nan=False)]
#: Wavelength of light, in nm.
Wavelength = Annotated[float, Field(ge=100, le=10_000, allow_inf_nan=False)]
#: Time limit, in s: up to a week.
Seconds = Annotated[float, Field(ge=0.001, le=604_800, allow_inf_nan=False)]
#: Wait, in s, that may be none: up to a week.
Wait = Annotated[float, Field(ge=0, le=604_800, allow_inf_nan=False)]
#: Age, in days: up to a century.
Days = Annotated[float, Field(ge=0.001, le=36_500, allow_inf_nan=False)]
#: Share, in percent.
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
#: Part of a whole.
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
#: Ratio of two figures.
Ratio = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
