"""A field for people: its frames, registered to each other, with the cells found in them.

Nothing is written. The field is segmented again, as `SampleSegmenter` does; flags and classes are
taken from the cells of ``cells.zarr`` at the same positions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from wbcpipe.errors import FrameFileError
from wbcpipe.imaging.arrays import enlarge_grid
from wbcpipe.samples.cell_columns import REJECTED, flag_names
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.fields import complete_fields, read_passes
from wbcpipe.segment.detection.detectors import OWN
from wbcpipe.segment.segment_field import crop_centres, process_field, register_field
from wbcpipe.segment.stage import SampleSegmenter

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from wbcpipe.samples.cell_store import CellBlock
    from wbcpipe.samples.fields import FieldInfo
    from wbcpipe.samples.sample import Sample
    from wbcpipe.samples.segment_settings.settings import SegmentSettings
    from wbcpipe.segment.registration.register import Alignment
    from wbcpipe.segment.slide_statistics import SlideStatistics

__all__ = ["CellAnnotation", "FieldView", "FieldViewer"]

#: A stored cell and one found again are the same within this distance.
_SAME_CELL_PX: Final = 1.0


@dataclass(frozen=True)
class CellAnnotation:
    """The known properties of one cell.

    Attributes:
        y_px, x_px: its centre.
        flags: names of its quality flags, in lower case.
        call: predicted class or ``unidentified``; empty where it is not classified.
        confidence: of the prediction; ``None`` where it is not classified.
        label: ground truth; empty where unknown.
        row: in ``cells.zarr``; ``None`` where it is not there.
    """

    y_px: float
    x_px: float
    flags: tuple[str, ...]
    call: str = ""
    confidence: float | None = None
    label: str = ""
    row: int | None = None

    @property
    def counts(self) -> bool:
        """Whether the differential counts the cell.

        Debris and cut, blurred or incomplete cells are rejected.
        """
        return not set(flag_names(sum(REJECTED))) & set(self.flags)


@dataclass(frozen=True)
class FieldView:
    """One field.

    Attributes:
        index: of the field.
        modalities: M channel names.
        derived: those modalities that were computed, not seen by a camera.
        images: (M, Y, X) uint16, evenly lit, registered to the nuclear channel.
        pixel_um: size of a pixel.
        parts: (Y, X) uint8; 0 background, 1 cytoplasm, 2 nucleus of any cell.
        owner: (Y, X) int32; 0 background, k + 1 where cell k of ``cells`` lies.
        cells: N cells in order of their positions.
        stored: whether the sample has a ``cells.zarr``.
        trusted: (M,) bool; False where a modality could not be registered.
        wavelength_nm: (M,) of each modality; NaN where unknown.
    """

    index: int
    modalities: tuple[str, ...]
    derived: tuple[str, ...]
    images: NDArray[np.uint16]
    pixel_um: float
    parts: NDArray[np.uint8]
    owner: NDArray[np.int32]
    cells: tuple[CellAnnotation, ...]
    stored: bool
    trusted: NDArray[np.bool_]
    wavelength_nm: NDArray[np.float64]


class FieldViewer:
    """Loads views of a sample's fields.

    Args:
        sample: segmented or not.
        pixel_um: pixel size of the masks where the sample is not segmented.
        settings: of the segmentation; flags and classes of the stored cells are not shown then.
            Those of the sample if ``None``.
        progress: called with (task, units done, units in all).

    Raises:
        SampleStateError: no such sample.
        FrameFileError: no field of it can be read.
    """

    def __init__(
        self,
        sample: Sample,
        *,
        pixel_um: float = 0.1,
        settings: SegmentSettings | None = None,
        progress: Callable[[str, int, int], None] = lambda _task, _done, _total: None,
    ) -> None:
        self._raw = sample.path / "raw"
        self._derived = sample.record().derived
        is_stored = settings is None and (sample.cells_path / "zarr.json").is_file()
        self._store = CellStore(sample.cells_path) if is_stored else None
        pixel_um = pixel_um if self._store is None else self._store.pixel_um
        self._segmenter = SampleSegmenter(
            sample,
            pixel_um=pixel_um,
            detector=self._detector(),
            settings=settings,
            progress=progress,
        )
        self.fields = tuple(complete_fields(self._raw))
        self._segmenter.estimate_statistics(self.fields, keep=False)

    def _detector(self) -> str:
        """Return the detector of the stored cells; a function named in a file is never loaded."""
        named = None if self._store is None else self._store.attributes.provenance.get("detector")
        return str(named) if named in {"cellpose", "stardist"} else OWN

    def load(self, index: int) -> FieldView:
        """Load one field.

        Raises:
            FrameFileError: the field does not exist or is damaged.
        """
        frames, info = self._read(index)
        statistics, pixel_um = self._segmenter.statistics, self._segmenter.pixel_um
        registration = self._segmenter.settings.registration
        found = process_field(frames, info, statistics, self._segmenter.options).block
        ordered, alignment = register_field(frames, info, statistics, registration)
        parts, owner = _paint_masks(found, pixel_um / info.pixel_um, frames.shape[1:])
        wavelengths = {frame.modality: frame.wavelength_nm for frame in info.frames}
        return FieldView(
            index=index,
            modalities=statistics.modalities,
            derived=self._derived,
            images=_warp_frames(ordered, alignment, statistics),
            pixel_um=info.pixel_um,
            parts=parts,
            owner=owner,
            cells=self._annotations(index, found),
            stored=self._store is not None,
            trusted=alignment.trusted,
            wavelength_nm=np.array(
                [wavelengths.get(name) or np.nan for name in statistics.modalities]
            ),
        )

    def registered_frames(self, index: int) -> NDArray[np.uint16]:
        """Return a field's frames alone, as `FieldView.images`; nothing is segmented.

        Raises:
            FrameFileError: the field does not exist or is damaged.
        """
        frames, info = self._read(index)
        ordered, alignment = register_field(
            frames, info, self._segmenter.statistics, self._segmenter.settings.registration
        )
        return _warp_frames(ordered, alignment, self._segmenter.statistics)

    def _read(self, index: int) -> tuple[NDArray[np.uint16], FieldInfo]:
        if index not in self.fields:
            raise FrameFileError(
                f"{self._raw}: no field {index} with all its frames; there are {len(self.fields)}, "
                f"{self.fields[0]} to {self.fields[-1]}."
            )
        return read_passes(self._raw, index)

    def _annotations(self, index: int, found: CellBlock) -> tuple[CellAnnotation, ...]:
        """Return the cells found, with the flags and classes of the store."""
        centres = np.stack([found.columns["y_px"], found.columns["x_px"]], -1).astype(float)
        plain = [
            CellAnnotation(float(y), float(x), flag_names(int(flags)))
            for (y, x), flags in zip(centres, found.columns["qc_flags"], strict=True)
        ]
        if self._store is None or not len(found):
            return tuple(plain)
        rows = np.flatnonzero(self._store.column("field_index") == index)
        if not rows.size:
            return tuple(plain)
        stored = np.stack([self._store.column(name)[rows] for name in ("y_px", "x_px")], -1)
        distance, nearest = map(np.asarray, cKDTree(stored).query(centres))
        predicted = self._store.predicted_classes() if self._store.is_classified() else None
        confidence = self._store.column("confidence") if predicted else None
        labels, flags = self._store.labels(), self._store.column("qc_flags")
        for cell in np.flatnonzero(distance <= _SAME_CELL_PX):
            row = int(rows[nearest[cell]])
            plain[cell] = replace(
                plain[cell],
                flags=flag_names(int(flags[row])),
                call="" if predicted is None else predicted[row],
                confidence=None if confidence is None else float(confidence[row]),
                label=labels[row],
                row=row,
            )
        return tuple(plain)


def _paint_masks(
    found: CellBlock, ratio: float, shape: tuple[int, ...]
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Put the masks of N crops back into the field: return (Y, X) parts and (Y, X) owner."""
    parts, owner = np.zeros(shape, np.uint8), np.zeros(shape, np.int32)
    side_px = found.masks.shape[-1]
    centres = np.stack([found.columns["y_px"], found.columns["x_px"]], -1).astype(float)
    for k, centre in enumerate(crop_centres(centres, ratio, side_px)):
        half = ratio * side_px / 2
        window = tuple(
            slice(max(0, int(np.ceil(at - half))), min(length, int(at + half) + 1))
            for at, length in zip(centre, shape, strict=True)
        )
        rows, columns = (
            np.clip(
                np.round((np.arange(part.start, part.stop) - at) / ratio + (side_px - 1) / 2),
                0,
                side_px - 1,
            )
            for part, at in zip(window, centre, strict=True)
        )
        mask = found.masks[k][rows.astype(int)[:, None], columns.astype(int)]
        # Where cells touch, a nucleus covers a neighbour's cytoplasm.
        mine = mask > parts[window]
        parts[window][mine] = mask[mine]
        owner[window][mine] = k + 1
    return parts, owner


def _warp_frames(
    frames: NDArray[np.uint16], alignment: Alignment, statistics: SlideStatistics
) -> NDArray[np.uint16]:
    """Return the frames (M, Y, X) with flat illumination, in the pixels of the reference."""
    flatfield, centre = statistics.flatfield, alignment.centre_px
    flat = np.empty_like(frames)
    for k, frame in enumerate(frames):
        dark, gain = (
            enlarge_grid(grid[k], frame.shape) for grid in (flatfield.dark, flatfield.gain)
        )
        values = (frame.astype(np.float32) - dark) * gain + flatfield.base[k]
        linear = alignment.linear[k]
        offset = centre + alignment.shift_px[k] - linear @ centre
        if np.any(offset) or not np.array_equal(linear, np.eye(2)):
            values = ndimage.affine_transform(values, linear, offset, order=1, mode="nearest")
        flat[k] = np.clip(values + 0.5, 0, 65535)
    return flat
