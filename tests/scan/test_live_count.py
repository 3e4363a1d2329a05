"""What is counted while the stage moves on is what the report counts in the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from wbcpipe.classify.inference import select_engine as selection
from wbcpipe.classify.inference.classifier import Classifier
from wbcpipe.classify.inference.engine import TorchEngine
from wbcpipe.classify.models.bundle import Bundle, find_bundle
from wbcpipe.errors import BundleError
from wbcpipe.samples.cell_columns import CROP_SIDE_PX, QcFlag
from wbcpipe.samples.cell_store import CellBlock
from wbcpipe.scan.live_count import CountingModel, LiveCount
from wbcpipe.segment.field_cells import FieldCells, no_cells
from wbcpipe.segment.sample_cells import CellSelection

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

MODALITIES = ("color1", "color2", "color3", "fluorescence")


class FakeSegmenter:
    """Planted fields: each holds so many cells, with the flags given by number over all fields."""

    modalities: tuple[str, ...] = MODALITIES
    pixel_um = 0.1

    def __init__(self, sizes: Sequence[int], flags: dict[int, QcFlag]) -> None:
        rng = np.random.default_rng(3)
        self.fields, number = [], 0
        for index, size in enumerate(sizes):
            columns: dict[str, NDArray[Any]] = {
                name: np.repeat(values, size) if values.ndim else values
                for name, values in {"qc_flags": np.zeros(1, np.uint16)}.items()
            }
            for row in range(size):
                columns["qc_flags"][row] = flags.get(number, QcFlag(0)).value
                number += 1
            images = rng.integers(
                0, 60000, (size, len(MODALITIES), CROP_SIDE_PX, CROP_SIDE_PX), dtype=np.uint16
            )
            block = CellBlock(
                images, no_cells(MODALITIES, CROP_SIDE_PX).masks, columns, [""] * size
            )
            self.fields.append(FieldCells(index, (0.0, 0.0), block))
        self.done: list[int] = []

    def estimate_statistics(self, indices: Sequence[int], *, keep: bool = True) -> None: ...

    def segment_field(self, index: int) -> FieldCells:
        if index not in self.done:
            self.done.append(index)
        return self.fields[index]

    def current_cells(self) -> CellSelection:
        chosen = [self.fields[index] for index in sorted(self.done)]
        field = [cells.index for cells in chosen for _ in range(len(cells))]
        row = [row for cells in chosen for row in range(len(cells))]
        quality = [int(value) for cells in chosen for value in cells.block.columns["qc_flags"]]
        none = np.zeros(len(row))
        return CellSelection(
            np.array(field), np.array(row), none, none, np.array(quality, np.uint16)
        )


def test_cells_are_called_in_batches_kept_and_only_those_that_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = find_bundle("virtual-shufflenet")
    flags = {1: QcFlag.BORDER, 2: QcFlag.DEBRIS, 4: QcFlag.MISSING_MODALITY, 5: QcFlag.DOUBLET}
    segmenter = FakeSegmenter([3, 0, 4], flags)
    live = LiveCount(segmenter, CountingModel(bundle), tmp_path, batch_size=4)
    live.segment_field(0)
    assert sum(live.counts().values()) == 0, "fewer than a batch wait"
    assert not (tmp_path / "predictions").exists()
    live.segment_field(1)
    live.segment_field(2)
    tally = live.tally()
    assert tally.rejected == {
        "debris": 1,
        "border": 1,
        "missing_modality": 1,
        "clump": 0,
        "blurred": 0,
    }
    assert tally.identified + tally.unidentified == 4
    assert len(list((tmp_path / "predictions").iterdir())) == 3
    # A run that goes on reads the calls; one with other pictures does not.
    again = LiveCount(segmenter, CountingModel(bundle), tmp_path, batch_size=4)
    with monkeypatch.context() as patch:
        patch.setattr(selection, "select_engine", pytest.fail)
        for index in range(3):
            again.segment_field(index)
        assert again.tally() == tally
    segmenter.fields[2].block.images[:] //= 2
    other = LiveCount(segmenter, CountingModel(bundle), tmp_path, batch_size=4)
    called: list[int] = []

    probability_of = Classifier.probability_of

    def counted(classifier: Classifier, images: NDArray[np.uint16]) -> NDArray[np.float32]:
        called.append(len(images))
        return probability_of(classifier, images)

    monkeypatch.setattr(Classifier, "probability_of", counted)
    for index in range(3):
        other.segment_field(index)
    other.classify_pending()
    assert called == [3]


def test_cells_are_called_by_the_engine_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def noted(bundle: Bundle, device: str, engine: str) -> TorchEngine:
        asked.append((device, engine))
        return TorchEngine(bundle.network(), torch.device("cpu"))

    monkeypatch.setattr(selection, "select_engine", noted)
    segmenter, bundle = FakeSegmenter([2], {}), find_bundle("virtual-shufflenet")
    live = LiveCount(segmenter, CountingModel(bundle, "cpu", "torch"), tmp_path, batch_size=4)
    live.segment_field(0)
    live.classify_pending()
    assert asked == [("cpu", "torch")]
    # Calls of one engine are not those of another.
    other = LiveCount(segmenter, CountingModel(bundle, "cpu", "openvino"), tmp_path, batch_size=4)
    other.segment_field(0)
    other.classify_pending()
    assert asked[1:] == [("cpu", "openvino")]


def test_a_bundle_that_does_not_fit_is_refused_with_the_first_cells(tmp_path: Path) -> None:
    segmenter = FakeSegmenter([2], {})
    segmenter.modalities = ("color1", "color2", "color3", "dark")
    live = LiveCount(segmenter, CountingModel(find_bundle("virtual-shufflenet")), tmp_path)
    live.segment_field(0)
    with pytest.raises(BundleError, match=r"reads modalities .* the cells of this scan have"):
        live.tally()
