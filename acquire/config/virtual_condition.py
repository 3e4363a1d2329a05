"""The condition of a virtual scope.

How far its lamps, optics, camera and focus drive have drifted.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from wbcpipe.acquire.config.policies import NotNegative, Part

__all__ = ["Stain", "VirtualCondition"]

Fraction = Annotated[float, Field(ge=0, lt=1)]


class LampPower(Part):
    """Power of each lamp, relative to a new one."""

    color1: NotNegative = 1.0
    color2: NotNegative = 1.0
    color3: NotNegative = 1.0
    fluorescence: NotNegative = 1.0


class Stain(Part):
    """A setting of the stain, relative to the default: another lot, concentration or time.

    Attributes:
        nucleus: Emission of the nucleus.
        cytoplasm: Emission of the cytoplasm.
        granules: Emission of the granules, or by how much they keep the dye out.
        absorbance: Of nucleus, cytoplasm and granules at color1, color2 and color3.
    """

    nucleus: NotNegative = 1.0
    cytoplasm: NotNegative = 1.0
    granules: NotNegative = 1.0
    absorbance: tuple[NotNegative, NotNegative, NotNegative] = (1.0, 1.0, 1.0)


class VirtualCondition(Part):
    """Faults that come slowly, for a virtual scope only; the defaults are a scope without any.

    A calibration stays valid when they change, as it would on a microscope.

    Attributes:
        lamp_power: Of each modality.
        flicker: Standard deviation of the lamps' power from frame to frame, as a fraction.
        dirt: Fraction of the light that dirt on the field lens takes in the lower right of the
            image.
        haze_um: Additional blur, as a standard deviation: oil or dust on the objective.
        dark_electrons: Electrons that every pixel collects without light: a warm camera or stray
            light.
        focus_shift_um: The focus lies so much higher.
        stain: How the slide was stained.
    """

    lamp_power: LampPower = LampPower()
    flicker: Fraction = 0.0
    dirt: Fraction = 0.0
    haze_um: NotNegative = 0.0
    dark_electrons: NotNegative = 0.0
    focus_shift_um: Annotated[float, Field(ge=-50, le=50)] = 0.0
    stain: Stain = Stain()
