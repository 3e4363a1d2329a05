"""The cells, rows and runs of the long study, by value; see `long_study.py`."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from wbcpipe.classify.study.long_runs import record_name
from wbcpipe.classify.training.recipe import Recipe, merge_keys, with_defaults_for

PERIOD: Final = 250
"""Optimiser steps between two points of a curve, and between two checkpoints."""
#: The paper's class frequencies (section 3.1), of 5,000 cells.
PAPER_COUNTS: Final = {"NEU": 3224, "LYM": 1491, "EOS": 227, "MO": 42, "BAS": 16}


@dataclass(frozen=True)
class Dataset:
    """The cells of one part of the study.

    Attributes:
        samples: names in the data root, each with the commands that make it, words of `wbcpipe`;
            `{real}` is the folder of real data. Raw fields are deleted afterwards.
        modalities: M names.
        folds: number of folds.
        rows: names of rows by optimiser steps. A curve under a falling learning rate always ends
            flat: the ends of runs of different lengths show whether a network is trained out.
        keys: recipe keys of all rows.
        min_class_size: classes of fewer cells are merged.
        counts: cells of each class to draw; empty: all cells.
        named_only: its runs are left out unless `--only` names them.
    """

    samples: dict[str, tuple[str, ...]]
    modalities: tuple[str, ...]
    folds: int
    rows: dict[int, tuple[str, ...]]
    keys: dict[str, Any] = field(default_factory=dict)
    min_class_size: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    named_only: bool = False


def virtual_slide(name: str, seed: int, preparation: str, fields: int) -> tuple[str, ...]:
    return (
        f"acquire --slide {name} --specimen-seed {seed} --specimen-preparation {preparation} "
        f"--fields {fields}",
        f"segment --sample {name}",
    )


#: The paper's training; neither repetition nor dropout of inputs.
_PLAIN: Final = {
    "input_repetition_prob": 0.0,
    "sampling": "natural",
    "single_modality_prob": 0.0,
    "modality_dropout": 0.0,
    "temperature": 2.0,
}
_RANDAUGMENT: Final = {"randaugment": {"operations": 2, "magnitude": 18}, "normalise": "cell"}
#: Distillation of the network that wins without it, one change at a time. The fused teacher is
#: calibrated on cells held out for it.
_FUSED: Final = {"fused_weight": 1.0, "teacher_fusion": "calibrated"}
_TAUGHT: Final[dict[str, dict[str, Any]]] = {
    "repeated-kd": {},
    "repeated-kd-fused": {"distillation": _FUSED},
    "repeated-kd-fused-alone": {"distillation": {**_FUSED, "weight": 0.0}},
    "repeated-kd-two-seeds": {"distillation": {**_FUSED, "teacher_seeds": 2}},
    "repeated-kd-t1": {"temperature": 1.0, "distillation": _FUSED},
    "repeated-kd-t4": {"temperature": 4.0, "distillation": _FUSED},
    "repeated-kd-quarter": {"distillation": {**_FUSED, "weight": 0.25, "fused_weight": 0.25}},
}
#: Rows of which the one with the highest F1 on the calibration cells is chosen, fold by fold.
CHOSEN_FROM: Final = {"repeated-kd, chosen": tuple(_TAUGHT)}
_REPEATED: Final = {"method": "mm-mimo", "input_repetition_prob": 0.5}
_PUBLISHED: Final[dict[str, dict[str, Any]]] = {
    "mm-mimo": {"method": "mm-mimo"},
    "early-fusion": {"method": "early-fusion"},
    "late-fusion": {"method": "late-fusion"},
    "mm-mimo-kd": {"method": "mm-mimo-kd"},
    "early-fusion-kd": {"method": "early-fusion-kd"},
    "repeated": _REPEATED,
}
_BEYOND: Final[dict[str, dict[str, Any]]] = {
    # One network a modality, all together at the cost of MM-MIMO.
    "late-fusion-half": {"method": "late-fusion", "backbone": "shufflenet_v2_x0_5"},
    "early-fusion-kd-fused": {
        "method": "early-fusion-kd",
        "distillation": {"teacher_fusion": "calibrated"},
    },
    **{name: {**_REPEATED, "method": "mm-mimo-kd", **keys} for name, keys in _TAUGHT.items()},
    "split": {**_REPEATED, "stem": "split"},
    "block": {**_REPEATED, "stem": "block"},
    "mm-mimo-block": {"method": "mm-mimo", "stem": "block"},
    "typical": {**_REPEATED, "modality_dropout": 0.1},
    "told": {**_REPEATED, "modality_dropout": 0.1, "missing_input": "told"},
}
_ROWS: Final = _PUBLISHED | _BEYOND
_AT_BEST: Final = ("early-fusion", "late-fusion", "late-fusion-half", "early-fusion-kd-fused")
_COMPARED: Final = (*_PUBLISHED, "late-fusion-half")
_FOUR: Final = ("color1", "color2", "color3", "fluorescence")
DATASETS: Final = {
    "pbc5": Dataset(
        samples={
            "pbc5": ("import cells {real}/pbc5 --sample pbc5 --kind stained-rgb --pixel-um 0.1",)
        },
        modalities=_FOUR,
        folds=3,
        rows={1_000: tuple(_PUBLISHED), 2_500: tuple(_ROWS), 10_000: _COMPARED},
        keys={**_RANDAUGMENT, "side": 32, "batch_size": 32},
    ),
    # The phase of a cell is in how much DNA it has: amounts are kept, so no RandAugment.
    "jurkat": Dataset(
        samples={
            "jurkat": (
                "import cells {real}/mlcp_jurkat/experiment_1.npz --sample jurkat --kind stack "
                "--pixel-um 0.33 --crop-pixel-um 0.20625 --side-px 64 --modality bright_field "
                "--modality dark_field --modality dna",
            )
        },
        modalities=("bright_field", "dark_field", "dna"),
        folds=5,
        rows={
            2_500: tuple(_ROWS),
            5_000: (*_AT_BEST, "repeated"),
        },
        keys={"normalise": "fixed", "side": 64, "batch_size": 32},
        min_class_size=100,
    ),
    # Four modalities that a microscope sees one by one, as in the paper; seeds of no other use.
    "virtual": Dataset(
        samples={
            **{
                f"long-film-{seed}": virtual_slide(f"long-film-{seed}", seed, "blood-film", 80)
                for seed in range(5001, 5021)
            },
            **{
                f"long-coat-{seed}": virtual_slide(f"long-coat-{seed}", seed, "buffy-coat", 20)
                for seed in (5101, 5102)
            },
        },
        modalities=_FOUR,
        folds=3,
        rows={2_500: _COMPARED, 10_000: _COMPARED},
        keys={**_RANDAUGMENT, "side": 32, "batch_size": 32},
        counts=PAPER_COUNTS,
    ),
    # For a GPU: twice the side and batch of `pbc5`, four times the work of a step or more.
    "pbc5-64": Dataset(
        samples={
            "pbc5": ("import cells {real}/pbc5 --sample pbc5 --kind stained-rgb --pixel-um 0.1",)
        },
        modalities=_FOUR,
        folds=3,
        rows={2_500: tuple(_ROWS), 10_000: tuple(_ROWS)},
        keys={**_RANDAUGMENT, "side": 64, "batch_size": 64},
        named_only=True,
    ),
}


@dataclass(frozen=True)
class Run:
    """One network on one fold.

    Attributes:
        dataset: key of `DATASETS`.
        variant: name of the row.
        length: optimiser steps, those of its teachers too.
        fold: from 0.
        seed: of weights and batches.
        recipe: how to train; `late-fusion` is put together from its teachers.
        teachers: variants of the same data set, length and fold, one a modality.
    """

    dataset: str
    variant: str
    length: int
    fold: int
    seed: int
    recipe: Recipe
    teachers: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return record_name(self.dataset, self.variant, self.length, self.fold, self.seed)

    def teacher_runs(self) -> list[list[Run]]:
        """Of each seed, the runs that teach this one."""
        seeds = self.recipe.distillation.teacher_seeds
        return [
            [
                make_run(self.dataset, one, self.length, self.fold, self.seed + number)
                for one in self.teachers
            ]
            for number in range(seeds if self.teachers else 0)
        ]


_HALF: Final = "-half"
"""Ending of the name of a modality whose network has half the channels."""
_WITH_TEACHERS: Final = ("late-fusion", "mm-mimo-kd", "early-fusion-kd")


def _single(variant: str) -> dict[str, Any]:
    """Keys of a modality alone."""
    keys: dict[str, Any] = {"method": "single", "modality": variant.removesuffix(_HALF)}
    return keys | ({"backbone": "shufflenet_v2_x0_5"} if variant.endswith(_HALF) else {})


def make_run(name: str, variant: str, length: int, fold: int, seed: int) -> Run:
    """A run of a row, or of a modality alone."""
    dataset = DATASETS[name]
    keys = _ROWS[variant] if variant in _ROWS else _single(variant)
    content = merge_keys(merge_keys({**_PLAIN, **dataset.keys}, keys), {"seed": seed})
    content["start_side"] = content["side"]
    content |= {"epochs": max(1, length // PERIOD), "min_steps": length, "teacher_epochs": None}
    source: Literal["stack", "scope"] = "stack" if content["normalise"] == "fixed" else "scope"
    recipe = Recipe.model_validate(with_defaults_for(content, source, 10**6))
    teachers = dataset.modalities if recipe.method in _WITH_TEACHERS else ()
    if recipe.backbone == "shufflenet_v2_x0_5":
        teachers = tuple(f"{one}{_HALF}" for one in teachers)
    return Run(name, variant, length, fold, seed, recipe, teachers)


def plan() -> list[Run]:
    """All runs, by value: published rows first, short ones first, then fold by fold.

    Teachers come before their students.
    """
    runs: dict[str, Run] = {}
    lengths = sorted({length for dataset in DATASETS.values() for length in dataset.rows})
    folds = range(max(dataset.folds for dataset in DATASETS.values()))
    for rows, length, fold in itertools.product((_PUBLISHED, _BEYOND), lengths, folds):
        for name, dataset in DATASETS.items():
            chosen = dataset.rows.get(length, ()) if fold < dataset.folds else ()
            for variant in (one for one in chosen if one in rows):
                run = make_run(name, variant, length, fold, 0)
                for one in (*(one for part in run.teacher_runs() for one in part), run):
                    runs.setdefault(one.name, one)
    return list(runs.values())
