"""Typed lines of ``<data>/qc/<scope>.jsonl``, and ``check.json`` of a batch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import AwareDatetime, Field

from wbcpipe.samples.records import Part, Record

__all__ = [
    "BrokenRule",
    "CheckFinding",
    "CheckResult",
    "FindingStatus",
    "QcEntry",
    "QcKind",
    "QcTarget",
    "RuleName",
]

QcKind = Literal["night_check", "control", "note", "target"]
RuleName = Literal["1-2s", "1-3s", "2-2s", "R-4s", "4-1s", "10x"]
#: ``drift``: beyond a limit; ``fail``: the check itself failed; ``baseline``: recorded, nothing to
#: compare with yet.
FindingStatus = Literal["ok", "warn", "drift", "fail", "baseline"]


class QcTarget(Part):
    """Mean and standard deviation that a laboratory sets for a figure, in place of the measured
    baseline.
    """

    mean: float = Field(allow_inf_nan=False)
    sd: float = Field(gt=0, allow_inf_nan=False)


class QcEntry(Part):
    """One line of a scope's quality-control file.

    Attributes:
        time: in UTC.
        kind: ``night_check`` and ``control`` hold figures; ``note`` a comment of the operator;
            ``target`` a target.
        batch, sample: which they belong to; empty where none.
        slot: of the stage insert, of a night check.
        material: the control slide's id, so that slides of different blood are not compared; empty
            for a night check.
        figures: name to value; `figures.describe` gives title and unit of each.
        shading: of a night check: modality to the shape of its illumination, 8 rows of 8 tiles, 1
            on average.
        versions: what the figures depend on: ``calibration``, ``setup``, ``bundle`` (hashes), and
            ``wbcpipe``.
        comment: for people.
        new_baseline: a new period begins with this line: earlier figures are not compared with
            later ones.
        figure, target: of a target; without ``target`` the measured baseline counts again.
        by: user and computer, of a note or target.
    """

    time: AwareDatetime
    kind: QcKind
    batch: str = ""
    sample: str = ""
    slot: str = ""
    material: str = ""
    figures: dict[str, float] = Field(default_factory=dict)
    shading: dict[str, tuple[tuple[float, ...], ...]] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    comment: str = ""
    new_baseline: bool = False
    figure: str = ""
    target: QcTarget | None = None
    by: str = ""


class BrokenRule(Part):
    """A control rule that a figure breaks.

    Attributes:
        figure, title: name of the figure, and for people.
        kind, material: of the figure's entries, see `QcEntry`.
        rule: see `westgard`; ``1-2s`` is a warning only.
        time: of the entry that breaks it.
        value, mean, sd, z: of that entry, and of the baseline.
        text: one sentence for people.
    """

    figure: str
    title: str
    kind: Literal["night_check", "control"]
    material: str = ""
    rule: RuleName
    time: AwareDatetime
    value: float
    mean: float
    sd: float
    z: float
    text: str


class CheckFinding(Part):
    """Result of one comparison of a night's check.

    Attributes:
        name: what was checked.
        status: see `FindingStatus`.
        figure, limit: of the comparison, in the unit that ``detail`` gives; ``None`` where there is
            none.
        detail: what was found and, unless ok, what to do.
    """

    name: str
    status: FindingStatus
    figure: float | None = None
    limit: float | None = None
    detail: str


class CheckResult(Record):
    """``check.json`` of a batch: its last check.

    Attributes:
        time: end of the check.
        scope, slot: where it was made.
        passed: no finding is ``drift`` or ``fail``, and no rule but ``1-2s`` is broken.
        stop_reason: why the batch must not go on; empty where it may.
        findings: of the files, the devices, the disk, and the measurement.
        figures: measured; see `QcEntry`.
        broken_rules: of the control charts, by this check.
        seconds, frames, fluorescence_frames: what it cost.
    """

    remedy: ClassVar[str] = "delete it; the next check writes it anew"

    time: AwareDatetime
    scope: str
    slot: str
    passed: bool
    stop_reason: str = ""
    findings: tuple[CheckFinding, ...]
    figures: dict[str, float] = Field(default_factory=dict)
    broken_rules: tuple[BrokenRule, ...] = ()
    seconds: float = 0.0
    frames: int = 0
    fluorescence_frames: int = 0
