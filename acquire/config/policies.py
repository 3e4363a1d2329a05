"""How a microscope is used, by its scope file: focus, deadlines, what a frame must look like, limits of quality."""

from __future__ import annotations

import math
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "MAX_FOCUS_FRAMES",
    "CalibrationPolicy",
    "Focus",
    "FrameChecks",
    "NotNegative",
    "Part",
    "Percent",
    "Positive",
    "QualityLimits",
    "Reliability",
    "Scan",
    "max_climb_frames",
]

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Percent = Annotated[float, Field(ge=0, le=100)]


#: A search of focus, or a climb alone, that has not bracketed its peak with so many frames gives up.
MAX_FOCUS_FRAMES: Final = 12
#: What a search leaves to its climb, however many it took before: 3, and a step or two aside.
_MIN_CLIMB_FRAMES: Final = 5


def max_climb_frames(coarse: int) -> int:
    """How many frames a search of focus has left for its climb after so many of its coarse look."""
    return max(MAX_FOCUS_FRAMES - coarse, _MIN_CLIMB_FRAMES)


class Part(BaseModel):
    """Base of the tables of a scope file: frozen, and keys that are not known are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Focus(Part):
    """How the surface of focus is found.

    Attributes:
        method: ``surface`` measures points on a grid by images; ``hardware`` the same by the microscope's own focusing
            device, and by images where that fails; ``fixed`` stays at ``fixed_um``.
        modality: bright field, so that focusing does not bleach the stain.
        fixed_um: Z for ``fixed``, and where the first search begins.
        offset_um: from the sharpest bright-field image to the best focus: refraction at cell edges makes cells
            look sharpest a little beside it. Measure it once for an objective.
        range_um: how far the first search goes to each side.
        coarse_points: points along each side of the grid over the whole scan area.
        spacing_um: largest distance of the finer points, measured where fields are taken.
        coarse_step_um: of the first search; a third of ``range_um`` or more keeps it to 12 frames, if the specimen
            still shows as blurred as it then is half a step from its focus. If not, make ``range_um`` smaller too.
        fine_step_um: of its refinement; about twice the depth of field, so that sharpness visibly falls in a step.
        window_px: Side of the square in the camera's middle that is used, in unbinned pixels.
        deadline_s, mapping_deadline_s: for one point and for all of them together; a point that is late counts as one
            that shows nothing.
        drift_check_fields: before every so many fields the focus is measured again; 0: only when a run is gone on with
            or the devices were loaded anew.
        drift_limit_um: from where on such a measurement has the surface shifted and tilted, by what is seen at 9 places
            focused before, or measured anew; more than the surface's own error.
        hardware_device: label in the .cfg, for ``hardware``.
        hardware_mode: what it is asked for: ``full`` or ``incremental`` focusing, or to hold the focus (``continuous``)
            until it says that it is locked.
        hardware_offset_um: from where it brings Z to the best focus of the cells. Measure it once for an objective.
        device_offset: set as its own offset before, in its own units; left alone if left out.
        hardware_timeout_s: for each of its answers.
        hardware_settle_s: wait before it is asked after a move beyond ``long_move_um``, and before it is asked again.
        long_move_um: of the XY stage; immersion film needs its time.
    """

    method: Literal["surface", "hardware", "fixed"] = "surface"
    modality: Literal["color1", "color2", "color3"] = "color1"
    fixed_um: float = 0.0
    offset_um: float = 0.0
    range_um: Positive = 30.0
    coarse_points: Annotated[int, Field(ge=2, le=9)] = 3
    spacing_um: Positive = 500.0
    coarse_step_um: Positive = 10.0
    fine_step_um: Positive = 1.5
    window_px: Annotated[int, Field(ge=64)] = 384
    deadline_s: Positive = 30.0
    mapping_deadline_s: Positive = 900.0
    drift_check_fields: Annotated[int, Field(ge=0)] = 25
    drift_limit_um: Positive = 1.0
    hardware_device: str = ""
    hardware_mode: Literal["full", "incremental", "continuous"] = "full"
    hardware_offset_um: float = 0.0
    device_offset: float | None = None
    hardware_timeout_s: Positive = 10.0
    hardware_settle_s: NotNegative = 1.0
    long_move_um: Positive = 2000.0

    @property
    def max_frames(self) -> int:
        """How many frames a search through the whole range may take, its climb included."""
        coarse = 2 * math.ceil(self.range_um / self.coarse_step_um) + 1
        return coarse + max_climb_frames(coarse)

    @model_validator(mode="after")
    def _hardware_is_named(self) -> Self:
        if self.method == "hardware" and not self.hardware_device:
            raise ValueError("method \"hardware\" needs 'hardware_device', the focusing device's label in the .cfg")
        return self


class Reliability(Part):
    """Deadlines and retries: nothing waits for ever.

    Attributes:
        move_timeout_s, switch_timeout_s: for a stage, and for lights and shutters.
        camera_timeout_s: beyond the exposure time.
        retries: how often a field is tried again before it is recorded as missing.
        retry_wait_s: before each of these.
        max_consecutive_missing: ends the run; one bad field is an accident, many are a fault.
        slide_time_limit_s: Time from the start on a slide after which no new field is taken; the fields taken so far
            are reported. 0 means no limit. ``--deadline`` can only make it earlier.
        max_crashes_per_field: A field at which a driver crashed, hung or lost the core so often is recorded as missing.
        max_consecutive_restarts: The run ends after more restarts of the device process than this without a new field.
        reconnect_timeout_s: With ``bridge``, how long to wait for a Micro-Manager that closed or crashed. The user
            starts it again, not wbcpipe.
    """

    move_timeout_s: Positive = 30.0
    switch_timeout_s: Positive = 5.0
    camera_timeout_s: Positive = 10.0
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    retry_wait_s: NotNegative = 0.5
    max_consecutive_missing: Annotated[int, Field(ge=1)] = 5
    slide_time_limit_s: NotNegative = 0.0
    max_crashes_per_field: Annotated[int, Field(ge=1, le=10)] = 2
    max_consecutive_restarts: Annotated[int, Field(ge=0, le=100)] = 3
    reconnect_timeout_s: NotNegative = 600.0


class FrameChecks(Part):
    """What a frame must look like to be believed; one that does not is taken again. See `plausible`.

    Levels are pixel values above ``camera_offset``: of bright field the background's, of fluorescence that of the
    darkest parts. A frame's level is compared with the median of the last fields'.

    Attributes:
        enabled: look at the frames at all. Fluorescence that shows nothing but noise where bright field shows cells is
            dark whatever the levels are.
        camera_offset: pixel value of a frame taken in the dark; `wbcpipe calibrate` measures it.
        dark_fraction: of the camera's range; a bright field whose level is lower had no light.
        saturated_fraction, fluorescence_saturated_fraction: part of a frame's pixels that may be saturated.
        min_ratio, max_ratio: of a frame's level to that of the fields before.
        fluorescence_max_ratio: the same for fluorescence, where a field full of cells glows all over.
    """

    enabled: bool = True
    camera_offset: NotNegative = 0.0
    dark_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.02
    saturated_fraction: Annotated[float, Field(gt=0, le=1)] = 0.1
    fluorescence_saturated_fraction: Annotated[float, Field(gt=0, le=1)] = 0.5
    min_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.4
    max_ratio: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 2.5
    fluorescence_max_ratio: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 8.0


class Scan(Part):
    """Which of the planned fields are taken.

    Attributes:
        skip_empty: leave a field whose first bright-field frame shows bare glass: no fluorescence dose, no file.
    """

    skip_empty: bool = True


class QualityLimits(Part):
    """Limits of the report's quality gates where this scope's differ from the usual ones; see ``report.gates``.

    Attributes:
        cells_counted: least number.
        unidentified, blurred, unregistered, saturated, doublets: most of the cells (%).
        missing_fields: most of the fields (%).
        head_disagreement: most, of 0 to 1.
        accepted: least share (%) of whole white cells among what was found; the others are debris or cut by a border.
        failed_fields: most of the fields (%) beyond one of the limits below.
        blur_um: widest edge of nuclei; about twice what the objective shows in focus.
        saturated_percent: most overexposed pixels of a field.
        residual_px: largest estimated error of the registration.
        stain: least brightness (%) of nuclei above their surroundings, of the camera's range.
        stain_ratio: least ratio of that to the cytoplasm's.
        red_cover_percent: most of a bright field covered by red cells; beyond it they overlap.
        light_drift: most (%) that a bright field's background may differ from the sample's usual one.
    """

    cells_counted: NotNegative | None = None
    unidentified_percent: Percent | None = None
    blurred_percent: Percent | None = None
    unregistered_percent: Percent | None = None
    saturated_cells_percent: Percent | None = None
    doublets_percent: Percent | None = None
    missing_fields_percent: Percent | None = None
    head_disagreement: Annotated[float, Field(ge=0, le=1)] | None = None
    accepted_percent: Percent | None = None
    failed_fields_percent: Percent | None = None
    blur_um: Positive | None = None
    saturated_percent: Percent | None = None
    residual_px: Positive | None = None
    nuclear_contrast_percent: Percent | None = None
    nucleus_cytoplasm_contrast_ratio: NotNegative | None = None
    red_cover_percent: Percent | None = None
    light_drift_percent: NotNegative | None = None


class CalibrationPolicy(Part):
    """What is expected of the scope's calibration file, which ``wbcpipe calibrate`` writes.

    Attributes:
        max_age_days: `wbcpipe doctor` warns when it is older.
        objective: which one is calibrated, in your words; another one here than in the calibration is a warning.
    """

    max_age_days: Positive = 90.0
    objective: str = ""
