"""Relocate a slide for its second pass: find it, and store its position."""

from __future__ import annotations

from dataclasses import asdict, astuple, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import numpy as np

from wbcpipe.acquire.plan import PlannedField
from wbcpipe.acquire.slide_relocation.search import displacement_um, relocate_slide
from wbcpipe.acquire.slide_relocation.transform import SlideTransform
from wbcpipe.errors import FrameFileError, SampleStateError, StageLimitError
from wbcpipe.samples.fields import FieldTransform, field_path, fields_on_disk, read_field, read_info
from wbcpipe.samples.records import SlideTransformEntry, SlideTransformRecord, TransformMatch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.protocols import Microscope
    from wbcpipe.acquire.slide_relocation.search import RelocationResult
    from wbcpipe.samples.fields import FieldInfo

__all__ = [
    "SlideFinder",
    "add_slide_transform",
    "first_fields",
    "save_transform",
    "stored_transforms",
]

_FILE_NAME: Final = "slide_transforms.json"
#: A slide at least this far from its stored position was moved.
_MOVED_UM: Final = 5.0


@dataclass(frozen=True)
class SlideFinder:
    """Finds the slide of the first pass by bright-field frames, which do not bleach the stain.

    Attributes:
        microscope: opened.
        scope: for light, exposure and pixel size.
        first: folder of the bright-field pass.
        focus_um: returns Z of best focus at a stage position (x_um, y_um).
        check: called before each frame; raises to stop.
    """

    microscope: Microscope
    scope: Scope
    first: Path
    focus_um: Callable[[float, float], float]
    check: Callable[[], None]

    def _reference(self, index: int) -> NDArray[np.uint16]:
        images, info = read_field(field_path(self.first, index))
        frame: NDArray[np.uint16] = images[info.modalities.index(self.scope.focus.modality)]
        return frame

    def _take_frame(self, x_um: float, y_um: float) -> NDArray[np.uint16]:
        """Take a frame (Y, X) uint16 at a stage position; all zero where the stage cannot go."""
        self.check()
        frame = np.zeros(self.scope.camera.image_px, np.uint16)
        modality = self.scope.modalities.named(self.scope.focus.modality)
        try:
            self.microscope.move_xy(x_um, y_um)
            self.microscope.move_z(round(self.focus_um(x_um, y_um) + modality.z_offset_um, 3))
        except StageLimitError:
            return frame
        self.microscope.switch_light(self.scope.focus.modality)
        self.microscope.expose(modality.exposure_ms, frame)
        self.microscope.wait_for_frames()
        return frame

    def find(self, fields: dict[int, FieldInfo]) -> RelocationResult:
        """Find the slide by the fields of the first pass, by index; see `relocate_slide`."""
        first = [
            PlannedField(index, info.x_um, info.y_um) for index, info in sorted(fields.items())
        ]
        return relocate_slide(
            first,
            self._reference,
            self._take_frame,
            self.scope.camera.image_pixel_um,
            self.scope.slide_relocation,
        )

    def is_unmoved(self, now: SlideTransform, matches: Sequence[TransformMatch]) -> bool:
        """Return whether the slide is where a stored transform with its matches says.

        Takes one or two frames.
        """
        for match in matches[:2]:
            x_um, y_um = now.to_stage_um(match.x_um, match.y_um)
            dx_um, dy_um, agreement = displacement_um(
                self._reference(match.field),
                self._take_frame(x_um, y_um),
                self.scope.camera.image_pixel_um,
                now.rotation_deg,
            )
            is_same = agreement >= self.scope.slide_relocation.min_agreement
            if is_same and np.hypot(dx_um, dy_um) <= _MOVED_UM:
                return True
        return False


def stored_transforms(raw: Path) -> tuple[SlideTransformEntry, ...]:
    """Read the positions at which the slide was found in the second pass, the latest last.

    Empty before the first.

    Raises:
        SampleStateError: ``slide_transforms.json`` is damaged.
    """
    record = SlideTransformRecord.read_if_present(raw / _FILE_NAME)
    return () if record is None else record.transforms


def save_transform(raw: Path, found: RelocationResult) -> SlideTransform:
    """Add a position of the slide to ``slide_transforms.json``.

    Return it as it reads from there.
    """
    transform = SlideTransform(*(round(value, 5) for value in astuple(found.transform)))
    entry = SlideTransformEntry(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        **asdict(transform),
        rms_um=round(found.rms_um, 3),
        frames=found.frames,
        matches=tuple(
            TransformMatch(
                field=match.field.index,
                x_um=match.field.x_um,
                y_um=match.field.y_um,
                found_x_um=round(match.x_um, 3),
                found_y_um=round(match.y_um, 3),
                agreement=round(match.agreement, 3),
                residual_um=round(match.residual_um, 3),
            )
            for match in found.matches
        ),
    )
    SlideTransformRecord(transforms=(*stored_transforms(raw), entry)).write(raw / _FILE_NAME)
    return transform


def first_fields(first: Path) -> dict[int, FieldInfo]:
    """Read the descriptions of the first pass's fields in the folder ``first``, by index.

    Raises:
        SampleStateError: one is damaged.
    """
    readable = {}
    for index, path in fields_on_disk(first).items():
        try:
            readable[index] = read_info(path)
        except FrameFileError as error:
            raise SampleStateError(
                f"{error} It belongs to the bright-field pass, which cannot be repeated on a "
                f"stained slide: restore the file, or move it out of {first} to go on without this "
                f"field."
            ) from error
    return readable


def add_slide_transform(info: FieldInfo, now: SlideTransform) -> FieldInfo:
    """Add to a field of the second pass its position in the first pass."""
    x_um, y_um = now.to_slide_um(info.x_um, info.y_um)
    return replace(
        info, slide_transform=FieldTransform(round(x_um, 3), round(y_um, 3), now.rotation_deg)
    )
