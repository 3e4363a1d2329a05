"""Count cells during the scan, as the report would if the scan stopped now.

The cells and flags are those that ``cells.zarr`` would hold, and the classes come from the bundle's
own engine. The scan therefore decides on the numbers that the report shows.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from wbcpipe.classify.models.classes import BATCH_SIZE
from wbcpipe.errors import SampleStateError
from wbcpipe.report.differential import count_cells
from wbcpipe.samples.cell_columns import REJECTED, UNIDENTIFIED
from wbcpipe.samples.records import FieldPredictions
from wbcpipe.system.files import make_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.classify.inference.classifier import Classifier
    from wbcpipe.classify.models.bundle import Bundle
    from wbcpipe.report.differential import Tally
    from wbcpipe.segment.field_cells import FieldCells
    from wbcpipe.segment.sample_cells import CellSelection
    from wbcpipe.system.compute import Device, EngineName

__all__ = ["CountingModel", "LiveCount"]

#: Flags that are known from one field; most debris is known only by comparison with other cells.
_NEVER_COUNTED: Final = np.uint16(sum(flag.value for flag in REJECTED))


class _Segmenter(Protocol):
    """The part of `SampleSegmenter` that is used here."""

    @property
    def modalities(self) -> tuple[str, ...]: ...
    @property
    def pixel_um(self) -> float: ...
    def estimate_statistics(self, indices: Sequence[int], *, keep: bool = True) -> None: ...
    def segment_field(self, index: int) -> FieldCells: ...
    def current_cells(self) -> CellSelection: ...


@dataclass(frozen=True)
class CountingModel:
    """The model that classifies the cells during the scan, and what it runs on.

    Attributes:
        bundle: the model.
        device: ``auto``, ``cpu`` or ``cuda``.
        engine: see `classify.inference.select_engine.select_engine`.
    """

    bundle: Bundle
    device: Device = "auto"
    engine: EngineName = "auto"


class LiveCount:
    """Classify the cells of each field after it is segmented, and count as the report does.

    Cells are classified in batches, and before each decision. The classes are stored in
    ``work/predictions``, one file per field, so that a resumed run does not classify again. They
    depend on the bundle and the images alone.

    Args:
        segmenter: segments the fields.
        model: classifies the cells.
        work: the sample's ``work`` folder.
        batch_size: number of cells that are classified together.
    """

    def __init__(
        self,
        segmenter: _Segmenter,
        model: CountingModel,
        work: Path,
        *,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self._segmenter, self._bundle, self._batch_size = segmenter, model.bundle, batch_size
        self._device, self._engine = model.device, model.engine
        self._folder = work / "predictions"
        self._classifier: Classifier | None = None
        self._predicted: dict[int, list[str]] = {}
        self._pending: list[tuple[FieldCells, str]] = []

    def estimate_statistics(self, indices: Sequence[int], *, keep: bool = True) -> None:
        """See `SampleSegmenter.estimate_statistics`."""
        self._segmenter.estimate_statistics(indices, keep=keep)

    def segment_field(self, index: int) -> object:
        """Segment a field; classify the pending cells when they fill a batch."""
        cells = self._segmenter.segment_field(index)
        if index not in self._predicted and all(
            index != pending.index for pending, _ in self._pending
        ):
            identity = self._identity(cells)
            known = self._load(index, identity)
            if known is not None:
                self._predicted[index] = known
            else:
                self._pending.append((cells, identity))
        if sum(int(_countable(pending).sum()) for pending, _ in self._pending) >= self._batch_size:
            self.classify_pending()
        return cells

    def classify_pending(self) -> None:
        """Classify the cells of every pending field."""
        if not self._pending:
            return
        chosen = [_countable(cells) for cells, _ in self._pending]
        images = np.concatenate(
            [
                cells.block.images[which]
                for (cells, _), which in zip(self._pending, chosen, strict=True)
            ]
        )
        predicted = iter(self._classify(images)) if len(images) else iter(())
        for (cells, identity), which in zip(self._pending, chosen, strict=True):
            classes = [next(predicted) if take else UNIDENTIFIED for take in which.tolist()]
            self._predicted[cells.index] = classes
            make_folder(self._folder)
            record = FieldPredictions(
                field_index=cells.index, identity=identity, predicted_classes=tuple(classes)
            )
            record.write(self._path(cells.index))
        self._pending = []

    def tally(self) -> Tally:
        """Return what the report would count if the scan stopped now.

        Classify the pending cells first.
        """
        self.classify_pending()
        return self._tally()

    def counts(self) -> dict[str, int]:
        """Return the identified cells per class among those classified so far; classify none."""
        return dict(self._tally().counts)

    def _tally(self) -> Tally:
        # Pending fields are left out, not estimated.
        cells = self._segmenter.current_cells()
        known = np.isin(cells.field_index, list(self._predicted))
        rows = zip(cells.field_index[known].tolist(), cells.row[known].tolist(), strict=True)
        classes = [self._predicted[index][number] for index, number in rows]
        return count_cells(classes, cells.qc_flags[known], self._bundle.info.classes)

    def _classify(self, images: NDArray[np.uint16]) -> list[str]:
        from wbcpipe.classify.inference.classifier import Classifier, planes_for
        from wbcpipe.classify.inference.select_engine import select_engine
        from wbcpipe.classify.inference.torch_threads import half_of_the_cores

        planes = planes_for(
            self._segmenter.modalities,
            self._segmenter.pixel_um,
            images.shape[-1],
            self._bundle,
            "the cells of this scan",
        )
        with half_of_the_cores():
            if self._classifier is None:
                runs = select_engine(self._bundle, self._device, self._engine)
                self._classifier = Classifier(self._bundle, engine=runs)
            return self._classifier.call(self._classifier.probability_of(images[:, planes]))[0]

    def _identity(self, cells: FieldCells) -> str:
        """Return the digest of everything that the classes of a field depend on."""
        how = (
            f"{self._bundle.info.sha256} {self._bundle.calibration_digest} {self._device} "
            f"{self._engine}"
        )
        found = hashlib.sha256(how.encode())
        found.update(cells.block.images.tobytes())
        found.update(cells.block.columns["qc_flags"].tobytes())
        return found.hexdigest()

    def _path(self, index: int) -> Path:
        return self._folder / f"field_{index:05d}.json"

    def _load(self, index: int, identity: str) -> list[str] | None:
        """Return the classes of a field from its file; ``None`` if that is absent, damaged or of
        other cells.
        """
        try:
            found = FieldPredictions.read_if_present(self._path(index))
        except SampleStateError:
            return None
        if found is None or (found.field_index, found.identity) != (index, identity):
            return None
        return list(found.predicted_classes)


def _countable(cells: FieldCells) -> NDArray[np.bool_]:
    """Return a mask (N,) of the cells of a field that may count."""
    return np.asarray((cells.block.columns["qc_flags"] & _NEVER_COUNTED) == 0, dtype=np.bool_)
