"""A pass over a slide from the parent's side: a worker followed to its end, and the stain between two passes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import click

from wbcpipe.acquire.staining.checks import open_checked
from wbcpipe.errors import AcquisitionError, ConfigError, SampleStateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.request import AcquisitionRequest
    from wbcpipe.cli.progress import Reporter
    from wbcpipe.samples.fields import Pass
    from wbcpipe.samples.sample import Sample

__all__ = [
    "PassOutcome",
    "bright_field_is_over",
    "check_bright_field",
    "check_room",
    "nothing_in_time",
    "passes_to_take",
    "stain_between",
    "take_pass",
    "take_passes",
]


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


def nothing_in_time(sample: Sample) -> AcquisitionError:
    """What `acquire` and `run` end with where the deadline left them nothing to show."""
    return AcquisitionError(
        f"sample {sample.name!r}: the deadline passed before any field was taken; run again with a later one."
    )


def passes_to_take(sample: Sample, choice: str, *, stained: bool) -> tuple[Pass, ...]:
    """The passes that an option ``--pass`` means, in order, without the bright field of a slide that is stained.

    Args:
        sample: on disk or not.
        choice: of the option.
        stained: the operator says that the slide is stained.

    Raises:
        ConfigError: the operator says so where it has no meaning.
        SampleStateError: the slide is stained, and its bright field is asked for, or is not there; or an earlier
            staining did not end, and nobody says whether it is stained.
    """
    from wbcpipe.acquire.staining.workflow import staining_state
    from wbcpipe.samples.fields import fields_on_disk

    names: dict[str, tuple[Pass, ...]] = {
        "single": ("single",),
        "brightfield": ("brightfield",),
        "fluorescence": ("fluorescence",),
        "both": ("brightfield", "fluorescence"),
    }
    if stained and choice != "both":
        raise ConfigError(
            f"--stained is for --pass both, and --pass {choice} is asked for; leave it out: --pass fluorescence says "
            "that by itself."
        )
    if choice == "single":
        return names[choice]
    # Who asks for fluorescence alone says with that that the slide is stained, whatever was noted of it.
    over = stained or (
        staining_state(sample) in ("incubating", "stained")
        if choice == "fluorescence"
        else bright_field_is_over(sample)
    )
    if not over:
        return names[choice]
    if not fields_on_disk(sample.raw_path("brightfield")):
        raise SampleStateError(
            f"sample {sample.name!r}: the slide counts as stained, and no bright field of it was taken, which cannot "
            "be made up for. Take another slide; or take this one as it is, as another sample, with --pass single. If "
            "it is not stained: leave --stained out, and delete "
            f"{sample.path / 'raw' / 'staining.json'} if it is there."
        )
    if choice == "brightfield":
        raise SampleStateError(
            f"sample {sample.name!r}: the slide is stained, its bright field is no longer that of the first pass; go "
            "on with --pass fluorescence."
        )
    return ("fluorescence",)


def check_room(sample: Sample, scope: Scope, passes: Sequence[Pass], n_fields: int) -> None:
    """See that what is to come of some passes over the first ``n_fields`` fits on the disk, all of it together.

    Raises:
        DiskFullError: it does not; nothing was written.
    """
    from wbcpipe.acquire.capture.sample_record import check_disk_space
    from wbcpipe.samples.field_status import read_skipped
    from wbcpipe.samples.fields import fields_on_disk

    first = sample.raw_path("brightfield")
    to_come: dict[Pass, int] = {}
    for name in passes:
        there = {*fields_on_disk(sample.raw_path(name)), *read_skipped(sample.raw_path(name))}
        possible = set(range(n_fields)).difference(read_skipped(first) if name == "fluorescence" else ())
        if tuple(passes) == ("fluorescence",):
            possible &= set(fields_on_disk(first))  # there will be no more of them
        to_come[name] = len(possible - there)
    name, *later = to_come
    check_disk_space(sample.path, scope, to_come[name], pass_name=name, then={one: to_come[one] for one in later})


def take_pass(request: AcquisitionRequest, n_fields: int, reporter: Reporter) -> PassOutcome:
    """Run a worker over the first ``n_fields`` planned fields and show how far it is."""
    from wbcpipe.acquire.supervise.messages import DeadlinePassed, FieldEmpty, FieldMissing, FieldTaken, Progress
    from wbcpipe.acquire.supervise.worker import AcquisitionWorker

    outcome = PassOutcome()
    title = "fields" if request.pass_name == "single" else f"fields, {request.pass_name}"
    with AcquisitionWorker(request) as worker:
        worker.request_fields(n_fields)
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


def take_passes(
    request: AcquisitionRequest,
    passes: Sequence[Pass],
    n_fields: int,
    reporter: Reporter,
    *,
    stain: bool,
    stained: bool,
) -> dict[Pass, PassOutcome]:
    """Take passes one after the other; ``stain`` before the fluorescence, which is not taken if that cannot be.

    Args:
        request: of any pass.
        passes: in order.
        n_fields: planned fields of each.
        reporter: shows progress.
        stain: see that the slide is stained, as `stain_between` does.
        stained: the operator says that it is stained already.

    Raises:
        AcquisitionError: the bright-field pass is not worth a stain.
    """
    outcomes: dict[Pass, PassOutcome] = {}
    for name in passes:
        if stain and name == "fluorescence":
            hindrance = stain_between(
                request.sample,
                request.scope,
                n_fields,
                deadline_s=request.deadline_s,
                stained=stained,
                reporter=reporter,
            )
            if hindrance:
                reporter.say(hindrance)
                outcomes[name] = PassOutcome(in_time=False)
                break
        this = replace(request, pass_name=name)
        if stain and name == "brightfield" and this.microscope is None:
            this = replace(this, microscope=open_checked)
        outcomes[name] = take_pass(this, n_fields, reporter)
    return outcomes


def bright_field_is_over(sample: Sample) -> bool:
    """Whether the slide is stained, so that its bright field can no longer be taken as it was.

    Raises:
        SampleStateError: staining was begun and did not end.
    """
    from wbcpipe.acquire.staining.workflow import is_stained
    from wbcpipe.samples.fields import fields_on_disk

    return bool(fields_on_disk(sample.raw_path("fluorescence"))) or is_stained(sample)


def check_bright_field(sample: Sample, scope: Scope, n_fields: int) -> None:
    """See that the bright-field pass is worth a stain: nothing can be added to it afterwards.

    It came to its end: each of the first ``n_fields`` is on disk, empty, or missing after all attempts. Something is on
    disk. And of what is not empty no more is missing than ``staining.max_missing_percent`` allows.

    Raises:
        AcquisitionError: it is not; the slide is as it was.
    """
    from wbcpipe.samples.field_status import read_missing, read_skipped
    from wbcpipe.samples.fields import fields_on_disk

    raw = sample.raw_path("brightfield")
    taken, empty, wanted = fields_on_disk(raw), read_skipped(raw), range(n_fields)
    missing = {index: why for index, why in read_missing(raw).items() if index not in taken and index in wanted}
    here = sum(index in taken for index in wanted)
    hindrance = ""
    if open_ := sum(index not in taken and index not in missing and index not in empty for index in wanted):
        hindrance = f"{open_} of {n_fields} bright fields were not taken yet."
    elif missing and (not here or 100 * len(missing) > scope.staining.max_missing_percent * (here + len(missing))):
        first = min(missing)
        hindrance = (
            f"{len(missing)} of {n_fields} bright fields are missing, and 'staining.max_missing_percent' allows "
            f"{scope.staining.max_missing_percent:g} %; the first, field {first}: {missing[first].rstrip('.')}."
        )
    elif not here:
        hindrance = f"all {n_fields} bright fields show bare glass: is there a slide, and the right area of it?"
    if hindrance:
        stained_anyway = ", or stain the slide and go on with those there are: --stained" if here else ""
        raise AcquisitionError(
            f"sample {sample.name!r}: the slide is not stained: {hindrance} Put this right and run the same command "
            f"again, which tries them once more{stained_anyway}."
        )


def stain_between(
    sample: Sample, scope: Scope, n_fields: int, *, deadline_s: float | None, stained: bool, reporter: Reporter
) -> str:
    """The staining of `acquire --pass both` and `run --pass both`.

    Args:
        sample: its bright-field pass was taken as far as it could be.
        scope: how to stain.
        n_fields: bright fields that were wanted.
        deadline_s: of `time.time`: the slide is not stained unless fluorescence can be begun before it.
        stained: the operator says that it is done already.
        reporter: told what is being done.

    Returns:
        An empty text once the slide is stained; else why the deadline hindered it.

    Raises:
        AcquisitionError: the bright-field pass is not worth a stain.
        SampleStateError: an earlier staining did not end.
        HardwareError: a device or the program failed.
    """
    from wbcpipe.acquire.staining.workflow import is_stained, left_s, mark_stained, stain, staining_state
    from wbcpipe.samples.fields import fields_on_disk

    if stained:
        mark_stained(sample)
    if fields_on_disk(sample.raw_path("fluorescence")) or staining_state(sample) == "stained":
        return ""
    under_way = is_stained(sample)
    if deadline_s is not None and time.time() + left_s(sample, scope.staining) >= deadline_s:
        state = "incubates still" if under_way else "is not stained"
        return f"the slide {state}: the deadline leaves no time for that and fluorescence"
    if not under_way:
        check_bright_field(sample, scope, n_fields)

    def ask(message: str) -> None:
        with reporter.paused():
            click.confirm(f"{message} Done?", abort=True, err=True)

    stain(sample, scope, ask=ask, say=reporter.say)
    return ""
