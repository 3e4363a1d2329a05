"""Train the published method and its rivals until their curves are flat; resumable over sessions.

    python benchmarks/long_study.py cells --work W          # import the cells, once
    python benchmarks/long_study.py list                    # the runs by value, and which are done
    python benchmarks/long_study.py run --work W [--minutes 60] [--only pbc5/mm-mimo ...]
    python benchmarks/long_study.py summary                 # tables and plots from the records

Each run (data set, variant, fold, seed) ends with one record under `docs/results/long-study/`;
checkpoints and cells stay in `--work`. A second `run` goes on with what is missing, several
processes may share one `--work`, and a stopped run goes on from its last 250 steps. On a machine
without the checkpoints, teachers of missing students are trained again. See
`docs/results/long-study.md` for what a run costs and for the order.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import time
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import matplotlib as mpl
import numpy as np
import torch
from long_study_plan import CHOSEN_FROM, DATASETS, Dataset, Run, plan
from pydantic import BaseModel

from wbcpipe.classify import metrics
from wbcpipe.classify.models.normalise import Normalisation, fit_normalisation
from wbcpipe.classify.study.jobs import Split, split_cells
from wbcpipe.classify.study.long_runs import (
    CurvePoint,
    Predictions,
    RunRecord,
    read_runs,
)
from wbcpipe.classify.study.long_tables import curve_plot, dataset_tables
from wbcpipe.classify.study.results import CellCounts
from wbcpipe.classify.study.runner import count_flops
from wbcpipe.classify.training.data import CellSet, cell_sources, load_cells
from wbcpipe.classify.training.progress import TrainingOptions
from wbcpipe.classify.training.teacher import (
    MeanOfNetworks,
    Teacher,
    fit_teacher_fusion,
    late_fusion_of,
)
from wbcpipe.classify.training.train import TrainingTask, predict_logits, train_network
from wbcpipe.classify.training.train_and_validate import select_modality
from wbcpipe.classify.uncertainty.probability_calibration import (
    mean_probability,
    negative_log_likelihood,
)
from wbcpipe.system.files import write_atomic, write_json
from wbcpipe.system.locks import try_lock

if TYPE_CHECKING:
    from wbcpipe.classify.networks import FusionNetwork

ROOT: Final = Path(__file__).parents[1]
RECORDS: Final = ROOT / "docs" / "results" / "long-study"
REAL: Final = ROOT.parent / "shared" / "data"
CALIBRATION: Final = 0.12
"""Fraction of the cells not tested on that is held out from training."""


@cache
def cells_of(name: str, work: Path) -> tuple[CellSet, list[Split]]:
    dataset = DATASETS[name]
    side = int(dataset.keys["side"])
    sources = cell_sources(work / "cells", dataset.samples)
    cells = load_cells(sources, side).merge_rare_classes(dataset.min_class_size)
    if dataset.counts:
        cells = cells.subset(drawn_rows(cells, dataset))
    return cells, split_cells(cells.labels, cells.groups, dataset.folds, CALIBRATION, 0)


def drawn_rows(cells: CellSet, dataset: Dataset) -> np.ndarray:
    """Rows with given numbers of each class, the same in every call."""
    random = np.random.default_rng(0)
    rows = []
    for index, name in enumerate(cells.classes):
        known = np.flatnonzero(cells.labels == index)
        wanted = dataset.counts.get(name, 0)
        if len(known) < wanted:
            raise SystemExit(f"{wanted} cells of {name} are needed, there are {len(known)}.")
        rows.append(random.permutation(known)[:wanted])
    return np.sort(np.concatenate(rows))


class Curve(BaseModel):
    """The curve of an unfinished run, beside its checkpoint."""

    points: list[CurvePoint] = []
    cpu_s: float = 0.0
    seconds: float = 0.0


class OutOfTimeError(Exception):
    """The time of this call is over; the run's state is on disk."""


