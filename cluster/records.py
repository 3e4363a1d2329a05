"""What the command line and the workers tell each other: small typed records, never arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field

from wbcpipe.samples.records import Count, Part

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "STAGES",
    "BundleChoice",
    "SampleOutcome",
    "SampleTask",
    "Stage",
    "StageRecord",
    "StageState",
    "Traffic",
]

Stage = Literal["segment", "classify", "report"]
StageState = Literal["done", "already", "failed"]
STAGES: Final[tuple[Stage, ...]] = ("segment", "classify", "report")
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class BundleChoice:
    """The model that every worker must find.

    Attributes:
        name: of a shipped bundle, or the path of a folder, the same on every worker.
        title: name of the bundle.
        sha256: of its weights.
        calibration_digest: short hash of its calibration.
        pixel_um: pixel size of the crops that it reads.
    """

    name: str
    title: str
    sha256: str
    calibration_digest: str
    pixel_um: float


@dataclass(frozen=True)
class SampleTask:
    """What a worker needs to know to process one sample; it travels to the workers.

    Attributes:
        data: folder of the samples, or URL of a bucket and prefix.
        sample: name of the sample.
        bundle: the model.
        software: name and version of the client; a worker with another one refuses the task.
        lab: content of the laboratory's file, for samples in a bucket; empty without one.
        scratch: folder on the worker for copies; empty for the worker's own.
        threads: of BLAS and of the network.
        lock_wait_s: time to wait for another process that holds the sample.
    """

    data: str
    sample: str
    bundle: BundleChoice
    software: str
    lab: str = ""
    scratch: str = ""
    threads: int = 1
    lock_wait_s: float = 300.0


class Traffic(Part):
    """What was asked of an object store.

    Attributes:
        requests: number of requests, retries included.
        bytes_down, bytes_up: content that was read and written.
    """

    requests: Count = 0
    bytes_down: Count = 0
    bytes_up: Count = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            requests=self.requests + other.requests,
            bytes_down=self.bytes_down + other.bytes_down,
            bytes_up=self.bytes_up + other.bytes_up,
        )


class StageRecord(Part):
    """The result of one stage of one sample.

    Attributes:
        sample: its name.
        stage: that ran last.
        state: ``done``, ``already`` if the result was complete before, or ``failed``.
        result: ``current``, or the id of a result beside the current one; empty if unknown.
        worker: host and process id.
        seconds, cpu_seconds: time that the stage took.
        peak_mib: highest resident memory of the worker so far.
        resident_mib: resident memory of the worker at the end of the stage.
        traffic: of the stage.
        cells: cells found; ``None`` before segment.
        counts: identified cells by class, of the report.
        error, reason, exit_code: of a stage that failed; the class and text of the error.
    """

    sample: str
    stage: Stage
    state: StageState
    result: str = ""
    worker: str = ""
    seconds: NotNegative = 0.0
    cpu_seconds: NotNegative = 0.0
    peak_mib: NotNegative = 0.0
    resident_mib: NotNegative = 0.0
    traffic: Traffic = Traffic()
    cells: Count | None = None
    counts: dict[str, Count] = Field(default_factory=dict)
    error: str = ""
    reason: str = ""
    exit_code: int = 0


@dataclass(frozen=True)
class SampleOutcome:
    """What became of one sample.

    Attributes:
        sample: its name.
        stages: the records of its stages, in order, up to one that failed.
    """

    sample: str
    stages: tuple[StageRecord, ...]

    @property
    def last(self) -> StageRecord:
        """The record of the last stage."""
        return self.stages[-1]

    @property
    def state(self) -> StageState:
        """``done``, ``already`` or ``failed``."""
        return self.last.state

    @property
    def traffic(self) -> Traffic:
        """What all stages asked of an object store."""
        return sum((stage.traffic for stage in self.stages), Traffic())

    @classmethod
    def of(cls, records: Sequence[StageRecord]) -> SampleOutcome:
        """Combine the records of a sample's stages.

        A stage passes on the record of a failure, or of a result that was complete before; it
        counts once.
        """
        kept: list[StageRecord] = []
        for record in records:
            if not kept or kept[-1].state == "done":
                kept.append(record)
        return cls(kept[0].sample, tuple(kept))
