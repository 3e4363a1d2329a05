"""Counting while the stage moves on: what the report would say if the scan stopped now.

The cells are those that ``cells.zarr`` would hold, with the flags it would give them, and the calls are those of the
bundle's own engine; so what is decided here is what the report then shows.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
from scipy.special import betaincinv

from wbcpipe.classify.models.classes import BATCH_SIZE
from wbcpipe.errors import ConfigError, SampleStateError
from wbcpipe.report.differential import ADULT, REJECTED, UNIDENTIFIED, clopper_pearson, count_cells
from wbcpipe.samples.cell_store import QcFlag
from wbcpipe.samples.scan_outcome import PrecisionReached
from wbcpipe.system.files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.classify.inference.classifier import Classifier
    from wbcpipe.classify.models.bundle import Bundle
    from wbcpipe.report.differential import Tally
    from wbcpipe.segment.field_cells import FieldCells

__all__ = [
    "LiveCount",
    "PrecisionTarget",
    "cells_for_half_width",
    "cells_for_likely_share",
    "check_targets",
    "half_width_percent",
    "parse_target",
    "precision_reached",
]

#: Flags that a field alone gives; blurred cells and most dirt are known only beside the others.
_NEVER_COUNTED: Final = np.uint16(sum(flag.value for flag in REJECTED if flag != QcFlag.BLURRED))
_NARROWEST_PERCENT: Final = 0.5
_WIDEST_PERCENT: Final = 49.0


@dataclass(frozen=True)
class PrecisionTarget:
    """How precisely the share of a class shall be known.

    Attributes:
        name: of the class.
        half_width_percent: largest half-width of its 95 % interval, in percentage points.
    """

    name: str
    half_width_percent: float


def parse_target(text: str) -> PrecisionTarget:
    """Read ``NEU:5%``; the per cent sign may be left out.

    Raises:
        ValueError: it is not of that form, or the half-width is outside 0.5 to 49 %.

    >>> parse_target("NEU:5%")
    PrecisionTarget(name='NEU', half_width_percent=5.0)
    """
    name, colon, number = text.strip().partition(":")
    try:
        width = float(number.strip().removesuffix("%"))
    except ValueError:
        width = float("nan")
    if not name or not colon or width != width:
        raise ValueError(f"{text!r} is no precision: give CLASS:H%, such as NEU:5%")
    if not _NARROWEST_PERCENT <= width <= _WIDEST_PERCENT:
        raise ValueError(
            f"{text!r}: a half-width of {width:g} % is refused; give {_NARROWEST_PERCENT:g} to {_WIDEST_PERCENT:g} "
            "percentage points"
        )
    return PrecisionTarget(name.strip(), width)


def check_targets(targets: Sequence[PrecisionTarget], classes: Sequence[str], bundle: str) -> None:
    """See that every target names a class of the bundle, once.

    Raises:
        ConfigError: one does not; the text lists the classes.
    """
    names = [target.name for target in targets]
    for name in names:
        if name not in classes:
            raise ConfigError(
                f"--precision {name}: the bundle {bundle!r} calls {', '.join(classes)}; name one of these, or choose "
                "another --bundle."
            )
        if names.count(name) > 1:
            raise ConfigError(f"--precision {name} is given {names.count(name)} times; give each class once.")


def half_width_percent(count: int, total: int) -> float:
    """Half of the 95 % Clopper-Pearson interval of ``count`` in ``total``, in percentage points; 50 for none.

    >>> round(half_width_percent(120, 200), 2)
    7.0
    """
    low, high = clopper_pearson(count, total)
    return (high - low) / 2


def cells_for_half_width(count: int, total: int, half_width: float) -> int:
    """How many cells must be counted for a share to be known so precisely, if it stays what it is.

    Args:
        count: cells of the class so far.
        total: cells counted so far; with none, half of them are taken to be of the class, which needs most.
        half_width: of the 95 % Clopper-Pearson interval, in percentage points.

    Returns:
        ``total`` or less only if it is that precise already.

    >>> cells_for_half_width(120, 200, 5.0)
    387
    >>> cells_for_half_width(0, 0, 5.0)
    402
    >>> cells_for_half_width(120, 200, 7.0)
    200
    """
    if total and half_width_percent(count, total) <= half_width:
        return total
    return _cells_for_share(count / total if total else 0.5, half_width, more_than=total)


def cells_for_likely_share(name: str, half_width: float) -> int:
    """How many cells a share may need to be known so precisely, before any is counted.

    That depends on the share, most at a half. It is taken to lie anywhere from the lower end of the adults' reference
    interval to twice its upper end; of a class without an interval, anywhere.

    Args:
        name: of the class.
        half_width: of the 95 % Clopper-Pearson interval, in percentage points.

    >>> cells_for_likely_share("NEU", 5.0), cells_for_likely_share("EOS", 2.0)
    (402, 1063)
    """
    low, high = ADULT.percent.get(name, (0.0, 50.0))
    return _cells_for_share(min(max(50.0, low), 2 * high) / 100, half_width)


def _cells_for_share(share: float, half_width: float, more_than: int = 0) -> int:
    """The least number of cells, beyond ``more_than``, of which the share's interval is no wider than that."""

    def too_few(cells: int) -> bool:
        # The interval's bounds run smoothly through counts that are no whole numbers.
        part = share * cells
        low = float(betaincinv(part, cells - part + 1, 0.025)) if part > 0 else 0.0
        high = float(betaincinv(part + 1, cells - part, 0.975)) if part < cells else 1.0
        return 50 * (high - low) > half_width

    enough = more_than + 1
    while too_few(enough):
        enough *= 2
    few = max(more_than, enough // 2)
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (middle, enough) if too_few(middle) else (few, middle)
    return enough


def precision_reached(targets: Sequence[PrecisionTarget], counts: Mapping[str, int]) -> tuple[PrecisionReached, ...]:
    """How each target stands with the cells counted per class."""
    total = sum(counts.values())
    return tuple(
        PrecisionReached(
            target.name,
            round(100 * counts[target.name] / total, 4) if total else None,
            round(half_width_percent(counts[target.name], total), 4),
            target.half_width_percent,
        )
        for target in targets
    )


class _Stage(Protocol):
    """What of `SegmentStage` is used here."""

    @property
    def modalities(self) -> tuple[str, ...]: ...
    @property
    def pixel_um(self) -> float: ...
    def calibrate(self, indices: Sequence[int], *, keep: bool = True) -> None: ...
    def process(self, index: int) -> FieldCells: ...
    def standing(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint16]]: ...


