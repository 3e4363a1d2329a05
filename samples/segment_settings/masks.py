"""Settings of the masks: outline of nucleus and cell in a crop."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from wbcpipe.samples.segment_settings.base import SettingsTable, setting
from wbcpipe.samples.segment_settings.benchmarks import MASKS

__all__ = ["MaskSettings", "SurroundingsSettings"]


class SurroundingsSettings(SettingsTable):
    """Pixels around a nucleus that are not its cytoplasm: bare background, touching red cells."""

    ring_inner_um: float = setting(
        0.5,
        "um",
        "distance from the nucleus from which the colour of cytoplasm is measured first",
        benchmark=MASKS,
        ge=0,
        le=50,
    )
    ring_outer_um: float = setting(
        1.5, "um", "distance up to which it is", benchmark=MASKS, ge=0.1, le=50
    )
    refined_um: float = setting(
        3.0, "um", "distance up to which it is refined", benchmark=MASKS, ge=0.1, le=50
    )
    beyond_um: float = setting(
        5.0,
        "um",
        "distance from which the colours of background and red cells are measured",
        benchmark=MASKS,
        ge=0.1,
        le=100,
    )
    min_area_um2: float = setting(
        2.0,
        "um2",
        "smallest area from which a colour is measured",
        benchmark=MASKS,
        ge=0.01,
        le=1000,
    )
    min_distance_sd: float = setting(
        2.0,
        "standard deviations",
        "colours that are nearer are not told apart",
        benchmark=MASKS,
        ge=0,
        le=100,
    )
    min_difference_od: float = setting(
        0.02,
        "OD",
        "nor are colours that differ less; refraction at an unstained cell causes about as much",
        benchmark=MASKS,
        ge=0,
        le=3,
    )
    max_distance_sd: float = setting(
        4.0,
        "standard deviations",
        "a pixel further from red cells' colour is none of them",
        benchmark=MASKS,
        ge=0.1,
        le=100,
    )
    stained_sd: float = setting(
        4.0,
        "standard deviations",
        "pixels whose nuclear stain exceeds the background by more are not background",
        benchmark=MASKS,
        ge=0,
        le=100,
    )
    smooth_um: float = setting(
        0.4, "um", "Gaussian over which colours are averaged", benchmark=MASKS, ge=0.01, le=10
    )
    min_radius_um: float = setting(
        0.8, "um", "radius of the smallest region that is excluded", benchmark=MASKS, ge=0, le=20
    )

    @model_validator(mode="after")
    def _limits_are_in_order(self) -> Self:
        if not self.ring_inner_um < self.ring_outer_um <= self.refined_um:
            raise ValueError(
                f"'ring_inner_um', 'ring_outer_um' and 'refined_um' must increase; they are "
                f"{self.ring_inner_um:g}, {self.ring_outer_um:g} and {self.refined_um:g}"
            )
        return self


class MaskSettings(SettingsTable):
    """Outline of nucleus and cell in a crop."""

    mask_pixel_um: float = setting(
        0.2, "um", "pixel size at which outlines are found", benchmark=MASKS, ge=0.02, le=2
    )
    cell_radius_um: float = setting(
        10.0,
        "um",
        "the nucleus and its lobes lie within this distance of the crop's middle",
        benchmark=MASKS,
        ge=1,
        le=100,
    )
    lobe_centre_fraction: float = setting(
        0.8,
        "of cell_radius_um",
        "greatest mean distance of a lobe from the crop's middle",
        benchmark=MASKS,
        ge=0.1,
        le=1,
    )
    nucleus_smooth_um: float = setting(
        0.25, "um", "Gaussian that smooths the nuclear channel", benchmark=MASKS, ge=0.01, le=5
    )
    lobe_gap_um: float = setting(
        2.5, "um", "greatest gap between lobes of one nucleus", benchmark=MASKS, ge=0, le=50
    )
    min_lobe_um2: float = setting(1.5, "um2", "smallest lobe", benchmark=MASKS, ge=0, le=1000)
    min_lobe_radius_um: float = setting(
        0.4,
        "um",
        "thinner parts of a nucleus are filaments or dense cytoplasm",
        benchmark=MASKS,
        ge=0,
        le=10,
    )
    max_hole_um2: float = setting(
        3.0,
        "um2",
        "smaller holes of a nucleus are filled; larger ones are cytoplasm in a ring",
        benchmark=MASKS,
        ge=0,
        le=1000,
    )
    cytoplasm_reach_um: float = setting(
        7.5,
        "um",
        "greatest width of the cytoplasm around the nucleus",
        benchmark=MASKS,
        ge=0.1,
        le=100,
    )
    core_um: float = setting(
        0.4,
        "um",
        "the cell reaches at least so far beyond its nucleus",
        benchmark=MASKS,
        ge=0,
        le=10,
    )
    nuclear_edge_um: float = setting(
        1.0,
        "um",
        "distance from the nucleus within which its own edge adds to the gradient",
        benchmark=MASKS,
        ge=0.01,
        le=20,
    )
    edge_smooth_um: float = setting(
        0.2, "um", "Gaussian under which gradients are taken", benchmark=MASKS, ge=0.01, le=5
    )
    empty_fraction: float = setting(
        0.12,
        "of the frame's spread",
        "pixels less below the bright end of all bright-field frames are empty",
        benchmark=MASKS,
        ge=0,
        le=1,
    )
    smooth_outline_um: float = setting(
        0.6, "um", "thinner protrusions of a cell are cut off", benchmark=MASKS, ge=0, le=10
    )
    max_neck_ratio: float = setting(
        0.75,
        "of the thinner part's width",
        "a touching red cell is cut off where the neck is narrower",
        benchmark=MASKS,
        ge=0.05,
        le=1,
    )
    min_part_radius_um: float = setting(
        1.5, "um", "a thinner part is not cut off", benchmark=MASKS, ge=0.1, le=50
    )
    min_nuclear_fraction: float = setting(
        0.15,
        "of the part with the most",
        "a part with less nuclear area is not of this cell",
        benchmark=MASKS,
        ge=0,
        le=1,
    )
    surroundings: SurroundingsSettings = SurroundingsSettings()
