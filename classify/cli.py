"""The commands ``train`` and ``classify``."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wbcpipe.cli.options import data_option, device_option, engine_option, json_option
from wbcpipe.errors import ConfigError, SampleStateError
from wbcpipe.samples.sample import Sample, data_root

if TYPE_CHECKING:
    from wbcpipe.classify.models.bundle import Bundle
    from wbcpipe.classify.training.data import CellSet
    from wbcpipe.classify.training.recipe import Recipe
    from wbcpipe.classify.training.train import EpochReport

__all__ = ["classify", "source_of", "train"]

# The words are repeated from `classes` and `recipe`: these must not be imported before --help has answered.
_METHODS = ("single", "early-fusion", "early-fusion-kd", "late-fusion", "mm-mimo", "mm-mimo-kd")
_BACKBONES = {"shufflenet": "shufflenet_v2_x1_0", "resnet34": "resnet34"}
_TAUGHT = 1.6
"""Cost of a student's step that asks its teachers, against one that does not."""


def _before_torch() -> None:
    # Threads that sleep at barriers lose little on a quiet machine, and on a busy one are many times faster.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@click.command()
@click.argument("samples", nargs=-1, required=True, metavar="SAMPLE...")
@click.option(
    "--method",
    type=click.Choice(_METHODS),
    help="Network and loss. Default: mm-mimo-kd, as published. mm-mimo trains no teachers, so takes less than half the "
    "time; `wbcpipe study` tells whether your cells need them.",
)
@click.option("--modality", help="The one modality of method single.")
@click.option("--backbone", type=click.Choice(tuple(_BACKBONES)), help="Default: shufflenet.")
@click.option("--name", help="Name of the bundle. Default: the folder of --out.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Work folder; the bundle is OUT/NAME.")
@click.option("--validation", multiple=True, metavar="SAMPLE", help="Sample kept apart to validate and calibrate on.")
@click.option("--folds", type=click.IntRange(min=2), help="Cross-validate with so many folds.")
@click.option(
    "--fold",
    type=click.IntRange(min=0),
    help="With --folds: run this fold alone (from 0); with --name, bundle its network.",
)
@click.option("--side", type=int, help="Input side in pixels. Default: 112.")
@click.option("--epochs", type=int, help="Passes over the cells.")
@click.option("--teacher-epochs", type=int, help="Passes for each modality's teacher.")
@click.option("--batch-size", type=int, help="Cells a step.")
@click.option("--lr", type=float, help="Peak learning rate.")
@click.option("--temperature", type=float, help="T of the distillation.")
@click.option(
    "--input-repetition-prob", type=float, help="How often one cell goes to all inputs of MM-MIMO; 0 is as published."
)
@click.option(
    "--normalise",
    type=click.Choice(["cell", "stain", "fixed"]),
    help="Against each cell's own light, also its own darkest stain (the default for stained smears), or not at all.",
)
@click.option("--sampling", type=click.Choice(["natural", "sqrt", "balanced"]), help="How rare classes are drawn.")
@click.option("--seed", type=int, help="Of everything random. Default: 0.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any other key of the recipe.")
@click.option("--recipe", "recipe_path", type=click.Path(exists=True, path_type=Path), help="Recipe as a JSON file.")
@click.option("--published", is_flag=True, help="Start from what the paper tells of its training, not from our recipe.")
@click.option(
    "--init-from",
    "init_from_name",
    metavar="BUNDLE",
    help="Start from the weights of this bundle (name or folder), and in its way: for few cells of another stain.",
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. Default: all.")
@device_option
@data_option
@json_option
def train(
    samples: tuple[str, ...],
    name: str | None,
    out: Path,
    validation: tuple[str, ...],
    folds: int | None,
    fold: int | None,
    recipe_path: Path | None,
    published: bool,
    init_from_name: str | None,
    threads: int | None,
    device: str,
    data: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a network on labelled cells and make a bundle of it, or cross-validate the procedure.

    SAMPLE is the name of a sample below the data root, or the path of a cells.zarr. Cells without a label, cut by the
    border or flagged as debris are left out. With method mm-mimo-kd one teacher per modality is trained first, then
    the network that learns from all of them. Every epoch is kept in OUT: the same command goes on after a stop, and
    teachers are used again when only the student's options change.

    \b
    Examples:
      wbcpipe train vs1 vs2 vs3 --validation vs4 --name my-scope --out models/my-scope
      wbcpipe train smears --folds 5 --side 112 --out studies/smears
      wbcpipe train smears --out models/s --set patience=8,distillation.kind=decoupled
      wbcpipe train smears --out models/paper --published --epochs 100
      wbcpipe train smears --method single --modality color1 --out models/red-only
      wbcpipe train my-100-cells --init-from smear-shufflenet --folds 5 --out studies/mine
    """
    _before_torch()
    if fold is not None and folds is None:
        raise click.UsageError("--fold needs --folds: say how many folds there are.")
    if folds is not None and fold is None and name is not None:
        raise click.UsageError("--name with --folds needs --fold: say which fold's network becomes the bundle.")
    if published and (recipe_path is not None or init_from_name is not None):
        raise click.UsageError("--published excludes --recipe and --init-from: begin with one of them.")
    if folds is not None and validation:
        raise click.UsageError("--folds and --validation exclude each other: folds validate on the samples themselves.")
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    init_from = None
    if init_from_name is not None:
        from wbcpipe.classify.models.bundle import load_bundle

        init_from = load_bundle(init_from_name)
    keys = _recipe_keys(recipe_path, options, published=published, init_from=init_from)
    root = data_root(data)
    from wbcpipe.classify.training.data import load_cells
    from wbcpipe.classify.training.recipe import Recipe, suited

    sources = [source_of(root, text) for text in samples]
    cells = load_cells(sources, Recipe.model_validate(keys).side)
    recipe = Recipe.model_validate(suited(keys, cells.source, len(cells)))
    click.echo(f"{len(cells)} labelled cells: {_counts(cells)}; modalities {', '.join(cells.modalities)}", err=True)
    if folds is not None:
        _cross_validate(cells, recipe, out, folds, fold, init_from, device, as_json and name is None)
        if name is not None and fold is not None:
            from wbcpipe.classify.training.folds import stratified_folds

            rows, apart = stratified_folds(cells.labels, cells.groups, folds, recipe.seed)[fold]
            place = out / f"fold-{fold}"
            _bundle(
                cells.subset(rows), cells.subset(apart), recipe, name, place, sources[0][1], init_from, device, as_json
            )
        return
    kept = [source_of(root, text) for text in validation]
    held = load_cells(kept, recipe.side, classes=cells.classes) if kept else None
    _bundle(cells, held, recipe, name or out.resolve().name, out, sources[0][1], init_from, device, as_json)


def _recipe_keys(
    path: Path | None, options: dict[str, Any], *, published: bool = False, init_from: Bundle | None = None
) -> dict[str, Any]:
    """The keys of the recipe that are said, all of them sound."""
    from pydantic import ValidationError

    from wbcpipe.classify.study.jobs import parse_settings
    from wbcpipe.classify.training.recipe import Recipe, merge_keys

    given = {key: value for key, value in options.items() if value is not None and key != "settings"}
    for text in options.get("settings", ()):
        given = merge_keys(given, parse_settings(text))
    if "backbone" in given:
        given["backbone"] = _BACKBONES[given["backbone"]]
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path else {}
        if published:
            content = {"normalise": "cell", **Recipe.published().model_dump(mode="json", exclude_defaults=True)}
        if init_from is not None:
            from wbcpipe.classify.training.finetune import init_from_keys

            content = {**init_from_keys(init_from), **content}
        keys = merge_keys(content, given)
        Recipe.model_validate(keys)
    except (ValidationError, ValueError, TypeError) as error:
        where = f"recipe {path}" if path else "training options"
        raise ConfigError(f"{where}: {' '.join(str(error).split())}") from error
    return keys


def source_of(root: Path, text: str) -> tuple[str, Path]:
    """Name and cell store of a sample given by its name, or by the path of its cells.zarr."""
    path = Path(text)
    if (path / "zarr.json").is_file():
        return path.resolve().parent.name, path
    return text, Sample.open(root, text).cells_path


def _counts(cells: CellSet) -> str:
    return ", ".join(f"{name} {count}" for name, count in cells.counts().items())


class _Clock:
    """Prints a line an epoch with the time left, over all networks of the run."""

    def __init__(self, recipe: Recipe, modalities: int, folds: int) -> None:
        taught = recipe.method.endswith("-kd")
        teachers = modalities if taught or recipe.method == "late-fusion" else 0
        student = 0.0 if recipe.method == "late-fusion" else recipe.epochs * (_TAUGHT if taught else 1.0)
        self._left = folds * (teachers * recipe.teacher_epochs + student)
        self._done = 0.0
        self._spent = 0.0
        self._work: dict[str, float] = {}

    def __call__(self, report: EpochReport, where: str = "") -> None:
        cost = report.epochs * (_TAUGHT if report.role.endswith("-kd") else 1.0)
        key = where + report.role
        # What was done in an earlier run counts as neither left nor timed.
        self._left -= cost * (report.work - self._work.get(key, 0.0))
        self._work[key] = report.work
        if not report.seconds:
            click.echo(f"{where}{report.role}: trained before", err=True)
            return
        self._done += cost * report.share
        self._spent += report.seconds
        left = time.strftime("%H:%M:%S", time.gmtime(self._spent / self._done * max(0.0, self._left)))
        click.echo(
            f"{where}{report.role} epoch {report.epoch}/{report.epochs} loss {report.loss:.3f} "
            f"right {100 * report.accuracy:.1f} % {report.seconds:.1f} s, {left} left",
            err=True,
        )


def _cross_validate(
    cells: CellSet,
    recipe: Recipe,
    out: Path,
    folds: int,
    fold: int | None,
    init_from: Bundle | None,
    device: str,
    as_json: bool,
) -> None:
    from wbcpipe.classify.training.train_and_validate import cross_validate, markdown_table

    clock = _Clock(recipe, len(cells.modalities), folds if fold is None else 1)

    def progress(number: int, report: EpochReport) -> None:
        clock(report, f"fold {number + 1}/{folds} ")

    table = cross_validate(
        cells, recipe, out, folds=folds, only=fold, init_from=init_from, device=device, progress=progress
    )
    click.echo(json.dumps(table) if as_json else markdown_table(table), nl=as_json)


def _bundle(
    cells: CellSet,
    held: CellSet | None,
    recipe: Recipe,
    name: str,
    out: Path,
    first_store: Path,
    init_from: Bundle | None,
    device: str,
    as_json: bool,
) -> None:
    from wbcpipe.classify.training.build_bundle import train_bundle
    from wbcpipe.samples.cell_store import CellStore

    crop_px = CellStore(first_store).sides_px[0]
    bundle = train_bundle(
        cells,
        held,
        recipe,
        name=name,
        out=out,
        crop_px=crop_px,
        init_from=init_from,
        device=device,
        progress=_Clock(recipe, len(cells.modalities), 1),
    )
    if as_json:
        click.echo(json.dumps({"bundle": str(bundle.path), **bundle.info.model_dump(mode="json")}))
        return
    for row, values in bundle.info.validation.rows.items():
        click.echo(f"{row:>16}  F1 {100 * values.f1_weighted:.2f}  sensitivity {100 * values.sensitivity:.2f}")
    click.echo(f"bundle {bundle.path} (SHA-256 {bundle.info.sha256[:12]})")


@click.command()
@click.option("--sample", "name", required=True, metavar="NAME", help="Sample to classify.")
@click.option("--bundle", default="auto", show_default=True, help="Name or folder of a bundle; auto fits the sample.")
@engine_option
@click.option("--batch-size", type=click.IntRange(min=1), help="Cells per call of the network. Default: by engine.")
@click.option(
    "--exclude-modality",
    "excluded_modalities",
    multiple=True,
    metavar="MODALITY",
    help="Classify without this modality, for example because its lamp failed; may be repeated.",
)
@click.option(
    "--max-error",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Accept only as many calls as keep their error below this limit, as the bundle guarantees. Example: 0.05.",
)
@device_option
@data_option
@json_option
def classify(name: str, bundle: str, data: Path | None, *, as_json: bool, **options: Any) -> None:
    """Classify every cell of a sample.

    Each cell gets a probability per head, a class or `unidentified`, a confidence, and the disagreement of the heads.
    They are written into the sample's cells.zarr. A sample that this bundle has classified already stays as it is. With
    --bundle auto, samples from a microscope use virtual-shufflenet, stained smears use smear-shufflenet.

    A modality that shows nothing in most cells is excluded automatically. --max-error selects the threshold at which
    the bundle's error bounds hold; the model card says for which cells they hold.

    \b
    Examples:
      wbcpipe classify --sample S1
      wbcpipe classify --sample smears --bundle models/my-scope/my-scope --device cuda --json
      wbcpipe classify --sample S1 --exclude-modality color2
      wbcpipe classify --sample S1 --max-error 0.05
    """
    _before_torch()
    from wbcpipe.cli.progress import Reporter

    sample = Sample.open(data_root(data), name)
    if not sample.path.is_dir():
        raise SampleStateError(f"no sample {name!r} in {sample.path.parent}; `wbcpipe status` lists the samples.")
    with sample.lock("classify"), Reporter(quiet=as_json) as reporter:
        reporter.say("loading the model")
        from wbcpipe.classify.stage import ClassifyOptions, classify_sample, resolve_bundle

        model = resolve_bundle(sample, bundle)
        summary = classify_sample(sample, model, ClassifyOptions(**options), progress=reporter.update)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(summary)))
        return
    counts = ", ".join(f"{name} {count}" for name, count in summary.counts.items())
    state = "classified before" if summary.already_classified else f"{summary.seconds:.1f} s on {summary.engine}"
    click.echo(f"{summary.sample}: {summary.cells} cells by {summary.bundle} ({state}): {counts}")
    if summary.excluded_modalities:
        click.echo(f"excluded: {', '.join(summary.excluded_modalities)}")
    if (bound := summary.risk_control) is not None:
        click.echo(
            f"at most {100 * bound['error_bound']:.1f} % of the accepted calls are wrong, with "
            f"{100 * bound['confidence']:g} % confidence ({bound['assumption']})"
        )
