"""The recipe of a training run: a frozen, complete record that refuses unknown keys."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from wbcpipe.classify.models.classes import Backbone, Method, Stem
from wbcpipe.classify.models.normalise import Normalise
from wbcpipe.classify.training.augment import Augmentation
from wbcpipe.classify.training.data import Sampling
from wbcpipe.classify.training.distill import Distillation
from wbcpipe.classify.training.randaugment import RandAugment
from wbcpipe.errors import ConfigError

if TYPE_CHECKING:
    from wbcpipe.samples.records import SampleKind

__all__ = [
    "Recipe",
    "RecipeKeys",
    "TrainingPrecision",
    "default_method",
    "keys_without_effect",
    "merge_keys",
    "parse_settings",
    "with_defaults_for",
]

TrainingPrecision = Literal["auto", "float32", "bfloat16"]
RecipeKeys = dict[str, Any]
"""Keys of a recipe as they were given: not complete, and not yet validated."""

_AUGMENTATIONS: Final[dict[str, dict[str, float]]] = {
    "cell": {},
    # Another laboratory's stain: more or less of it, mixed differently between the colours, on
    # cells of another size.
    "stain": {"stain": 0.25, "stain_mixing": 0.1, "restained": 1.0, "scale": 0.25},
    # The same on separated colours, and what other microscopes show: dark rims and defocus.
    "separate": {
        **{"stain": 0.4, "stain_mixing": 0.2, "restained": 1.0, "scale": 0.25},
        **{"rims": 0.5, "defocus": 0.5},
    },
    # Where classes differ in the amount of light, nothing may change an amount: no gain, no size,
    # no interpolation.
    "fixed": {
        "gain": 0.0,
        "offset": 0.0,
        "gamma": 0.0,
        "blur": 0.0,
        "noise": 0.0,
        "scale": 0.0,
        "lossless_prob": 1.0,
    },
}
"""Keys that differ from the augmentation's defaults.

Measured in ``docs/results``: other-laboratories, study-jurkat.
"""
MIN_STEPS: Final = 1500
"""The shipped networks have as many.

After 180 steps MM-MIMO has not learned 68 cells (other-laboratories.md).
"""
FINETUNE_STEPS_PER_CELL: Final = 2
FINETUNE_MIN_STEPS: Final = 100
"""For a network initialised from a bundle.

