"""The policies of a scope file: focus, staining, time limits, frame checks, quality limits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from wbcpipe.acquire.config.ranges import (
    MAX_SEARCH_FRAMES,
    Coordinate,
    Days,
    Length,
    Percent,
    PixelValue,
    Ratio,
    Seconds,
    Span,
    StepLength,
    Wait,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "MAX_FOCUS_FRAMES",
    "CalibrationPolicy",
    "DeviceSetting",
    "DeviceStep",
    "Focus",
    "FrameChecks",
    "NightCheck",
    "NotNegative",
    "Part",
    "Percent",
    "Positive",
    "QualityLimits",
    "Reliability",
    "Scan",
    "Staining",
    "keyed",
    "max_climb_frames",
]

#: A number in a unit of its own.
Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
#: A focus search, or a hill climb alone, that has not bracketed its peak with this number of frames
#: stops.
MAX_FOCUS_FRAMES: Final = 12
#: Frames that a search always leaves for its hill climb: 3 around the peak, and 2 to move along.
_MIN_CLIMB_FRAMES: Final = 5


def max_climb_frames(coarse: int) -> int:
    """Return the number of frames that a focus search has left for its hill climb after ``coarse``
    frames.
    """
    return max(MAX_FOCUS_FRAMES - coarse, _MIN_CLIMB_FRAMES)


class Part(BaseModel):
    """Base of the tables of a scope file: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Focus(Part):
    """How the focus surface is found.

    Attributes:
        method: ``surface`` measures points on a grid from images; ``hardware`` measures them with
            the microscope's focusing device, and from images where that fails; ``fixed`` stays at
            ``fixed_um``.
        modality: Bright field, so that focusing does not bleach the stain.
        fixed_um: Z for ``fixed``, and start of the first search.
        offset_um: From the sharpest bright-field image to the best focus: refraction at cell edges
            makes cells look sharpest a little beside it. Measure it once for an objective.
        range_um: Range of the first search to each side.
        coarse_points: Points along each side of the grid over the scan area.
        spacing_um: Largest distance of the finer points, which are measured where fields are taken.
        coarse_step_um: Step of the first search. A third of ``range_um`` or more limits it to 12
            frames, provided that the specimen is still visible half a step from its focus; if not,
            make ``range_um`` smaller too.
        fine_step_um: Step of the refinement; about twice the depth of field, so that sharpness
            changes within a step.
        window_px: Side of the square in the camera's middle that is used, in unbinned pixels.
        deadline_s, mapping_deadline_s: Time limits for one point and for all points together. A
            point that exceeds its limit counts as one without structure.
        drift_check_fields: The focus is measured again before every this many fields; 0: only when
            a run is resumed or the devices were reloaded.
        drift_limit_um: From this drift on the surface is shifted and tilted to fit 9 points
            measured before, or replaced by a new one; larger than the error of the surface.
        hardware_device: Label in the .cfg, for ``hardware``.
        hardware_mode: ``full`` or ``incremental`` focusing, or ``continuous``: hold the focus until
            the device reports that it is locked.
        hardware_offset_um: From the Z that the device finds to the best focus of the cells. Measure
            it once for an objective.
        device_offset: The device's own offset, in its own units, set before focusing; not changed
            if left out.
        hardware_timeout_s: Time limit for each of its answers.
        hardware_settle_s: Wait before focusing after a move beyond ``long_move_um``, and before a
            second attempt.
        long_move_um: XY move after which immersion film needs time to settle.
    """

    method: Literal["surface", "hardware", "fixed"] = "surface"
    modality: Literal["color1", "color2", "color3"] = "color1"
    fixed_um: Coordinate = 0.0
    offset_um: Coordinate = 0.0
    range_um: StepLength = 30.0
    coarse_points: Annotated[int, Field(ge=2, le=9)] = 3
    spacing_um: Span = 500.0
    coarse_step_um: StepLength = 10.0
    fine_step_um: StepLength = 1.5
    window_px: Annotated[int, Field(ge=64, le=65_535)] = 384
    deadline_s: Seconds = 30.0
    mapping_deadline_s: Seconds = 900.0
    drift_check_fields: Annotated[int, Field(ge=0, le=1_000_000)] = 25
    drift_limit_um: StepLength = 1.0
    hardware_device: str = ""
    hardware_mode: Literal["full", "incremental", "continuous"] = "full"
    hardware_offset_um: Coordinate = 0.0
    device_offset: Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)] | None = None
    hardware_timeout_s: Seconds = 10.0
    hardware_settle_s: Wait = 1.0
    long_move_um: Length = 2000.0

    @property
    def max_frames(self) -> int:
        """Return the largest number of frames of a search through the full range, with its hill
        climb.
        """
        coarse = 2 * math.ceil(self.range_um / self.coarse_step_um) + 1
        return coarse + max_climb_frames(coarse)

    @model_validator(mode="after")
    def _hardware_is_named(self) -> Self:
        if self.method == "hardware" and not self.hardware_device:
            raise ValueError(
                "method \"hardware\" needs 'hardware_device', the focusing device's label in the "
                ".cfg"
            )
        return self

    @model_validator(mode="after")
    def _search_ends(self) -> Self:
        if self.max_frames > MAX_SEARCH_FRAMES:
            raise ValueError(
                f"a search through +-{self.range_um:g} um in steps of {self.coarse_step_um:g} um "
                f"takes {self.max_frames} frames, at most {MAX_SEARCH_FRAMES} are allowed: enlarge "
                f"'coarse_step_um', or make 'range_um' smaller"
            )
        return self


