"""Reads a scope file.

The description of a microscope in TOML, validated with advice on each error.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from wbcpipe.acquire.config.policies import (
    CalibrationPolicy,
    DeviceSetting,
    Focus,
    FrameChecks,
    NightCheck,
    Part,
    QualityLimits,
    Reliability,
    Scan,
    Staining,
)
from wbcpipe.acquire.config.ranges import (
    Coordinate,
    Cosine,
    Exposure,
    Length,
    Pixels,
    PixelSide,
    Ratio,
    Settle,
    Speed,
    Wavelength,
)
from wbcpipe.acquire.config.slide_policies import Label, Loader, SlideRelocation
from wbcpipe.acquire.config.virtual_condition import VirtualCondition
from wbcpipe.errors import ConfigError, ScopeNotFoundError
from wbcpipe.samples.fields import MODALITIES
from wbcpipe.samples.segment_settings.settings import SegmentSettings
from wbcpipe.system.file_kinds import is_file
from wbcpipe.system.shell import shell_word
from wbcpipe.system.toml_text import MAX_BYTES, parse_toml
from wbcpipe.system.validation_messages import explain

__all__ = [
    "TEST_ADAPTERS",
    "Camera",
    "LightSettings",
    "Modality",
    "Scope",
    "Slot",
    "list_scopes",
    "load_scope",
]

_log = logging.getLogger(__name__)

#: ``micromanager.folder`` of the virtual scope: the adapters of the package mm-test-adapters.
TEST_ADAPTERS: Final = "mm-test-adapters"
#: Largest rotation of the camera against the stage's axes, as the sine of the angle.
_MAX_TURN: Final = 0.05


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if not value[0] < value[1]:
        raise ValueError(f"[{value[0]:g}, {value[1]:g}] is empty: give [lowest, highest]")
    return value


#: [lowest, highest].
Interval = Annotated[tuple[Coordinate, Coordinate], AfterValidator(_ordered)]


class Range(Part):
    """Base of tables with a rectangle on the stage, in micrometres."""

    x_um: Interval
    y_um: Interval


class MicroManager(Part):
    """How to reach the Micro-Manager core.

    Attributes:
        backend: ``headless`` loads the core into this process; ``bridge`` connects to a running
            Micro-Manager.
        folder: Micro-Manager installation, or ``mm-test-adapters``; WBCPIPE_MICROMANAGER overrides
            it.
        config: Hardware configuration (.cfg); relative to the scope file.
        port: Port of the running Micro-Manager's server, for ``bridge``.
    """

    backend: Literal["headless", "bridge"] = "headless"
    folder: str = TEST_ADAPTERS
    config: str
    port: Annotated[int, Field(ge=1, le=65535)] = 4827


class Camera(Part):
    """The camera, and the position of its pixels on the specimen.

    Attributes:
        device: Label in the .cfg.
        sensor_px: (width, height) of the sensor, unbinned.
        roi_px: (x, y, width, height) of the region that is read out, in unbinned pixels; the full
            sensor if left out.
        binning: Pixels merged along each side.
        pixel_type: Value of the camera's property ``PixelType``; not changed if empty.
        bits: Bits of a pixel; it saturates at the highest value they hold.
        pixel_um: Side of an unbinned pixel on the specimen.
        stage_affine: 2x2, without unit; column 0 is the stage direction of the image's +x (right),
            column 1 of its +y (down). Images are flipped and turned by it, so that files have the
            orientation of the stage.
    """

    device: str
    sensor_px: tuple[Annotated[int, Field(gt=0, le=65_535)], Annotated[int, Field(gt=0, le=65_535)]]
    roi_px: tuple[Pixels, Pixels, Pixels, Pixels] | None = None
    binning: Literal[1, 2, 4, 8] = 1
    pixel_type: str = ""
    bits: Annotated[int, Field(ge=8, le=16)] = 16
    pixel_um: PixelSide
    stage_affine: tuple[tuple[Cosine, Cosine], tuple[Cosine, Cosine]] = ((1.0, 0.0), (0.0, 1.0))

    @field_validator("stage_affine")
    @classmethod
    def _close_to_axes(cls, value: tuple[tuple[float, float], tuple[float, float]]) -> Any:
        for near in (((1, 0), (0, 1)), ((0, 1), (1, 0))):
            deviations = [
                abs(abs(number) - expected)
                for row, row_near in zip(value, near, strict=True)
                for number, expected in zip(row, row_near, strict=True)
            ]
            if max(deviations) <= _MAX_TURN:
                return value
        raise ValueError(
            f"{value} is not a flip or quarter turn within {_MAX_TURN:g} rad; turn the camera to "
            f"the stage's axes"
        )

    @model_validator(mode="after")
    def _roi_on_sensor(self) -> Self:
        x, y, width, height = self.region_px
        if (
            min(x, y) < 0
            or min(width, height) < 8
            or x + width > self.sensor_px[0]
            or y + height > self.sensor_px[1]
        ):
            raise ValueError(
                f"roi_px {list(self.region_px)} is not within the sensor of {list(self.sensor_px)}"
            )
        if any(number % self.binning for number in self.region_px):
            raise ValueError(
                f"roi_px {list(self.region_px)} does not divide by the binning of {self.binning}"
            )
        return self

    @property
    def region_px(self) -> tuple[int, int, int, int]:
        """The region that is read out: (x, y, width, height) in unbinned pixels."""
        return self.roi_px or (0, 0, *self.sensor_px)

    @property
    def quarter_turned(self) -> bool:
        """True when the image's x axis lies along the stage's y axis."""
        return abs(self.stage_affine[0][1]) > abs(self.stage_affine[0][0])

    @property
    def image_px(self) -> tuple[int, int]:
        """(height, width) of a frame on disk: binned, and oriented as the stage."""
        width, height = (side // self.binning for side in self.region_px[2:])
        return (width, height) if self.quarter_turned else (height, width)

    @property
    def image_pixel_um(self) -> float:
        """Side of a frame's pixel on the specimen, with binning."""
        return self.pixel_um * self.binning

    @property
    def saturation(self) -> int:
        """Pixel value from which a pixel counts as saturated."""
        return int(2**self.bits - 1)

    def centre_offset_um(self) -> tuple[float, float]:
        """Return the stage vector (x, y) from the stage position to the image's centre: 0 for a
        centred ROI.
        """
        x, y, width, height = self.region_px
        right_um = (x + width / 2 - self.sensor_px[0] / 2) * self.pixel_um
        down_um = (y + height / 2 - self.sensor_px[1] / 2) * self.pixel_um
        (a, b), (c, d) = self.stage_affine
        return a * right_um + b * down_um, c * right_um + d * down_um


