"""``light.jsonl`` of a pass: every fluorescence exposure of the slide."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pydantic import ValidationError

from wbcpipe.samples.records import LightExposure

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
    """Read the exposures of a pass; a line that a crash cut short is left out.

    Args:
        raw: folder of the pass.
    """
    path = light_path(raw)
    exposures = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        with contextlib.suppress(ValidationError):
            exposures.append(LightExposure.model_validate_json(line))
    return exposures
