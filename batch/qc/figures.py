"""The figures of quality control: title, unit, and what counts as a difference."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

__all__ = ["FIGURES", "FigureInfo", "describe"]


class FigureInfo(NamedTuple):
    """A figure.

    Attributes:
        title: for people; ``{}`` stands for what follows the dot of its name: a modality, an
            exposure, a class.
        unit: of the values; empty for plain numbers.
        decimals: shown.
        min_sd: smallest standard deviation of a baseline, in the figure's unit: smaller differences
            mean nothing.
        min_sd_percent: the same, of the mean.
        high_only: only an increase is a fault.
        charted: has a control chart of its own.
    """

    title: str
    unit: str = ""
    decimals: int = 1
    min_sd: float = 0.0
    min_sd_percent: float = 0.0
    high_only: bool = False
    charted: bool = True


#: By the part of the name before the dot.
FIGURES: Final[dict[str, FigureInfo]] = {
    # of the night check
    "light": FigureInfo("Light, {}", "counts", 0, min_sd_percent=0.2),
    "flat": FigureInfo(
        "Change of the illumination's shape, {}", "%", 2, min_sd=0.1, high_only=True
    ),
    "lamp_sd": FigureInfo("Flicker of the lamp, {}", "%", 3, min_sd=0.02, high_only=True),
    "dark_level": FigureInfo("Dark level at {}", "counts", 2, min_sd=0.1),
    "read_noise": FigureInfo("Read noise at {}", "counts", 2, min_sd=0.02, min_sd_percent=0.5),
    "hot_pixels": FigureInfo("Hot pixels at {}", "pixels", 0, min_sd=1.0, high_only=True),
    "focus_um": FigureInfo("Height of the slide's surface", "um", 2, min_sd=0.1),
    "focus_repeat_um": FigureInfo(
        "Repeatability of the focus", "um", 3, min_sd=0.02, high_only=True
    ),
    "sharpness": FigureInfo("Sharpness at the focus", "", 5, min_sd_percent=1.0),
    "stage_return_um": FigureInfo("Return of the stage", "um", 2, min_sd=0.05, high_only=True),
    # of a control slide
    "percent": FigureInfo("Share of {}", "%", 1, min_sd=0.1),
    "percent_low": FigureInfo("{}, lower end of the interval", "%", 1, charted=False),
    "percent_high": FigureInfo("{}, upper end of the interval", "%", 1, charted=False),
    "cells_counted": FigureInfo("Cells counted", "cells", 0, charted=False),
    "unidentified_percent": FigureInfo("Unidentified cells", "%", 1, min_sd=0.2, high_only=True),
    "cells_per_field": FigureInfo("White cells per field", "", 2, min_sd_percent=1.0),
    "accepted_percent": FigureInfo("Complete white cells of all objects found", "%", 1, min_sd=0.5),
    "blurred_percent": FigureInfo("Blurred cells", "%", 1, min_sd=0.2, high_only=True),
    "doublets_percent": FigureInfo("Cells touching another white cell", "%", 1, min_sd=0.2),
    "head_disagreement": FigureInfo(
        "Median disagreement of the heads", "", 3, min_sd=0.002, high_only=True
    ),
    "blur_um": FigureInfo("Edge width of the nuclei", "um", 3, min_sd=0.005),
    "residual_px": FigureInfo("Estimated registration error", "px", 3, min_sd=0.01, high_only=True),
    "nuclear_contrast_percent": FigureInfo(
        "Nuclear contrast, of the camera's range", "%", 2, min_sd_percent=0.5
    ),
    "nucleus_cytoplasm_contrast_ratio": FigureInfo(
        "Nuclear over cytoplasmic contrast", "", 2, min_sd_percent=0.5
    ),
    "red_cover_percent": FigureInfo("Area covered by red cells", "%", 1, min_sd=0.5),
    "background_percent": FigureInfo(
        "Background, of the camera's range, {}", "%", 2, min_sd_percent=0.2
    ),
}
_UNKNOWN: Final = FigureInfo("{}", "", 3)


def describe(name: str) -> FigureInfo:
    """Return the description of a figure, its title filled in.

    One of a later version is shown by its name.

    >>> describe("light.color2").title
    'Light, color2'
    """
    kind, _, part = name.partition(".")
    info = FIGURES.get(kind, _UNKNOWN)
    shown = re.sub(r"(\d)ms$", r"\1 ms", part) if kind in FIGURES else name
    return info._replace(title=info.title.format(shown))
