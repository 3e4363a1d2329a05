"""``light.jsonl`` of a pass: every fluorescence exposure of the slide."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from wbcpipe.errors import SampleStateError
from wbcpipe.samples.belonging import place_of, why_foreign
from wbcpipe.samples.records import LightExposure
from wbcpipe.system.files import file_errors, parse_json_line

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["light_path", "read_exposures"]


def light_path(raw: Path) -> Path:
    """Return the path of ``light.jsonl``.

    Args:
        raw: folder of the pass.
    """
    return raw / "light.jsonl"


def read_exposures(raw: Path) -> list[LightExposure]:
    """Read the exposures of a pass.

    A line that a crash cut short, or that was changed, is left out.

    Args:
        raw: folder of the pass.

    Raises:
        SampleStateError: the file cannot be read, or belongs to another sample.
    """
    path = light_path(raw)
    if not path.exists():
        return []
    with file_errors(
        path, "move it away: the exposures of fields on disk are counted from their files"
    ):
        lines = path.read_bytes().splitlines()
    exposures, here = [], place_of(path)
    for line in lines:
        with contextlib.suppress(ValueError):  # pydantic's too
            exposures.append(LightExposure.model_validate(parse_json_line(line)))
    foreign = next(
        filter(None, (why_foreign(exposure.belongs_to, here) for exposure in exposures)), ""
    )
    if foreign:
        raise SampleStateError(
            f"{path}: {foreign}; restore the file, or move it away: the exposures of fields on "
            f"disk are counted from their files."
        )
    return exposures
