"""Compare the label of the slide on the stage with the slide that is expected, before anything of
it is scanned.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from PIL import Image

from wbcpipe.acquire.label.capture import crop, take_label_image
from wbcpipe.acquire.label.decode import Code, eight_bit, read_codes, reader_problem
from wbcpipe.errors import ConfigError, IdentityError
from wbcpipe.samples.records import LabelRecord
from wbcpipe.system.files import make_folder, write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.protocols import Microscope
    from wbcpipe.acquire.request import AcquisitionRequest

__all__ = ["check_label", "check_label_reader", "label_file_problems"]

#: Exposures that are tried in turn, relative to that of the scope file: paper may glare, or lie in
#: the shade.
_EXPOSURES: Final = (1.0, 0.5, 2.0, 0.25, 4.0)


@dataclass(frozen=True)
class _Reading:
    """The last image of a label, what was read in it, and the ids among that."""

    image: NDArray[np.unsignedinteger]
    codes: tuple[Code, ...]
    ids: tuple[str, ...]


def label_file_problems(scope: Scope) -> list[str]:
    """Return why labels cannot be read as the scope file says, beyond its .cfg.

    None where they are not read.
    """
    label, stage = scope.label, scope.stage
    if label.method == "none":
        return []
    found = [problem for problem in (reader_problem(),) if problem]
    if label.method == "scan":
        without = [slot for slot in scope.slots if slot not in label.positions_um]
        found += [f"label.positions_um: slot {slot!r} has no position" for slot in without]
    half_um = [side / 2 for side in label.area_um or (0.0, 0.0)]
    for slot, position_um in label.positions_um.items():
        for axis, at, half, (low, high) in zip(
            "xy", position_um, half_um, (stage.x_um, stage.y_um), strict=True
        ):
            if not (low <= at - half and at + half <= high):
                found.append(
                    f"label.positions_um.{slot}: {axis} = {at:g} um is beyond the limits, {low:g} "
                    f"to {high:g}"
                )
    if label.z_um is not None and not stage.z_um[0] <= label.z_um <= stage.z_um[1]:
        found.append(
            f"label.z_um = {label.z_um:g} is beyond the soft limits, {stage.z_um[0]:g} to "
            f"{stage.z_um[1]:g}"
        )
    return found


def check_label_reader(scope: Scope) -> None:
    """Refuse a scope whose labels cannot be read, before its microscope is opened.

    Raises:
        ConfigError: the text names what is missing.
    """
    if problems := label_file_problems(scope):
        raise ConfigError(f"{scope.path}: {'; '.join(problems)}.")


def check_label(
    microscope: Microscope, request: AcquisitionRequest, say: Callable[[str], None]
) -> LabelRecord | None:
    """Read the label of the slide on the stage and compare it with the slide that the request
    expects.

    The image is kept as ``label.png`` in the sample's folder, and the result in its log.

    Args:
        microscope: open.
        request: which slide is expected, and in which slot.
        say: called with a warning.

    Returns: What was read; ``None`` where the scope reads no labels, or where this one could not be
        read and need not be.

    Raises:
        IdentityError: the slide is another one, or its label could not be read where that is
            required.
        HardwareError: a device failed.
    """
    if request.scope.label.method == "none":
        return None
    started_s = time.monotonic()
    reading = _read(microscope, request)
    sample, expected = request.sample, request.slide_id
    make_folder(sample.path)
    with write_atomic(sample.path / "label.png") as handle:
        Image.fromarray(eight_bit(reading.image)).save(handle, "PNG")
    matches = reading.ids == (expected,)
    sample.log(
        "label_read",
        codes=[code.text for code in reading.codes],
        slides=list(reading.ids),
        expected=expected,
        matches=matches,
        seconds=round(time.monotonic() - started_s, 3),
    )
    if matches:
        code = next(
            code for code in reading.codes if request.scope.label.slide_id(code.text) == expected
        )
        return LabelRecord(
            code=code.text, format=code.format, read=datetime.now(UTC).isoformat(timespec="seconds")
        )
    problem = _mismatch(request, reading)
    if reading.ids or request.scope.label.required:
        raise IdentityError(
            f"{problem}; nothing of it was scanned. The image of the label: "
            f"{sample.path / 'label.png'}"
        )
    say(f"warning: {problem}; it is scanned all the same, since 'label.required' is false")
    return None


def _mismatch(request: AcquisitionRequest, reading: _Reading) -> str:
    sample, slot, expected = request.sample.name, request.plan.slot, request.slide_id
    if len(reading.ids) > 1:
        ids = ", ".join(repr(one) for one in reading.ids)
        return (
            f"sample {sample!r}: the label of the slide in slot {slot!r} has the codes of several "
            f"slides, {ids}, and slide {expected!r} is expected; narrow them by 'label.pattern', "
            f"'formats' or 'crop'"
        )
    if reading.ids:
        return (
            f"sample {sample!r}: the label reads {reading.ids[0]!r}, slide {expected!r} is "
            f"expected: the slide in slot {slot!r} is not that of this sample"
        )
    codes = ", ".join(repr(code.text) for code in reading.codes)
    found = f"has {codes}, which 'label.pattern' does not match" if codes else "cannot be read"
    return (
        f"sample {sample!r}: the label of the slide in slot {slot!r} {found}, and slide "
        f"{expected!r} is expected"
    )


def _read(microscope: Microscope, request: AcquisitionRequest) -> _Reading:
    """Read the label, at several exposures until there is the id of a slide."""
    scope, label = request.scope, request.scope.label
    with microscope.label_camera.lit():
        for factor in _EXPOSURES:
            exposure_ms = label.exposure_ms * factor
            image = crop(
                take_label_image(microscope, scope, request.plan.slot, exposure_ms), label.crop
            )
            codes = read_codes(image, label.formats)
            ids = dict.fromkeys(
                one for code in codes if (one := label.slide_id(code.text)) is not None
            )
            if ids:
                break
    return _Reading(image, codes, tuple(ids))