class Stage(Range):
    """The XY stage and the focus drive with their limits; ``x_um``, ``y_um`` are the limits of
    travel.

    Attributes:
        xy_device, z_device: Labels in the .cfg.
        z_um: Soft limits of the focus drive, [lowest, highest]; they keep the objective off the
            slide.
        settle_ms: Wait after each move of the XY stage.
        tolerance_um: Largest distance between the requested position and the one read back.
        park_um: [x, y] at which the stage is left at the end of a batch.
        speed_um_s: Only for the estimate of a run's time.
    """

    xy_device: str
    z_device: str
    z_um: Interval
    settle_ms: Settle = 0.0
    tolerance_um: Length = 1.0
    park_um: tuple[Coordinate, Coordinate] | None = None
    speed_um_s: Speed = 10_000.0

    @model_validator(mode="after")
    def _parks_within_limits(self) -> Self:
        for axis, at_um, limits_um in zip(
            "xy", self.park_um or (), (self.x_um, self.y_um), strict=False
        ):
            if not limits_um[0] <= at_um <= limits_um[1]:
                raise ValueError(
                    f"'park_um' has {axis} = {at_um:g}, beyond the stage's limits, "
                    f"{limits_um[0]:g} to {limits_um[1]:g}"
                )
        return self


class LightSettings(Part):
    """One setting of the light: a preset, or a list of device properties.

    Attributes:
        group, preset: Configuration group of the .cfg, and its preset.
        settings: Device properties, in place of a preset.
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
    """The light, how it is switched within a field, and how it bleaches the stain.

    Attributes:
        shutter_device: Shutter of all light; open only while the camera exposes. A preset may name
            another with ``Core,Shutter``.
        settle_ms: Wait after the shutter opened, before the exposure, for a lamp that then needs
            time; the slide is lit meanwhile, so it counts as light dose. Without a shutter, after
            the light was switched on.
        dark: For a microscope without a shutter: the preset, or the properties, that leave no light
            on the slide. It is set after each exposure and at every exit; required where no shutter
            is named.
        sequencing: ``on`` uploads a field's lights and exposures and takes its frames in one
            hardware sequence; ``off`` switches by command, frame by frame; ``auto`` uses a sequence
            if the devices support it.
        bleach_ms: Fluorescence exposure after which the dye has faded to 1/e, if it was measured;
            each field then records how much it had faded before.
    """

    shutter_device: str = ""
    settle_ms: Settle = 0.0
    dark: LightSettings | None = None
    sequencing: Literal["auto", "on", "off"] = "auto"
    bleach_ms: Exposure | None = None

    @model_validator(mode="after")
    def _ends_in_the_dark(self) -> Self:
        if not self.shutter_device and self.dark is None:
            raise ValueError(
                "name the shutter in 'shutter_device', or without one give 'dark', the preset or "
                "the properties that leave no light on the slide: else it would stay lit when a "
                "run ends"
            )
        if self.shutter_device and self.dark is not None:
            raise ValueError(
                "'dark' is for a microscope without a shutter; leave it out, or 'shutter_device'"
            )
        return self


class Modality(LightSettings):
    """Light and exposure of one of the four modalities.

    Attributes:
        exposure_ms: Exposure of the camera.
        wavelength_nm: Of the illumination; for fluorescence, of the emission.
        z_offset_um: Added to the focus surface, for a chromatic shift.
        settle_ms: Wait after switching to it.
    """

    exposure_ms: Exposure
    wavelength_nm: Wavelength
    z_offset_um: Coordinate = 0.0
    settle_ms: Settle = 0.0


class ModalitySet(Part):
    """The four modalities of every field, in the channel order of every array."""

    color1: Modality
    color2: Modality
    color3: Modality
    fluorescence: Modality

    def named(self, name: str) -> Modality:
        """Return the modality ``name``."""
        modality = getattr(self, name)
        assert isinstance(modality, Modality)
        return modality

    def items(self) -> tuple[tuple[str, Modality], ...]:
        """Return (name, modality) in channel order."""
        return tuple((name, self.named(name)) for name in MODALITIES)


class Slot(Range):
    """A slide position in the stage insert; ``x_um``, ``y_um`` are the limits of the scan area."""


class Scope(Part):
    """A microscope, as described by one file in ``hardware_configs/``.

    Attributes:
        title: Name for people.
        virtual: The pixels come from the specimen generator, all else from the core.
        expected_cells_per_field: White cells per field; converts ``--cells`` to a number of fields.
        name, path, sha256: Of the file; set by `load_scope`.
        given: Name or path that `load_scope` was called with.
        core_log: File for the log of Micro-Manager's core; set by `with_core_log`.
    """

    title: str = ""
    virtual: bool = False
    expected_cells_per_field: Annotated[Ratio, Field(ge=0.001)] = 4.0
    micromanager: MicroManager
    camera: Camera
    stage: Stage
    light: Light
    modalities: ModalitySet
    slots: Annotated[dict[str, Slot], Field(min_length=1)]
    focus: Focus = Focus()
    loader: Loader = Loader()
    label: Label = Label()
    slide_relocation: SlideRelocation = SlideRelocation()
    staining: Staining = Staining()
    reliability: Reliability = Reliability()
    scan: Scan = Scan()
    calibration: CalibrationPolicy = CalibrationPolicy()
    frame_checks: FrameChecks = FrameChecks()
    quality: QualityLimits = QualityLimits()
    segment: SegmentSettings = SegmentSettings()
    night_check: NightCheck = NightCheck()
    virtual_condition: VirtualCondition = VirtualCondition()
    name: Annotated[str, Field(exclude=True)] = ""
    path: Annotated[Path, Field(exclude=True)] = Path()
    sha256: Annotated[str, Field(exclude=True)] = ""
    given: Annotated[str, Field(exclude=True)] = ""
    core_log: Annotated[Path | None, Field(exclude=True)] = None

    @model_validator(mode="after")
    def _virtual_camera_is_straight(self) -> Self:
        if self.virtual and self.camera.stage_affine != ((1.0, 0.0), (0.0, 1.0)):
            raise ValueError(
                "'camera.stage_affine' of a virtual scope must be [[1.0, 0.0], [0.0, 1.0]]"
            )
        return self

    @model_validator(mode="after")
    def _only_virtual_scopes_have_a_condition(self) -> Self:
        if not self.virtual and self.virtual_condition != VirtualCondition():
            raise ValueError("'virtual_condition' is for a virtual scope; remove it")
        return self

    @model_validator(mode="after")
    def _slots_are_there(self) -> Self:
        named = {"loader.slot": self.loader.slot} if self.loader.slot else {}
        named |= {f"label.positions_um.{slot}": slot for slot in self.label.positions_um}
        for key, slot in named.items():
            if slot not in self.slots:
                raise ValueError(
                    f"'{key}': there is no slot {slot!r}; the slots: {', '.join(self.slots)}"
                )
        return self

    @property
    def loader_slot(self) -> str:
        """Slot to which the loader brings slides; empty where the scope has no loader."""
        return "" if self.loader.method == "none" else self.loader.slot or next(iter(self.slots))

    def with_sequencing(self, sequencing: Literal["auto", "on", "off"] | None) -> Self:
        """Return the scope with another ``light.sequencing``; unchanged for ``None``."""
        if sequencing is None:
            return self
        return self.model_copy(
            update={"light": self.light.model_copy(update={"sequencing": sequencing})}
        )

    def with_core_log(self, path: Path | None) -> Self:
        """Return the scope with a log of Micro-Manager's core; unchanged for ``None``.

        Raises:
            ConfigError: The core runs in Micro-Manager, which keeps a log of its own.
        """
        if path is None:
            return self
        if self.micromanager.backend == "bridge":
            raise ConfigError(
                f"scope {self.name!r} uses a running Micro-Manager, which keeps the log of its "
                f"core in CoreLogs of its own folder; leave --core-log out."
            )
        return self.model_copy(update={"core_log": path.absolute()})

    def slot(self, name: str) -> Slot:
        """Return the slot ``name``.

        Raises:
            ConfigError: The scope has no slot of that name.
        """
        if name not in self.slots:
            raise ConfigError(
                f"scope {self.name!r} has no slot {name!r}; its slots: {', '.join(self.slots)}."
            )
        return self.slots[name]

    @property
    def option(self) -> str:
        """The option that names this scope in a command, as it was given.

        >>> load_scope("demo").option
        '--scope demo'
        """
        return f"--scope {shell_word(self.given or self.name)}"

    @property
    def config_path(self) -> Path:
        """The .cfg file."""
        return (self.path.parent / self.micromanager.config).absolute()

    @property
    def field_um(self) -> tuple[float, float]:
        """(width, height) of a field on the stage."""
        height_px, width_px = self.camera.image_px
        return width_px * self.camera.image_pixel_um, height_px * self.camera.image_pixel_um

    def field_bytes(self, modalities: tuple[str, ...]) -> int:
        """Return the approximate size of a field's file with frames of ``modalities``."""
        height_px, width_px = self.camera.image_px
        return 2 * len(modalities) * height_px * width_px + 8192


