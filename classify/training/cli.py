"""The command ``train``."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from wbcpipe.classify.models.classes import BACKBONE_NAMES, METHODS
from wbcpipe.cli.options import OutputFolder, data_option, device_option, json_option
from wbcpipe.cli.progress import Reporter
from wbcpipe.errors import ConfigError
from wbcpipe.samples.sample import data_root
from wbcpipe.system.packages import CLASSIFICATION, require
from wbcpipe.system.user_files import UserFile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wbcpipe.classify.models.bundle import Bundle
    from wbcpipe.classify.models.bundle_info import BundleInfo
    from wbcpipe.classify.models.classes import Method
    from wbcpipe.classify.training.data import CellSet
    from wbcpipe.classify.training.progress import EpochReport, StepReport, TrainingOptions
    from wbcpipe.classify.training.recipe import Recipe, RecipeKeys
    from wbcpipe.system.compute import Device

__all__ = ["TrainRequest", "train"]

_DISTILLATION_COST: Final = 1.6
"""Cost of a student's step with teachers, relative to a step without."""


@dataclass(frozen=True)
class TrainRequest:
    """The options of the command, beside the keys of the recipe; see their help texts."""

    samples: tuple[str, ...]
    out: Path
    name: str | None
    validation: tuple[str, ...]
    leave_out: tuple[str, ...]
    folds: int | None
    fold: int | None
    recipe_path: Path | None
    published: bool
    init_from: str | None
    threads: int | None
    device: Device
    data: Path | None
    as_json: bool

    def check(self) -> None:
        """Refuse a name that is not allowed, and options that exclude each other."""
        from wbcpipe.classify.models.bundle import check_bundle_name

        if self.folds is None or self.name is not None:
            check_bundle_name(self.out.resolve().name if self.name is None else self.name)
        if self.fold is not None and self.folds is None:
            raise click.UsageError("--fold needs --folds: say how many folds there are.")
        if self.folds is not None and self.fold is None and self.name is not None:
            raise click.UsageError(
                "--name with --folds needs --fold: say which fold's network becomes the bundle."
            )
        if self.published and (self.recipe_path is not None or self.init_from is not None):
            raise click.UsageError(
                "--published excludes --recipe and --init-from: begin with one of them."
            )
        if self.folds is not None and self.validation:
            raise click.UsageError(
                "--folds excludes --validation: folds validate on the samples themselves."
            )
        if self.leave_out and (self.folds is not None or self.validation):
            raise click.UsageError(
                "--leave-out excludes --folds and --validation: it validates on the samples that "
                "it names."
            )


