"""The command ``study``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wbcpipe.classify.models.classes import BACKBONE_NAMES
from wbcpipe.cli.options import data_option, device_option, json_option
from wbcpipe.errors import ConfigError, TrainingDataError
from wbcpipe.samples.sample import data_root

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wbcpipe.classify.study.jobs import Job
    from wbcpipe.classify.study.runner import StudyCells
    from wbcpipe.classify.training.progress import EpochReport

__all__ = ["study"]

# Repeated from `jobs`, which must not be imported before --help has answered.
_METHODS = ("single", "early-fusion", "late-fusion", "mm-mimo", "early-fusion-kd", "mm-mimo-kd")


@click.command()
@click.argument("samples", nargs=-1, required=True, metavar="SAMPLE...")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder of the study, made or gone on with."
)
@click.option("--methods", default="all", show_default=True, help=f"all, or some of {', '.join(_METHODS)}.")
@click.option(
    "--backbones", default="shufflenet", show_default=True, help="shufflenet, resnet34, or shufflenet,resnet34."
)
@click.option("--folds", type=click.IntRange(min=2), default=5, show_default=True, help="Of the cross-validation.")
@click.option("--side", type=int, default=224, show_default=True, help="Input side in pixels; 224 is as published.")
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    show_default="40; by our recipe each is longer where cells are few",
    help="Of every network.",
)
@click.option("--published/--ours", default=True, help="Train as the paper does, or by our recipe.", show_default=True)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any key of the recipe, for all networks.")
@click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="NAME:KEY=VALUE,...",
    help="Another row: a method with keys of its own.",
)
@click.option("--merge-below", type=click.IntRange(min=0), default=0, help="Make classes of fewer cells one, 'rare'.")
@click.option(
    "--group-by",
    type=click.Choice(["auto", "sample", "field", "cell"]),
    default="auto",
    show_default=True,
    help="What never parts over folds; a sample should be a patient.",
)
@click.option("--held", type=click.FloatRange(0.02, 0.5), default=0.12, show_default=True, help="Kept to calibrate on.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything random.")
@click.option(
    "--jobs",
    "workers",
    type=click.IntRange(min=1),
    help="Networks at a time. Default: a GPU each, else cores / threads.",
)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads of each.")
@click.option("--tables-only", is_flag=True, help="Train nothing; write the tables of what is there.")
@device_option
@data_option
@json_option
def study(
    samples: tuple[str, ...],
    out: Path,
    methods: str,
    backbones: str,
    folds: int,
    merge_below: int,
    group_by: str,
    held: float,
    seed: int,
    workers: int | None,
    threads: int,
    tables_only: bool,
    device: str,
    data: Path | None,
    as_json: bool,
    **recipe: Any,
) -> None:
    """Compare ways to fuse the modalities on labelled cells: the paper's Table 1 and Figure 4, on your own.

    SAMPLE is the name of a sample below the data root, or the path of a cells.zarr. Every method is trained and tested
    on the same folds. The same command goes on after a stop; with the same --out, several processes or machines share
    the work, also under torchrun. OUT/study.html, study.md and study.csv hold the tables.

    \b
    Examples:
      wbcpipe study vs1 vs2 vs3 vs4 vs5 --out studies/ours
      wbcpipe study smears --side 64 --epochs 40 --methods single,late-fusion,mm-mimo,mm-mimo-kd --out studies/s
      wbcpipe study smears --out studies/s --variant rho5:method=mm-mimo,input_repetition_prob=0.5
      torchrun --nproc-per-node 4 -m wbcpipe study smears --out studies/s
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    torch.set_num_threads(threads)
    gpus = 0 if device == "cpu" else torch.cuda.device_count()
    if gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % gpus)
    root = data_root(data)
    cells, jobs, by = _plan(samples, root, methods, backbones, folds, merge_below, group_by, held, seed, recipe)
    counts = ", ".join(f"{name} {count}" for name, count in cells.cells.counts().items())
    rank = int(os.environ.get("RANK", "0"))
    if rank == 0:
        click.echo(f"{len(cells.cells)} cells ({counts}) in {folds} folds that part no {by}", err=True)
    from wbcpipe.classify.study.runner import check_settings, work

    check_settings(jobs, out, cells)
    if not tables_only:
        alone = "WBCPIPE_STUDY_WORKER" in os.environ or "WORLD_SIZE" in os.environ
        count = 1 if alone else workers or gpus or max(1, (os.cpu_count() or 1) // threads)
        others = [_start_worker(number) for number in range(1, count)]
        try:
            work(jobs, out, cells, device=device, progress=_Clock(jobs, out))
        except BaseException:
            for other in others:
                other.terminate()
            raise
        failed = [other for other in others if other.wait()]
        if failed and _left(jobs, out):
            raise TrainingDataError(f"{len(failed)} of {count} processes failed; their words stand above.")
    if rank == 0 and "WBCPIPE_STUDY_WORKER" not in os.environ:
        _tables(out, as_json)


def _plan(
    samples: Sequence[str],
    root: Path,
    methods: str,
    backbones: str,
    folds: int,
    merge_below: int,
    group_by: str,
    held: float,
    seed: int,
    recipe: dict[str, Any],
) -> tuple[StudyCells, list[Job], str]:
    from wbcpipe.classify.study.jobs import group_cells, plan_jobs, split_cells
    from wbcpipe.classify.study.runner import StudyCells
    from wbcpipe.classify.training.data import cell_source, load_cells
    from wbcpipe.classify.training.recipe import Recipe, merge_keys, parse_settings, with_defaults_for

    chosen = _names(methods, _METHODS, "method")
    nets = _names(backbones, tuple(BACKBONE_NAMES), "backbone")
    base = {"side": recipe["side"], "start_side": recipe["side"], "seed": seed}
    if recipe["epochs"] is not None:
        base["epochs"] = recipe["epochs"]
    if recipe["published"]:
        plain = Recipe.published(**base).model_dump(mode="json", exclude_defaults=True)
        base = {key: value for key, value in plain.items() if key != "teacher_epochs"} | base | {"normalise": "cell"}
    for text in recipe["settings"]:
        base = merge_keys(base, parse_settings(text))
    variants = {}
    for text in recipe["variants"]:
        name, colon, keys = text.partition(":")
        if not colon:
            raise ConfigError(f"variant {text!r} is not NAME:KEY=VALUE,...")
        variants[name] = parse_settings(keys)
    cells = load_cells([cell_source(root, text) for text in samples], int(base["side"])).merge_rare_classes(merge_below)
    base["normalise"] = with_defaults_for(base, cells.source, len(cells)).get("normalise", "cell")  # one for all rows
    groups, by = group_cells(cells, group_by, folds)
    jobs = plan_jobs(cells, chosen, nets, folds, base, variants)
    return StudyCells(cells, split_cells(cells.labels, groups, folds, held, seed)), jobs, by


def _names(text: str, known: tuple[str, ...], what: str) -> tuple[str, ...]:
    if text == "all":
        return known
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    for name in names:
        if name not in known:
            raise ConfigError(f"{what} {name!r} is not known; choose of {', '.join(known)}.")
    return names


def _start_worker(number: int) -> subprocess.Popen[bytes]:
    """This very command once more, as a process that only trains, on a GPU of its own where there are several."""
    words = [sys.executable, "-m", "wbcpipe", *sys.argv[1:]]
    environment = {**os.environ, "WBCPIPE_STUDY_WORKER": "1", "LOCAL_RANK": str(number)}
    return subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL)


