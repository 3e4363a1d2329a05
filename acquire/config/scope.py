"""A scope file: what the microscope is, read from TOML, frozen, and refused with advice where it does not hold."""

from __future__ import annotations

import hashlib
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from wbcpipe.acquire.config.policies import (
    CalibrationPolicy,
    Focus,
    FrameChecks,
    NotNegative,
    Part,
    Percent,
    Positive,
    QualityLimits,
    Reliability,
    Scan,
)
from wbcpipe.errors import ConfigError, ScopeNotFoundError
from wbcpipe.samples.fields import MODALITIES
from wbcpipe.system.validation_messages import explain

__all__ = [
    "CalibrationPolicy",
    "Camera",
    "DeviceSetting",
    "Focus",
    "FrameChecks",
    "Light",
    "LightSettings",
    "MicroManager",
    "Modality",
    "ModalitySet",
    "QualityLimits",
    "Range",
    "Reliability",
    "Scan",
    "Scope",
    "Slot",
    "Stage",
    "Staining",
    "StainingStep",
    "list_scopes",
    "load_scope",
    "scope_folders",
]

#: ``micromanager.folder`` of the virtual scope: the adapters of the package mm-test-adapters.
TEST_ADAPTERS: Final = "mm-test-adapters"
#: How far, as the sine of an angle, a camera may be turned from the stage's axes.
_LARGEST_TURN: Final = 0.05


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if not value[0] < value[1]:
        raise ValueError(f"[{value[0]:g}, {value[1]:g}] is empty: give [lowest, highest]")
    return value


class Range(Part):
    """Base of what has a rectangle on the stage, in micrometres, each as [lowest, highest]."""

    x_um: tuple[float, float]
    y_um: tuple[float, float]

    _check_range = field_validator("x_um", "y_um")(_ordered)


class MicroManager(Part):
    """Where the core comes from.

    Attributes:
        backend: ``headless`` loads the core into this process; ``bridge`` talks to a running Micro-Manager.
        folder: the Micro-Manager installation, or ``mm-test-adapters``; WBCPIPE_MICROMANAGER goes before it.
        config: the hardware configuration (.cfg); relative to the scope file.
        port: of the running Micro-Manager's server, for ``bridge``.
    """

    backend: Literal["headless", "bridge"] = "headless"
    folder: str = TEST_ADAPTERS
    config: str
    port: Annotated[int, Field(ge=1, le=65535)] = 4827


