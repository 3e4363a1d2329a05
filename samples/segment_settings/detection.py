"""Settings of the detection: which objects of a field are white cells."""

from __future__ import annotations

from typing import Final, Self

from pydantic import model_validator

from wbcpipe.samples.segment_settings.base import SettingsTable, redefined, setting
from wbcpipe.samples.segment_settings.benchmarks import CROWDED, FOREIGN, LIGHT, SMEARS, VIRTUAL
from wbcpipe.samples.segment_settings.stain import LightSettings, StainSettings

__all__ = [
    "ClumpSettings",
    "DetectionSettings",
    "NucleusSettings",
    "OtherDetectorSettings",
    "StainedNucleusSettings",
]

_DETECTORS: Final = "tests/segment/detection/test_detectors.py"


class NucleusSettings(SettingsTable):
    """Nuclei in fluorescence: sizes on the specimen, and brightness relative to nuclei."""

    detection_pixel_um: float = setting(
        0.3, "um", "pixel size of the detection", benchmark=VIRTUAL, ge=0.05, le=2
    )
    smooth_um: float = setting(
        0.3, "um", "Gaussian that smooths the nuclear channel", benchmark=VIRTUAL, ge=0.01, le=3
    )
    speckle_radius_um: float = setting(
        0.45,
        "um",
        "bright spots of a smaller radius are no part of a nucleus",
        benchmark=VIRTUAL,
        ge=0,
        le=5,
    )
    spur_radius_um: float = setting(
        0.9, "um", "thinner protrusions of a body are cut off", benchmark=VIRTUAL, ge=0, le=10
    )
    nucleus_fraction: float = setting(
        0.25,
        "of the nuclear level",
        "nuclear pixels are brighter",
        benchmark=VIRTUAL,
        ge=0.01,
        le=0.99,
    )
    body_fraction: float = setting(
        0.04,
        "of the nuclear level",
        "pixels of the cell's body are brighter",
        benchmark=VIRTUAL,
        ge=0,
        le=0.99,
    )
    min_level: float = setting(
        0.0,
        "counts",
        "lowest nuclear level of an image with nuclei; 65535 is the full range",
        benchmark=VIRTUAL,
        ge=0,
        le=65535,
    )
    min_contrast: float = setting(
        4.0,
        "times the background's spread",
        "lowest nuclear level of an image with nuclei",
        benchmark=VIRTUAL,
        ge=0,
        le=1000,
    )
    noise_factor: float = setting(
        5.0,
        "times the background's spread",
        "pixels of a body, and those that belong to no cell, are brighter",
        benchmark=VIRTUAL,
        ge=0,
        le=1000,
    )
    reach_um: float = setting(
        0.0,
        "um",
        "greatest distance of a body's pixels from nuclear pixels; 0: no limit",
        benchmark=VIRTUAL,
        ge=0,
        le=100,
    )
    closing_um: float = setting(
        0.5,
        "um",
        "gaps in a body up to twice this width are closed",
        benchmark=VIRTUAL,
        ge=0,
        le=20,
    )
    max_neck_ratio: float = setting(
        0.7,
        "of the thinner part's width",
        "a body is split into two cells where it is narrower",
        benchmark=VIRTUAL,
        ge=0.05,
        le=1,
    )
    min_radius_um: float = setting(
        2.6, "um", "a thinner part of a body is not split off", benchmark=VIRTUAL, ge=0.1, le=50
    )
    min_nucleus_um2: float = setting(
        8.0,
        "um2",
        "an object with less nuclear area is a platelet: no cell",
        benchmark=VIRTUAL,
        ge=0.1,
        le=5000,
    )
    debris_nucleus_um2: float = setting(
        14.0,
        "um2",
        "an object with less nuclear area that no border cuts is flagged DEBRIS",
        benchmark=VIRTUAL,
        ge=0.1,
        le=5000,
    )
    cut_nucleus_um2: float = setting(
        14.0,
        "um2",
        "the same for a nucleus that the border cuts",
        benchmark=VIRTUAL,
        ge=0.1,
        le=5000,
    )
    max_area_um2: float = setting(
        700.0,
        "um2",
        "an object with a larger body is flagged DEBRIS: a smudge or a clot",
        benchmark=VIRTUAL,
        ge=1,
        le=1e6,
    )
    lobe_min_um2: float = setting(
        1.5,
        "um2",
        "parts of a nucleus with less area are dropped",
        benchmark=VIRTUAL,
        ge=0,
        le=1000,
    )
    lobe_max_um2: float = setting(
        14.0,
        "um2",
        "parts with less nuclear area are lobes, which join a neighbour within reach",
        benchmark=VIRTUAL,
        ge=0,
        le=5000,
    )
    lobe_gap_um: float = setting(
        1.5, "um", "greatest gap between lobes of one cell", benchmark=VIRTUAL, ge=0, le=50
    )
    background_um: float = setting(
        25.0,
        "um",
        "scale over which the background may change; well above a cell",
        benchmark=VIRTUAL,
        ge=1,
        le=10_000,
    )
    clump_um2: float = setting(
        180.0,
        "um2",
        "a larger nucleus is several that could not be parted: flagged CLUMP; 0: never",
        benchmark=CROWDED,
        ge=0,
        le=1e6,
    )
    level_fraction: float = setting(
        0.25,
        "of the brightest object",
        "dimmer objects have no say in the nuclear level",
        benchmark=VIRTUAL,
        ge=0,
        le=0.99,
    )
    brightest_um2: float = setting(
        15.0,
        "um2",
        "area by which the brightest object is judged",
        benchmark=VIRTUAL,
        ge=0.1,
        le=5000,
    )
    solid_um: float = setting(
        0.0,
        "um",
        "radius of a disk that must fit into a nucleus and cover much of it; 0: any shape",
        benchmark=SMEARS,
        ge=0,
        le=50,
    )
    cytoplasm_um: float = setting(
        6.0,
        "um",
        "cytoplasm reaches so far from the nucleus; what lies further out touches no border",
        benchmark=FOREIGN,
        ge=0,
        le=100,
    )

    @model_validator(mode="after")
    def _limits_are_in_order(self) -> Self:
        if self.lobe_min_um2 > self.lobe_max_um2:
            raise ValueError(
                f"'lobe_min_um2' is {self.lobe_min_um2:g}, more than 'lobe_max_um2', "
                f"{self.lobe_max_um2:g}"
            )
        if self.body_fraction > self.nucleus_fraction:
            raise ValueError(
                f"'body_fraction' is {self.body_fraction:g}, more than 'nucleus_fraction', "
                f"{self.nucleus_fraction:g}"
            )
        return self


