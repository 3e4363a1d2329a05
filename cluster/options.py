"""Options of the command ``process``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ProcessOptions"]


@dataclass(frozen=True)
class ProcessOptions:
    """Options of ``wbcpipe process``; see its help."""

    names: tuple[str, ...]
    everything: bool
    where: str | None
    data: str | None
    bundle: str
    scheduler: str | None
    workers: int | None
    tls: bool
    scratch: Path | None
    lab: Path | None
    changes: Path | None
    as_json: bool
