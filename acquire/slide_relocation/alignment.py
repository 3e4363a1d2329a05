"""The second pass over a slide: where its fields lie now that the slide was taken off and put back."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wbcpipe.acquire.plan import PlannedField
from wbcpipe.acquire.slide_relocation.search import displacement_um, relocate_slide
from wbcpipe.acquire.slide_relocation.transform import SlideTransform
from wbcpipe.errors import FrameFileError, SampleStateError, StageLimitError
from wbcpipe.samples.fields import FieldTransform, field_path, read_field, read_info
from wbcpipe.system.files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.protocols import Microscope
    from wbcpipe.acquire.slide_relocation.search import RelocationResult
    from wbcpipe.samples.fields import FieldInfo

__all__ = [
    "ALIGNMENT_NAME",
    "SlideFinder",
    "add_slide_transform",
    "first_fields",
    "latest_transform",
    "load_alignments",
    "save_alignment",
    "second_fields",
]

ALIGNMENT_NAME: Final = "alignment.json"
FORMAT_VERSION: Final = 1
#: A slide that lies farther than this from where it was found has been moved since.
_MOVED_UM: Final = 5.0
_LEAST_AGREEMENT: Final = 0.3


class SlideFinder:
    """Takes bright-field frames to find the slide of the first pass again; the stain is not lit.

    Args:
        microscope: opened.
        scope: for light, exposure and pixel size.
        first: folder of the bright-field pass.
        focus_um: Z of best focus at a place (x_um, y_um) of the stage.
        check: called before each frame; raises to stop.
    """

    def __init__(
        self,
        microscope: Microscope,
        scope: Scope,
        first: Path,
        focus_um: Callable[[float, float], float],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._microscope, self._scope, self._first = microscope, scope, first
        self._focus_um, self._check = focus_um, check
        self._light = scope.focus.modality

    def _reference(self, index: int) -> NDArray[np.uint16]:
        images, info = read_field(field_path(self._first, index))
        frame: NDArray[np.uint16] = images[info.modalities.index(self._light)]
        return frame

    def _look(self, x_um: float, y_um: float) -> NDArray[np.uint16]:
        """A frame (Y, X) uint16 of a place; of nothing where the stage cannot go."""
        self._check()
        frame = np.zeros(self._scope.camera.image_px, np.uint16)
        modality = self._scope.modalities.named(self._light)
        try:
            self._microscope.move_xy(x_um, y_um)
            self._microscope.move_z(round(self._focus_um(x_um, y_um) + modality.z_offset_um, 3))
        except StageLimitError:
            return frame
        self._microscope.switch_light(self._light)
        self._microscope.expose(modality.exposure_ms, frame)
        self._microscope.wait_for_frames()
        return frame

    def find(self, fields: dict[int, FieldInfo]) -> RelocationResult:
        """Find the slide; ``fields`` of the first pass by index.

        Raises:
            AcquisitionError: it is not found.
        """
        places = [PlannedField(index, info.x_um, info.y_um) for index, info in sorted(fields.items())]
        return relocate_slide(places, self._reference, self._look, self._scope.camera.image_pixel_um)

    def lies_still(self, entry: dict[str, Any]) -> bool:
        """Whether the slide lies where an entry of ``alignment.json`` says; one or two frames are taken."""
        now = _transform_of(entry)
        for match in entry["matches"][:2]:
            x_um, y_um = now.to_stage_um(match["x_um"], match["y_um"])
            dx_um, dy_um, agreement = displacement_um(
                self._reference(match["field"]),
                self._look(x_um, y_um),
                self._scope.camera.image_pixel_um,
                now.rotation_deg,
            )
            if agreement >= _LEAST_AGREEMENT and np.hypot(dx_um, dy_um) <= _MOVED_UM:
                return True
        return False


def _transform_of(entry: dict[str, Any]) -> SlideTransform:
    return SlideTransform(entry["rotation_deg"], entry["dx_um"], entry["dy_um"])


def load_alignments(raw: Path) -> list[dict[str, Any]]:
    """What ``alignment.json`` of the second pass holds: how the slide lay, the latest last; empty if it is not there.

    Raises:
        SampleStateError: the file is damaged.
    """
    path = raw / ALIGNMENT_NAME
    if not path.is_file():
        return []
    content = read_json(path)
    try:
        if content["format_version"] != FORMAT_VERSION:
            raise SampleStateError(f"{path}: format {content['format_version']!r} is not {FORMAT_VERSION}.")
        for entry in content["alignments"]:
            _transform_of(entry)
            assert isinstance(entry["matches"], list)
        return list(content["alignments"])
    except (KeyError, TypeError, AssertionError) as error:
        raise SampleStateError(f"{path}: not an alignment ({error}); move it away and run again.") from error


def save_alignment(raw: Path, found: RelocationResult) -> SlideTransform:
    """Add how the slide was found to lie to ``alignment.json``; gives it back as it reads from there."""
    rounded = SlideTransform(*(round(value, 5) for value in asdict(found.transform).values()))
    entry = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **asdict(rounded),
        "rms_um": round(found.rms_um, 3),
        "frames": found.frames,
        "matches": [
            {
                "field": match.place.index,
                "x_um": match.place.x_um,
                "y_um": match.place.y_um,
                "found_x_um": round(match.x_um, 3),
                "found_y_um": round(match.y_um, 3),
                "agreement": round(match.agreement, 3),
                "residual_um": round(match.residual_um, 3),
            }
            for match in found.matches
        ],
    }
    write_json(raw / ALIGNMENT_NAME, {"format_version": FORMAT_VERSION, "alignments": [*load_alignments(raw), entry]})
    return rounded


def latest_transform(raw: Path) -> SlideTransform | None:
    """How the slide lies according to ``alignment.json``; ``None`` before it was found."""
    entries = load_alignments(raw)
    return _transform_of(entries[-1]) if entries else None


def first_fields(first: Path, fields: dict[int, Path]) -> dict[int, FieldInfo]:
    """The fields of the first pass that can be read, by index."""
    readable = {}
    for index, path in fields.items():
        try:
            readable[index] = read_info(path)
        except FrameFileError as error:
            raise SampleStateError(
                f"{error} It belongs to the bright-field pass, which cannot be repeated on a stained slide: restore "
                f"the file, or move it out of {first} to go on without this field."
            ) from error
    return readable


def second_fields(first: dict[int, FieldInfo], now: SlideTransform) -> dict[int, PlannedField]:
    """Where to go for the fields of the first pass, by index."""
    planned = {}
    for index, info in first.items():
        x_um, y_um = now.to_stage_um(info.x_um, info.y_um)
        planned[index] = PlannedField(index, round(x_um, 3), round(y_um, 3))
    return planned


def add_slide_transform(info: FieldInfo, now: SlideTransform) -> FieldInfo:
    """A field as taken, with its place on the slide as the first pass saw it."""
    x_um, y_um = now.to_slide_um(info.x_um, info.y_um)
    return replace(info, slide_transform=FieldTransform(round(x_um, 3), round(y_um, 3), now.rotation_deg))
