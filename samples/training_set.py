"""``training_set.json``.

Verified cells of samples in one folder, each sample with its own ``cells.zarr``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from wbcpipe.samples.records import Count, Part, Record

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["TRAINING_SET", "TrainingSample", "TrainingSet", "training_set_path"]

TRAINING_SET: Final = "training_set.json"


class TrainingSample(Part):
    """The cells of one sample.

    Attributes:
        sample: its name; its cells are in ``<sample>/cells.zarr`` of the folder.
        journal: ``id`` of the last entry of its journal that was read.
        state: of its review: ``preliminary``, ``verified`` or ``corrected``.
        readers: who gave the classes.
        classes: class to cells.
        sources: how the class was given to cells: ``assigned``, ``adjudicated``, ``agreed``,
            ``majority``, ``confirmed``.
        left_out: reason to cells that have a reader's word and are no training cells.
    """

    sample: str
    journal: str
    state: str
    readers: tuple[str, ...] = ()
    classes: dict[str, Count]
    sources: dict[str, Count]
    left_out: dict[str, Count]


class TrainingSet(Record):
    """The content of the file.

    Attributes:
        complete: false while the cells are being written.
        samples: with at least one cell.
        target: cells wanted of each class.
    """

    remedy: ClassVar[str] = "write it again by `wbcpipe labels export S... --out FOLDER --verified`"

    complete: bool
    samples: tuple[TrainingSample, ...] = ()
    target: Count = 0

    @property
    def classes(self) -> dict[str, int]:
        """Class to cells of all samples."""
        found: dict[str, int] = {}
        for sample in self.samples:
            for name, cells in sample.classes.items():
                found[name] = found.get(name, 0) + cells
        return found

    @property
    def lacks(self) -> dict[str, int]:
        """Class to the cells that it lacks of the target."""
        return {name: max(0, self.target - cells) for name, cells in self.classes.items()}


def training_set_path(folder: Path) -> Path:
    """Return the path of a folder's ``training_set.json``."""
    return folder / TRAINING_SET
