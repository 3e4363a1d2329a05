"""All figures of the five white-cell classes.

How they differ, how they vary, how hard they are to distinguish.

Tune difficulty here and nowhere else. Orders are always those of the package: bands are color1 (415
nm), color2 (550 nm), color3 (635 nm); modalities are the three bands and then fluorescence.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from wbcpipe.acquire.config.virtual_condition import Stain

__all__ = ["BIOLOGY", "Biology", "Granules", "Traits", "stained_classes"]


@dataclass(frozen=True)
class Granules:
    """The granules of a class: how many, how large, and how they show in each modality."""

    count: tuple[int, int]
    radius_um: float
    #: Spread of the radii within one cell (coefficient of variation).
    radius_cv: float
    #: Peak absorbance (natural logarithm) of a single granule per band.
    absorbance: tuple[float, float, float]
    #: Optical path of a granule against the cytoplasm, um: how refractile it is.
    path_um: float
    #: AO emission relative to a bright nucleus; negative where granules keep the dye out.
    emission: float
    #: Fraction of granules allowed over the nucleus.
    over_nucleus: float


@dataclass(frozen=True)
class Traits:
    """One white-cell class as the microscope sees it."""

    #: Mean, standard deviation, smallest and largest diameter.
    diameter_um: tuple[float, float, float, float]
    #: How far the outline departs from a circle (relative amplitude).
    irregularity: float
    granules: Granules
    #: Absorbance of nucleus and of cytoplasm per band.
    nucleus_absorbance: tuple[float, float, float]
    cytoplasm_absorbance: tuple[float, float, float]
    #: AO emission of nucleus (DNA) and cytoplasm (RNA), relative to a bright nucleus.
    nucleus_emission: float
    cytoplasm_emission: float
    #: Texture of the chromatin: grain (um) and relative contrast.
    chromatin_um: float
    chromatin_contrast: float
    #: Vacuoles in the cytoplasm: least and greatest number.
    vacuoles: tuple[int, int] = (0, 0)


_CLASSES: Final[Mapping[str, Traits]] = MappingProxyType(
    {
        "NEU": Traits(
            diameter_um=(13.2, 0.9, 11.2, 15.4),
            irregularity=0.035,
            granules=Granules((150, 320), 0.16, 0.2, (0.085, 0.020, 0.010), 0.006, 0.02, 0.15),
            nucleus_absorbance=(0.020, 0.030, 0.026),
            cytoplasm_absorbance=(0.022, 0.012, 0.008),
            nucleus_emission=1.0,
            cytoplasm_emission=0.07,
            chromatin_um=0.55,
            chromatin_contrast=0.22,
        ),
        "LYM": Traits(
            diameter_um=(9.6, 1.35, 7.2, 13.2),
            irregularity=0.025,
            granules=Granules((0, 8), 0.25, 0.2, (0.04, 0.05, 0.02), 0.008, 0.03, 0.1),
            nucleus_absorbance=(0.026, 0.036, 0.030),
            cytoplasm_absorbance=(0.020, 0.014, 0.010),
            nucleus_emission=0.92,
            cytoplasm_emission=0.15,
            chromatin_um=0.7,
            chromatin_contrast=0.24,
        ),
        "EOS": Traits(
            diameter_um=(13.6, 0.95, 11.6, 16.2),
            irregularity=0.03,
            granules=Granules((110, 200), 0.42, 0.15, (0.24, 0.055, 0.030), 0.028, -0.015, 0.2),
            nucleus_absorbance=(0.020, 0.030, 0.026),
            cytoplasm_absorbance=(0.022, 0.012, 0.008),
            nucleus_emission=0.96,
            cytoplasm_emission=0.07,
            chromatin_um=0.55,
            chromatin_contrast=0.2,
        ),
        "MO": Traits(
            diameter_um=(15.8, 1.35, 12.8, 19.5),
            irregularity=0.06,
            granules=Granules((40, 140), 0.14, 0.3, (0.04, 0.018, 0.012), 0.005, 0.06, 0.15),
            nucleus_absorbance=(0.018, 0.024, 0.022),
            cytoplasm_absorbance=(0.024, 0.018, 0.014),
            nucleus_emission=0.74,
            cytoplasm_emission=0.17,
            chromatin_um=0.4,
            chromatin_contrast=0.17,
            vacuoles=(1, 9),
        ),
        "BAS": Traits(
            diameter_um=(11.8, 0.95, 9.8, 14.2),
            irregularity=0.04,
            granules=Granules((30, 80), 0.42, 0.35, (0.06, 0.20, 0.060), 0.016, 0.08, 0.85),
            nucleus_absorbance=(0.018, 0.026, 0.024),
            cytoplasm_absorbance=(0.020, 0.014, 0.010),
            nucleus_emission=0.72,
            cytoplasm_emission=0.09,
            chromatin_um=0.6,
            chromatin_contrast=0.14,
        ),
    }
)
_LOOKALIKES: Final[Mapping[str, Mapping[str, float]]] = MappingProxyType(
    {
        "NEU": {"EOS": 0.30, "MO": 0.30, "BAS": 0.20, "LYM": 0.20},
        "LYM": {"MO": 0.35, "BAS": 0.40, "NEU": 0.25},
        "EOS": {"NEU": 0.80, "BAS": 0.20},
        "MO": {"LYM": 0.45, "NEU": 0.55},
        "BAS": {"NEU": 0.50, "LYM": 0.50},
    }
)


@dataclass(frozen=True)
class Biology:
    """The classes, and the difficulty of distinguishing them.

    Each nuisance is drawn per cell and, where it says so, per modality independently: no single
    modality can be trusted everywhere, the four together nearly can.
    """

    classes: Mapping[str, Traits] = field(default_factory=lambda: _CLASSES)
    #: Probability that a cell shows another class's signature in one modality (a merged or edge-on
    #: nucleus, degranulated or toxic granules), drawn per modality independently. Raises the error
    #: of that modality alone.
    atypical_rate: tuple[float, float, float, float] = (0.045, 0.055, 0.05, 0.045)
    #: Which class an atypical cell resembles.
    lookalikes: Mapping[str, Mapping[str, float]] = field(default_factory=lambda: _LOOKALIKES)
    #: Spread (logarithmic) of granule visibility per band, independent per band.
    granule_visibility_sd: tuple[float, float, float] = (0.50, 0.55, 0.55)
    #: Spread (logarithmic) of AO uptake of the cell, and of cytoplasm against nucleus.
    uptake_sd: float = 0.28
    cytoplasm_uptake_sd: float = 0.40
    #: Spread (logarithmic) of how strongly nucleus and granules refract, independent per band.
    refraction_sd: float = 0.35
    #: How strongly granules and nuclei refract per band, relative to their path.
    granule_refraction: tuple[float, float, float] = (1.0, 0.8, 0.45)
    nucleus_refraction: tuple[float, float, float] = (0.40, 0.5, 1.0)
    #: Scale of a half-normal blur per modality, um: the cell creeps in the wet film while a frame
    #: is exposed.
    motion_um: float = 0.16
    #: Standard deviation of the cells' heights above the focal surface, um, common to all
    #: modalities.
    height_sd_um: float = 0.6
    #: Probability of a red cell over part of a white cell (dark at color1, nearly absent
    #: elsewhere).
    overlaid_rate: float = 0.07
    #: Fraction of white cells with a second one touching.
    doublet_rate: float = 0.04
    #: Number of lobes of segmented nuclei, and the fraction of band forms among NEU.
    neutrophil_lobes: Mapping[int, float] = field(
        default_factory=lambda: MappingProxyType({2: 0.09, 3: 0.44, 4: 0.35, 5: 0.12})
    )
    eosinophil_lobes: Mapping[int, float] = field(
        default_factory=lambda: MappingProxyType({2: 0.90, 3: 0.10})
    )
    band_rate: float = 0.07
    #: Fraction of lymphocytes with an indented nucleus.
    indented_rate: float = 0.25


BIOLOGY = Biology()


def stained_classes(stain: Stain) -> Mapping[str, Traits]:
    """Return the classes as a stain shows them: emission of nucleus, cytoplasm and granules, and
    absorbance.
    """

    def absorbance(bands: tuple[float, float, float]) -> tuple[float, float, float]:
        first, second, third = (
            value * factor for value, factor in zip(bands, stain.absorbance, strict=True)
        )
        return first, second, third

    return {
        name: replace(
            traits,
            nucleus_emission=traits.nucleus_emission * stain.nucleus,
            cytoplasm_emission=traits.cytoplasm_emission * stain.cytoplasm,
            nucleus_absorbance=absorbance(traits.nucleus_absorbance),
            cytoplasm_absorbance=absorbance(traits.cytoplasm_absorbance),
            granules=replace(
                traits.granules,
                emission=traits.granules.emission * stain.granules,
                absorbance=absorbance(traits.granules.absorbance),
            ),
        )
        for name, traits in BIOLOGY.classes.items()
    }
