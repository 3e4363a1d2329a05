"""Typed content of a scope's calibration file."""

from __future__ import annotations

from typing import ClassVar, Literal

from wbcpipe.samples.records import Part, Record

__all__ = [
    "Backlash",
    "CalibrationParts",
    "CalibrationRecord",
    "CameraAffine",
    "DarkExposure",
    "DarkFigures",
    "DarkPart",
    "FlatModality",
    "FlatPart",
    "FocusOffset",
    "GeometryPart",
    "LampStability",
    "LightDose",
    "OffsetsPart",
]


class MeasuredPart(Part):
    """A part that can be measured by itself, with the date of its measurement.

    Attributes:
        date: Start of the calibration, ISO 8601.
        scope_sha256, setup_sha256: Of the scope file, and of the settings that the calibration
            depends on.
    """

    date: str = ""
    scope_sha256: str = ""
    setup_sha256: str = ""


class DarkFigures(Part):
    """Frames without light, in counts.

    Attributes:
        level: Median over the sensor.
        level_se: Its standard error, from the variation of the frames' levels.
        read_noise: Standard deviation of the typical pixel from frame to frame.
        pattern: Standard deviation over the sensor of what is constant from frame to frame, without
            hot pixels.
        hot_pixels, hot_share: Number and share of hot pixels.
        hot: (row, column) of the first of them, in frames as they are written.
        frames: Number of frames.
    """

    level: float
    level_se: float
    read_noise: float
    pattern: float
    hot_pixels: int
    hot_share: float
    hot: tuple[tuple[int, int], ...]
    frames: int


class DarkExposure(DarkFigures):
    """Frames without light of the exposure of some modalities."""

    exposure_ms: float
    modalities: tuple[str, ...]


class DarkPart(MeasuredPart):
    """Frames without light of each exposure time."""

    exposures: tuple[DarkExposure, ...]


class LampStability(Part):
    """Scatter about a straight line, and its slope, of the mean of successive frames, relative to
    the mean.
    """

    relative_sd: float
    drift_per_minute: float
    drift_se: float
    seconds: float
    frames: int


class FlatModality(Part):
    """Shading and exposure of a modality.

    Attributes:
        shading: Brightness of equal tiles, rows of columns, relative to the middle.
        shading_se: Its standard error.
        falloff: Share of light that the corners lack.
        background: Level above dark.
        exposure_ms: Exposure of the scope file.
        used_of_full_scale, saturated_share: Of the camera's range, and of the pixels.
        exposure_advice, better_exposure_ms: Advice on the exposure.
        dark_level: Level without light.
        places: Number of positions measured.
        lamp: ``None`` for fluorescence, which fades.
    """

    shading: tuple[tuple[float, ...], ...]
    shading_se: float
    falloff: float
    background: float
    exposure_ms: float
    used_of_full_scale: float
    saturated_share: float
    exposure_advice: Literal["keep", "shorten", "lengthen"]
    better_exposure_ms: float
    dark_level: float
    places: int
    lamp: LampStability | None


class FlatPart(MeasuredPart):
    """Flat-field of each modality."""

    modalities: dict[str, FlatModality]


class Backlash(Part):
    """Difference between arrivals from both sides, and repeatability of one side; ``None`` where
    not measured.
    """

    repeats: int
    repeatability_um: float | None = None
    x_um: float | None = None
    x_se_um: float | None = None
    y_um: float | None = None
    y_se_um: float | None = None


class CameraAffine(Part):
    """Pixel size and orientation of the camera, in the terms of the scope file, with standard
    errors.
    """

    pixel_um: float
    pixel_um_se: float
    stage_affine: tuple[tuple[float, float], tuple[float, float]]
    stage_affine_se: tuple[tuple[float, float], tuple[float, float]]
    pixel_right_um: float
    pixel_down_um: float
    turn_deg: float
    turn_deg_se: float
    skew_deg: float
    skew_deg_se: float
    mirrored: bool
    residual_rms_px: float
    moves: int


class GeometryPart(CameraAffine, MeasuredPart):
    """Pixel size, orientation of the camera, and backlash of the stage."""

    moves_tried: int
    places: int
    similarity: float
    backlash: Backlash


class FocusOffset(Part):
    """Mean focus offset over several positions; ``reliable`` if its standard error is small."""

    um: float
    se_um: float | None
    places: int
    reliable: bool


class OffsetsPart(MeasuredPart):
    """Focus of each modality.

    Attributes:
        reference: Modality of the focus search.
        from_reference_um: Offset of each modality from the reference's sharpest plane.
        z_offset_um: The same as ``modalities.*.z_offset_um`` of a scope file.
        focus_offset_um, focus_offset_se_um: From the reference's sharpest plane to the best focus.
        places: Number of positions measured.
    """

    reference: str
    from_reference_um: dict[str, FocusOffset | None]
    z_offset_um: dict[str, float | None]
    focus_offset_um: float | None
    focus_offset_se_um: float | None
    places: int


class LightDose(Part):
    """Light that a calibration used in one modality."""

    exposures: int
    total_ms: float


class CalibrationParts(Part):
    """The measured parts; ``None`` where a part was never measured."""

    dark: DarkPart | None = None
    flat: FlatPart | None = None
    geometry: GeometryPart | None = None
    offsets: OffsetsPart | None = None

    def measured(self) -> dict[str, MeasuredPart]:
        """Return the parts that were measured, by name."""
        return {name: part for name, part in self if part is not None}


class CalibrationRecord(Record):
    """A scope's calibration file.

    Attributes:
        scope, scope_path, scope_sha256: Scope file at the last calibration.
        date: Of the last calibration, ISO 8601.
        setup_sha256: Of the settings that it depends on.
        objective: Objective as named in the scope file.
        virtual: The images were simulated.
        slot: Slot of the slide.
        software: Package versions.
        light: Light used in each modality.
        seconds: Duration.
        parts: The measured parts.
    """

    remedy: ClassVar[str] = "move it away and calibrate again"

    scope: str
    scope_path: str
    date: str
    scope_sha256: str
    setup_sha256: str
    objective: str
    virtual: bool
    slot: str
    software: dict[str, str]
    light: dict[str, LightDose]
    seconds: float
    parts: CalibrationParts
