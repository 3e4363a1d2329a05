"""A pass over a slide from the parent's side: a worker followed to its end, and the stain between two passes."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from wbcpipe.errors import ConfigError

if TYPE_CHECKING:
    from wbcpipe.acquire.config import Scope
    from wbcpipe.acquire.frames import Pass
    from wbcpipe.acquire.worker import AcquisitionRequest
    from wbcpipe.progress import Reporter
    from wbcpipe.samples import Sample

__all__ = ["PassOutcome", "bright_field_is_over", "check_staining", "passes_of", "stain_between", "take_pass"]


@dataclass
class PassOutcome:
    """What became of the fields of a pass, as told by its worker.

    Attributes:
        taken: indices on disk.
        missing: index to the reason.
        empty: indices skipped as bare glass.
        in_time: False if the deadline ended it.
    """

    taken: list[int] = field(default_factory=list)
    missing: dict[int, str] = field(default_factory=dict)
    empty: list[int] = field(default_factory=list)
    in_time: bool = True

    @property
    def settled(self) -> list[int]:
        """Indices of which it is known what became of them, in order."""
        return sorted({*self.taken, *self.missing, *self.empty})


def passes_of(choice: str) -> tuple[Pass, ...]:
    """The passes that an option ``--pass`` means, in order."""
    names: dict[str, tuple[Pass, ...]] = {
        "single": ("single",),
        "brightfield": ("brightfield",),
        "fluorescence": ("fluorescence",),
        "both": ("brightfield", "fluorescence"),
    }
    return names[choice]


def take_pass(request: AcquisitionRequest, n_fields: int, reporter: Reporter) -> PassOutcome:
    """Run a worker over the first ``n_fields`` planned fields and show how far it is."""
    from wbcpipe.acquire.worker import (
        AcquisitionWorker,
        DeadlinePassed,
        FieldEmpty,
        FieldMissing,
        FieldTaken,
        Progress,
    )

    outcome = PassOutcome()
    title = "fields" if request.pass_name == "single" else f"fields, {request.pass_name}"
    with AcquisitionWorker(request) as worker:
        worker.want(n_fields)
        for event in worker.events():
            match event:
                case FieldTaken(index=index):
                    outcome.taken.append(index)
                case FieldMissing(index=index, reason=reason):
                    outcome.missing[index] = reason
                    reporter.say(f"field {index} is missing: {reason}")
                case FieldEmpty(index=index):
                    outcome.empty.append(index)
                case Progress(text):
                    reporter.say(text)
                case DeadlinePassed():
                    outcome.in_time = False
                case _:
                    continue
            reporter.update(title, len(outcome.settled), n_fields)
    return outcome


def bright_field_is_over(sample: Sample) -> bool:
    """Whether the slide is stained, so that its bright field can no longer be taken as it was.

    Raises:
        SampleStateError: staining was begun and did not end.
    """
    from wbcpipe.acquire.frames import fields_on_disk
    from wbcpipe.acquire.staining import is_stained

    return bool(fields_on_disk(sample.raw_path("fluorescence"))) or is_stained(sample)


def check_staining(sample: Sample, scope: Scope, *, stained: bool) -> None:
    """Refuse a staining that cannot be, before the first pass costs an hour.

    Raises:
        SampleStateError: an earlier staining did not end.
        ConfigError: the operator must do it and there is none at a terminal.
    """
    over = stained or bright_field_is_over(sample)
    if not over and scope.staining.method == "prompt" and not sys.stdin.isatty():
        raise ConfigError(
            f"scope {scope.name!r}: the slide is stained by hand, and there is no operator at a terminal. Run --pass "
            "brightfield now and --pass fluorescence after the stain, or describe a pump or a program in [staining]."
        )


def stain_between(sample: Sample, scope: Scope, *, stained: bool, reporter: Reporter) -> None:
    """The staining of `acquire --pass both` and `run --pass both`; ``stained`` says that it is done already."""
    from wbcpipe.acquire.staining import mark_stained, stain

    def ask(message: str) -> None:
        click.confirm(f"{message} Done?", abort=True, err=True)

    if stained:
        mark_stained(sample)
    stain(sample, scope, ask=ask, say=reporter.say)
