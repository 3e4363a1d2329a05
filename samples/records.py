"""Typed models of the JSON files of a sample, and the one way to read and write them."""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic.dataclasses import dataclass

from wbcpipe.errors import SampleStateError
from wbcpipe.samples.belonging import place_of, why_foreign
from wbcpipe.system.files import json_bytes, read_json, write_atomic
from wbcpipe.system.validation_messages import explain

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "DIGEST",
    "STRICT",
    "CalibrationReference",
    "DriftCheck",
    "FieldPredictions",
    "FocusNode",
    "FocusPoint",
    "FocusRecord",
    "ImagingSettings",
    "ImportInputs",
    "ImportKind",
    "LabelRecord",
    "LightExposure",
    "MissingFields",
    "Part",
    "PlanRecord",
    "Protocol",
    "Record",
    "SampleKind",
    "SampleRecord",
    "ScanArea",
    "ScopeReference",
    "SettingsFile",
    "SkippedFields",
    "SlideTransformEntry",
    "SlideTransformRecord",
    "SpecimenRecord",
    "StainingRecord",
    "TransformMatch",
    "json_digest",
    "read_json_lines",
]

#: Origin of the images: a microscope, imported RGB smears, or imported channel stacks.
SampleKind = Literal["scope", "stained-rgb", "stack"]
ImportKind = Literal["stained-rgb", "stack"]
Protocol = Literal["one-pass", "two-pass"]
#: For small parts of a record that are built by position.
STRICT = ConfigDict(extra="forbid")
#: Key of a JSON file with the digest of everything else in it; a file written by hand may leave it
#: out.
DIGEST: Final = "sha256"
#: Key of a JSON file with the sample and the place to which it belongs; a file written by hand may
#: leave it out.
PLACE: Final = "belongs_to"
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


class Part(BaseModel):
    """A table within a record: frozen, unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def json_digest(content: object) -> str:
    """Return the SHA-256 of what JSON holds, whatever its layout.

    Numbers that are equal are alike.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Record(Part):
    """The content of one JSON file.

    Attributes:
        format_version: of the file's layout.
    """

    #: Advice for a file that is refused.
    remedy: ClassVar[str] = "restore the file, or move it away and run the command again"
    #: Whether the file says to which sample it belongs.
    names_sample: ClassVar[bool] = False

    format_version: Literal[1] = 1

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a record.

        Raises:
            SampleStateError: the file is absent, is not JSON, does not hold what the model allows,
                was changed since it was written, or belongs to another sample.
        """
        content = read_json(path, remedy=cls.remedy)
        if not isinstance(content, dict) or "format_version" not in content:
            raise SampleStateError(
                f"{path}: key 'format_version' is missing (allowed: 1); {cls.remedy}."
            )
        written, whole = content.pop(DIGEST, None), dict(content)
        stated = content.pop(PLACE, "") if cls.names_sample else ""
        record = cls.parse(content, path)
        if written is not None and written != json_digest(whole):
            raise SampleStateError(
                f"{path}: changed since it was written (key {DIGEST!r} is not that of the "
                f"content); {cls.remedy}."
            )
        if foreign := why_foreign(str(stated), place_of(path)):
            raise SampleStateError(f"{path}: {foreign}; {cls.remedy}.")
        return record

    @classmethod
    def parse(cls, content: object, path: Path) -> Self:
        """Validate what JSON holds.

        Raises:
            SampleStateError: it does not hold what the model allows; the text names ``path``.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            findings = "; ".join(explain(item, cls) for item in error.errors()[:3])
            raise SampleStateError(f"{path}: {findings}; {cls.remedy}.") from error

    @classmethod
    def read_if_present(cls, path: Path) -> Self | None:
        """Read a record; return ``None`` where there is no file.

        Raises:
            SampleStateError: as for `read`.
        """
        return cls.read(path) if path.exists() else None

    def write(self, path: Path) -> None:
        """Write the record as JSON, atomically, with the digest by which `read` notices a change,
        and its place.

        Raises:
            DiskFullError: no space left; an earlier file stays.
        """
        with write_atomic(path) as handle:
            handle.write(self.to_bytes(place_of(path) if self.names_sample else ""))

    def to_bytes(self, place: str = "") -> bytes:
        """Return the content of the file that `write` writes; ``place`` is where it belongs, if it
        says so.
        """
        content = self.content()
        if place:
            content[PLACE] = place
        return json_bytes({**content, DIGEST: json_digest(content)})

    def digest(self) -> str:
        """Return the SHA-256 of the content, as the file holds it."""
        return json_digest(self.content())

    def content(self) -> dict[str, Any]:
        """Return the record as JSON holds it."""
        return self.model_dump(mode="json")


