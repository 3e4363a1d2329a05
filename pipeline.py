"""The command line, and ``run``: the four stages in order."""

from __future__ import annotations

import functools
import json
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

import click

from wbcpipe.cli.commands import cli
from wbcpipe.cli.options import (
    data_option,
    deadline_option,
    device_option,
    engine_option,
    json_option,
    scope_option,
    sequencing_option,
    specimen_options,
)
from wbcpipe.errors import InterruptedRunError, WbcpipeError
from wbcpipe.system.signals import ignore_sigint, install_sigint_handler

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wbcpipe.cli.progress import Reporter
    from wbcpipe.report.differential import Differential
    from wbcpipe.samples.sample import Sample
    from wbcpipe.scan.live_count import PrecisionTarget
    from wbcpipe.scan.request import ScanRequest

__all__ = ["cli", "main", "run"]


class _Precision(click.ParamType["PrecisionTarget"]):
    """``CLASS:H%``."""

    name = "precision"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> PrecisionTarget:
        from wbcpipe.scan.live_count import PrecisionTarget, parse_target

        if isinstance(value, PrecisionTarget):
            return value
        try:
            return parse_target(str(value))
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


PRECISION: Final = _Precision()


def run(
    sample: Sample,
    request: ScanRequest | None,
    *,
    kind: str,
    bundle: str,
    device: str = "auto",
    engine: str = "auto",
    reporter: Reporter,
) -> Differential:
    """The four stages of one sample, in order; each does only what is missing.

    Args:
        sample: where everything is kept.
        request: scope, plan and how much to take; ``None`` for imported pictures.
        kind: ``scope``, ``stained-rgb`` or ``stack``: what ``auto`` chooses the bundle by.
        bundle: name or path of the model, or ``auto``.
        device: ``auto``, ``cpu`` or ``cuda``.
        engine: what runs the network, see `classify.inference.engine.engine_for`.
        reporter: shows progress.

    Raises:
        WbcpipeError: any of the stages' errors; the same call goes on where it stopped.
    """
    from wbcpipe.classify.inference.classifier import classify_sample
    from wbcpipe.classify.models.bundle import find_bundle
    from wbcpipe.report.stage import write_report
    from wbcpipe.scan.live_count import check_targets
    from wbcpipe.scan.loop import acquire_and_segment, falls_short
    from wbcpipe.scan.request import check_request

    # First of all: a model or an engine that is not there should not cost a night.
    model = find_bundle(bundle, kind=kind)
    if (device, engine) != ("auto", "auto"):
        from wbcpipe.classify.inference.engine import check_engine

        check_engine(device, engine)
    if request is not None:
        check_targets(request.precision, model.info.classes, model.info.name)
        check_request(sample, request)

    def classified(done: int, total: int) -> None:
        reporter.update("cells classified", done, total)

    take = functools.partial(acquire_and_segment, sample, request, model, device=device, engine=engine)
    call = functools.partial(classify_sample, sample, model, device=device, engine=engine, progress=classified)
    with sample.lock("run"), sample.log_failure("run"):
        end = take(reporter=reporter)  # stages 1 and 2 overlap
        call()  # stage 3
        while end is not None and (short := falls_short(sample, request, end)):
            reporter.say(f"the final count falls short, so the scan goes on: {short}")
            end = take(reporter=reporter, at_least=end.fields_done + 1)
            call()
        return write_report(sample)  # stage 4


