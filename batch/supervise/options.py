"""How a batch is run: the options of its supervisor."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wbcpipe.batch.sample_process.process import run_sample_job

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.hardware.protocols import Microscope
    from wbcpipe.acquire.plan import PlannedPass
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
    from wbcpipe.batch.records import Phase

__all__ = ["SupervisorOptions"]


def _free_bytes(path: Path) -> int:
    return shutil.disk_usage(path).free


@dataclass(frozen=True)
class SupervisorOptions:
    """How to run a batch.

    Attributes:
        retries: further attempts of a row whose process failed.
        memory_limit_bytes: of the process of a sample and its children; ``None`` for no limit.
        max_processing: samples that are classified and reported at a time, beside the one that is
            scanned.
        limits_s: replaces limits of `phase_limits_s`.
        target: what the process of a sample runs.
        core_log: file for the log of Micro-Manager's core; ``None`` for none.
        openers: by sample: opens the microscope, in place of `open_microscope`.
        free_bytes: tells the free space at a path.
        disk_retry_s: time after which a row that found the disk full is tried again though no space
            was seen to become free: it may have been freed before the supervisor looked. Twice as
            long each time, up to 16 times.
    """

    retries: int = 2
    memory_limit_bytes: int | None = None
    max_processing: int = 2
    limits_s: Mapping[Phase, float] = field(default_factory=dict)
    core_log: Path | None = None
    target: Callable[..., None] = run_sample_job
    openers: Mapping[
        str, Callable[[Scope, SpecimenPlan | None, PlannedPass | None], Microscope]
    ] = field(default_factory=dict)
    free_bytes: Callable[[Path], int] = _free_bytes
    disk_retry_s: float = 60.0