class Trainer:
    """Train runs in one work folder until a deadline."""

    def __init__(self, work: Path, deadline_s: float, records: Path) -> None:
        self.work, self.deadline_s, self.records = work, deadline_s, records

    def folder(self, run: Run) -> Path:
        return self.work / "training" / Path(run.name).with_suffix("")

    def is_done(self, run: Run) -> bool:
        return (self.records / run.name).is_file()

    def run_all(self, runs: list[Run]) -> None:
        """Run what is missing; several processes may do so at once."""
        while pending := [run for run in runs if not self.is_done(run)]:
            if time.monotonic() > self.deadline_s:
                raise OutOfTimeError
            if not any(self._try(run) for run in pending):
                time.sleep(2)

    def _try(self, run: Run) -> bool:
        if not all(self.is_done(one) for part in run.teacher_runs() for one in part):
            return False
        with try_lock(self.folder(run) / ".claim") as held:
            if not held or self.is_done(run):
                return False
            self._run(run)
        return True

    def _run(self, run: Run) -> None:
        cells, splits = cells_of(run.dataset, self.work)
        split = splits[run.fold]
        whole = fit_normalisation(cells.images[split.train], run.recipe.normalise)
        teacher = self._teacher(run, cells, whole, split) if run.teachers else None
        training, calibration, test, normalisation = self._parts(run, cells, whole, split)
        began_s, cpu_s = time.perf_counter(), time.process_time()
        path = self.folder(run) / "curve.json"
        curve = Curve.model_validate_json(path.read_bytes()) if path.is_file() else Curve()
        before = (curve.cpu_s, curve.seconds)

        def observe(step: int, network: FusionNetwork) -> None:
            point = evaluate(network, step, calibration, test, normalisation)
            curve.points = [one for one in curve.points if one.step < step] + [point]
            curve.cpu_s = before[0] + time.process_time() - cpu_s
            curve.seconds = before[1] + time.perf_counter() - began_s
            write_json(path, curve.model_dump(mode="json"))
            print(
                f"{run.name} step {step}/{run.length} F1 {point.test_f1:.4f} "
                f"{curve.cpu_s:.0f} s cpu",
                flush=True,
            )
            if step < run.length and time.monotonic() > self.deadline_s:
                raise OutOfTimeError

        network: FusionNetwork
        if run.recipe.method == "late-fusion":
            assert teacher is not None
            network = teacher.network
            observe(0, network)
        else:
            task = TrainingTask(
                training, normalisation, run.recipe, role=role(run), teacher=teacher
            )
            network = train_network(task, self.folder(run), TrainingOptions(on_network=observe))
        self._write(run, network, curve, (training, calibration, test), normalisation, split)

    def _parts(
        self, run: Run, cells: CellSet, whole: Normalisation, split: Split
    ) -> tuple[CellSet, CellSet, CellSet, Normalisation]:
        training, calibration, test = (
            select_modality(cells.subset(rows), run.recipe, whole)
            for rows in (split.train, split.calibration, split.test)
        )
        if run.recipe.method == "single":
            whole = whole.modality(cells.modalities.index(str(run.recipe.modality)), cells.planes)
        return training, calibration, test, whole

    def _teacher(self, run: Run, cells: CellSet, whole: Normalisation, split: Split) -> Teacher:
        """The networks of single modalities; their fusion is fitted on the calibration cells."""
        networks: list[FusionNetwork] = []
        for part in run.teacher_runs():
            members = []
            for one in part:
                training, _, _, own = self._parts(one, cells, whole, split)
                task = TrainingTask(training, own, one.recipe, role=role(one))
                members.append(train_network(task, self.folder(one)))
            networks.append(late_fusion_of(members, run.recipe.backbone))
        network = networks[0] if len(networks) == 1 else MeanOfNetworks(networks)
        if run.recipe.distillation.teacher_fusion == "mean":
            return Teacher(network)
        calibration = cells.subset(split.calibration)
        logits = predict_logits(network, calibration, whole)
        return Teacher(network, fit_teacher_fusion(logits, calibration.labels))

    def _write(
        self,
        run: Run,
        network: FusionNetwork,
        curve: Curve,
        parts: tuple[CellSet, CellSet, CellSet],
        normalisation: Normalisation,
        split: Split,
    ) -> None:
        training, calibration, test = parts
        logits = predict_logits(network, test, normalisation)
        record = RunRecord(
            dataset=run.dataset,
            variant=run.variant,
            length=run.length,
            fold=run.fold,
            folds=DATASETS[run.dataset].folds,
            seed=run.seed,
            classes=test.classes,
            modalities=test.modalities,
            cells=CellCounts(train=len(training), calibration=len(calibration), test=len(test)),
            recipe=run.recipe,
            teachers=run.teachers,
            epochs=round(run.length * run.recipe.batch_size / len(training), 1),
            parameters=sum(parameter.numel() for parameter in network.parameters()),
            flops=count_flops(network, run.recipe.side),
            cpu_s=round(curve.cpu_s, 1),
            seconds=round(curve.seconds, 1),
            curve=tuple(curve.points),
            scores=metrics.scores(test.labels, mean_probability(logits), test.classes),
            test=Predictions.pack(split.test, test.labels, logits),
            calibration=Predictions.pack(
                split.calibration,
                calibration.labels,
                predict_logits(network, calibration, normalisation),
            ),
            versions={
                name: metadata.version(name)
                for name in ("wbcpipe", "torch", "torchvision", "numpy")
            },
            machine=platform.processor() or platform.machine(),
        )
        path = self.records / run.name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, record.model_dump(mode="json"))