The smaller number holds. 50 cells: 86 % of the others right after 100, 82 % after 300 steps; 125
cells: 91 and 90 % (docs/results/own-model.md).
"""
_KEYS_OF_HEADS: Final = ("input_repetition_prob", "single_modality_prob")
_KEYS_OF_TEACHERS: Final = ("teacher_epochs", "temperature", "distillation")
_INPUT_DROPOUT: Final = {"single_modality_prob": 0.05, "modality_dropout": 0.1}
"""For MM-MIMO on modalities that can fail one by one. Measured in docs/results/study-jurkat.md."""


def merge_keys(content: RecipeKeys, changes: RecipeKeys) -> RecipeKeys:
    """Return a recipe's keys with some of them changed.

    In a nested part, keys that are not named stay.

    >>> keys = {"side": 64, "randaugment": {"operations": 1}}
    >>> merge_keys(keys, {"randaugment": {"magnitude": 9}})
    {'side': 64, 'randaugment': {'operations': 1, 'magnitude': 9}}
    """
    merged = dict(content)
    for key, value in changes.items():
        before = merged.get(key)
        merged[key] = (
            merge_keys(before, value)
            if isinstance(before, dict) and isinstance(value, dict)
            else value
        )
    return merged


def parse_settings(text: str) -> RecipeKeys:
    """Return the recipe keys of ``key=value,key=value``.

    Values are JSON or plain words, ``a.b=c`` sets a nested key.

    >>> parse_settings("method=mm-mimo,input_repetition_prob=0.5,distillation.weight=2")
    {'method': 'mm-mimo', 'input_repetition_prob': 0.5, 'distillation': {'weight': 2}}
    """
    found: RecipeKeys = {}
    for part in filter(None, text.split(",")):
        key, sign, value = part.partition("=")
        if not sign:
            raise ConfigError(
                f"setting {part!r} is not of the form KEY=VALUE; example: --set patience=8."
            )
        *above, last = key.strip().split(".")
        target = found
        for name in above:
            target = target.setdefault(name, {})
        try:
            target[last] = json.loads(value)
        except ValueError:
            target[last] = value
    return found


def default_method(source: SampleKind) -> tuple[Method, str]:
    """Return the method that cells of a kind are trained with by default, and why.

    >>> default_method("stained-rgb")[0], default_method("scope")[0]
    ('early-fusion', 'mm-mimo-kd')
    """
    if source == "stained-rgb":
        return "early-fusion", (
            "the planes of one photograph show the same pixels: it was right most often in our "
            "studies of smears (docs/results/long-study.md, other-laboratories.md)"
        )
    return "mm-mimo-kd", (
        "the published method; for modalities that are taken one by one our study is not finished "
        "(docs/results/long-study.md)"
    )


def keys_without_effect(content: RecipeKeys, method: Method) -> list[str]:
    """Return the given keys that a method does not read.

    >>> keys_without_effect({"temperature": 2, "side": 64}, "early-fusion")
    ['temperature']
    """
    known: tuple[str, ...] = ()
    if not method.startswith("mm-mimo"):
        known += _KEYS_OF_HEADS
    if not method.endswith("-kd"):
        known += _KEYS_OF_TEACHERS
    return [key for key in content if key in known]


def with_defaults_for(content: RecipeKeys, source: SampleKind, cells: int) -> RecipeKeys:
    """Return a recipe's keys, completed by those that fit the cells.

    They are method, normalisation, augmentation, dropout of inputs, and, if no epochs are given,
    enough steps for few cells. A recipe with the paper's augmentation stays as it is.

    Args:
        content: keys of a recipe.
        source: kind of the images, see `data.CellSet`. The colours of a photograph do not fail one
            by one.
        cells: number of cells.

    >>> keys = {"normalise": "fixed", "augmentation": {"gain": 0.1}}
    >>> with_defaults_for(keys, "scope", 5000)["augmentation"]["gain"]
    0.1
    >>> with_defaults_for({"method": "mm-mimo"}, "scope", 5000)["modality_dropout"]
    0.1
    >>> with_defaults_for({"method": "single"}, "scope", 100)
    {'augmentation': {}, 'method': 'single', 'normalise': 'cell', 'min_steps': 1500}
    """
    if content.get("randaugment") is not None:
        return dict(content)
    content = {"method": default_method(source)[0], **content}
    complete = {name: field.default for name, field in Recipe.model_fields.items()} | content
    photograph = source == "stained-rgb"
    of_photographs = "stain" if complete["method"] == "single" else "separate"
    normalise = content.get("normalise", of_photographs if photograph else "cell")
    found = {
        **merge_keys({"augmentation": _AUGMENTATIONS.get(normalise, {})}, content),
        "normalise": normalise,
    }
    if str(complete["method"]).startswith("mm-mimo") and not photograph:
        found = {**_INPUT_DROPOUT, **found}
    steps = (
        min(FINETUNE_MIN_STEPS, FINETUNE_STEPS_PER_CELL * cells)
        if complete["init_from"]
        else MIN_STEPS
    )
    if "epochs" not in content and cells * complete["epochs"] < steps * complete["batch_size"]:
        found.setdefault("min_steps", steps)
    return found


class Recipe(BaseModel):
    """A training recipe.

    Attributes:
        method: the network and its loss.
        modality: the modality of method ``single``.
        backbone: torchvision's name.
        stem: ``shared`` is as published: one first convolution reads all modalities. ``split`` and
            ``block`` give each modality first layers of its own, see `networks.divide_stem`.
        side: input side in pixels.
        start_side: side of the first epochs. It grows to ``side`` over the first two thirds: small
            images teach coarse features at a fraction of the cost.
        epochs: passes over the cells; those of the student if there are teachers, those of each
            member of late fusion.
        teacher_epochs: passes of each teacher of a student; null: as many as the student.
        min_steps: minimum number of optimiser steps, for teachers too; if the epochs make fewer,
            each epoch draws cells repeatedly.
        batch_size: cells per step.
        lr: peak of the one-cycle learning rate of AdamW.
        weight_decay: of AdamW, for weights, not for biases and batch norm.
        temperature: T of the distillation.
        input_repetition_prob: rho; probability that all inputs of MM-MIMO show one cell. 0 is as
            published.
        modality_dropout: probability that a cell on all inputs lacks one modality, which is then
            typical, as in inference.
        missing_input: what replaces a missing modality, in training and inference: ``typical``, or
            zeros that the heads are ``told`` of.
        single_modality_prob: probability that all inputs of MM-MIMO show one modality; the other
            heads learn to be uncertain.
        normalise: ``cell`` measures each cell against its own background and signal; ``stain`` also
            against its darkest stain; ``separate`` brings red, green and blue planes to one colour
            of the nucleus, for smears of other laboratories; ``fixed`` keeps grey levels, for
            classes that differ in the amount of light.
        sampling: how often rare classes are drawn.
        ema: decay of the exponential moving average of the weights, which is kept in the end; 0
            keeps the last weights.
        holdout: fraction of the cells kept from training to calibrate on, if no validation cells
            are given.
        target_accuracy: fraction of accepted calls that must be right on the validation cells.
        max_unidentified_fraction: largest fraction of the validation cells that may be rejected to
            reach it.
        precision: ``auto`` is float32 on a CPU and mixed on a GPU.
        seed: of all random numbers.
        augmentation: strength of the augmentation.
        randaugment: the paper's augmentation, in place of ours.
        distillation: options of the distillation.
        init_from: SHA-256 of the bundle's weights that the network is initialised from; empty for
            random weights.
        patience: epochs without a lower loss on held-out training cells after which training stops
            and the best weights are kept; 0 never stops. ``holdout`` is the fraction held out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method = "mm-mimo-kd"
    modality: str | None = None
    backbone: Backbone = "shufflenet_v2_x1_0"
    side: int = Field(default=112, ge=32, le=512)
    stem: Stem = "shared"
    start_side: int = Field(default=64, ge=32, le=512)
    epochs: int = Field(default=40, ge=1)
    teacher_epochs: Annotated[int, Field(ge=1)] | None = 16
    min_steps: int = Field(default=0, ge=0)
    batch_size: int = Field(default=32, ge=2)
    lr: float = Field(default=4e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    temperature: float = Field(default=3.0, gt=0)
    input_repetition_prob: float = Field(default=0.5, ge=0, le=1)
    modality_dropout: float = Field(default=0.0, ge=0, lt=1)
    missing_input: Literal["typical", "told"] = "typical"
    single_modality_prob: float = Field(default=0.0, ge=0, lt=1)
    normalise: Normalise = "cell"
    sampling: Sampling = "sqrt"
    ema: float = Field(default=0.0, ge=0, lt=1)
    holdout: float = Field(default=0.15, gt=0, lt=1)
    target_accuracy: float = Field(default=0.99, gt=0, le=1)
    max_unidentified_fraction: float = Field(default=0.05, ge=0, lt=1)
    precision: TrainingPrecision = "auto"
    seed: int = Field(default=0, ge=0)
    augmentation: Augmentation = Augmentation()
    randaugment: RandAugment | None = None
    distillation: Distillation = Distillation()
    init_from: str = ""
    patience: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Refuse keys that would have no effect."""
        method = self.method.removesuffix("-kd")
        if self.stem != "shared" and method not in ("early-fusion", "mm-mimo"):
            raise ValueError(f"stem {self.stem!r} needs method early-fusion or mm-mimo")
        if self.missing_input == "told" and not self.modality_dropout:
            raise ValueError("missing_input 'told' needs modality_dropout above 0")
        options = self.distillation
        if options.fused_weight and (self.method != "mm-mimo-kd" or not self.input_repetition_prob):
            raise ValueError(
                "distillation.fused_weight needs method mm-mimo-kd and input_repetition_prob above "
                "0: only cells on all inputs have a fused output"
            )
        if options.teacher_fusion != "mean" and not (
            options.fused_weight or self.method == "early-fusion-kd"
        ):
            raise ValueError(
                "distillation.teacher_fusion needs method early-fusion-kd, or "
                "distillation.fused_weight above 0"
            )
        return self

    @property
    def epochs_of_teachers(self) -> int:
        """Passes of each teacher, or of each member of late fusion."""
        if self.teacher_epochs is None or self.method == "late-fusion":
            return self.epochs
        return self.teacher_epochs

    def for_teacher(self, modality: str, number: int = 0) -> Recipe:
        """Return the recipe of one modality's teacher, or of its member of late fusion, with keys
        that concern the student alone at their defaults.

        Teachers of one modality differ in the seed, by their ``number`` from 0.

        A trained teacher is therefore used again when only the student's keys change.
        """
        kept = self.model_dump(
            include={
                *("backbone", "side", "start_side", "batch_size", "lr", "weight_decay", "sampling"),
                *("ema", "precision", "seed", "augmentation", "randaugment", "normalise"),
                *("patience", "holdout", "min_steps"),
            }
        )
        kept |= {"seed": self.seed + number, "epochs": self.epochs_of_teachers}
        if self.method == "late-fusion":
            kept |= {"init_from": self.init_from}
        return Recipe(**kept, method="single", modality=modality)

    @classmethod
    def published(cls, **changes: Any) -> Recipe:
        """Return the paper's training as far as the paper describes it: RandAugment, no repetition,
        no other technique.

        The paper states neither epochs, optimiser, batch size nor temperature: those are ours. Its
        centre crop of 224 pixels is how cells are cut here, so that at side 224 nothing is
        resampled.
        """
        plain = {
            "input_repetition_prob": 0.0,
            "sampling": "natural",
            "randaugment": {"operations": 2, "magnitude": 18},
            "side": 224,
            "start_side": 224,
            "teacher_epochs": 40,
        }
        return cls.model_validate(plain | changes)

    def side_at(self, epoch: int) -> int:
        """Return the side to train at in an epoch, a multiple of 16 until the last third."""
        grown = min(1.0, epoch / max(1.0, (self.epochs - 1) * 2 / 3))
        if self.start_side >= self.side or grown >= 1.0:
            return self.side
        return min(
            self.side, round((self.start_side + grown * (self.side - self.start_side)) / 16) * 16
        )
