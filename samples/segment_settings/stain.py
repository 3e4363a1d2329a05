"""Settings that tell nuclear stain from everything else in a colour image of a smear."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from wbcpipe.samples.segment_settings.base import SettingsTable, setting
from wbcpipe.samples.segment_settings.benchmarks import CANDIDATES, FOREIGN, LIGHT

__all__ = ["LightSettings", "StainSettings"]

_Fraction = Annotated[float, Field(ge=0, le=1)]
_Coefficient = Annotated[float, Field(ge=-1000, le=1000)]


def _numbers(default: tuple[float, ...], unit: str, description: str, count: int = 0) -> Any:
    return Field(
        default=default,
        description=description,
        json_schema_extra={"unit": unit, "benchmark": CANDIDATES if count else FOREIGN},
        strict=False,
        min_length=count or 1,
        max_length=count or 16,
    )


class StainSettings(SettingsTable):
    """Nuclear stain of a smear in colour, apart from red cells, rims, dirt and bare light."""

    typical_red: float = setting(
        0.38,
        "of the density",
        "share of red in the density of nuclei of a typical stain",
        benchmark=FOREIGN,
        ge=0,
        le=1,
    )
    typical_green: float = setting(
        0.50, "of the density", "share of green in it", benchmark=FOREIGN, ge=0, le=1
    )
    typical_blue: float = setting(
        0.12,
        "of the density",
        "share of blue in it: thiazin dyes and eosin let blue light through",
        benchmark=FOREIGN,
        ge=0,
        le=1,
    )
    searched_red: tuple[_Fraction, ...] = _numbers(
        (0.25, 0.4, 0.55), "of the density", "shares of red of the stains that an image may have"
    )
    searched_blue: tuple[_Fraction, ...] = _numbers(
        (0.0, 0.08, 0.16), "of the density", "shares of blue of them; the rest is green"
    )
    min_cosine: float = setting(
        0.85,
        "",
        "the image's own nuclei replace the typical stain from this cosine of their angle on",
        benchmark=FOREIGN,
        ge=0,
        le=1,
    )
    noise_od: float = setting(
        0.02, "OD", "densities as different as this are noise", benchmark=FOREIGN, ge=1e-4, le=1
    )
    coloured_od: float = setting(
        0.12,
        "OD",
        "lowest density, of the three planes together, of a coloured pixel",
        benchmark=LIGHT,
        ge=0,
        le=3,
    )
    coloured_fraction: float = setting(
        0.2, "of the densest pixels", "the same as a share", benchmark=LIGHT, ge=0, le=1
    )
    min_ratio: float = setting(
        0.7,
        "",
        "lowest density of red cells in red and green together over that in blue",
        benchmark=LIGHT,
        ge=0.01,
        le=100,
    )
    max_ratio: float = setting(5.0, "", "highest such ratio", benchmark=LIGHT, ge=0.01, le=100)
    typical_within: float = setting(
        1.5,
        "times",
        "a ratio that differs less from the typical one, 2, is replaced by it",
        benchmark=LIGHT,
        ge=1,
        le=100,
    )
    min_density_left: float = setting(
        0.5,
        "of that with the typical ratio",
        "density that a ratio must leave of nuclei",
        benchmark=LIGHT,
        ge=0,
        le=1,
    )
    two_colours_difference: float = setting(
        0.2,
        "of -1 to 1",
        "an image has two colours if their hues differ by as much",
        benchmark=LIGHT,
        ge=0,
        le=2,
    )
    two_colours_explained: float = setting(
        0.65,
        "of the variance",
        "and if they explain as much of the hue",
        benchmark=LIGHT,
        ge=0,
        le=1,
    )
    black_od: float = setting(
        1.2,
        "OD",
        "a higher density in red or green may be the camera's black",
        benchmark=LIGHT,
        ge=0.1,
        le=5,
    )
    black_to_blue: float = setting(
        3.0,
        "times the highest in blue",
        "and is, if it is also higher than this",
        benchmark=LIGHT,
        ge=0.1,
        le=100,
    )
    pale_od: float = setting(
        0.3,
        "OD",
        "an image whose densest pixels have less, of the three planes together, is amplified",
        benchmark=LIGHT,
        ge=0,
        le=3,
    )
    max_gain: float = setting(3.0, "times", "up to this gain", benchmark=LIGHT, ge=1, le=100)
    core_um: float = setting(
        2.6,
        "um",
        "width of the core of a nucleus, by which the filters for the stains are compared",
        benchmark=FOREIGN,
        ge=0.1,
        le=50,
    )
    lobe_um: float = setting(
        1.8, "um", "width of a nucleus' thinnest lobes", benchmark=FOREIGN, ge=0.1, le=50
    )
    nucleus_um2: float = setting(
        15.0,
        "um2",
        "area by which the brightest nucleus is judged",
        benchmark=FOREIGN,
        ge=0.1,
        le=5000,
    )
    min_refined_contrast: float = setting(
        0.9,
        "of that before",
        "a filter that is fitted to the image's own nuclei must let them stand out as much",
        benchmark=FOREIGN,
        ge=0,
        le=1,
    )
    other_fraction: float = setting(
        0.4,
        "of the brightest nucleus' answer",
        "pixels above are not background of the filter",
        benchmark=FOREIGN,
        ge=0.01,
        le=1,
    )
    nuclear_fraction: float = setting(
        0.6,
        "of the brightest nucleus' answer",
        "pixels above show the image's own nuclear stain",
        benchmark=FOREIGN,
        ge=0.01,
        le=1,
    )
    reach_um: float = setting(
        1.5,
        "um",
        "further from nuclei the answer of the filter is limited",
        benchmark=FOREIGN,
        ge=0,
        le=50,
    )
    cap_fraction: float = setting(
        0.3,
        "of the weakest nucleus' answer",
        "limit of the answer there",
        benchmark=FOREIGN,
        ge=0,
        le=1,
    )
    crowd_um2: float = setting(
        500.0,
        "um2",
        "nuclei with more area together are many: in a film only red cells are",
        benchmark=FOREIGN,
        ge=0,
        le=1e9,
    )
    crowd_fraction: float = setting(
        0.06, "of the field", "they are many only if they cover more", benchmark=FOREIGN, ge=0, le=1
    )
    max_cover_fraction: float = setting(
        0.3,
        "of the field",
        "many nuclei that cover more are red cells; raise it for crowded smears",
        benchmark=FOREIGN,
        ge=0,
        le=1,
    )
    max_nuclear_fraction: float = setting(
        0.25,
        "of all that is coloured",
        "many nuclei that cover more, and are bluish grey, are red cells",
        benchmark=FOREIGN,
        ge=0,
        le=1,
    )
    grey_blue_fraction: float = setting(
        0.15,
        "of the density",
        "share of blue from which a colour is bluish grey",
        benchmark=FOREIGN,
        ge=0,
        le=1,
    )
    candidate_core_um: float = setting(
        2.4,
        "um",
        "width of the square that must fit into a candidate",
        benchmark=CANDIDATES,
        ge=0.1,
        le=50,
    )
    candidate_fraction: float = setting(
        0.35,
        "of the strongest answer",
        "candidates answer to the filter with more",
        benchmark=CANDIDATES,
        ge=0.01,
        le=1,
    )
    candidate_um2: float = setting(
        3.0, "um2", "smallest candidate", benchmark=CANDIDATES, ge=0, le=5000
    )
    candidate_gap_um: float = setting(
        2.6,
        "um",
        "lobes no further from one another are one candidate",
        benchmark=CANDIDATES,
        ge=0,
        le=50,
    )
    candidate_lobe_fraction: float = setting(
        0.5,
        "of the candidate's peak",
        "parts of a candidate above are lobes",
        benchmark=CANDIDATES,
        ge=0,
        le=1,
    )
    candidate_core_fraction: float = setting(
        0.7,
        "of the candidate's peak",
        "parts above are its core, of which the colour is measured",
        benchmark=CANDIDATES,
        ge=0,
        le=0.99,
    )
    strongest_um2: float = setting(
        15.0,
        "um2",
        "area by which the strongest answer is judged",
        benchmark=CANDIDATES,
        ge=0.1,
        le=5000,
    )
    min_log_odds: float = setting(
        0.0,
        "",
        "a candidate with higher log odds is a nucleus; lower it where nuclei are missed, raise it "
        "where red cells are taken for them",
        benchmark=CANDIDATES,
        ge=-20,
        le=20,
    )
    score_constant: float = setting(
        -8.25, "", "constant of the log odds", benchmark=CANDIDATES, ge=-1000, le=1000
    )
    score_coefficients: tuple[_Coefficient, ...] = _numbers(
        (1.99, 1.32, -3.38, -1.94, 1.40, 1.88),
        "",
        "coefficients of its six measures, in the order of the benchmark's output",
        6,
    )

    @model_validator(mode="after")
    def _limits_are_in_order(self) -> Self:
        if self.min_ratio > self.max_ratio:
            raise ValueError(
                f"'min_ratio' is {self.min_ratio:g}, more than 'max_ratio', {self.max_ratio:g}"
            )
        if not 0.9 <= self.typical_red + self.typical_green + self.typical_blue <= 1.1:
            raise ValueError("'typical_red', 'typical_green' and 'typical_blue' must sum to 1")
        if max(self.searched_red) + max(self.searched_blue) > 1:
            raise ValueError("shares of 'searched_red' and 'searched_blue' must not exceed 1")
        return self


class LightSettings(SettingsTable):
    """The lit part of a colour image: field stops, frames, opaque marks, noise of the light."""

    dark_fraction: float = setting(
        0.03,
        "of the full range",
        "darker pixels show no specimen: the camera's black",
        benchmark=LIGHT,
        ge=0,
        le=0.9,
    )
    noise_od: float = setting(
        0.006,
        "OD",
        "spread of the background, of three planes together, below which it is camera noise",
        benchmark=FOREIGN,
        ge=1e-5,
        le=1,
    )
    opaque_od: float = setting(
        1.0,
        "OD",
        "what dims all colours by more is opaque: a scale bar or a mark",
        benchmark=FOREIGN,
        ge=0.05,
        le=5,
    )
    stop_od: float = setting(
        0.6,
        "OD",
        "what dims all colours by more and touches the border is a field stop",
        benchmark=FOREIGN,
        ge=0.05,
        le=5,
    )
    min_stop_fraction: float = setting(
        0.01, "of the image", "area from which it is a field stop", benchmark=FOREIGN, ge=0, le=1
    )
    stop_edge_fraction: float = setting(
        0.015,
        "of the longer side",
        "width over which the edge of a stop is blurred",
        benchmark=FOREIGN,
        ge=0,
        le=0.5,
    )
