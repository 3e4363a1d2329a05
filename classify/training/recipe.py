"""What a training run does, as data: frozen, complete, and refused when a key is not known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from wbcpipe.classify.models.classes import Backbone, Method
from wbcpipe.classify.training.augment import Augmentation
from wbcpipe.classify.training.data import Sampling
from wbcpipe.classify.training.distill import Distillation
from wbcpipe.classify.training.randaugment import RandAugment

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Normalise", "Recipe", "merge_keys", "suited"]

Normalise = Literal["cell", "stain", "fixed"]

_AUGMENTATIONS: Final[dict[str, dict[str, Any]]] = {
    "cell": {},
    # Another laboratory's stain: more, or less, of it, parted otherwise between the colours, on cells of another size.
    "stain": {"stain": 0.25, "stain_mixing": 0.1, "restained": 1.0, "scale": 0.25},
    # Where amounts tell, nothing may change one: no gain, no size, and no pixel between pixels.
    "fixed": {"gain": 0.0, "offset": 0.0, "gamma": 0.0, "blur": 0.0, "noise": 0.0, "scale": 0.0, "lossless_prob": 1.0},
}
"""Keys that differ from the augmentation's defaults; ``docs/results`` has why: other-laboratories, study-jurkat."""
MIN_STEPS: Final = 1500
"""As few as the shipped networks have; in 180 MM-MIMO has not learned 68 cells (docs/results/other-laboratories.md)."""
FINETUNE_MIN_STEPS: Final = 300
"""Of a network that starts from a bundle's weights: 100 steps call 79 % of 100 cells right, 300 steps 81 %."""
_SPOILT: Final = {"single_modality_prob": 0.05, "modality_dropout": 0.1}
"""For MM-MIMO of modalities that can fail one by one; docs/results/study-jurkat.md has why."""

_ADDED: Final[dict[str, Any]] = {"modality_dropout": 0.0, "single_modality_prob": 0.0, "min_steps": 0, "init_from": ""}
"""Keys that recipes of earlier versions lack, and what these did."""