class LiveCount:
    """Calls the cells of each field as it is segmented, and counts as the report would.

    Cells are called as classify calls them, whenever enough have come together and when a decision needs them. Calls
    are kept in ``work/calls``, one small file a field, so that a broken run need not call again; they rest on the
    bundle and the pictures alone.

    Args:
        stage: segments the fields.
        bundle: the model.
        work: the sample's ``work`` folder.
        device: ``auto``, ``cpu`` or ``cuda``.
        engine: see `classify.inference.engine.engine_for`.
        at_once: so many cells wait for one another before they are called.
    """

    def __init__(
        self,
        stage: _Stage,
        bundle: Bundle,
        work: Path,
        *,
        device: str = "auto",
        engine: str = "auto",
        at_once: int = BATCH_SIZE,
    ) -> None:
        self._stage, self._bundle, self._at_once = stage, bundle, at_once
        self._device, self._engine = device, engine
        self._folder = work / "calls"
        self._classifier: Classifier | None = None
        self._calls: dict[int, list[str]] = {}
        self._waiting: list[tuple[FieldCells, str]] = []

    def calibrate(self, indices: Sequence[int], *, keep: bool = True) -> None:
        """See `SegmentStage.calibrate`."""
        self._stage.calibrate(indices, keep=keep)

    def process(self, index: int) -> object:
        """Segment a field; call what has come together if that fills a batch."""
        cells = self._stage.process(index)
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
        field, row, quality = self._stage.standing()
        known = np.isin(field, list(self._calls))
        calls = [self._calls[at][number] for at, number in zip(field[known].tolist(), row[known].tolist(), strict=True)]
        return count_cells(calls, quality[known], self._bundle.info.classes)

    def _called(self, images: NDArray[np.uint16]) -> list[str]:
        from wbcpipe.classify.inference.classifier import Classifier, planes_for
        from wbcpipe.classify.inference.engine import engine_for

        planes = planes_for(
            self._stage.modalities, self._stage.pixel_um, images.shape[-1], self._bundle, "the cells of this scan"
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
