"""Settings of the quality flags and figures, and of cells that are seen twice."""

from __future__ import annotations

from typing import Final, Self

from pydantic import model_validator

from wbcpipe.samples.segment_settings.base import SettingsTable, setting
from wbcpipe.samples.segment_settings.benchmarks import LIGHT, VIRTUAL

__all__ = ["DebrisSettings", "DuplicateSettings", "QualitySettings"]

_DEBRIS: Final = "tests/segment/detection/test_masks.py"
_FIGURES: Final = "tests/segment/features/test_field_quality.py"
_DUPLICATES: Final = "benchmarks/segment.py, docs/results/segment-benchmark.md"


class QualitySettings(SettingsTable):
    """Flags of a cell, and figures of its field."""

    blurred_um: float = setting(
        0.8,
        "um",
        "a cell whose nucleus has wider edges is BLURRED; about twice those in focus",
        benchmark=LIGHT,
        ge=0.01,
        le=10,
    )
    saturated_fraction: float = setting(
        0.01,
        "of the cell's pixels",
        "a cell with more saturated pixels in one modality is SATURATED",
        benchmark=VIRTUAL,
        ge=0,
        le=1,
    )
    blur_fine_um: float = setting(
        0.15,
        "um",
        "narrower of two Gaussians whose gradients give the width of an edge; about a pixel",
        benchmark=LIGHT,
        ge=0.01,
        le=5,
    )
    blur_wide_um: float = setting(0.5, "um", "wider of the two", benchmark=LIGHT, ge=0.02, le=10)
    max_blur_um: float = setting(
        2.0, "um", "wider edges cannot be told apart", benchmark=LIGHT, ge=0.1, le=50
    )
    blur_band_um: float = setting(
        0.4,
        "um",
        "distance from a nucleus' outline within which its edge is measured",
        benchmark=LIGHT,
        ge=0.05,
        le=10,
    )
    red_cell_um2: float = setting(
        45.0,
        "um2",
        "area of a red cell, for the number of white cells per 100 red ones",
        benchmark=_FIGURES,
        ge=1,
        le=1000,
    )
    covered_od: float = setting(
        0.03,
        "OD",
        "a denser pixel of a bright field is covered by a cell",
        benchmark=_FIGURES,
        ge=0.001,
        le=2,
    )
    background_percentile: float = setting(
        90.0,
        "percentile of a field",
        "what is brighter in bright field is background, even under a dense monolayer",
        benchmark=_FIGURES,
        ge=1,
        le=99.9,
    )

    @model_validator(mode="after")
    def _limits_are_in_order(self) -> Self:
        if self.blur_fine_um >= self.blur_wide_um:
            raise ValueError(
                f"'blur_fine_um' is {self.blur_fine_um:g}, not less than 'blur_wide_um', "
                f"{self.blur_wide_um:g}"
            )
        if self.blurred_um >= self.max_blur_um:
            raise ValueError(
                f"'blurred_um' is {self.blurred_um:g}, not less than 'max_blur_um', "
                f"{self.max_blur_um:g}, so no cell would be blurred"
            )
        return self


class DebrisSettings(SettingsTable):
    """Dirt and smudges among the objects of a slide, in comparison with its nuclei."""

    bright_percentile: float = setting(
        90.0,
        "percentile of all objects",
        "fluorescence that is surely that of nuclei, even if most objects are dirt",
        benchmark=_DEBRIS,
        ge=1,
        le=100,
    )
    dim_fraction: float = setting(
        0.5,
        "of the nuclei's fluorescence",
        "an object of less fluorescence may be debris",
        benchmark=_DEBRIS,
        ge=0,
        le=1,
    )
    denser_ratio: float = setting(
        3.0,
        "times the median absorbance",
        "a dim object that absorbs more in all modalities is dirt",
        benchmark=_DEBRIS,
        ge=1,
        le=100,
    )
    denser_sd: float = setting(
        6.0,
        "standard deviations of the nuclei",
        "it must absorb more by this, too",
        benchmark=_DEBRIS,
        ge=0,
        le=100,
    )
    denser_od: float = setting(
        0.05,
        "OD",
        "and by this: where nuclei hardly absorb, a multiple of that means nothing",
        benchmark=_DEBRIS,
        ge=0,
        le=3,
    )
    clearer_ratio: float = setting(
        2.0,
        "times",
        "a dim object whose absorbance is so many times lower in one modality is a smudge",
        benchmark=_DEBRIS,
        ge=1,
        le=100,
    )
    clearer_sd: float = setting(
        2.5,
        "standard deviations of the nuclei",
        "it must absorb less by this, too",
        benchmark=_DEBRIS,
        ge=0,
        le=100,
    )


class DuplicateSettings(SettingsTable):
    """Views of one cell in overlapping fields."""

    same_um: float = setting(
        4.0,
        "um",
        "two views that are nearer on the stage are of one cell; more than the stage's error",
        benchmark=_DUPLICATES,
        ge=0.1,
        le=100,
    )
    same_cut_um: float = setting(
        8.0,
        "um",
        "the same of a cell that the border cuts: what is seen of it has another centre",
        benchmark=_DUPLICATES,
        ge=0.1,
        le=100,
    )