def _left(jobs: Sequence[Job], out: Path) -> list[Job]:
    from wbcpipe.classify.study.results import is_done

    return [job for job in jobs if not is_done(job.folder(out))]


class _Clock:
    """Prints a line a minute, and one for each network that is done, with the time left for the whole study."""

    _EVERY_S = 60.0

    def __init__(self, jobs: Sequence[Job], out: Path) -> None:
        self._jobs, self._out = jobs, out
        self._began_s = self._said_s = time.monotonic()
        self._first = sum(job.cost for job in _left(jobs, out))

    def __call__(self, job: Job, report: EpochReport | None) -> None:
        """See `runner.work`."""
        now_s = time.monotonic()
        if report is not None and now_s - self._said_s < self._EVERY_S:
            return
        self._said_s = now_s
        left = _left(self._jobs, self._out)
        cost = sum(one.cost for one in left) - (job.cost * report.work if report else 0.0)
        done = self._first - cost
        span = str(timedelta(seconds=round((now_s - self._began_s) * cost / done))) if done > 0 else "?"
        where = f"{job.backbone} {job.name}, fold {job.fold + 1}"
        what = "done" if report is None else f"epoch {report.epoch}/{report.epochs}, loss {report.loss:.3f}"
        click.echo(f"{where}: {what}; {len(self._jobs) - len(left)}/{len(self._jobs)} networks, {span} left", err=True)


def _tables(out: Path, as_json: bool) -> None:
    from wbcpipe.classify.study.results import read_results
    from wbcpipe.classify.study.tables import summarise_study, write_tables

    results = read_results(out)
    if not results:
        raise TrainingDataError(f"{out}: no result is there yet.")
    summary = summarise_study(results)
    text = write_tables(out, summary, results)
    click.echo(json.dumps(summary) if as_json else text, nl=as_json)
