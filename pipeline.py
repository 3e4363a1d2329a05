"""``run``: the four stages in order; and the end of every command."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import os
import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

import click

from wbcpipe.cli.click_types import ParamType
from wbcpipe.cli.commands import cli
from wbcpipe.cli.options import (
    already_stained_option,
    core_log_option,
    data_option,
    deadline_option,
    device_option,
    engine_option,
    json_option,
    options_into,
    place_option,
    scope_option,
    sequencing_option,
    slot_option,
    specimen_options,
)
from wbcpipe.cli.streams import protect_standard_streams
from wbcpipe.errors import InterruptedRunError, WbcpipeError
from wbcpipe.system.signals import (
    end_at_next_signal,
    install_stop_handlers,
    stop_exit_code,
    stop_reason,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wbcpipe.report.differential import Differential
    from wbcpipe.samples.sample import Sample
    from wbcpipe.scan.request import ScanRequest
    from wbcpipe.scan.targets import PrecisionTarget
    from wbcpipe.scan.turn import ScanTurn
    from wbcpipe.system.compute import Device, EngineName
    from wbcpipe.system.progress import ProgressReporter

__all__ = ["WRITING_REPORT", "ModelChoice", "RunOptions", "cli", "main", "run"]

_log = logging.getLogger(__name__)

#: The last phase of `run`, as its reporter is told.
WRITING_REPORT: Final = "writing the report"


@dataclass(frozen=True)
class ModelChoice:
    """Which model classifies the cells, and what computes it.

    Attributes:
        bundle: name or path of the model, or ``auto``.
        device: ``auto``, ``cpu`` or ``cuda``.
        engine: ``auto``, ``torch`` or ``openvino``; see `classify.inference.select_engine`.
    """

    bundle: str = "auto"
    device: Device = "auto"
    engine: EngineName = "auto"


def run(
    sample: Sample,
    request: ScanRequest | None = None,
    *,
    model: ModelChoice | None = None,
    reporter: ProgressReporter | None = None,
    turn: ScanTurn | None = None,
) -> Differential:
    """Run the four stages of one sample, in order; each does only what is missing.

    If a call is interrupted, the same call resumes it and gives the same result. The sample is
    locked meanwhile.

    Args:
        sample: the sample, which is created if it does not exist.
        request: scope, plan and targets; ``None`` for imported images.
        model: the model, and what computes it; by default what fits the sample and the computer.
        reporter: receives progress, and asks the operator; by default a `CallbackReporter` without
            callbacks, which logs.
        turn: at the microscope, where samples share it; everything slow is loaded before it begins.

    Returns:
        The differential that the report shows.

    Raises:
        MissingPackageError: torch, or for a scan the microscope's core, is not installed.
        WbcpipeError: any error of the stages; the same call resumes.

    Example:
        ``wbcpipe.run(sample, wbcpipe.ScanRequest.from_scope(wbcpipe.load_scope("demo")))``
    """
    from wbcpipe.system.packages import CLASSIFICATION, require

    # First of all: a missing package, model or engine must not cost a night.
    require(CLASSIFICATION, "classifying cells")
    from wbcpipe.classify.models.bundle import find_bundle
    from wbcpipe.classify.stage import ClassifyOptions, classify_cells
    from wbcpipe.report.stage import write_documents
    from wbcpipe.scan.live_count import CountingModel
    from wbcpipe.scan.loop import acquire_and_segment, unmet_targets
    from wbcpipe.scan.request import check_request
    from wbcpipe.scan.targets import check_targets
    from wbcpipe.scan.turn import ScanTurn
    from wbcpipe.system.progress import CallbackReporter

    model, reporter, turn = (
        model or ModelChoice(),
        reporter or CallbackReporter(),
        turn or ScanTurn(),
    )
    reporter.start_phase("loading the model")
    bundle = find_bundle(
        model.bundle, kind="scope" if request is not None else sample.record().kind
    )
    _log.info("sample %s: model %s, %s", sample.name, bundle.info.name, bundle.path)
    if (model.device, model.engine) != ("auto", "auto"):
        from wbcpipe.classify.inference.select_engine import check_engine

        check_engine(model.device, model.engine)
    if request is not None:
        if isinstance(reporter, CallbackReporter) and reporter.operator is not None:
            request = dataclasses.replace(request, operator_answers=True)
        check_targets(request.precision, bundle.info.classes, bundle.info.name)
        check_request(sample, request)

    scan = functools.partial(
        acquire_and_segment,
        sample,
        request,
        CountingModel(bundle, model.device, model.engine),
        reporter=reporter,
        turn=turn,
    )
    options = ClassifyOptions(device=model.device, engine=model.engine)
    classify = functools.partial(classify_cells, sample, bundle, options, progress=reporter.update)
    with turn, sample.lock("run"), sample.log_failure("run"):
        outcome = scan()  # stages 1 and 2 overlap
        classify()  # stage 3
        while outcome is not None and (unmet := unmet_targets(sample, request, outcome)):
            reporter.say(f"the final count misses a target, so the scan continues: {unmet}")
            outcome = scan(at_least=outcome.fields_done + 1)
            classify()
        reporter.start_phase(WRITING_REPORT)
        return write_documents(sample)  # stage 4


class _Precision(ParamType["PrecisionTarget"]):
    """``CLASS:H%``."""

    name = "precision"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> PrecisionTarget:
        from wbcpipe.scan.targets import PrecisionTarget, parse_target

        if isinstance(value, PrecisionTarget):
            return value
        try:
            return parse_target(str(value))
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


PRECISION: Final = _Precision()


@dataclass(frozen=True)
class RunOptions:
    """The options of ``run``, by their names on the command line; see its help."""

    name: str
    slide: str
    scope_name: str
    slot: str | None
    place: int | None
    protocol: Literal["one-pass", "two-pass"] | None
    already_stained: bool
    cells: int | None
    precision: tuple[PrecisionTarget, ...]
    fields: int | None
    deadline_s: float | None
    sequencing: Literal["auto", "on", "off"] | None
    core_log: Path | None
    bundle: str
    device: Device
    engine: EngineName
    specimen_seed: int | None
    specimen_preparation: str | None
    data: Path | None
    as_json: bool


@click.command("run")
@click.option(
    "--sample", "name", required=True, metavar="NAME", help="The sample to create or to resume."
)
@click.option(
    "--slide",
    default="",
    metavar="ID",
    help="Id of the slide, as its label has it [the sample's name].",
)
@scope_option
@slot_option
@place_option
@click.option(
    "--protocol",
    type=click.Choice(["one-pass", "two-pass"]),
    help="All four modalities at each field, or bright field, stain, fluorescence [as started, "
    "else one-pass].",
)
@already_stained_option
@click.option(
    "--cells",
    type=click.IntRange(min=1),
    help="Number of cells to count, in 16 fields or more [200, unless --precision is given].",
)
@click.option(
    "--precision",
    multiple=True,
    type=PRECISION,
    metavar="CLASS:H%",
    help="Count until the 95 % interval of the class's share is the share +- H percentage points; "
    "may be repeated.",
)
@click.option(
    "--fields", type=click.IntRange(min=1), help="Take exactly this number of fields instead."
)
@deadline_option
@sequencing_option
@core_log_option
@click.option("--bundle", default="auto", show_default=True, help="Name or folder of the model.")
@device_option
@engine_option
@specimen_options
@data_option
@json_option
@options_into(RunOptions)
def run_command(options: RunOptions) -> None:
    """Go from slide to differential in one command: acquire, segment, classify, report.

    Fields are segmented while the stage moves, until enough cells are counted. If the run stops,
    the same command resumes it and gives the same result. Run again on a finished sample, it tries
    the missing fields once more and shows the result. An imported sample needs no microscope.

    \b
    Examples:
      wbcpipe run --sample demo      a virtual slide on a real Micro-Manager core
      wbcpipe run --sample S001 --scope my-scope.toml --slot B --cells 400
      wbcpipe run --sample S001 --slide 4711-3 --scope hotel --place 7    from a slide hotel
      wbcpipe run --sample S001 --protocol two-pass
      wbcpipe run --sample S001 --precision NEU:5% --precision EOS:2% --deadline 06:30
    """
    from rich.console import Console

    from wbcpipe.cli.progress import Reporter
    from wbcpipe.report.document import document_paths, read_document
    from wbcpipe.report.tables import print_differential
    from wbcpipe.samples.sample import Sample, data_root

    sample = Sample.open(data_root(options.data), options.name)
    kind = sample.record().kind if sample.exists() else "scope"
    request = _scan_request(sample, options) if kind == "scope" else None
    model = ModelChoice(options.bundle, options.device, options.engine)
    with Reporter(quiet=options.as_json) as reporter:
        run(sample, request, model=model, reporter=reporter)
    if options.as_json:
        click.echo(json.dumps(read_document(sample).content()))
    else:
        print_differential(read_document(sample), document_paths(sample), Console(highlight=False))


def _scan_request(sample: Sample, options: RunOptions) -> ScanRequest:
    """Return what the options ask for; a sample that exists keeps its protocol."""
    from wbcpipe.acquire.config.scope import load_scope
    from wbcpipe.acquire.loader.checks import load_request, slot_for
    from wbcpipe.acquire.open_microscope import specimen_for
    from wbcpipe.acquire.plan import AcquisitionPlan
    from wbcpipe.scan.request import ScanRequest

    scope = (
        load_scope(options.scope_name)
        .with_sequencing(options.sequencing)
        .with_core_log(options.core_log)
    )
    slide = options.slide or (sample.record().slide if sample.exists() else None) or sample.name
    started = sample.record().protocol if sample.exists() else "one-pass"
    return ScanRequest(
        scope=scope,
        plan=AcquisitionPlan.from_scope(scope, slot_for(scope, options.slot)),
        slide=slide,
        load=load_request(scope, sample.path.parent, slide, options.place),
        specimen=specimen_for(scope, options.specimen_seed, options.specimen_preparation),
        cells=200 if options.cells is None and not options.precision else options.cells,
        fields=options.fields,
        precision=options.precision,
        deadline_s=options.deadline_s,
        two_pass=(options.protocol or started) == "two-pass",
        already_stained=options.already_stained,
    )


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and end the process with the exit code of the result."""
    install_stop_handlers()
    protect_standard_streams()
    code = stop_exit_code()
    with contextlib.suppress(KeyboardInterrupt):  # a signal after the command has ended
        code = _run_command_line(sys.argv[1:] if arguments is None else list(arguments))
    end_at_next_signal(code)
    sys.exit(code)


def _run_command_line(arguments: list[str]) -> int:
    """Run the command and print the error that ends it; return the exit code."""
    debug = "--debug" in arguments or bool(os.environ.get("WBCPIPE_DEBUG"))
    try:
        # With standalone_mode off, click returns the code of `ctx.exit`, or what a command returns:
        # here nothing.
        code = cli.main(args=arguments, prog_name="wbcpipe", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _fail(
            InterruptedRunError(f"{stop_reason()}; run the same command again to resume."), debug
        )
    except Exception as error:  # noqa: BLE001 - the outermost boundary: an error of another type is a defect
        from wbcpipe.system.storage import explained

        return _fail(explained(error), debug)


def _fail(error: BaseException, debug: bool) -> int:
    """Print ``error`` and return its exit code."""
    if debug:
        traceback.print_exception(error)
    if isinstance(error, WbcpipeError):
        _print_error(str(error))
        return stop_exit_code() if isinstance(error, InterruptedRunError) else error.exit_code
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    _print_error(f"a defect in wbcpipe itself: {what} (`--debug` shows where; please report it)")
    return WbcpipeError.exit_code


def _print_error(text: str) -> None:
    # click.echo would write UTF-8 to a console that has none of it.
    print(f"wbcpipe: {text}", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    main()