def list_scopes() -> dict[str, Path]:
    """Return scope names and their files, sorted by name.

    A file in the folder WBCPIPE_SCOPES replaces a shipped one of the same name.
    """
    own = os.environ.get("WBCPIPE_SCOPES")
    folders = [
        Path(__file__).parents[2] / "hardware_configs",
        *([Path(own).absolute()] if own else []),
    ]
    found = {path.stem: path for folder in folders for path in folder.glob("*.toml")}
    return dict(sorted(found.items()))


def load_scope(name_or_path: str | Path) -> Scope:
    """Read a scope by its name, or by the path of its .toml file.

    Args:
        name_or_path: such as ``demo``, the virtual scope, or ``scopes/mine.toml``.

    Returns:
        The checked content of the file; `Scope.with_sequencing` and `Scope.with_core_log` change it
        for one run.

    Raises:
        ScopeNotFoundError: There is no such scope; the text lists the known ones.
        ConfigError: The file is not valid; the text names the file, the key and the allowed values.

    >>> load_scope("demo").virtual
    True
    """
    text = str(name_or_path)
    if text.endswith(".toml") or "/" in text or os.sep in text:
        path = Path(text).absolute()
    else:
        path = list_scopes().get(text, Path())
    if not is_file(path):
        raise ScopeNotFoundError(
            f"no scope {text!r}; known scopes: {', '.join(list_scopes())}. Give one of these or "
            f"the path of a .toml file, or put your file into the folder that WBCPIPE_SCOPES names."
        )
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror or error}); give a scope file."
        ) from error
    raw = parse_toml(path, content)
    for key in ("name", "path", "sha256", "given", "core_log"):
        if key in raw:
            raise ConfigError(
                f"{path}: key {key!r} is not allowed: it is derived from the file; remove it."
            )
    try:
        scope = Scope.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(
            f"{path}: " + "; ".join(explain(item, Scope) for item in error.errors()) + "."
        ) from error
    _log.debug("scope %s: %s", path.stem, path)
    return scope.model_copy(
        update={
            "name": path.stem,
            "path": path,
            "sha256": hashlib.sha256(content).hexdigest(),
            "given": text,
        }
    )