def merge_keys(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's keys with some changed; of a part such as ``distillation`` the keys that are not named stay.

    >>> merge_keys({"side": 64, "randaugment": {"operations": 1}}, {"randaugment": {"magnitude": 9}})
    {'side': 64, 'randaugment': {'operations': 1, 'magnitude': 9}}
    """
    merged = dict(content)
    for key, value in changes.items():
        before = merged.get(key)
        merged[key] = merge_keys(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return merged


def suited(content: Mapping[str, Any], source: str, cells: int) -> dict[str, Any]:
    """A recipe's keys, with what suits the cells where nothing is said.

    These are their normalisation and augmentation, inputs spoilt while training, and, where no epochs are given, steps
    enough for few cells. With the paper's augmentation in place of ours nothing is added.

    Args:
        content: keys of a recipe.
        source: what made the pictures, see `data.CellSet`. The colours of a photograph do not fail one by one.
        cells: how many there are.

    >>> suited({"normalise": "fixed", "augmentation": {"gain": 0.1}}, "scope", 5000)["augmentation"]["gain"]
    0.1
    >>> suited({"method": "mm-mimo"}, "scope", 5000)["modality_dropout"]
    0.1
    >>> suited({"method": "single"}, "scope", 100)
    {'augmentation': {}, 'method': 'single', 'normalise': 'cell', 'min_steps': 1500}
    """
    if content.get("randaugment") is not None:
        return dict(content)
    usual = {name: field.default for name, field in Recipe.model_fields.items()} | dict(content)
    photograph = source == "stained-rgb"
    how = content.get("normalise", "stain" if photograph else "cell")
    found = {**merge_keys({"augmentation": _AUGMENTATIONS.get(how, {})}, content), "normalise": how}
    if str(usual["method"]).startswith("mm-mimo") and not photograph:
        found = {**_SPOILT, **found}
    steps = FINETUNE_MIN_STEPS if usual["init_from"] else MIN_STEPS
    if "epochs" not in content and cells * usual["epochs"] < steps * usual["batch_size"]:
        found.setdefault("min_steps", steps)
    return found


class Recipe(BaseModel):
    """A training recipe.

    Attributes:
        method: which network and loss.
        modality: the one modality of method ``single``.
        backbone: torchvision's name.
        side: input side in pixels.
        start_side: side of the first epochs, which grows to ``side`` over the first two thirds; equal to ``side`` it
            stays. Small pictures teach the coarse features at a fraction of the cost.
        epochs: passes over the cells; of the student where there are teachers.
        teacher_epochs: passes for each teacher.
        min_steps: of the optimiser in all, teachers' too; where the epochs make fewer, each draws cells again.
        batch_size: cells a step.
        lr: peak of the one-cycle learning rate of AdamW.
        weight_decay: AdamW's, on weights but not on biases and batch norm.
        temperature: T of the distillation.
        input_repetition_prob: rho; how often one cell goes to all inputs of MM-MIMO. 0 is as published.
        modality_dropout: how often a cell on all inputs lacks one modality, which looks typical, as at run time.
        single_modality_prob: how often one modality is on all inputs of MM-MIMO, which the other heads learn to doubt.
        normalise: ``cell`` measures each cell against its own background and signal; ``stain`` also against its darkest
            stain, for smears of other laboratories; ``fixed`` keeps grey levels, for classes that differ in the amount
            of light.
        sampling: how rare classes are drawn.
        label_smoothing: of the cross-entropy.
        ema: decay of the moving average of the weights that is kept in the end; 0 keeps the last weights.
        holdout: share of the cells kept from training, where no validation cells are given, to calibrate on.
        target_accuracy: share of accepted calls that must be right on the validation cells.
        max_unidentified_fraction: share of the validation cells that may be refused to reach it.
        precision: ``auto`` is float32 on a CPU and mixed on a GPU.
        seed: of everything random.
        augmentation: how strongly pictures are changed.
        randaugment: in its place, the paper's augmentation.
        distillation: how a student is taught, beside the temperature.
        batch_repetition: how often each cell stands in a batch, beside other cells each time (MIMO's).
        accumulate: parts that a batch is worked through in, for lack of memory; batch norm sees the parts.
        init_from: SHA-256 of the bundle's weights that the network starts from; none where it is empty.
        patience: epochs without a better loss on held-out training cells after which training stops and the best
            weights are kept; 0 never stops. The share held out is ``holdout``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method = "mm-mimo-kd"
    modality: str | None = None
    backbone: Backbone = "shufflenet_v2_x1_0"
    side: int = Field(default=112, ge=32, le=512)
    start_side: int = Field(default=64, ge=32, le=512)
    epochs: int = Field(default=40, ge=1)
    teacher_epochs: int = Field(default=16, ge=1)
    min_steps: int = Field(default=0, ge=0)
    batch_size: int = Field(default=32, ge=2)
    lr: float = Field(default=4e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    temperature: float = Field(default=3.0, gt=0)
    input_repetition_prob: float = Field(default=0.5, ge=0, le=1)
    modality_dropout: float = Field(default=0.0, ge=0, lt=1)
    single_modality_prob: float = Field(default=0.0, ge=0, lt=1)
    normalise: Normalise = "cell"
    sampling: Sampling = "sqrt"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    ema: float = Field(default=0.0, ge=0, lt=1)
    holdout: float = Field(default=0.15, gt=0, lt=1)
    target_accuracy: float = Field(default=0.99, gt=0, le=1)
    max_unidentified_fraction: float = Field(default=0.05, ge=0, lt=1)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = Field(default=0, ge=0)
    augmentation: Augmentation = Augmentation()
    randaugment: RandAugment | None = None
    distillation: Distillation = Distillation()
    batch_repetition: int = Field(default=1, ge=1, le=16)
    accumulate: int = Field(default=1, ge=1, le=64)
    init_from: str = ""
    patience: int = Field(default=0, ge=0)

    @property
    def mark(self) -> str:
        """What tells this training from others, as versions wrote it that lacked some keys: theirs go on."""
        return self.model_dump_json(exclude={key for key, off in _ADDED.items() if getattr(self, key) == off})

    def is_what(self, recorded: Mapping[str, Any]) -> bool:
        """Whether a result's recipe, of this version or an earlier one, is this."""
        return self.model_dump(mode="json") == {**_ADDED, **recorded}

    def for_teacher(self, modality: str) -> Recipe:
        """The recipe of one modality's teacher: what matters to the student alone is left at its default.

        So a teacher that stands in the work folder is used again when only the student's part changes.
        """
        kept = self.model_dump(
            include={
                *("backbone", "side", "start_side", "batch_size", "lr", "weight_decay", "sampling"),
                *("label_smoothing", "ema", "precision", "seed", "augmentation", "randaugment", "normalise"),
                *("accumulate", "patience", "holdout", "min_steps"),
            }
        )
        return Recipe(**kept, method="single", modality=modality, epochs=self.teacher_epochs)

    @classmethod
    def published(cls, **changes: Any) -> Recipe:
        """The paper's training as far as it tells it: RandAugment alone, no repetition, no other trick.

        It does not say how long it trained, by which optimiser, in batches of which size or at which temperature: those
        are ours. Its centre crop of 224 pixels is how cells are cut here: in the middle of the cell, 224 pixels wide
        unless told otherwise, so that at side 224 nothing is resampled.
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
        """The side to train at in an epoch, a multiple of 16 until the last third."""
        grown = min(1.0, epoch / max(1.0, (self.epochs - 1) * 2 / 3))
        if self.start_side >= self.side or grown >= 1.0:
            return self.side
        return min(self.side, round((self.start_side + grown * (self.side - self.start_side)) / 16) * 16)