PartT = TypeVar("PartT", bound=Part)


def read_json_lines(path: Path, kind: type[PartT]) -> list[PartT]:
    """Read a file of one JSON object a line; none where there is no file.

    A line that a crash cut short is ignored.

    Raises:
        SampleStateError: a line is JSON, but does not hold what the model allows.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            continue
        try:
            entries.append(kind.model_validate(content))
        except ValidationError as error:
            findings = "; ".join(explain(item, kind) for item in error.errors()[:3])
            raise SampleStateError(
                f"{path}, line {number}: {findings}; restore the file, or remove that line."
            ) from error
    return entries


# sample.json


class ScopeReference(Part):
    """The microscope that took a sample.

    Attributes:
        name: of the scope file.
        sha256: of its content.
        virtual: the images were simulated.
    """

    name: str
    sha256: str
    virtual: bool


class PlanRecord(Part):
    """The fields of one slot, rows of them, each row taken against the direction of the one before.

    Attributes:
        slot: position of the slide in the stage insert.
        field_width_um, field_height_um: of an image on the stage.
        overlap: of neighbours, as a fraction of a field's side, so that no cell is cut by every
            field.
        x_um, y_um: [lowest, highest] of the area to cover; no image reaches beyond it.
    """

    slot: str
    field_width_um: Positive
    field_height_um: Positive
    overlap: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    x_um: tuple[float, float]
    y_um: tuple[float, float]

    @property
    def columns(self) -> int:
        """Fields in a row."""
        return _fields_along(self.x_um, self.field_width_um, self.overlap)

    @property
    def rows(self) -> int:
        """Rows of fields."""
        return _fields_along(self.y_um, self.field_height_um, self.overlap)


def _fields_along(area_um: tuple[float, float], side_um: float, overlap: float) -> int:
    room_um = area_um[1] - area_um[0] - side_um
    # The small number keeps an area of exactly n fields from losing one to rounding.
    return math.floor(room_um / (side_um * (1 - overlap)) + 1e-9) + 1 if room_um >= -1e-9 else 0


class SpecimenRecord(Part):
    """The specimen of a virtual scope.

    Attributes:
        seed: everything about it follows from this.
        preparation: ``blood-film`` or ``buffy-coat``.
    """

    seed: Annotated[int, Field(ge=0)]
    preparation: Literal["blood-film", "buffy-coat"]


class FocusSettings(Part):
    """The part of the focus policy that affects images."""

    modality: str
    offset_um: float
    fixed_um: float | None = None


class ImagingSettings(Part):
    """The part of a scope file and its .cfg that affects images.

    Attributes:
        camera: table ``camera`` of the scope file.
        devices: role to label, library and name in the library.
        camera_settings: property to value.
        lights: modality to ``device-property`` to value.
        exposure_ms, z_offset_um: by modality.
        focus: see `FocusSettings`.
    """

    camera: dict[str, JsonValue]
    devices: dict[str, list[str]]
    camera_settings: dict[str, str]
    lights: dict[str, dict[str, str]]
    exposure_ms: dict[str, float]
    z_offset_um: dict[str, float]
    focus: FocusSettings


class CalibrationReference(Part):
    """The microscope calibration in force: its date and the file's SHA-256."""

    date: str
    sha256: str