def role(run: Run) -> str:
    one = run.recipe
    return f"teacher {one.modality}" if one.method == "single" else one.method


def evaluate(
    network: FusionNetwork,
    step: int,
    calibration: CellSet,
    test: CellSet,
    normalisation: Normalisation,
) -> CurvePoint:
    """The network after some steps; its state is left alone."""
    held = mean_probability(predict_logits(network, calibration, normalisation))
    logits = predict_logits(network, test, normalisation)
    mean = mean_probability(logits)
    right = (logits.argmax(axis=2) == test.labels[:, None]).mean(axis=0)
    return CurvePoint(
        step=step,
        calibration_f1=round(
            metrics.scores(calibration.labels, held, test.classes)["f1_weighted"], 5
        ),
        test_f1=round(metrics.scores(test.labels, mean, test.classes)["f1_weighted"], 5),
        test_nll=round(negative_log_likelihood(test.labels, mean), 5),
        head_accuracy=tuple(round(float(value), 4) for value in right),
    )


def make_cells(work: Path, names: list[str]) -> None:
    """Import or scan the samples that are not there, several processes side by side; raw fields of
    virtual slides are deleted.
    """
    from wbcpipe.pipeline import cli

    root = work / "cells"
    for name in names:
        for sample, commands in DATASETS[name].samples.items():
            with try_lock(root / f"{sample}.claim") as held:
                if not held or (root / sample / "made").is_file():
                    continue
                began_s = time.perf_counter()
                for command in commands:
                    words = [word.format(real=REAL) for word in command.split()]
                    cli.main([*words, "--data", str(root)], standalone_mode=False)
                shutil.rmtree(root / sample / "raw", ignore_errors=True)
                (root / sample / "made").touch()
                print(f"{sample} made in {time.perf_counter() - began_s:.0f} s", flush=True)


def summarise(records: Path) -> None:
    """Write the tables beside the folder of the records, and a plot of each data set into it."""
    runs = read_runs(records)
    lines = ["# Long study: tables", "", f"{len(runs)} runs. Made by `long_study.py summary`.", ""]
    for name in DATASETS:
        if some := [run for run in runs if run.dataset == name]:
            cells, recipe = some[0].cells, some[0].recipe
            lines += [
                f"## {name}",
                "",
                f"{cells.train} cells to train on, {cells.calibration} held out, {cells.test} to "
                f"test on in a fold; side {recipe.side}, batches of {recipe.batch_size}.",
                "",
                f"![F1 by step]({records.name}/{name}.svg)",
                "",
                dataset_tables(some, CHOSEN_FROM),
            ]
            # The same ids in every file that shows the same curves.
            with (
                mpl.rc_context({"svg.hashsalt": name}),
                write_atomic(records / f"{name}.svg") as handle,
            ):
                curve_plot(some, name).savefig(handle, format="svg", metadata={"Date": None})
    path = records.with_name(f"{records.name}-tables.md")
    with write_atomic(path) as handle:
        handle.write(("\n".join(lines).rstrip() + "\n").encode())
    print(f"{path} written")


def choose(runs: list[Run], only: list[str]) -> list[Run]:
    """The runs whose names begin with one of some texts, in the order of these; without texts, all
    runs that need not be named.
    """
    if not only:
        return [run for run in runs if not DATASETS[run.dataset].named_only]
    found = {run.name: run for text in only for run in runs if run.name.startswith(text)}
    return list(found.values())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "command", nargs="?", choices=["cells", "list", "run", "summary"], default="list"
    )
    parser.add_argument("--work", type=Path, default=Path("long-study-work"))
    parser.add_argument("--minutes", type=float, default=1e6, help="end after this time")
    parser.add_argument(
        "--only", nargs="*", default=[], metavar="TEXT", help="runs whose names begin so, in order"
    )
    parser.add_argument("--records", type=Path, default=RECORDS, help="folder of the records")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    chosen = choose(plan(), options.only)
    if options.command == "summary":
        summarise(options.records)
        return 0
    if options.command == "cells":
        make_cells(options.work, sorted({run.dataset for run in chosen}))
        return 0
    trainer = Trainer(options.work, time.monotonic() + 60 * options.minutes, options.records)
    if options.command == "list":
        for run in chosen:
            print(f"{'done' if trainer.is_done(run) else '    '} {run.name}")
        return 0
    needed = {
        one.name: one
        for run in chosen
        for one in (*(teacher for part in run.teacher_runs() for teacher in part), run)
    }
    try:
        trainer.run_all(list(needed.values()))
    except OutOfTimeError:
        print("out of time; the same command goes on")
    return 0


if __name__ == "__main__":
    sys.exit(main())