class DeviceSetting(Part):
    """A device property and its value."""

    device: str
    property: str
    value: str


class DeviceStep(DeviceSetting):
    """One step of a procedure by devices: set a property, wait for the device, then wait ``wait_s``
    more.
    """

    wait_s: Wait = 0.0


_Setting = TypeVar("_Setting", bound=DeviceSetting)


def keyed(key: str, steps: tuple[_Setting, ...]) -> Iterator[tuple[str, _Setting]]:
    """Yield each step or setting with its key in the scope file, such as ``staining.steps[0]``."""
    for number, step in enumerate(steps):
        yield f"{key}[{number}]", step


class Staining(Part):
    """How the slide is stained with Acridine Orange between the passes of `--protocol two-pass`.

    Attributes:
        method: ``prompt`` asks the operator; ``devices`` sets properties of pumps and valves;
            ``command`` runs a program.
        message: Instruction to the operator.
        steps: Steps for ``devices``.
        safe_state: For ``devices``: the steps that bring the devices into a safe state when Ctrl-C
            or a failure interrupts the staining. All of them run, in order. If left out, each
            property that was set gets its last value in ``steps``.
        command: For ``command``: the program and its arguments, without a shell. On interruption it
            gets SIGTERM and has 10 s to close its valves; on Windows it is ended at once.
        timeout_s: Time limit of the program, and of each step's device.
        incubate_s: Wait after the stain is applied, before the fluorescence pass.
        max_incubate_s: Time after the stain is applied by which the fluorescence pass should start;
            a batch tells it where it started later. Not limited if left out.
        max_missing_percent: Maximum share of missing bright fields among those that are not bare
            glass. With more, the slide is not stained, because no bright field can be added
            afterwards.
    """

    method: Literal["prompt", "devices", "command"] = "prompt"
    message: str = "Stain the slide with Acridine Orange and put it back the same way round."
    steps: tuple[DeviceStep, ...] = ()
    safe_state: tuple[DeviceStep, ...] | None = None
    command: tuple[str, ...] = ()
    timeout_s: Seconds = 600.0
    incubate_s: Wait = 0.0
    max_incubate_s: Positive | None = None
    max_missing_percent: Percent = 20.0

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.max_incubate_s is not None and self.max_incubate_s < self.incubate_s:
            raise ValueError(
                f"'max_incubate_s' is {self.max_incubate_s:g} s, less than 'incubate_s', "
                f"{self.incubate_s:g} s"
            )
        for method, key in (("devices", "steps"), ("command", "command")):
            if bool(getattr(self, key)) != (self.method == method):
                raise ValueError(f"'{key}' belongs to method {method!r}, and that method needs it")
        if self.safe_state is not None and self.method != "devices":
            raise ValueError("'safe_state' belongs to method 'devices'")
        return self

    def keyed_steps(self) -> Iterator[tuple[str, DeviceStep]]:
        """Yield each step with its key in the scope file."""
        yield from keyed("staining.steps", self.steps)

    def keyed_safe_state(self) -> Iterator[tuple[str, DeviceStep]]:
        """Yield each step of the safe state with its key in the scope file."""
        yield from keyed("staining.safe_state", self.safe_state or ())