class LabelRecord(Part):
    """The barcode that was read on a slide's label, and agreed with the slide.

    Attributes:
        code: content of the barcode.
        format: kind of barcode, such as ``DataMatrix``.
        read: UTC time, ISO 8601.
    """

    code: str
    format: str
    read: str


class ImportInputs(Part):
    """The images of an import and the options that determine the result.

    ``settings_sha256`` is of the settings of the segmentation, where cells are imported with others
    than the default ones.
    """

    content: Literal["fields", "cells"]
    sha256: str
    kind: ImportKind
    pixel_um: Positive
    modalities: tuple[str, ...]
    crop_pixel_um: Positive | None = None
    side_px: int | None = None
    labels: bool | None = None
    label_array: str | None = None
    settings_sha256: str | None = None


class SettingsFile(Part):
    """Settings of the segmentation that were given for a sample.

    Attributes:
        name: of the file.
        segment: what it gives, as the tables of `SegmentSettings`.
    """

    name: str
    segment: dict[str, JsonValue]


class SampleRecord(Record):
    """``sample.json``: identity and origin of a sample, written before anything else.

    Attributes:
        sample: name of the sample.
        kind: origin of the images.
        created: UTC time, ISO 8601.
        software: package to version.
        modalities: channel names in order.
        derived: those of them that were computed, not seen by a camera.
        pixel_um: size of a pixel on the specimen.
        slide: id of the physical slide.
        label: what was read on it before the first field, where the scope reads labels.
        protocol: number of passes.
        scope, slot, plan, specimen, imaging_settings, calibration: of a sample taken on a scope.
        expected_cells_per_field: of the scope file.
        quality: limits of the quality gates where the scope file's differ.
        segment: settings of the segmentation that the scope file gives, as the tables of
            `SegmentSettings`.
        segment_file: the same of a file given for this sample; they go before the scope file's.
        source, inputs: of an imported sample.
    """

    sample: str
    kind: SampleKind = "scope"
    created: str = ""
    software: dict[str, str] = {}
    modalities: tuple[str, ...] = ()
    derived: tuple[str, ...] = ()
    pixel_um: Positive | None = None
    slide: str | None = None
    label: LabelRecord | None = None
    protocol: Protocol = "one-pass"
    scope: ScopeReference | None = None
    slot: str | None = None
    plan: PlanRecord | None = None
    specimen: SpecimenRecord | None = None
    imaging_settings: ImagingSettings | None = None
    calibration: CalibrationReference | None = None
    expected_cells_per_field: Positive | None = None
    quality: dict[str, float] = {}
    segment: dict[str, JsonValue] = {}
    segment_file: SettingsFile | None = None
    source: tuple[str, ...] = ()
    inputs: ImportInputs | None = None

    def content(self) -> dict[str, Any]:
        """Return the record as JSON holds it; keys of the other kinds of samples are left out."""
        return self.model_dump(mode="json", exclude_none=True)


# raw/<pass>/missing.json, raw/<pass>/skipped_fields.json


class MissingFields(Record):
    """``missing.json``: field index to the reason why the field could not be taken."""

    names_sample: ClassVar[bool] = True

    reasons: dict[int, str]


class SkippedFields(Record):
    """``skipped_fields.json``: index of a field skipped as empty to the foreground area found in it
    (um2).
    """

    names_sample: ClassVar[bool] = True

    foreground_area_um2: dict[int, float]


# raw/staining.json


class StainingRecord(Record):
    """``staining.json``: progress of the staining between two passes; times are UTC in ISO 8601.

    Attributes:
        method: of the scope file, or ``operator`` where the operator said that the slide is
            stained.
        started: the first step began.
        applied: the stain is on the slide, and incubates.
        done: the incubation ended.
        reason: why it failed.
    """

    names_sample: ClassVar[bool] = True

    method: Literal["prompt", "devices", "command", "operator"]
    started: str | None = None
    applied: str | None = None
    done: str | None = None
    reason: str | None = None