class Camera(Part):
    """The camera and how its pixels lie on the specimen.

    Attributes:
        device: label in the .cfg.
        sensor_px: (width, height) of the whole sensor, unbinned.
        roi_px: (x, y, width, height) of the part read out, in unbinned pixels; all of it if left out.
        binning: pixels merged along each side.
        pixel_type: value of the camera's property ``PixelType``; left alone if empty.
        bits: of a pixel; the highest value they hold is where it saturates.
        pixel_um: side of an unbinned pixel on the specimen.
        stage_affine: unit-free 2x2; column 0 is the stage direction of the image's +x (right), column 1 of its +y
            (down). Images are flipped and turned by it so that files lie as the stage does.
    """

    device: str
    sensor_px: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]
    roi_px: tuple[int, int, int, int] | None = None
    binning: Literal[1, 2, 4, 8] = 1
    pixel_type: str = ""
    bits: Annotated[int, Field(ge=8, le=16)] = 16
    pixel_um: Positive
    stage_affine: tuple[tuple[float, float], tuple[float, float]] = ((1.0, 0.0), (0.0, 1.0))

    @field_validator("stage_affine")
    @classmethod
    def _close_to_axes(cls, value: tuple[tuple[float, float], tuple[float, float]]) -> Any:
        for near in (((1, 0), (0, 1)), ((0, 1), (1, 0))):
            deviations = [
                abs(abs(number) - expected)
                for row, row_near in zip(value, near, strict=True)
                for number, expected in zip(row, row_near, strict=True)
            ]
            if max(deviations) <= _LARGEST_TURN:
                return value
        raise ValueError(
            f"{value} is not a flip or quarter turn within {_LARGEST_TURN:g} rad; turn the camera to the stage's axes"
        )

    @model_validator(mode="after")
    def _roi_on_sensor(self) -> Self:
        x, y, width, height = self.region_px
        if min(x, y) < 0 or min(width, height) < 8 or x + width > self.sensor_px[0] or y + height > self.sensor_px[1]:
            raise ValueError(f"roi_px {list(self.region_px)} is not within the sensor of {list(self.sensor_px)}")
        if any(number % self.binning for number in self.region_px):
            raise ValueError(f"roi_px {list(self.region_px)} does not divide by the binning of {self.binning}")
        return self

    @property
    def region_px(self) -> tuple[int, int, int, int]:
        """The part read out, (x, y, width, height) in unbinned pixels."""
        return self.roi_px or (0, 0, *self.sensor_px)

    @property
    def quarter_turned(self) -> bool:
        """True when the image's x axis lies along the stage's y axis."""
        return abs(self.stage_affine[0][1]) > abs(self.stage_affine[0][0])

    @property
    def image_px(self) -> tuple[int, int]:
        """(height, width) of a frame on disk: binned, and turned as the stage lies."""
        width, height = (side // self.binning for side in self.region_px[2:])
        return (width, height) if self.quarter_turned else (height, width)

    @property
    def image_pixel_um(self) -> float:
        """Side of a pixel of a frame on the specimen, binning included."""
        return self.pixel_um * self.binning

    @property
    def saturation(self) -> int:
        """Pixel value from which a pixel counts as saturated."""
        return int(2**self.bits - 1)

    def centre_offset_um(self) -> tuple[float, float]:
        """Stage vector (x, y) from the stage position to the image's centre: 0 unless the ROI lies off the middle."""
        x, y, width, height = self.region_px
        right_um = (x + width / 2 - self.sensor_px[0] / 2) * self.pixel_um
        down_um = (y + height / 2 - self.sensor_px[1] / 2) * self.pixel_um
        (a, b), (c, d) = self.stage_affine
        return a * right_um + b * down_um, c * right_um + d * down_um


class Stage(Range):
    """The XY stage and the focus drive with what they may reach; ``x_um``, ``y_um`` are the limits of travel.

    Attributes:
        xy_device, z_device: labels in the .cfg.
        z_um: soft limits of the focus drive: [lowest, highest], so that no objective touches a slide.
        settle_ms: wait after each move of the XY stage.
        tolerance_um: largest distance between the place asked for and the one read back.
        speed_um_s: for the estimate of a run's time only.
    """

    xy_device: str
    z_device: str
    z_um: tuple[float, float]
    settle_ms: NotNegative = 0.0
    tolerance_um: Positive = 1.0
    speed_um_s: Positive = 10_000.0

    _check_z = field_validator("z_um")(_ordered)


class DeviceSetting(Part):
    """One device property and the value it shall take."""

    device: str
    property: str
    value: str


class LightSettings(Part):
    """A state of the light.

    Attributes:
        group, preset: a configuration group of the .cfg and its preset; or
        settings: the device properties one by one.
    """

    group: str = ""
    preset: str = ""
    settings: tuple[DeviceSetting, ...] = ()

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if bool(self.group) != bool(self.preset) or bool(self.group) == bool(self.settings):
            raise ValueError("give either 'group' and 'preset', or 'settings'")
        return self


class Light(Part):
    """The light, who switches it within a field, and what it does to the stain.

    Attributes:
        shutter_device: gates the light; opened only while the camera exposes.
        dark: for a microscope without a shutter: the preset, or the properties, that leave no light on the slide. It is
            set after each exposure and at every exit; needed where no shutter is named.
        sequencing: ``on`` uploads a field's lights and exposures and takes its frames in one burst that the hardware
            times; ``off`` switches by command, frame by frame; ``auto`` asks the devices what they can.
        bleach_ms: fluorescence exposure after which the dye has faded to 1/e, if it was measured: each field then notes
            what earlier light has cost it.
    """

    shutter_device: str = ""
    dark: LightSettings | None = None
    sequencing: Literal["auto", "on", "off"] = "auto"
    bleach_ms: Positive | None = None

    @model_validator(mode="after")
    def _ends_in_the_dark(self) -> Self:
        if not self.shutter_device and self.dark is None:
            raise ValueError(
                "name the shutter in 'shutter_device', or without one give 'dark', the preset or the properties that "
                "leave no light on the slide: else it would stay lit when a run ends"
            )
        if self.shutter_device and self.dark is not None:
            raise ValueError("'dark' is for a microscope without a shutter; leave it out, or 'shutter_device'")
        return self


class Modality(LightSettings):
    """How one of the four modalities is lit and exposed.

    Attributes:
        exposure_ms: of the camera.
        wavelength_nm: of the illumination, for fluorescence of the emission.
        z_offset_um: added to the surface of focus, for a chromatic shift.
        settle_ms: wait after switching to it.
    """

    exposure_ms: Positive
    wavelength_nm: Positive
    z_offset_um: float = 0.0
    settle_ms: NotNegative = 0.0


class ModalitySet(Part):
    """The four modalities of every field, in the channel order of every array."""

    color1: Modality
    color2: Modality
    color3: Modality
    fluorescence: Modality

    def named(self, name: str) -> Modality:
        """The modality called ``name``."""
        modality = getattr(self, name)
        assert isinstance(modality, Modality)
        return modality

    def items(self) -> tuple[tuple[str, Modality], ...]:
        """(name, modality) in channel order."""
        return tuple((name, self.named(name)) for name in MODALITIES)


class StainingStep(DeviceSetting):
    """One step of a staining by devices: a property set, the device waited for, then ``wait_s`` more."""

    wait_s: NotNegative = 0.0


class Staining(Part):
    """How Acridine Orange comes onto the slide between the passes of `--protocol two-pass`.

    Attributes:
        method: ``prompt`` asks the operator to do it; ``devices`` sets properties of pumps and valves one by one;
            ``command`` runs a program.
        message: what the operator is asked to do.
        steps: for ``devices``.
        safe_state: For ``devices``: the steps that bring the devices into a safe state when Ctrl-C or a failure
            interrupts the staining. All of them run, in order. If left out, each property that was set gets its last
            value in ``steps``.
        command: for ``command``: the program and its arguments; no shell is involved. Told to end (SIGTERM; on Windows
            it is ended at once), it has 10 s to close its valves.
        timeout_s: of the program, and of each step's device.
        incubate_s: wait after the stain is on, before the fluorescence pass.
        max_missing_percent: of the bright fields that are not bare glass; with more of them missing the slide is not
            stained, for bright field cannot be made up for afterwards.
    """

    method: Literal["prompt", "devices", "command"] = "prompt"
    message: str = "Stain the slide with Acridine Orange and put it back the same way round."
    steps: tuple[StainingStep, ...] = ()
    safe_state: tuple[StainingStep, ...] | None = None
    command: tuple[str, ...] = ()
    timeout_s: Positive = 600.0
    incubate_s: NotNegative = 0.0
    max_missing_percent: Percent = 20.0

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for method, key in (("devices", "steps"), ("command", "command")):
            if bool(getattr(self, key)) != (self.method == method):
                raise ValueError(f"'{key}' belongs to method {method!r}, and that method needs it")
        if self.safe_state is not None and self.method != "devices":
            raise ValueError("'safe_state' belongs to method 'devices'")
        return self


class Slot(Range):
    """A place for a slide in the stage insert; ``x_um``, ``y_um`` bound the area that is scanned."""


class Scope(Part):
    """A microscope, as one file in ``hardware_configs/`` describes it.

    Attributes:
        title: for people.
        virtual: the pixels come from the specimen generator, all else from the core.
        expected_cells_per_field: white cells, to turn ``--cells`` into fields.
        name, path, sha256: of the file; set by `load_scope`.
    """

    title: str = ""
    virtual: bool = False
    expected_cells_per_field: Positive = 4.0
    micromanager: MicroManager
    camera: Camera
    stage: Stage
    light: Light
    modalities: ModalitySet
    slots: Annotated[dict[str, Slot], Field(min_length=1)]
    focus: Focus = Focus()
    staining: Staining = Staining()
    reliability: Reliability = Reliability()
    scan: Scan = Scan()
    calibration: CalibrationPolicy = CalibrationPolicy()
    frame_checks: FrameChecks = FrameChecks()
    quality: QualityLimits = QualityLimits()
    name: Annotated[str, Field(exclude=True)] = ""
    path: Annotated[Path, Field(exclude=True)] = Path()
    sha256: Annotated[str, Field(exclude=True)] = ""

    @model_validator(mode="after")
    def _virtual_camera_is_straight(self) -> Self:
        if self.virtual and self.camera.stage_affine != ((1.0, 0.0), (0.0, 1.0)):
            raise ValueError("'camera.stage_affine' of a virtual scope must be [[1.0, 0.0], [0.0, 1.0]]")
        return self

    def with_sequencing(self, sequencing: Literal["auto", "on", "off"] | None) -> Self:
        """The same scope with another ``light.sequencing``; as it is for ``None``."""
        if sequencing is None:
            return self
        return self.model_copy(update={"light": self.light.model_copy(update={"sequencing": sequencing})})

    def slot(self, name: str) -> Slot:
        """The slot called ``name``.

        Raises:
            ConfigError: the scope has none of that name.
        """
        if name not in self.slots:
            raise ConfigError(f"scope {self.name!r} has no slot {name!r}; its slots: {', '.join(self.slots)}.")
        return self.slots[name]

    @property
    def config_path(self) -> Path:
        """The .cfg file."""
        return (self.path.parent / self.micromanager.config).absolute()

    @property
    def field_um(self) -> tuple[float, float]:
        """(width, height) of a field on the stage."""
        height_px, width_px = self.camera.image_px
        return width_px * self.camera.image_pixel_um, height_px * self.camera.image_pixel_um

    def field_bytes(self, modalities: tuple[str, ...] = MODALITIES) -> int:
        """Size of a field's file with frames of ``modalities``, about."""
        height_px, width_px = self.camera.image_px
        return 2 * len(modalities) * height_px * width_px + 8192


def scope_folders() -> list[Path]:
    """Where scope files are looked for: the folder in WBCPIPE_SCOPES, then those shipped."""
    own = os.environ.get("WBCPIPE_SCOPES")
    return [*([Path(own).absolute()] if own else []), Path(__file__).parents[2] / "hardware_configs"]


def list_scopes() -> dict[str, Path]:
    """Scope name to its file, in order of the name; one's own goes before a shipped one of the same name."""
    found: dict[str, Path] = {}
    for folder in scope_folders():
        for path in sorted(folder.glob("*.toml")):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def load_scope(name_or_path: str | Path) -> Scope:
    """Read a scope by its name, or by the path of its .toml file.

    Raises:
        ScopeNotFoundError: no such scope; the text lists those there are.
        ConfigError: the file does not hold; the text names the file, the key and what is allowed.
    """
    text = str(name_or_path)
    if text.endswith(".toml") or "/" in text or os.sep in text:
        path = Path(text).absolute()
    else:
        path = list_scopes().get(text, Path())
    if not path.is_file():
        raise ScopeNotFoundError(
            f"no scope {text!r}; known scopes: {', '.join(list_scopes())}. Give one of these or the path of a .toml "
            "file, or put yours into a folder named by WBCPIPE_SCOPES."
        )
    content = path.read_bytes()
    try:
        raw = tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}.") from error
    for key in ("name", "path", "sha256"):
        if key in raw:
            raise ConfigError(f"{path}: key {key!r} is not allowed: it is taken from the file itself; remove it.")
    try:
        scope = Scope.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{path}: " + "; ".join(explain(item, Scope) for item in error.errors()) + ".") from error
    return scope.model_copy(update={"name": path.stem, "path": path, "sha256": hashlib.sha256(content).hexdigest()})