class Reliability(Part):
    """Time limits and retries.

    Attributes:
        move_timeout_s, switch_timeout_s: For a stage, and for lights and shutters.
        camera_timeout_s: Beyond the exposure time.
        retries: Number of further attempts before a field is recorded as missing.
        retry_wait_s: Wait before each of them.
        max_consecutive_missing: The run ends after this many consecutive missing fields.
        slide_time_limit_s: Time from the start on a slide after which no new field is taken; the
            fields taken so far are reported. 0 means no limit. ``--deadline`` can only make it
            earlier.
        max_crashes_per_field: A field at which a driver crashed, hung or lost the core so often is
            recorded as missing.
        max_consecutive_restarts: The run ends after more restarts of the device process than this
            without a new field.
        reconnect_timeout_s: With ``bridge``, how long to wait for a Micro-Manager that closed or
            crashed. The user starts it again, not wbcpipe.
    """

    move_timeout_s: Seconds = 30.0
    switch_timeout_s: Seconds = 5.0
    camera_timeout_s: Seconds = 10.0
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    retry_wait_s: Wait = 0.5
    max_consecutive_missing: Annotated[int, Field(ge=1, le=100_000)] = 5
    slide_time_limit_s: Wait = 0.0
    max_crashes_per_field: Annotated[int, Field(ge=1, le=10)] = 2
    max_consecutive_restarts: Annotated[int, Field(ge=0, le=100)] = 3
    reconnect_timeout_s: Wait = 600.0


class FrameChecks(Part):
    """Limits that a frame must satisfy; a field with a frame beyond them is taken again.

    See `FrameValidator`.

    A frame's level is its pixel value above ``camera_offset``: of the background in bright field,
    of the darkest parts in fluorescence. It is compared with the median of the last fields.

    Attributes:
        enabled: Check the frames. Fluorescence that is only noise where bright field shows cells
            counts as dark whatever the levels are.
        camera_offset: Pixel value of a frame without light; `wbcpipe calibrate` measures it.
        dark_fraction: Fraction of the camera's range; a bright field with a lower level had no
            light.
        saturated_fraction, fluorescence_saturated_fraction: Fraction of a frame's pixels that may
        be saturated. min_ratio, max_ratio: Of a frame's level to that of the fields before.
        fluorescence_max_ratio: The same for fluorescence, where a field full of cells is bright
            everywhere.
    """

    enabled: bool = True
    camera_offset: PixelValue = 0.0
    dark_fraction: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.02
    saturated_fraction: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.1
    fluorescence_saturated_fraction: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.5
    min_ratio: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.4
    max_ratio: Annotated[float, Field(gt=1, le=1_000_000, allow_inf_nan=False)] = 2.5
    fluorescence_max_ratio: Annotated[float, Field(gt=1, le=1_000_000, allow_inf_nan=False)] = 8.0


class Scan(Part):
    """Selection of the planned fields.

    Attributes:
        skip_empty: Skip a field whose first bright-field frame shows bare glass: no fluorescence
            light, no file.
    """

    skip_empty: bool = True


class QualityLimits(Part):
    """Limits of the report's quality gates that differ from the default ones; see ``report.gates``.

    Attributes:
        cells_counted: Minimum number of counted cells.
        unidentified_percent, blurred_percent, unregistered_percent, saturated_cells_percent,
            doublets_percent: Maximum share of the cells.
        missing_fields_percent: Maximum share of the fields.
        head_disagreement: Maximum, 0 to 1.
        accepted_percent: Minimum share of complete white cells among the objects found; the others
            are debris or cut by a border.
        failed_fields_percent: Maximum share of fields beyond one of the limits below.
        blur_um: Maximum edge width of nuclei; about twice what the objective shows in focus.
        saturated_percent: Maximum share of overexposed pixels of a field.
        residual_px: Maximum estimated registration error.
        nuclear_contrast_percent: Minimum brightness of nuclei above their surroundings, as a share
            of the camera's range.
        nucleus_cytoplasm_contrast_ratio: Minimum ratio of that to the cytoplasm's.
        red_cover_percent: Maximum share of a bright field covered by red cells; beyond it they
            overlap.
        light_drift_percent: Maximum difference of a bright field's background from the sample's
            median.
        error_bound_percent: Maximum upper bound of the share of wrong classes, from the bundle's
            test cells; a bundle without a bound fails.
        clumps_percent: Maximum share of objects that are several white cells which could not be
            parted.
        cells_per_mm2: Maximum number of white cells found per mm2 of a field, its first one left
            out.
        white_per_100_red: Maximum number of white cells per 100 red cells of a field, its first
            white cell left out.
        unassigned_fluorescence_percent: Maximum share of a field that is as bright as nuclei and
            belongs to no cell.
        min_nucleus_um2: Minimum of the median area of nuclei; less is no nucleus of blood, or a
            wrong pixel size.
        max_nucleus_um2: Maximum of the median area of nuclei.
    """

    cells_counted: Ratio | None = None
    unidentified_percent: Percent | None = None
    blurred_percent: Percent | None = None
    unregistered_percent: Percent | None = None
    saturated_cells_percent: Percent | None = None
    doublets_percent: Percent | None = None
    missing_fields_percent: Percent | None = None
    head_disagreement: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    accepted_percent: Percent | None = None
    failed_fields_percent: Percent | None = None
    blur_um: Length | None = None
    saturated_percent: Percent | None = None
    residual_px: Length | None = None
    nuclear_contrast_percent: Percent | None = None
    nucleus_cytoplasm_contrast_ratio: Ratio | None = None
    red_cover_percent: Percent | None = None
    light_drift_percent: Ratio | None = None
    error_bound_percent: Percent | None = None
    clumps_percent: Percent | None = None
    cells_per_mm2: Ratio | None = None
    white_per_100_red: Ratio | None = None
    unassigned_fluorescence_percent: Percent | None = None
    min_nucleus_um2: Ratio | None = None
    max_nucleus_um2: Ratio | None = None


