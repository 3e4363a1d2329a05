"""Runs the passes over a slide in acquisition processes, with the staining between two passes."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from wbcpipe.acquire.capture.sample_record import check_disk_space
from wbcpipe.acquire.loader.workflow import load_slide
from wbcpipe.acquire.open_microscope import open_for_staining, restore_truth
from wbcpipe.acquire.staining.workflow import is_stained, mark_stained, remaining_s, stain
from wbcpipe.acquire.supervise.messages import (
    DeadlinePassed,
    FieldEmpty,
    FieldMissing,
    FieldTaken,
    Progress,
)
from wbcpipe.acquire.supervise.worker import AcquisitionWorker
from wbcpipe.errors import AcquisitionError, ConfigError, SampleStateError
from wbcpipe.samples.field_status import read_missing, read_skipped
from wbcpipe.samples.fields import fields_on_disk
from wbcpipe.samples.staining_record import staining_state

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.request import AcquisitionRequest
    from wbcpipe.samples.fields import Pass
    from wbcpipe.samples.sample import Sample
    from wbcpipe.system.progress import ProgressReporter

__all__ = [
    "TWO_PASS",
    "PassJob",
    "PassResult",
    "check_bright_field_complete",
    "check_space_for_passes",
    "load_for",
    "no_field_before_deadline",
    "passes_to_take",
    "slide_is_stained",
    "stain_between_passes",
    "take_pass",
    "take_passes",
]

_log = logging.getLogger(__name__)

#: The passes of ``--protocol two-pass``, in order.
TWO_PASS: Final[tuple[Pass, ...]] = ("brightfield", "fluorescence")


@dataclass
class PassResult:
    """Result of a pass, by field.

    Attributes:
        taken: Indices of the fields on disk.
        missing: Index to reason of the fields that could not be taken.
        empty: Indices of the fields skipped as bare glass.
        in_time: False if the deadline ended the pass.
    """

    taken: list[int] = field(default_factory=list)
    missing: dict[int, str] = field(default_factory=dict)
    empty: list[int] = field(default_factory=list)
    in_time: bool = True

    @property
    def done(self) -> list[int]:
        """Indices of the fields that are taken, missing or empty, in order."""
        return sorted({*self.taken, *self.missing, *self.empty})


@dataclass(frozen=True)
class PassJob:
    """Passes to take one after the other.

    Attributes:
        request: Request of any of the passes.
        passes: Passes in order.
        n_fields: Number of planned fields of each pass.
        stain: Stain the slide before the fluorescence pass.
        already_stained: The operator states that the slide is stained.
    """

    request: AcquisitionRequest
    passes: tuple[Pass, ...]
    n_fields: int
    stain: bool = False
    already_stained: bool = False


def no_field_before_deadline(sample: Sample) -> AcquisitionError:
    """Return the error of `acquire` and `run` when the deadline passed before any field was
    taken.
    """
    return AcquisitionError(
        f"sample {sample.name!r}: the deadline passed before any field was taken; run again with "
        f"a later one."
    )


def passes_to_take(
    sample: Sample, passes: tuple[Pass, ...], *, already_stained: bool
) -> tuple[Pass, ...]:
    """Return the requested passes without the bright field of a slide that is stained.

    Args:
        sample: On disk or not.
        passes: `TWO_PASS`, or a single pass.
        already_stained: The operator states that the slide is stained.

    Raises:
        ConfigError: ``already_stained`` without both passes.
        SampleStateError: The slide is stained, and bright field is requested or was never taken; or
            an earlier staining did not end, and the operator has not stated whether the slide is
            stained.
    """
    if already_stained and passes != TWO_PASS:
        raise ConfigError(
            f"--already-stained is for --protocol two-pass, and the {passes[0]} pass is "
            f"requested; leave it out. --pass fluorescence always assumes a stained slide."
        )
    if passes == ("single",):
        return passes
    # A request for fluorescence alone states that the slide is stained, whatever is recorded of it.
    stained = already_stained or (
        staining_state(sample) in ("incubating", "stained")
        if passes == ("fluorescence",)
        else slide_is_stained(sample)
    )
    if not stained:
        return passes
    if not fields_on_disk(sample.raw_path("brightfield")):
        raise SampleStateError(
            f"sample {sample.name!r}: the slide is recorded as stained, but no bright field of it "
            f"was taken, and it can no longer be taken. Use another slide; or take this one as "
            "another sample, with --protocol one-pass. "
            f"If it is not stained: leave --already-stained out, and delete "
            f"{sample.path / 'raw' / 'staining.json'} "
            "if that file exists."
        )
    if passes == ("brightfield",):
        raise SampleStateError(
            f"sample {sample.name!r}: the slide is stained, so its bright field differs from that "
            f"of the first pass; go on with --pass fluorescence."
        )
    return ("fluorescence",)


def check_space_for_passes(
    sample: Sample, scope: Scope, passes: Sequence[Pass], n_fields: int
) -> None:
    """Check that the missing fields of all passes over the first ``n_fields`` fit on the disk
    together.

    Raises:
        DiskFullError: They do not; nothing was written.
    """
    first = sample.raw_path("brightfield")
    to_take: dict[Pass, int] = {}
    for name in passes:
        known = {*fields_on_disk(sample.raw_path(name)), *read_skipped(sample.raw_path(name))}
        possible = set(range(n_fields)).difference(
            read_skipped(first) if name == "fluorescence" else ()
        )
        if tuple(passes) == ("fluorescence",):
            possible &= set(fields_on_disk(first))  # no more bright field can be added
        to_take[name] = len(possible - known)
    check_disk_space(sample.path, scope, to_take)


def load_for(request: AcquisitionRequest, reporter: ProgressReporter) -> None:
    """Bring the slide of a request to the stage, if a loader does that. Raises as `load_slide`."""
    if request.load is not None:
        load_slide(request.load, ask=reporter.confirm, say=reporter.say)


def take_pass(
    request: AcquisitionRequest,
    n_fields: int,
    reporter: ProgressReporter,
    begin: Callable[[], float | None] | None = None,
) -> PassResult:
    """Take the first ``n_fields`` planned fields in an acquisition process and show the progress.

    Args:
        request: the pass.
        n_fields: number of fields.
        reporter: shows the progress.
        begin: called when the process has started, before the microscope opens; returns the
            deadline, which replaces that of ``request``.
    """
    with AcquisitionWorker(request) as worker:
        if begin is not None:
            worker.set_deadline(begin())
        load_for(request, reporter)  # the process opens the microscope at the first request
        worker.request_fields(n_fields)
        _log.info(
            "sample %s: pass %s, %d fields asked for, scope %s",
            request.sample.name,
            request.pass_name,
            n_fields,
            request.scope.name,
        )
        result = _follow(worker, n_fields, reporter)
    _log.info(
        "sample %s: pass %s, %d fields taken, %d empty, %d missing",
        request.sample.name,
        request.pass_name,
        len(result.taken),
        len(result.empty),
        len(result.missing),
    )
    return result


def _follow(worker: AcquisitionWorker, n_fields: int, reporter: ProgressReporter) -> PassResult:
    result = PassResult()
    pass_name = worker.request.pass_name
    title = "fields" if pass_name == "single" else f"fields, {pass_name}"
    for event in worker.events():
        match event:
            case FieldTaken(index=index):
                result.taken.append(index)
            case FieldMissing(index=index, reason=reason):
                result.missing[index] = reason
                reporter.say(f"field {index} is missing: {reason}")
            case FieldEmpty(index=index):
                result.empty.append(index)
            case Progress(text):
                reporter.say(text)
                continue
            case DeadlinePassed():
                result.in_time = False
            case _:
                continue
        reporter.update(title, len(result.done), n_fields)
    return result


def take_passes(job: PassJob, reporter: ProgressReporter) -> dict[Pass, PassResult]:
    """Take passes one after the other.

    Without fluorescence if the deadline leaves no time to stain the slide.

    Raises:
        AcquisitionError: The bright-field pass is not complete enough to stain the slide.
    """
    results: dict[Pass, PassResult] = {}
    restore_truth(job.request)
    for name in job.passes:
        request = replace(job.request, pass_name=name)
        if job.stain and name == "fluorescence":
            reason = stain_between_passes(
                request, job.n_fields, already_stained=job.already_stained, reporter=reporter
            )
            if reason:
                reporter.say(reason)
                results[name] = PassResult(in_time=False)
                break
        if job.stain and name == "brightfield" and request.microscope is None:
            request = replace(request, microscope=open_for_staining)
        results[name] = take_pass(request, job.n_fields, reporter)
    return results


def slide_is_stained(sample: Sample) -> bool:
    """Return whether the slide is stained, so that its bright field can no longer be taken.

    Raises:
        SampleStateError: Staining was started and did not end.
    """
    return bool(fields_on_disk(sample.raw_path("fluorescence"))) or is_stained(sample)


def check_bright_field_complete(sample: Sample, scope: Scope, n_fields: int) -> None:
    """Check that the bright-field pass is complete enough to stain the slide: no bright field can
    be added afterwards.

    Each of the first ``n_fields`` must be on disk, empty, or missing after all attempts; at least
    one must be on disk; and at most ``staining.max_missing_percent`` of the fields that are not
    empty may be missing.

    Raises:
        AcquisitionError: It is not; the slide is not changed.
    """
    raw = sample.raw_path("brightfield")
    taken, empty, wanted = fields_on_disk(raw), read_skipped(raw), range(n_fields)
    missing = {
        index: why
        for index, why in read_missing(raw).items()
        if index not in taken and index in wanted
    }
    n_taken = sum(index in taken for index in wanted)
    n_open = sum(
        index not in taken and index not in missing and index not in empty for index in wanted
    )
    too_many = 100 * len(missing) > scope.staining.max_missing_percent * (n_taken + len(missing))
    if n_open:
        reason = f"{n_open} of {n_fields} bright fields were not taken yet."
    elif missing and (not n_taken or too_many):
        first = min(missing)
        reason = (
            f"{len(missing)} of {n_fields} bright fields are missing, and "
            f"'staining.max_missing_percent' allows "
            f"{scope.staining.max_missing_percent:g} %; the first, field {first}: "
            f"{missing[first].rstrip('.')}."
        )
    elif not n_taken:
        reason = (
            f"all {n_fields} bright fields show bare glass: is there a slide, and is the "
            f"slot right?"
        )
    else:
        return
    or_stain = (
        ", or stain the slide and go on with the fields on disk: --already-stained"
        if n_taken
        else ""
    )
    raise AcquisitionError(
        f"sample {sample.name!r}: the slide is not stained: {reason} Correct this and run the "
        f"same command again, which tries these fields once more{or_stain}."
    )


def stain_between_passes(
    request: AcquisitionRequest, n_fields: int, *, already_stained: bool, reporter: ProgressReporter
) -> str:
    """Stain the slide after the bright-field pass, unless that is done.

    Args:
        request: Of either pass: the sample with its bright-field pass, the microscope with its
            staining method, and the deadline; the slide is stained only if fluorescence can start
            before it.
        n_fields: Number of bright fields that were requested.
        already_stained: The operator states that the slide is stained.
        reporter: Shows the progress.

    Returns:
        An empty text once the slide is stained; else why the deadline leaves no time for it.

    Raises:
        AcquisitionError: The bright-field pass is not complete enough to stain the slide.
        SampleStateError: An earlier staining did not end.
        HardwareError: A device or the staining program failed.
    """
    sample, scope, deadline_s = request.sample, request.scope, request.deadline_s
    if already_stained:
        mark_stained(sample)
    if fields_on_disk(sample.raw_path("fluorescence")) or staining_state(sample) == "stained":
        return ""
    incubating = is_stained(sample)
    if deadline_s is not None and time.time() + remaining_s(sample, scope.staining) >= deadline_s:
        state = "is still incubating" if incubating else "is not stained"
        return f"the slide {state}: the deadline leaves no time for that and fluorescence"
    if not incubating:
        check_bright_field_complete(sample, scope, n_fields)
        load_for(request, reporter)
    stain(sample, scope, ask=reporter.confirm, say=reporter.say)
    return ""
