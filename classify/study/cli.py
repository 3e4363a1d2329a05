"""The command ``study``."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

import click

from wbcpipe.classify.models.classes import BACKBONE_NAMES, METHODS
from wbcpipe.cli.options import OutputFolder, data_option, device_option, json_option
from wbcpipe.cli.progress import Reporter
from wbcpipe.errors import ConfigError, TrainingDataError, WbcpipeError
from wbcpipe.samples.sample import data_root
from wbcpipe.system.child_process import ChildLostError, ChildProcess
from wbcpipe.system.packages import CLASSIFICATION, require

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wbcpipe.classify.study.jobs import GroupBy, Job
    from wbcpipe.classify.study.runner import StudyCells
    from wbcpipe.classify.training.progress import EpochReport
    from wbcpipe.classify.training.recipe import RecipeKeys
    from wbcpipe.system.child_process import ParentLink
    from wbcpipe.system.compute import Device

__all__ = ["StudyRequest", "study"]

#: A network may train for days without a message.
_NEVER_S: Final = 1e6


@dataclass(frozen=True)
class StudyRequest:
    """The options of the command; see their help texts."""

    samples: tuple[str, ...]
    out: Path
    methods: str
    backbones: str
    folds: int
    side: int
    epochs: int | None
    recipe: Literal["published", "default"]
    settings: tuple[str, ...]
    variants: tuple[str, ...]
    min_class_size: int
    group_by: GroupBy
    calibration_fraction: float
    seed: int
    workers: int | None
    threads: int
    tables_only: bool
    device: Device
    data: Path | None
    as_json: bool


@click.command()
@click.argument("samples", nargs=-1, required=True, metavar="SAMPLE...")
@click.option(
    "--out", type=OutputFolder(), required=True, help="Folder of the study; the command resumes it."
)
@click.option(
    "--methods", default="all", show_default=True, help=f"all, or some of {', '.join(METHODS)}."
)
@click.option(
    "--backbones",
    default="shufflenet",
    show_default=True,
    help="Names with commas between them: shufflenet, shufflenet-half, resnet34.",
)
@click.option(
    "--folds",
    type=click.IntRange(min=2),
    default=5,
    show_default=True,
    help="Of the cross-validation.",
)
@click.option(
    "--side",
    type=int,
    default=224,
    show_default=True,
    help="Input side in pixels; 224 is as published.",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    show_default="40; longer ones with --recipe default if cells are few",
    help="Of every network.",
)
@click.option(
    "--recipe",
    type=click.Choice(["published", "default"]),
    default="published",
    show_default=True,
    help="Train as the paper does, or as `wbcpipe train` does.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any key of the recipe, for all networks.",
)
@click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="NAME:KEY=VALUE,...",
    help="Another row: a method with other keys.",
)
@click.option(
    "--min-class-size",
    type=click.IntRange(min=0),
    default=0,
    help="Merge classes of fewer cells into one, 'rare'.",
)
@click.option(
    "--group-by",
    type=click.Choice(["auto", "sample", "field", "cell"]),
    default="auto",
    show_default=True,
    help="What stays in one fold; a sample should be a patient.",
)
@click.option(
    "--calibration-fraction",
    type=click.FloatRange(0.02, 0.5),
    default=0.12,
    show_default=True,
    help="Fraction of the cells not tested on that is kept to calibrate on.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of all random numbers.")
@click.option(
    "--jobs",
    "workers",
    type=click.IntRange(min=1),
    help="Networks that train in parallel. Default: one per GPU, else cores / threads.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="CPU threads of each.",
)
@click.option(
    "--tables-only", is_flag=True, help="Train nothing; write the tables of the results so far."
)
@device_option
@data_option
@json_option
def study(**options: Any) -> None:
    """Compare ways to fuse the modalities on labelled cells: the paper's Table 1 and Figure 4, for
    your own cells.

    SAMPLE is the name of a sample in the data root, the path of a cells.zarr, or a folder of
    `wbcpipe labels export --verified`. Every method is trained and tested on the same folds. The
    same command resumes after a stop; with the same --out, several processes or machines share the
    work, also under torchrun. OUT/study.html, study.md and study.csv contain the tables.

    \b
    Examples:
      wbcpipe study vs1 vs2 vs3 vs4 vs5 --out studies/ours
      wbcpipe study smears --side 64 --epochs 40 --methods single,mm-mimo,mm-mimo-kd --out studies/s
      wbcpipe study smears --out studies/s --variant rho5:method=mm-mimo,input_repetition_prob=0.5
      torchrun --nproc-per-node 4 -m wbcpipe study smears --out studies/s
    """
    request = StudyRequest(**options)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    require(CLASSIFICATION, "a study")
    with Reporter() as reporter:
        reporter.say("loading torch")
        text = _study(request, reporter)
    if text is not None:
        click.echo(text, nl=request.as_json)


def _study(request: StudyRequest, reporter: Reporter) -> str | None:
    """Run the study; return the text for standard output, None in a process that only trains."""
    import torch

    torch.set_num_threads(request.threads)
    gpus = 0 if request.device == "cpu" else torch.cuda.device_count()
    if gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % gpus)
    reporter.say(f"reading the cells of {', '.join(request.samples)}")
    cells, jobs, by = _plan(request)
    first = os.environ.get("RANK", "0") == "0" and "WBCPIPE_STUDY_WORKER" not in os.environ
    if first:
        counts = ", ".join(f"{name} {count}" for name, count in cells.cells.counts().items())
        reporter.say(
            f"{len(cells.cells)} cells ({counts}) in {request.folds} folds, grouped by {by}"
        )
    from wbcpipe.classify.study.runner import check_settings

    check_settings(jobs, request.out, cells)
    if not request.tables_only:
        alone = "WBCPIPE_STUDY_WORKER" in os.environ or "WORLD_SIZE" in os.environ
        default = gpus or max(1, (os.cpu_count() or 1) // request.threads)
        _run(request, jobs, cells, reporter, processes=1 if alone else request.workers or default)
    return _tables(request.out, request.as_json) if first else None


def _run(
    request: StudyRequest,
    jobs: Sequence[Job],
    cells: StudyCells,
    reporter: Reporter,
    *,
    processes: int,
) -> None:
    """Run the jobs in this process and in others.

    Raises:
        TrainingDataError: a process failed, and jobs are left.
    """
    from wbcpipe.classify.study.runner import run_jobs

    others = [_start_worker(number) for number in range(1, processes)]
    try:
        run_jobs(
            jobs,
            request.out,
            cells,
            device=request.device,
            progress=_StudyReporter(jobs, request.out, reporter),
        )
    except BaseException:
        for other in others:
            other.close()
        raise
    failed = [failure for other in others if (failure := _failure_of(other))]
    if failed and _unfinished(jobs, request.out):
        raise TrainingDataError(
            f"{len(failed)} of {processes} processes failed ({failed[0]}); run the same command "
            f"to resume."
        )


def _plan(request: StudyRequest) -> tuple[StudyCells, list[Job], GroupBy]:
    from wbcpipe.classify.study.jobs import group_cells, plan_jobs, split_cells
    from wbcpipe.classify.study.runner import StudyCells
    from wbcpipe.classify.training.data import cell_sources, load_cells
    from wbcpipe.classify.training.recipe import (
        Recipe,
        merge_keys,
        parse_settings,
        with_defaults_for,
    )

    methods = _names(request.methods, METHODS, "method")
    backbones = _names(request.backbones, tuple(BACKBONE_NAMES), "backbone")
    keys: RecipeKeys = {"side": request.side, "start_side": request.side, "seed": request.seed}
    if request.epochs is not None:
        keys["epochs"] = request.epochs
    if request.recipe == "published":
        plain = Recipe.published(**keys).model_dump(mode="json", exclude_defaults=True)
        keys = (
            {key: value for key, value in plain.items() if key != "teacher_epochs"}
            | keys
            | {"normalise": "cell"}
        )
    for text in request.settings:
        keys = merge_keys(keys, parse_settings(text))
    variants = {}
    for text in request.variants:
        name, colon, settings = text.partition(":")
        if not colon:
            raise ConfigError(f"variant {text!r} is not of the form NAME:KEY=VALUE,...")
        variants[name] = parse_settings(settings)
    root = data_root(request.data)
    cells = load_cells(cell_sources(root, request.samples), int(keys["side"]))
    cells = cells.merge_rare_classes(request.min_class_size)
    keys["normalise"] = with_defaults_for(keys, cells.source, len(cells)).get(
        "normalise", "cell"
    )  # one for all rows
    groups, by = group_cells(cells, request.group_by, request.folds)
    jobs = plan_jobs(cells, methods, backbones, request.folds, keys, variants)
    splits = split_cells(
        cells.labels, groups, request.folds, request.calibration_fraction, request.seed
    )
    return StudyCells(cells, splits), jobs, by


def _names(text: str, known: tuple[str, ...], what: str) -> tuple[str, ...]:
    if text == "all":
        return known
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    for name in names:
        if name not in known:
            raise ConfigError(
                f"{what} {name!r} is not known; use all, or some of {', '.join(known)}."
            )
    return names


def _start_worker(number: int) -> ChildProcess[None]:
    """Start this command again in a process that only trains, on a GPU of its own if there are
    several.
    """
    child: ChildProcess[None] = ChildProcess(
        _train_only, number, sys.argv[1:], name=f"wbcpipe-study-{number}", end_s=0
    )
    child.start()
    return child


def _train_only(number: int, words: list[str], _parent: ParentLink) -> None:
    from wbcpipe.cli.commands import cli

    os.environ.update({"WBCPIPE_STUDY_WORKER": "1", "LOCAL_RANK": str(number)})
    with open(os.devnull, "w", encoding="utf-8") as nothing, contextlib.redirect_stdout(nothing):  # noqa: PTH123
        cli.main(args=words, prog_name="wbcpipe", standalone_mode=False)


def _failure_of(child: ChildProcess[None]) -> str:
    """Wait until a process that only trains has ended; return how it failed, or an empty text."""
    try:
        list(child.messages(_NEVER_S))
    except ChildLostError as lost:
        return f"it {lost.reason}"
    except (WbcpipeError, RuntimeError) as error:
        return str(error).rstrip(".")
    finally:
        child.close()
    return ""


def _unfinished(jobs: Sequence[Job], out: Path) -> list[Job]:
    from wbcpipe.classify.study.results import is_done

    return [job for job in jobs if not is_done(job.folder(out))]


class _StudyReporter:
    """Report a line per minute, and one for each finished network, with the time left for the
    study.
    """

    _EVERY_S = 60.0

    def __init__(self, jobs: Sequence[Job], out: Path, reporter: Reporter) -> None:
        self._jobs, self._out, self._reporter = jobs, out, reporter
        self._began_s = self._reported_s = time.monotonic()
        self._first = sum(job.cost for job in _unfinished(jobs, out))

    def __call__(self, job: Job, report: EpochReport | None) -> None:
        """See `runner.run_jobs`."""
        now_s = time.monotonic()
        if report is not None and now_s - self._reported_s < self._EVERY_S:
            return
        self._reported_s = now_s
        unfinished = _unfinished(self._jobs, self._out)
        cost = sum(one.cost for one in unfinished) - (job.cost * report.work if report else 0.0)
        done = self._first - cost
        left = (
            str(timedelta(seconds=round((now_s - self._began_s) * cost / done)))
            if done > 0
            else "?"
        )
        where = f"{job.backbone} {job.name}, fold {job.fold + 1}"
        what = (
            "done"
            if report is None
            else f"epoch {report.epoch}/{report.epochs}, loss {report.loss:.3f}"
        )
        finished = len(self._jobs) - len(unfinished)
        self._reporter.say(f"{where}: {what}; {finished}/{len(self._jobs)} networks, {left} left")


def _tables(out: Path, as_json: bool) -> str:
    from wbcpipe.classify.study.compare import summarise_study
    from wbcpipe.classify.study.results import read_results
    from wbcpipe.classify.study.tables import write_tables

    results = read_results(out)
    if not results:
        raise TrainingDataError(
            f"{out}: there is no result yet; run the study without --tables-only first."
        )
    summary = summarise_study(results)
    text = write_tables(out, summary, results)
    return json.dumps(summary) if as_json else text