class CalibrationPolicy(Part):
    """Requirements for the scope's calibration file, which ``wbcpipe calibrate`` writes.

    Attributes:
        max_age_days: `wbcpipe doctor` warns when the calibration is older.
        objective: Name of the objective, in your words; doctor warns if the calibration was made
            with another one.
    """

    max_age_days: Days = 90.0
    objective: str = ""


class NightCheck(Part):
    """The check of the microscope before the first slide of a batch, and its limits.

    Light, flat-field and dark level are compared with the scope's calibration file; without one,
    with the median of the first ``baseline_checks`` checks.

    Attributes:
        enabled: Check before the first slide. ``batch run --no-check`` leaves one batch's check
            out.
        between_slides: Check again before every this many slides; 0: only before the first.
        light_drift_percent: Largest change of the background of a bright-field modality.
        fluorescence_drift_percent: The same for fluorescence, whose background also depends on the
            stain.
        flat_field_percent: Largest change of the shape of the illumination: of a tile of 8 x 8
            against the centre.
        dark_levels: Largest change of the level without light, in pixel values.
        read_noise_percent: Largest increase of the read noise.
        hot_pixels_per_megapixel: Largest number of new hot pixels.
        lamp_percent: Largest standard deviation of successive frames of a lamp.
        focus_um: Largest difference of repeated focus searches at one position.
        focus_shift_um: Largest distance of the slide's surface from ``focus.fixed_um``: a search
            starts there.
        sharpness_percent: Smallest sharpness, of that of the first checks; specimens differ.
        stage_return_um: Largest distance between two arrivals at one position.
        fluorescence: Take one fluorescence frame, beside the scan area, where no cell is counted.
        baseline_checks: Number of checks that make the reference where there is no calibration.
        on_drift: ``tell`` goes on and tells; ``stop`` ends the batch before a slide is scanned
            (exit code 54).
        control_rules: The same for a rule of the control charts that the check breaks.
    """

    enabled: bool = True
    between_slides: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    light_drift_percent: Positive = 10.0
    fluorescence_drift_percent: Positive = 50.0
    flat_field_percent: Positive = 4.0
    dark_levels: Positive = 10.0
    read_noise_percent: Positive = 25.0
    hot_pixels_per_megapixel: Positive = 20.0
    lamp_percent: Positive = 1.0
    focus_um: Positive = 1.0
    focus_shift_um: Positive = 25.0
    sharpness_percent: Percent = 40.0
    stage_return_um: Positive = 3.0
    fluorescence: bool = True
    baseline_checks: Annotated[int, Field(ge=1, le=100)] = 5
    on_drift: Literal["tell", "stop"] = "tell"
    control_rules: Literal["tell", "stop"] = "tell"

    def is_due(self, slides_since: int | None) -> bool:
        """Return whether a check is due before a slide.

        Args:
            slides_since: slides scanned since the last check of this batch; ``None`` before the
                first.
        """
        if not self.enabled:
            return False
        return slides_since is None or 0 < self.between_slides <= slides_since