class StainedNucleusSettings(NucleusSettings):
    """Nuclei in the density derived from a stained smear: 65535 is an optical density of 2."""

    nucleus_fraction: float = redefined(NucleusSettings, "nucleus_fraction", 0.45, SMEARS)
    body_fraction: float = redefined(NucleusSettings, "body_fraction", 0.12, SMEARS)
    min_level: float = redefined(NucleusSettings, "min_level", 3000.0, SMEARS)
    reach_um: float = redefined(NucleusSettings, "reach_um", 3.0, LIGHT)
    closing_um: float = redefined(NucleusSettings, "closing_um", 1.2, SMEARS)
    debris_nucleus_um2: float = redefined(NucleusSettings, "debris_nucleus_um2", 20.0, SMEARS)
    lobe_gap_um: float = redefined(NucleusSettings, "lobe_gap_um", 3.0, SMEARS)
    clump_um2: float = redefined(NucleusSettings, "clump_um2", 0.0, FOREIGN)
    level_fraction: float = redefined(NucleusSettings, "level_fraction", 0.5, SMEARS)
    solid_um: float = redefined(NucleusSettings, "solid_um", 1.5, FOREIGN)


class ClumpSettings(SettingsTable):
    """Nuclei in fluorescence that lie on one another and could not be parted."""

    loose_ratio: float = setting(
        1.6,
        "times the field's median",
        "a larger nucleus is several if it is not compact",
        benchmark=CROWDED,
        ge=1,
        le=100,
    )
    any_ratio: float = setting(
        3.2,
        "times the field's median",
        "a larger nucleus is several whatever its shape",
        benchmark=CROWDED,
        ge=1,
        le=100,
    )
    loose_um2: float = setting(
        90.0,
        "um2",
        "the same as loose_ratio in a field with too few nuclei for a median",
        benchmark=CROWDED,
        ge=1,
        le=1e6,
    )
    max_compactness: float = setting(
        2.4,
        "times the largest disk inside",
        "area up to which a nucleus is compact; single large nuclei have 1.2 to 2.1",
        benchmark=CROWDED,
        ge=1,
        le=100,
    )


class OtherDetectorSettings(SettingsTable):
    """Input of the trained detectors Cellpose and StarDist."""

    nucleus_um: float = setting(
        8.0,
        "um",
        "typical diameter of a nucleus; gives Cellpose its scale",
        benchmark=_DETECTORS,
        ge=0.5,
        le=200,
    )
    pixel_um: float = setting(
        0.3,
        "um",
        "pixel size of what they see; they were trained on nuclei of 15 to 40 px",
        benchmark=_DETECTORS,
        ge=0.02,
        le=10,
    )


class DetectionSettings(SettingsTable):
    """Which objects of a field are white cells."""

    fluorescence: NucleusSettings = NucleusSettings()
    stained: StainedNucleusSettings = StainedNucleusSettings()
    clumps: ClumpSettings = ClumpSettings()
    stain: StainSettings = StainSettings()
    light: LightSettings = LightSettings()
    other: OtherDetectorSettings = OtherDetectorSettings()
