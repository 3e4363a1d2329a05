"""One field as a person looks at it: its frames registered to each other, with the cells found in them.

Nothing is written. The field is segmented anew, by the same steps as always; flags and calls that stand in
``cells.zarr`` are looked up by the cells' places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from wbcpipe.errors import FrameFileError
from wbcpipe.imaging.arrays import enlarge_grid
from wbcpipe.samples.cell_columns import QcFlag
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.fields import read_passes, whole_fields
from wbcpipe.segment.detection.detectors import OWN
from wbcpipe.segment.detection.masks import CYTOPLASM, NUCLEUS
from wbcpipe.segment.segment_field import crop_centres, process_field, register_field
from wbcpipe.segment.stage import SampleSegmenter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.samples.cell_store import CellBlock
    from wbcpipe.samples.sample import Sample
    from wbcpipe.segment.registration.register import Alignment
    from wbcpipe.segment.slide_statistics import SlideStatistics

__all__ = ["CellAnnotation", "FieldView", "FieldViewer", "flag_names"]

#: A cell of the store and one found anew are the same when this near, in pixels.
_SAME_PX: Final = 1.0


@dataclass(frozen=True)
class CellAnnotation:
    """What is known of one cell.

    Attributes:
        y_px, x_px: its centre.
        flags: names of its quality flags, in lower case.
        call: class or ``unidentified``; empty where it was not called.
        confidence: of the call; ``None`` where it was not called.
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
        """False for what is left out of the differential: debris, cut by the border, blurred, a modality missing."""
        return not {"debris", "border", "blurred", "missing_modality"} & set(self.flags)


@dataclass(frozen=True)
class FieldView:
    """One field.

    Attributes:
        index: of the field.
        modalities: M channel names.
        derived: those among them that no camera saw.
        images: (M, Y, X) uint16, evenly lit, registered to the nuclear channel.
        pixel_um: size of a pixel.
        parts: (Y, X) uint8; 0 background, 1 cytoplasm, 2 nucleus of any cell.
        owner: (Y, X) int32; 0 background, k + 1 where cell k of ``cells`` lies.
        cells: N cells in order of their places.
        stored: whether the cells stand in ``cells.zarr``.
        trusted: (M,) bool; False where a modality could not be registered.
        kind: of the sample: ``scope``, ``stained-rgb`` or ``stack``.
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
    kind: str
    wavelength_nm: NDArray[np.float64]


def flag_names(quality: int) -> tuple[str, ...]:
    """Names of the flags in one cell's bits, in lower case.

    >>> flag_names(QcFlag.BORDER | QcFlag.DOUBLET)
    ('border', 'doublet')
    """
    return tuple(str(flag.name).lower() for flag in QcFlag if quality & flag.value)


class FieldViewer:
    """Makes views of a sample's fields.

    Args:
        sample: segmented or not.
        pixel_um: pixel size of the masks where it is not segmented.

    Raises:
        SampleStateError: no such sample.
        FrameFileError: it has no field that can be read.
    """

    def __init__(self, sample: Sample, *, pixel_um: float = 0.1) -> None:
        self._raw = sample.path / "raw"
        self._derived = sample.record().derived
        self._store = CellStore(sample.cells_path) if (sample.cells_path / "zarr.json").is_file() else None
        pixel_um = pixel_um if self._store is None else self._store.pixel_um
        self._segmenter = SampleSegmenter(sample, pixel_um=pixel_um, detector=self._detector())
        self.fields = tuple(whole_fields(self._raw))
        self._segmenter.estimate_statistics(self.fields, keep=False)

    @property
    def statistics(self) -> SlideStatistics:
        """What the sample's fields share."""
        return self._segmenter.statistics

    def _detector(self) -> str:
        """What found the stored cells; a function that a file names is not loaded, our own stands in for it."""
        provenance = {} if self._store is None else self._store.attributes.get("provenance", {})
        named = provenance.get("detector")
        return named if named in {"cellpose", "stardist"} else OWN

    def load(self, index: int) -> FieldView:
        """The view of one field.

        Raises:
            FrameFileError: the field is not there or damaged.
        """
        if index not in self.fields:
            raise FrameFileError(
                f"{self._raw}: no field {index} with all its frames; there are {len(self.fields)}, "
                f"{self.fields[0]} to {self.fields[-1]}."
            )
        frames, info = read_passes(self._raw, index)
        statistics, pixel_um = self._segmenter.statistics, self._segmenter.pixel_um
        found = process_field(
            frames,
            info,
            statistics,
            crop_pixel_um=pixel_um,
            detector=self._segmenter.detector,
        ).block
        ordered, alignment = register_field(frames, info, statistics)
        parts, owner = _painted(found, pixel_um / info.pixel_um, frames.shape[1:])
        wavelengths = {frame.modality: frame.wavelength_nm for frame in info.frames}
        return FieldView(
            index=index,
            modalities=statistics.modalities,
            derived=self._derived,
            images=_registered(ordered, alignment, statistics),
            pixel_um=info.pixel_um,
            parts=parts,
            owner=owner,
            cells=self._marks(index, found),
            stored=self._store is not None,
            trusted=alignment.trusted,
            kind=statistics.kind,
            wavelength_nm=np.array([wavelengths.get(name) or np.nan for name in statistics.modalities]),
        )

    def _marks(self, index: int, found: CellBlock) -> tuple[CellAnnotation, ...]:
        """The cells found, with what the store knows of them."""
        places = np.stack([found.columns["y_px"], found.columns["x_px"]], -1).astype(float)
        plain = [
            CellAnnotation(float(y), float(x), flag_names(int(quality)))
            for (y, x), quality in zip(places, found.columns["qc_flags"], strict=True)
        ]
        if self._store is None or not len(found):
            return tuple(plain)
        rows = np.flatnonzero(self._store.column("field_index") == index)
        if not rows.size:
            return tuple(plain)
        stored = np.stack([self._store.column(name)[rows] for name in ("y_px", "x_px")], -1)
        distance, nearest = map(np.asarray, cKDTree(stored).query(places))
        known = {int(cell): int(rows[nearest[cell]]) for cell in np.flatnonzero(distance <= _SAME_PX)}
        return tuple(self._known(mark, known[k]) if k in known else mark for k, mark in enumerate(plain))

    def _known(self, mark: CellAnnotation, row: int) -> CellAnnotation:
        assert self._store is not None
        called = self._store.is_classified()
        return CellAnnotation(
            mark.y_px,
            mark.x_px,
            flag_names(int(self._store.column("qc_flags")[row])),
            call=self._store.predicted_classes()[row] if called else "",
            confidence=float(self._store.column("confidence")[row]) if called else None,
            label=self._store.labels()[row],
            row=row,
        )


