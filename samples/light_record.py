"""``light.jsonl`` of a pass: every fluorescence exposure of the slide."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

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
    """Read the exposures of a pass; a line that a crash cut short, or that was changed, is left out.

    Args:
        raw: folder of the pass.

    Raises:
        SampleStateError: the file cannot be read.
    """
    path = light_path(raw)
    if not path.exists():
        return []
    with file_errors(path, "move it away: the exposures of fields on disk are counted from their files"):
        lines = path.read_bytes().splitlines()
    exposures = []
    for line in lines:
        with contextlib.suppress(ValueError):  # pydantic's too
            exposures.append(LightExposure.model_validate(parse_json_line(line)))
    return exposures
