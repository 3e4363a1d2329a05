"""The policies of a scope file for the slides.

The loader that brings them, and the label that names them.
"""

from __future__ import annotations

import re
import string
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from wbcpipe.acquire.config.policies import DeviceSetting, DeviceStep, Part, keyed
from wbcpipe.acquire.config.ranges import (
    Coordinate,
    Exposure,
    Fraction,
    Length,
    Seconds,
    Wait,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["BARCODE_FORMATS", "BarcodeFormat", "Label", "Loader", "SlidePlace", "SlideRelocation"]

BarcodeFormat = Literal[
    "DataMatrix",
    "QRCode",
    "Aztec",
    "PDF417",
    "Code128",
    "Code39",
    "Code93",
    "Codabar",
    "EAN13",
    "ITF",
]
BARCODE_FORMATS: Final[tuple[BarcodeFormat, ...]] = (
    "DataMatrix",
    "QRCode",
    "Aztec",
    "PDF417",
    "Code128",
    "Code39",
)


#: A placeholder that would fill the memory: {slide:1000000000}.
_WIDE: Final = re.compile(r"\{[^{}]*\d{3}")


class SlideRelocation(Part):
    """How the slide is found again for the second pass.

    Attributes:
        reach_um: Largest shift that the search covers; more takes longer where the slide is not
            found.
        max_rotation_deg: Largest rotation that the search covers, to each side.
        min_correlation: A guess with a lower correlation is not tried.
        sure_agreement: Lowest correlation of the two frames of the first field found, in register.
        min_agreement: The same of the other fields.
    """

    reach_um: Annotated[float, Field(ge=10, le=10_000, allow_inf_nan=False)] = 450.0
    max_rotation_deg: Annotated[int, Field(ge=1, le=15)] = 3
    min_correlation: Fraction = 0.35
    sure_agreement: Fraction = 0.5
    min_agreement: Fraction = 0.3


class SlidePlace(Part):
    """What the placeholders of the loader stand for.

    Attributes:
        slide: id of the slide.
        slot: slot of the stage to which the loader brings it.
        number: place in the loader, from 1; 0 where it is not known.
    """

    slide: str
    slot: str
    number: Annotated[int, Field(ge=0)] = 0


def _template(text: str) -> str:
    """Accept text with the placeholders of `SlidePlace` alone."""
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
        if unknown := sorted(names.difference(SlidePlace.model_fields)):
            raise ValueError(f"{{{unknown[0]}}} is not a placeholder")
        if _WIDE.search(text):
            raise ValueError("a width of more than two digits is not allowed")
        text.format(slide="S1", slot="A", number=1)
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(
            f"{text!r}: {error}; the placeholders are {{slide}}, {{slot}} and {{number}} (also "
            f"{{number:03d}}), and a "
            "brace of its own is written twice"
        ) from None
    return text


#: Text of the scope file with placeholders.
Template = Annotated[str, AfterValidator(_template)]


class LoaderStep(DeviceStep):
    """A step of the loader; ``value`` may have placeholders."""

    value: Template

    def filled(self, place: SlidePlace) -> DeviceStep:
        """Return the step for a slide."""
        content = self.model_dump()
        return DeviceStep(**{**content, "value": self.value.format(**place.model_dump())})

    @property
    def fixed(self) -> bool:
        """Whether the value is the same for every slide."""
        return self.value.format(slide="", slot="", number=1) == self.value.format(
            slide="1", slot="1", number=2
        )


def _keyed(
    key: str, steps: tuple[LoaderStep, ...], place: SlidePlace
) -> tuple[tuple[str, DeviceStep], ...]:
    return tuple(keyed(key, tuple(step.filled(place) for step in steps)))


class Loader(Part):
    """How a slide comes to the stage and leaves it.

    ``{slide}``, ``{slot}`` and ``{number}`` in the values of steps, in the arguments of the
    commands and in the messages stand for the slide's id, for ``slot`` and for the slide's place in
    the loader.

    Attributes:
        method: ``none``: every slide lies in a slot of the insert already; ``prompt`` asks the
            operator; ``devices`` sets properties of a slide hotel or a robot; ``command`` runs a
            program.
        slot: Slot of the stage to which slides are brought; by default the first.
        capacity: Number of places in the loader.
        message, unload_message: Instructions to the operator, for ``prompt``. load, unload: Steps
        for ``devices``. Without ``unload``, loading a slide takes the one before away.
        safe_state: For ``devices``: steps for when Ctrl-C or a failure interrupts the others. By
            default none: a gripper with a slide in it is best left as it is.
        load_command, unload_command: For ``command``: the program and its arguments, without a
            shell. It also finds WBCPIPE_ACTION (``load`` or ``unload``), WBCPIPE_SLIDE,
            WBCPIPE_SLOT and WBCPIPE_NUMBER in its environment.
        absent_codes: Exit codes by which ``load_command`` says that the slide is not in the loader
            and that it moved nothing; the next slide is then tried.
        handover_um: (x, y) to which the stage goes before a slide is loaded or unloaded.
        handover_z_um: Z of the focus drive for that, reached before the stage moves; away from the
            slide.
        timeout_s: Time limit of the program, and of each step's device.
        settle_s: Wait after loading, until the slide rests.
    """

    method: Literal["none", "prompt", "devices", "command"] = "none"
    slot: str = ""
    capacity: Annotated[int, Field(ge=1, le=100_000)] | None = None
    message: Template = "Put slide {slide} into slot {slot}."
    unload_message: Template = "Take slide {slide} out of slot {slot}."
    load: tuple[LoaderStep, ...] = ()
    unload: tuple[LoaderStep, ...] = ()
    safe_state: tuple[LoaderStep, ...] = ()
    load_command: tuple[Template, ...] = ()
    unload_command: tuple[Template, ...] = ()
    absent_codes: tuple[Annotated[int, Field(ge=1, le=255)], ...] = ()
    handover_um: tuple[Coordinate, Coordinate] | None = None
    handover_z_um: Coordinate | None = None
    timeout_s: Seconds = 120.0
    settle_s: Wait = 0.0

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for method, key in (("devices", "load"), ("command", "load_command")):
            if bool(getattr(self, key)) != (self.method == method):
                raise ValueError(f"'{key}' belongs to method {method!r}, and that method needs it")
        owned = (("devices", "unload"), ("devices", "safe_state"), ("command", "unload_command"))
        for method, key in (*owned, ("command", "absent_codes")):
            if getattr(self, key) and self.method != method:
                raise ValueError(f"'{key}' belongs to method {method!r}")
        if self.handover_z_um is not None and self.handover_um is None:
            raise ValueError("'handover_z_um' needs 'handover_um'")
        return self

    @property
    def needs_number(self) -> bool:
        """Whether a placeholder asks for the slide's place in the loader."""
        texts = [step.value for step in (*self.load, *self.unload, *self.safe_state)]
        texts += [*self.load_command, *self.unload_command]
        return any(
            "number" in {name for _, name, _, _ in string.Formatter().parse(text)} for text in texts
        )

    def steps(
        self, action: Literal["load", "unload"], place: SlidePlace
    ) -> tuple[tuple[str, DeviceStep], ...]:
        """Return the steps for a slide, each with its key in the scope file."""
        return _keyed(f"loader.{action}", self.load if action == "load" else self.unload, place)

    def safe_steps(self, place: SlidePlace) -> tuple[tuple[str, DeviceStep], ...]:
        """Return the steps of the safe state, each with its key in the scope file."""
        return _keyed("loader.safe_state", self.safe_state, place)

    def command(self, action: Literal["load", "unload"], place: SlidePlace) -> tuple[str, ...]:
        """Return the program of an action and its arguments for a slide; empty if there is none."""
        command = self.load_command if action == "load" else self.unload_command
        return tuple(part.format(**place.model_dump()) for part in command)

    def keyed_steps(self) -> Iterator[tuple[str, LoaderStep]]:
        """Yield each step as written, with its key in the scope file."""
        for key in ("load", "unload", "safe_state"):
            for number, step in enumerate(getattr(self, key)):
                yield f"loader.{key}[{number}]", step


def _pattern(text: str) -> str:
    try:
        groups = re.compile(text).groups
    except re.error as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from None
    if text and groups != 1:
        raise ValueError(
            f"{text!r} has {groups} groups; put the part that is the slide's id in the only pair "
            f"of (...)"
        )
    return text


class Label(Part):
    """How the barcode on a slide's label is read before a slide is scanned.

    Attributes:
        method: ``none``: labels are not read; ``camera``: a camera of its own sees the label;
            ``scan``: the scan camera looks at it, with the stage at the slot's position in
            ``positions_um``.
        device: For ``camera``: its label in the .cfg.
        positions_um: Slot to the stage position (x, y) at which the label's middle is seen. For
            ``camera`` it may be left out: then the stage stays where it is.
        z_um: Z of the focus drive for that; it stays if left out.
        modality: For ``scan``: the light.
        area_um: For ``scan``: (width, height) of the area around the position; frames beside one
            another cover it. By default one frame.
        exposure_ms: Exposure of the camera. If nothing is read, half and twice, a quarter and four
            times are tried.
        lamp_on, lamp_off: Properties set before and after the label is looked at.
        crop: Part of the image that is read: left, top, right, bottom, as fractions of its sides.
        formats: Kinds of barcode that are looked for.
        pattern: Regular expression that the code must match from end to end; its group is the
            slide's id. By default the code is the id.
        required: A label that cannot be read ends the run on this slide; otherwise it is a warning.
            A label of another slide always ends it.
    """

    method: Literal["none", "camera", "scan"] = "none"
    device: str = ""
    positions_um: dict[str, tuple[Coordinate, Coordinate]] = Field(default_factory=dict)
    z_um: Coordinate | None = None
    modality: Literal["color1", "color2", "color3"] = "color2"
    area_um: tuple[Length, Length] | None = None
    exposure_ms: Exposure = 10.0
    lamp_on: tuple[DeviceSetting, ...] = ()
    lamp_off: tuple[DeviceSetting, ...] = ()
    crop: tuple[Fraction, Fraction, Fraction, Fraction] = (0.0, 0.0, 1.0, 1.0)
    formats: Annotated[tuple[BarcodeFormat, ...], Field(min_length=1)] = BARCODE_FORMATS
    pattern: Annotated[str, AfterValidator(_pattern)] = ""
    required: bool = True

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if bool(self.device) != (self.method == "camera"):
            raise ValueError("'device' belongs to method 'camera', and that method needs it")
        if self.method == "scan" and not self.positions_um:
            raise ValueError(
                "method 'scan' needs 'positions_um', for example { A = [1000.0, 0.0] }"
            )
        if self.area_um is not None and self.method != "scan":
            raise ValueError("'area_um' belongs to method 'scan'")
        left, top, right, bottom = self.crop
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise ValueError(
                f"'crop' {list(self.crop)} is empty or beyond the image; give [left, top, right, "
                f"bottom]"
            )
        return self

    def slide_id(self, code: str) -> str | None:
        """Return the slide's id in a code; ``None`` if ``pattern`` does not match it."""
        if not self.pattern:
            return code
        match = re.fullmatch(self.pattern, code)
        return None if match is None else match.group(1)