def _painted(found: CellBlock, ratio: float, shape: tuple[int, ...]) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Masks of N crops put back into the field: (Y, X) parts and (Y, X) owner."""
    parts, owner = np.zeros(shape, np.uint8), np.zeros(shape, np.int32)
    side_px = found.masks.shape[-1]
    centres = np.stack([found.columns["y_px"], found.columns["x_px"]], -1).astype(float)
    for k, place in enumerate(crop_centres(centres, ratio, side_px)):
        half = ratio * side_px / 2
        window = tuple(
            slice(max(0, int(np.ceil(at - half))), min(length, int(at + half) + 1))
            for at, length in zip(place, shape, strict=True)
        )
        rows, columns = (
            np.clip(np.round((np.arange(part.start, part.stop) - at) / ratio + (side_px - 1) / 2), 0, side_px - 1)
            for part, at in zip(window, place, strict=True)
        )
        mask = found.masks[k][rows.astype(int)[:, None], columns.astype(int)]
        # Where cells touch, a nucleus goes before a neighbour's cytoplasm.
        mine = mask > parts[window]
        parts[window][mine] = mask[mine]
        owner[window][mine] = k + 1
    assert parts.max(initial=0) <= max(CYTOPLASM, NUCLEUS)
    return parts, owner


def _registered(frames: NDArray[np.uint16], alignment: Alignment, statistics: SlideStatistics) -> NDArray[np.uint16]:
    """Frames (M, Y, X) evenly lit and in the reference's pixels."""
    flatfield, centre = statistics.flatfield, alignment.centre_px
    even = np.empty_like(frames)
    for k, frame in enumerate(frames):
        dark, gain = (enlarge_grid(grid[k], frame.shape) for grid in (flatfield.dark, flatfield.gain))
        values = (frame.astype(np.float32) - dark) * gain + flatfield.base[k]
        linear = alignment.linear[k]
        offset = centre + alignment.shift_px[k] - linear @ centre
        if np.any(offset) or not np.array_equal(linear, np.eye(2)):
            values = ndimage.affine_transform(values, linear, offset, order=1, mode="nearest")
        even[k] = np.clip(values + 0.5, 0, 65535)
    return even