@click.command("run")
@click.option("--sample", "name", required=True, metavar="NAME", help="Sample to make, or to go on with.")
@scope_option
@click.option("--slot", default="A", show_default=True, help="The slide's place in the stage insert.")
@click.option(
    "--pass",
    "passes",
    type=click.Choice(["single", "both"]),
    help="All four frames at once, or bright field, the stain and fluorescence [as begun, else single].",
)
@click.option("--stained", is_flag=True, help="With --pass both: the slide is stained already; do not stain it.")
@click.option(
    "--cells",
    type=click.IntRange(min=1),
    help="Cells to count, in 16 fields or more [200, unless --precision is given].",
)
@click.option(
    "--precision",
    multiple=True,
    type=PRECISION,
    metavar="CLASS:H%",
    help="Count until the 95 % interval of the class's share is the share +- H percentage points; may be repeated.",
)
@click.option("--fields", type=click.IntRange(min=1), help="Take exactly so many fields instead.")
@deadline_option
@sequencing_option
@click.option("--bundle", default="auto", show_default=True, help="Name or folder of the model.")
@device_option
@engine_option
@specimen_options
@data_option
@json_option
def run_command(
    name: str,
    scope_name: str,
    slot: str,
    passes: str | None,
    stained: bool,
    cells: int | None,
    precision: tuple[PrecisionTarget, ...],
    fields: int | None,
    deadline_s: float | None,
    sequencing: Literal["auto", "on", "off"] | None,
    bundle: str,
    device: str,
    engine: str,
    specimen_seed: int | None,
    specimen_preparation: str | None,
    data: Path | None,
    as_json: bool,
) -> None:
    """From slide to differential in one go: acquire, segment, classify, report.

    Fields are segmented while the stage moves on, until enough cells are counted. Stopped anywhere, the same command
    goes on and ends in the same result; run again when complete, it only shows it, and tries the fields that were
    missing once more. A sample that was imported skips the microscope.

    \b
    Examples:
      wbcpipe run --sample demo                            a virtual slide on a real Micro-Manager core
      wbcpipe run --sample S001 --scope my-scope.toml --slot B --cells 400
      wbcpipe run --sample S001 --pass both
      wbcpipe run --sample S001 --precision NEU:5% --precision EOS:2% --deadline 06:30
    """
    from rich.console import Console

    from wbcpipe.cli.progress import Reporter
    from wbcpipe.report.stage import document_paths, read_document
    from wbcpipe.report.tables import print_differential
    from wbcpipe.samples.sample import Sample, data_root

    sample = Sample.open(data_root(data), name)
    kind = str(sample.info().get("kind", "scope")) if sample.exists() else "scope"
    request = None
    if kind == "scope":
        from wbcpipe.acquire.cli import specimen_for
        from wbcpipe.acquire.config.scope import load_scope
        from wbcpipe.acquire.plan import AcquisitionPlan
        from wbcpipe.scan.request import ScanRequest

        scope = load_scope(scope_name).with_sequencing(sequencing)
        plan = AcquisitionPlan.from_scope(scope, slot)
        specimen = specimen_for(scope, specimen_seed, specimen_preparation)
        cells = 200 if cells is None and not precision else cells
        begun = str(sample.info().get("protocol", "single")) if sample.exists() else "single"
        two_pass = passes == "both" or (passes is None and begun == "two-pass")
        request = ScanRequest(
            scope, plan, specimen, cells, fields, precision, deadline_s, two_pass=two_pass, stained=stained
        )
    with Reporter(quiet=as_json) as reporter:
        run(sample, request, kind=kind, bundle=bundle, device=device, engine=engine, reporter=reporter)
    if as_json:
        click.echo(json.dumps(read_document(sample)))
    else:
        print_differential(read_document(sample), document_paths(sample), Console(highlight=False))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and end the process with the exit code that belongs to what happened."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in arguments or bool(os.environ.get("WBCPIPE_DEBUG"))
    install_sigint_handler()
    try:
        # With standalone_mode off, click returns the code of `ctx.exit`, and what a command returns: here nothing.
        code = cli.main(args=list(arguments), prog_name="wbcpipe", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(_fail(InterruptedRunError("stopped by the operator; the same command goes on."), debug))
    except WbcpipeError as error:
        sys.exit(_fail(error, debug))
    except Exception as error:  # noqa: BLE001 - the outermost boundary: whatever comes here is a defect
        sys.exit(_fail(error, debug))


def _fail(error: BaseException, debug: bool) -> int:
    """Tell of ``error``; gives the exit code, which no further Ctrl-C takes away."""
    ignore_sigint()
    if debug:
        traceback.print_exception(error)
    if isinstance(error, WbcpipeError):
        print(f"wbcpipe: {error}", file=sys.stderr)
        return error.exit_code
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    print(f"wbcpipe: a defect in wbcpipe itself: {what} (`--debug` shows where; please report it)", file=sys.stderr)
    return WbcpipeError.exit_code


if __name__ == "__main__":
    main()
