"""Counting while the stage moves on: what the report would say if the scan stopped now.

The cells are those that ``cells.zarr`` would hold, with the flags it would give them, and the calls are those of the
bundle's own engine; so what is decided here is what the report then shows.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from wbcpipe.classify.models.classes import BATCH_SIZE
from wbcpipe.errors import SampleStateError
from wbcpipe.report.differential import REJECTED, count_cells
from wbcpipe.samples.cell_columns import UNIDENTIFIED, QcFlag
from wbcpipe.system.files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.classify.inference.classifier import Classifier
    from wbcpipe.classify.models.bundle import Bundle
    from wbcpipe.report.differential import Tally
    from wbcpipe.segment.field_cells import FieldCells

__all__ = ["LiveCount"]

#: Flags that a field alone gives; blurred cells and most dirt are known only beside the others.
_NEVER_COUNTED: Final = np.uint16(sum(flag.value for flag in REJECTED if flag != QcFlag.BLURRED))


class _Segmenter(Protocol):
    """What of `SampleSegmenter` is used here."""

    @property
    def modalities(self) -> tuple[str, ...]: ...
    @property
    def pixel_um(self) -> float: ...
    def estimate_statistics(self, indices: Sequence[int], *, keep: bool = True) -> None: ...
    def segment_field(self, index: int) -> FieldCells: ...
    def current_cells(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint16]]: ...


class LiveCount:
    """Calls the cells of each field as it is segmented, and counts as the report would.

    Cells are called as classify calls them, whenever enough have come together and when a decision needs them. Calls
    are kept in ``work/calls``, one small file a field, so that a broken run need not call again; they rest on the
    bundle and the pictures alone.

    Args:
        segmenter: segments the fields.
        bundle: the model.
        work: the sample's ``work`` folder.
        device: ``auto``, ``cpu`` or ``cuda``.
        engine: see `classify.inference.engine.engine_for`.
        at_once: so many cells wait for one another before they are called.
    """

    def __init__(
        self,
        segmenter: _Segmenter,
        bundle: Bundle,
        work: Path,
        *,
        device: str = "auto",
        engine: str = "auto",
        at_once: int = BATCH_SIZE,
    ) -> None:
        self._segmenter, self._bundle, self._at_once = segmenter, bundle, at_once
        self._device, self._engine = device, engine
        self._folder = work / "calls"
        self._classifier: Classifier | None = None
        self._calls: dict[int, list[str]] = {}
        self._waiting: list[tuple[FieldCells, str]] = []

    def estimate_statistics(self, indices: Sequence[int], *, keep: bool = True) -> None:
        """See `SampleSegmenter.estimate_statistics`."""
        self._segmenter.estimate_statistics(indices, keep=keep)

    def segment_field(self, index: int) -> object:
        """Segment a field; call what has come together if that fills a batch."""
        cells = self._segmenter.segment_field(index)
        if index not in self._calls and all(index != waiting.index for waiting, _ in self._waiting):
            identity = self._identity(cells)
            known = self._load(index, identity)
            if known is not None:
                self._calls[index] = known
            else:
                self._waiting.append((cells, identity))
        if sum(int(_callable(waiting).sum()) for waiting, _ in self._waiting) >= self._at_once:
            self.call_waiting()
        return cells

    def call_waiting(self) -> None:
        """Call the cells of every field that still waits."""
        if not self._waiting:
            return
        chosen = [_callable(cells) for cells, _ in self._waiting]
        images = np.concatenate(
            [cells.block.images[which] for (cells, _), which in zip(self._waiting, chosen, strict=True)]
        )
        called = iter(self._called(images)) if len(images) else iter(())
        for (cells, identity), which in zip(self._waiting, chosen, strict=True):
            calls = [next(called) if take else UNIDENTIFIED for take in which.tolist()]
            self._calls[cells.index] = calls
            self._folder.mkdir(parents=True, exist_ok=True)
            write_json(self._path(cells.index), {"identity": identity, "calls": calls})
        self._waiting = []

    def tally(self) -> Tally:
        """What the report would count if the scan stopped now; cells that wait for their call are called first."""
        self.call_waiting()
        return self._tally()

    def counts(self) -> dict[str, int]:
        """Identified cells per class among those called so far; nothing is called for it."""
        return dict(self._tally().counts)

    def _tally(self) -> Tally:
        # Fields that still wait for their calls are left out, not guessed.
        field, row, quality = self._segmenter.current_cells()
        known = np.isin(field, list(self._calls))
        calls = [self._calls[at][number] for at, number in zip(field[known].tolist(), row[known].tolist(), strict=True)]
        return count_cells(calls, quality[known], self._bundle.info.classes)

    def _called(self, images: NDArray[np.uint16]) -> list[str]:
        from wbcpipe.classify.inference.classifier import Classifier, planes_for
        from wbcpipe.classify.inference.engine import engine_for

        planes = planes_for(
            self._segmenter.modalities,
            self._segmenter.pixel_um,
            images.shape[-1],
            self._bundle,
            "the cells of this scan",
        )
        with _spare_threads():
            if self._classifier is None:
                runs = engine_for(self._bundle, self._device, self._engine)
                self._classifier = Classifier(self._bundle, engine=runs)
            return self._classifier.call(self._classifier.probability_of(images[:, planes]))[0]

    def _identity(self, cells: FieldCells) -> str:
        """Digest of all that a field's calls rest on."""
        how = f"{self._bundle.info.sha256} {self._bundle.calibration_digest} {self._device} {self._engine}"
        found = hashlib.sha256(how.encode())
        found.update(cells.block.images.tobytes())
        found.update(cells.block.columns["qc_flags"].tobytes())
        return found.hexdigest()

    def _path(self, index: int) -> Path:
        return self._folder / f"field_{index:05d}.json"

    def _load(self, index: int, identity: str) -> list[str] | None:
        if not self._path(index).is_file():
            return None
        with contextlib.suppress(SampleStateError):
            content = read_json(self._path(index))
            if isinstance(content, dict) and content.get("identity") == identity:
                return [str(call) for call in content["calls"]]
        return None


def _callable(cells: FieldCells) -> NDArray[np.bool_]:
    """(N,) true for the cells of a field that may count."""
    return np.asarray((cells.block.columns["qc_flags"] & _NEVER_COUNTED) == 0, dtype=np.bool_)


@contextlib.contextmanager
def _spare_threads() -> Iterator[None]:
    """torch on half the processor's cores: the other half drives the microscope, or draws the virtual one's frames."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, (os.cpu_count() or 2) // 2)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