@click.command()
@click.argument("samples", nargs=-1, required=True, metavar="SAMPLE...")
@click.option(
    "--method",
    type=click.Choice(METHODS),
    help="Network and loss. Default: early-fusion for photographs of stained smears, on which it "
    "was right most often in our studies; mm-mimo-kd, as published, for other images. mm-mimo "
    "trains no teachers and takes less than half the time; `wbcpipe study` compares all on your "
    "cells.",
)
@click.option("--modality", help="The one modality of method single.")
@click.option(
    "--backbone",
    type=click.Choice(tuple(BACKBONE_NAMES)),
    help="Default: shufflenet. shufflenet-half has half the channels: late fusion of 3 or 4 "
    "modalities at the cost of one shufflenet.",
)
@click.option("--name", help="Name of the bundle. Default: the name of the folder --out.")
@click.option(
    "--out",
    type=OutputFolder(),
    help="Work folder; the bundle is OUT/NAME. Default: models/NAME.",
)
@click.option(
    "--validation",
    multiple=True,
    metavar="SAMPLE",
    help="Sample to validate and calibrate on, not to train.",
)
@click.option(
    "--leave-out",
    multiple=True,
    metavar="SAMPLE",
    help="Validate and calibrate on this SAMPLE by a network trained on the others; the bundle "
    "learns from all. Give several: they tell what to expect of another laboratory or slide, "
    "and bound no error.",
)
@click.option(
    "--folds", type=click.IntRange(min=2), help="Cross-validate with this number of folds."
)
@click.option(
    "--fold",
    type=click.IntRange(min=0),
    help="With --folds: run this fold only (from 0); with --name, its network becomes a bundle.",
)
@click.option("--side", type=int, help="Input side in pixels. Default: 112.")
@click.option("--epochs", type=int, help="Passes over the cells.")
@click.option("--teacher-epochs", type=int, help="Passes for each modality's teacher.")
@click.option("--batch-size", type=int, help="Cells per step.")
@click.option("--lr", type=float, help="Peak learning rate.")
@click.option("--temperature", type=float, help="T of the distillation.")
@click.option(
    "--input-repetition-prob",
    type=float,
    help="Probability that all inputs of MM-MIMO show one cell; 0 is as published.",
)
@click.option(
    "--normalise",
    type=click.Choice(["cell", "stain", "separate", "fixed"]),
    help="Against each cell's own light, also its own darkest stain, with the stain of its nucleus "
    "separated (the default for stained smears), or not at all.",
)
@click.option(
    "--sampling",
    type=click.Choice(["natural", "sqrt", "balanced"]),
    help="How often rare classes are drawn.",
)
@click.option("--seed", type=int, help="Seed of all random numbers. Default: 0.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any other key of the recipe."
)
@click.option(
    "--recipe",
    "recipe_path",
    type=click.Path(exists=True, path_type=Path),
    help="Recipe as a JSON file.",
)
@click.option("--published", is_flag=True, help="Start from the paper's recipe, not from ours.")
@click.option(
    "--init-from",
    metavar="BUNDLE",
    help="Initialise from the weights of this bundle (name or folder), for few cells of another "
    "stain.",
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. Default: all.")
@device_option
@data_option
@json_option
def train(*, name: str | None, out: Path | None, **options: Any) -> None:
    """Train a network on labelled cells and write a bundle, or cross-validate.

    SAMPLE is the name of a sample in the data root, the path of a cells.zarr, or a folder of
    `wbcpipe labels export --verified`. Cells without a label, cells cut by the border and debris
    are excluded. With method mm-mimo-kd one teacher per modality is trained first, then the network
    that learns from all of them. The state after every epoch is kept in OUT: the same command
    resumes, and teachers are used again when only the student's options change.

    With --init-from and few cells, every cell is held out once (5-fold cross-validation). The
    threshold of BUNDLE is kept until there are cells enough to fit one, and the result says how
    much better the network is than BUNDLE.

    \b
    Examples:
      wbcpipe train vs1 vs2 vs3 --validation vs4 --name my-scope
      wbcpipe train lab1 lab2 --leave-out lab1 --leave-out lab2 --name smears
      wbcpipe train smears --folds 5 --side 112 --out studies/smears
      wbcpipe train smears --name s --method mm-mimo-kd --set patience=8,distillation.weight=2
      wbcpipe train smears --name paper --published --epochs 100
      wbcpipe train smears --method single --modality color1 --name red-only
      wbcpipe train my-100-cells --init-from smear-shufflenet --name mine
    """
    if name is None and out is None:
        raise click.UsageError("Name the bundle with --name, or its work folder with --out.")
    names = {field.name for field in dataclasses.fields(TrainRequest)}
    request = TrainRequest(
        name=name,
        out=out or OutputFolder()(Path("models") / str(name)),
        **{key: value for key, value in options.items() if key in names},
    )
    request.check()
    # Threads that sleep at barriers lose little on an idle machine, and are many times faster on a
    # busy one.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    require(CLASSIFICATION, "training a network")
    with Reporter() as reporter:
        reporter.say("loading torch")
        text = _train(
            request, {key: value for key, value in options.items() if key not in names}, reporter
        )
    click.echo(text)


def _train(request: TrainRequest, recipe_options: Mapping[str, Any], reporter: Reporter) -> str:
    """Train as requested; return the text for standard output."""
    import torch

    from wbcpipe.classify.models.bundle import load_bundle
    from wbcpipe.classify.training.build_bundle import build_bundle
    from wbcpipe.classify.training.data import cell_sources, load_cells
    from wbcpipe.classify.training.folds import stratified_folds
    from wbcpipe.classify.training.held_out import cross_validation_folds, leave_out_parts
    from wbcpipe.classify.training.progress import TrainingOptions
    from wbcpipe.classify.training.recipe import Recipe, with_defaults_for
    from wbcpipe.classify.training.train_and_validate import cross_validate, markdown_table

    if request.threads is not None:
        torch.set_num_threads(request.threads)
    init_from = load_bundle(request.init_from) if request.init_from is not None else None
    keys = _recipe_keys(request, recipe_options, init_from)
    root = data_root(request.data)
    reporter.say(f"reading the cells of {', '.join(request.samples)}")
    cells = load_cells(cell_sources(root, request.samples), Recipe.model_validate(keys).side)
    recipe = Recipe.model_validate(with_defaults_for(keys, cells.source, len(cells)))
    counts = ", ".join(f"{name} {count}" for name, count in cells.counts().items())
    reporter.say(f"{len(cells)} labelled cells: {counts}; modalities {', '.join(cells.modalities)}")
    if "method" not in keys and not request.published:
        _say_default_method(recipe.method, keys, cells, reporter)
    out, validation, name = request.out, None, request.name
    if request.folds is not None:
        options = _options(request, init_from, recipe, cells, reporter)
        table = cross_validate(
            cells, recipe, out, folds=request.folds, only=request.fold, options=options
        )
        if request.fold is None or name is None:
            return json.dumps(table) if request.as_json else markdown_table(table).rstrip("\n")
        rows, tested = stratified_folds(cells.labels, cells.groups, request.folds, recipe.seed)[
            request.fold
        ]
        cells, validation, out = (
            cells.subset(rows),
            cells.subset(tested),
            out / f"fold-{request.fold}",
        )
    elif request.validation:
        sources = cell_sources(root, request.validation)
        validation = load_cells(sources, recipe.side, classes=cells.classes)
    left_out = leave_out_parts(cells, request.leave_out)
    inner = len(left_out) or cross_validation_folds(cells, validation, recipe)
    if left_out:
        reporter.say(
            f"{', '.join(request.leave_out)}: each is predicted by a network trained on the others"
        )
    elif inner:
        reporter.say(
            f"few cells: each is predicted by a network trained on the others, in {inner} folds"
        )
    shown = _TrainingReporter(reporter, recipe, len(cells.modalities), folds=inner, runs=inner + 1)
    options = TrainingOptions(init_from, request.device, shown.on_epoch, shown.on_step)
    name = name or out.resolve().name
    return _bundle_text(
        build_bundle(
            cells, request.leave_out or validation, recipe, name=name, out=out, options=options
        ),
        request.as_json,
    )


def _say_default_method(
    method: Method, keys: RecipeKeys, cells: CellSet, reporter: Reporter
) -> None:
    """Say which method is taken, and why; refuse keys of other methods."""
    from wbcpipe.classify.training.recipe import default_method, keys_without_effect

    if unread := keys_without_effect(keys, method):
        raise ConfigError(
            f"{', '.join(unread)}: without effect on method {method}, the default for images of "
            f"kind {cells.source}; give another --method, for example mm-mimo-kd."
        )
    reporter.say(f"method {method}: {default_method(cells.source)[1]}; --method takes another")


def _bundle_text(bundle: Bundle, as_json: bool) -> str:
    if as_json:
        return json.dumps({"bundle": str(bundle.path), **bundle.info.model_dump(mode="json")})
    lines = [
        f"{row:>16}  F1 {100 * values['f1_weighted']:.2f}  sensitivity "
        f"{100 * values['sensitivity']:.2f}"
        for row, values in bundle.info.validation.rows.items()
    ]
    return "\n".join(
        [
            *lines,
            *_verdict(bundle.info),
            f"bundle {bundle.path} (SHA-256 {bundle.info.sha256[:12]})",
        ]
    )


def _verdict(info: BundleInfo) -> list[str]:
    """Say how much better the network is than its parent, and how many errors it may make."""
    from wbcpipe.classify.uncertainty.risk_control import MIN_CELLS, cells_needed

    improvement = info.validation.improvement
    lines = [improvement.text, improvement.advice] if improvement else []
    fitted, threshold = info.calibration, f"threshold {info.calibration.threshold:g}"
    level = fitted.risk_bounds.level_at(fitted.threshold) if fitted.risk_bounds else None
    if level:
        return [
            *lines,
            f"{threshold}: at most {100 * level.error_bound:.1f} % of the accepted calls are wrong",
        ]
    if info.validation.left_out:
        return [
            *lines,
            f"{threshold}: {100 * (fitted.accepted_accuracy or 0):.1f} % of the accepted calls on "
            f"samples left out are right, {100 * fitted.unidentified_fraction:.1f} % are "
            f"unidentified",
            "no error bound: what holds for the samples left out need not hold for another one. "
            "Reports by this bundle do not pass their quality gates",
        ]
    numbers = {bound: 2 * max(MIN_CELLS, cells_needed(bound)) for bound in (0.1, 0.05, 0.02)}
    needs = ", ".join(f"{100 * bound:g} % needs {number}" for bound, number in numbers.items())
    kept = f"{threshold} of the parent" if info.training.init_from else f"{threshold} by default"
    why = (
        f"no error bound: {fitted.cells} validation cells; a bound of {needs}, 4 or more of "
        f"each class"
    )
    return [
        *lines,
        kept,
        f"{why}. Reports by this bundle do not pass their quality gates: label more cells",
    ]


def _recipe_keys(
    request: TrainRequest, options: Mapping[str, Any], init_from: Bundle | None
) -> RecipeKeys:
    """Return the keys of the recipe that the user gave, all of them valid."""
    from pydantic import ValidationError

    from wbcpipe.classify.training.finetune import init_from_keys
    from wbcpipe.classify.training.recipe import Recipe, merge_keys, parse_settings

    given = {
        key: value for key, value in options.items() if value is not None and key != "settings"
    }
    for text in options.get("settings", ()):
        given = merge_keys(given, parse_settings(text))
    if given.get("backbone") in BACKBONE_NAMES:
        given["backbone"] = BACKBONE_NAMES[given["backbone"]]
    path = request.recipe_path
    try:
        content = UserFile(path, "a recipe (JSON)", ConfigError).read_json() if path else {}
        if request.published:
            content = {
                "normalise": "cell",
                **Recipe.published().model_dump(mode="json", exclude_defaults=True),
            }
        if init_from is not None:
            content = {**init_from_keys(init_from), **content}
        keys = merge_keys(content, given)
        Recipe.model_validate(keys)
    except ConfigError:
        raise
    except (ValidationError, ValueError, TypeError) as error:
        where = f"recipe {path}" if path else "training options"
        raise ConfigError(f"{where}: {' '.join(str(error).split())}") from error
    return keys


def _options(
    request: TrainRequest,
    init_from: Bundle | None,
    recipe: Recipe,
    cells: CellSet,
    reporter: Reporter,
) -> TrainingOptions:
    from wbcpipe.classify.training.progress import TrainingOptions

    folds = request.folds or 1
    runs = folds if request.fold is None else 1
    shown = _TrainingReporter(reporter, recipe, len(cells.modalities), folds=folds, runs=runs)
    return TrainingOptions(init_from, request.device, shown.on_epoch, shown.on_step)


class _TrainingReporter:
    """Report each epoch of a run with the time left for all of its networks."""

    def __init__(
        self, reporter: Reporter, recipe: Recipe, modalities: int, *, folds: int, runs: int
    ) -> None:
        self._reporter, self._folds = reporter, folds
        distilled = recipe.method.endswith("-kd")
        teachers = modalities if distilled or recipe.method == "late-fusion" else 0
        student = 0.0 if recipe.method == "late-fusion" else recipe.epochs * _cost(recipe.method)
        self._left = runs * (teachers * recipe.epochs_of_teachers + student)
        self._done = 0.0
        self._spent_s = 0.0
        self._work: dict[str, float] = {}

    def _name(self, report: EpochReport | StepReport) -> str:
        return (
            report.role
            if report.fold is None
            else f"fold {report.fold + 1}/{self._folds} {report.role}"
        )

    def on_step(self, report: StepReport) -> None:
        """Report the steps of a network."""
        self._reporter.update(f"{self._name(report)}, steps", report.step, report.steps)

    def on_epoch(self, report: EpochReport) -> None:
        """Report loss, accuracies and the time left."""
        name = self._name(report)
        cost = report.epochs * _cost(report.role)
        # Work of an earlier run counts neither as left nor as timed.
        self._left -= cost * (report.work - self._work.get(name, 0.0))
        self._work[name] = report.work
        if not report.seconds:
            self._reporter.say(f"{name}: trained before")
            return
        self._done += cost * report.share
        self._spent_s += report.seconds
        left = time.strftime(
            "%H:%M:%S", time.gmtime(self._spent_s / self._done * max(0.0, self._left))
        )
        validation = (
            ""
            if (found := report.validation_accuracy) is None
            else f", {100 * found:.1f} % in validation"
        )
        self._reporter.say(
            f"{name} epoch {report.epoch}/{report.epochs}: loss {report.loss:.3f}, "
            f"{100 * report.accuracy:.1f} % right in training{validation}; {report.seconds:.1f} "
            f"s, {left} left"
        )
        if report.work >= 1.0:
            self._reporter.say(f"{name}: trained; scoring it on the validation cells")


def _cost(role: str) -> float:
    return _DISTILLATION_COST if role.endswith("-kd") else 1.0
