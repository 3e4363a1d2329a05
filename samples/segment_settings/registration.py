"""Settings of registration and flat field: how the channels of a field lie, and their light."""

from __future__ import annotations

from typing import Final, Self

from pydantic import model_validator

from wbcpipe.samples.segment_settings.base import SettingsTable, setting
from wbcpipe.samples.segment_settings.benchmarks import IMPORTED_STACKS, LIGHT, REGISTRATION

__all__ = ["ChannelShiftSettings", "FlatfieldSettings", "RegistrationSettings"]

_FLATFIELD: Final = "tests/segment/test_flatfield.py"


class RegistrationSettings(SettingsTable):
    """Shift, rotation and scale between the channels of a slide and of a field."""

    edge_pixel_um: float = setting(
        0.4,
        "um",
        "pixel size of the edge maps that are compared",
        benchmark=REGISTRATION,
        ge=0.05,
        le=5,
    )
    steep_fraction: float = setting(
        0.3,
        "of the steep edges",
        "edges above count alike, whatever their contrast",
        benchmark=REGISTRATION,
        ge=0.01,
        le=10,
    )
    glow_ln: float = setting(
        0.5,
        "natural logarithm",
        "brightness of cells above free dye from which a frame is fluorescence with shadows",
        benchmark=REGISTRATION,
        ge=0.01,
        le=10,
    )
    shadow_ln: float = setting(
        0.05,
        "natural logarithm",
        "and depth of its shadows",
        benchmark=REGISTRATION,
        ge=0.001,
        le=10,
    )
    slide_search_um: float = setting(
        10.0,
        "um",
        "greatest displacement of the channels of a slide",
        benchmark=REGISTRATION,
        ge=0.5,
        le=500,
    )
    slide_refine_um: float = setting(
        2.0,
        "um",
        "the same in the second round, around what the first found",
        benchmark=REGISTRATION,
        ge=0.1,
        le=500,
    )
    stack_search_px: float = setting(
        40.0,
        "px",
        "greatest displacement of the channels of an imported stack, whatever its pixel size",
        benchmark=IMPORTED_STACKS,
        ge=1,
        le=1000,
    )
    stack_displaced_px: float = setting(
        0.5,
        "px",
        "channels of a stack that are displaced by less stay as they are",
        benchmark=IMPORTED_STACKS,
        ge=0,
        le=100,
    )
    tile_half_um: float = setting(
        19.2,
        "um",
        "half the side of the tiles that are compared",
        benchmark=REGISTRATION,
        ge=1,
        le=1000,
    )
    slide_min_prominence: float = setting(
        0.05,
        "correlation",
        "a tile's peak must rise so much above all others",
        benchmark=REGISTRATION,
        ge=0,
        le=1,
    )
    max_tile_deviation_um: float = setting(
        3.0,
        "um",
        "greatest deviation of a tile from its field, through rotation and scale",
        benchmark=REGISTRATION,
        ge=0.1,
        le=500,
    )
    rotation_sd_rad: float = setting(
        0.02,
        "rad",
        "expected rotation between channels, standard deviation",
        benchmark=REGISTRATION,
        ge=1e-5,
        le=0.5,
    )
    scale_sd: float = setting(
        0.004,
        "",
        "expected difference in magnification, standard deviation",
        benchmark=REGISTRATION,
        ge=1e-5,
        le=0.5,
    )
    field_search_um: float = setting(
        2.0,
        "um",
        "greatest displacement of a field's channels from those of the slide",
        benchmark=REGISTRATION,
        ge=0.1,
        le=500,
    )
    field_wide_search_um: float = setting(
        8.0, "um", "the same where the first search fails", benchmark=REGISTRATION, ge=0.1, le=500
    )
    field_min_prominence: float = setting(
        0.04,
        "correlation",
        "a pair's peak must rise so much above all others, else the pair is not used",
        benchmark=REGISTRATION,
        ge=0,
        le=1,
    )
    max_error_px: float = setting(
        2.0,
        "px",
        "a field's own shift with a larger estimated error is UNREGISTERED",
        benchmark=REGISTRATION,
        ge=0.01,
        le=100,
    )

    @model_validator(mode="after")
    def _limits_are_in_order(self) -> Self:
        if self.field_search_um > self.field_wide_search_um:
            raise ValueError(
                f"'field_search_um' is {self.field_search_um:g}, more than "
                f"'field_wide_search_um', {self.field_wide_search_um:g}"
            )
        return self


class FlatfieldSettings(SettingsTable):
    """Uneven light, estimated from the slide's own fields."""

    bright_percentile: float = setting(
        85.0,
        "percentile of a tile",
        "bright field: what is brighter is background; raise it for dense films",
        benchmark=_FLATFIELD,
        ge=1,
        le=99.9,
    )
    dark_percentile: float = setting(
        40.0,
        "percentile of a tile",
        "fluorescence: what is darker is background; lower it for crowded cells",
        benchmark=_FLATFIELD,
        ge=0.1,
        le=99,
    )


class ChannelShiftSettings(SettingsTable):
    """Whether the channels of imported single cells lie over one another."""

    min_correlation: float = setting(
        0.3,
        "correlation",
        "channels with less in common cannot be compared",
        benchmark=IMPORTED_STACKS,
        ge=0,
        le=1,
    )
    allowed_px: float = setting(
        2.0, "px", "a shift up to this is no displacement", benchmark=IMPORTED_STACKS, ge=0, le=1000
    )
    allowed_um: float = setting(
        5.0,
        "um",
        "what is allowed of few cells whose channels have nothing in common",
        benchmark=LIGHT,
        ge=0,
        le=100,
    )