# raw/fluorescence/slide_transforms.json


class TransformMatch(Part):
    """A field of the first pass that was found again.

    Attributes:
        field: its index.
        x_um, y_um: its stage position in the first pass.
        found_x_um, found_y_um: its stage position now.
        agreement: correlation of the two frames in register, at most 1.
        residual_um: distance from the fit.
    """

    field: int
    x_um: float
    y_um: float
    found_x_um: float
    found_y_um: float
    agreement: float
    residual_um: float


class SlideTransformEntry(Part):
    """Position of the slide as it was found once: ``R(rotation_deg) s + (dx_um, dy_um)``."""

    created: str
    rotation_deg: float
    dx_um: float
    dy_um: float
    rms_um: float
    frames: int
    matches: tuple[TransformMatch, ...]


class SlideTransformRecord(Record):
    """``slide_transforms.json`` of the second pass: each position at which the slide was found, the
    latest last.
    """

    names_sample: ClassVar[bool] = True

    transforms: tuple[SlideTransformEntry, ...]


# raw/<pass>/focus.json


@dataclass(frozen=True, config=STRICT)
class FocusPoint:
    """A focused point; ``z_um`` is ``None`` where there was nothing to see."""

    x_um: float
    y_um: float
    z_um: float | None


@dataclass(frozen=True, config=STRICT)
class FocusNode:
    """A node of the fine grid, and the point focused there or beside it."""

    column: int
    row: int
    x_um: float
    y_um: float
    z_um: float | None


@dataclass(frozen=True, config=STRICT)
class DriftCheck:
    """Focus measured again on the way, where a field was about to be taken.

    Attributes:
        field: index of that field in the plan.
        measured_um: focus found, relative to the surface; ``None`` where there was nothing to see.
        shift_um: by which the surface is raised from then on, in the middle of the scan area.
        tilt_x_um_mm, tilt_y_um_mm: added to it for each mm along x and y.
    """

    field: int
    measured_um: float | None
    shift_um: float
    tilt_x_um_mm: float = 0.0
    tilt_y_um_mm: float = 0.0


class ScanArea(Part):
    """[lowest, highest] stage position along x and y."""

    x_um: tuple[float, float]
    y_um: tuple[float, float]


class FocusRecord(Record):
    """``focus.json``: the focus surface of a pass and its drift.

    Attributes:
        policy: table ``focus`` of the scope file.
        area: that the surface spans.
        coarse: points over the scan area.
        fine: nodes of the fine grid, where fields were taken.
        drift: checks in the order in which they were made.
    """

    names_sample: ClassVar[bool] = True

    policy: dict[str, JsonValue]
    area: ScanArea
    coarse: tuple[FocusPoint, ...] = ()
    fine: tuple[FocusNode, ...] = ()
    drift: tuple[DriftCheck, ...] = ()


# work/predictions/field_00042.json


class FieldPredictions(Record):
    """The classes of a field's cells, as they were counted during the scan.

    Attributes:
        field_index: of the field.
        identity: SHA-256 of what the classes depend on: bundle, engine, images, flags.
        predicted_classes: of all cells of the field, in the order of its result.
    """

    names_sample: ClassVar[bool] = True

    field_index: Count
    identity: str
    predicted_classes: tuple[str, ...]


# raw/<pass>/light.jsonl


class LightExposure(Part):
    """A line of ``light.jsonl``: a fluorescence exposure at a position of the slide, noted before
    it is made.

    Attributes:
        belongs_to: the sample and the file, see `samples.belonging`.
    """

    belongs_to: str = ""
    field: int
    x_um: float
    y_um: float
    exposure_ms: float
