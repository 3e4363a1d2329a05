"""What all fields of a run share: illumination, usual registration, brightness of nuclei; kept in ``work/``."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wbcpipe.samples.cell_columns import nuclear_index
from wbcpipe.segment.detection.detect import nuclear_level
from wbcpipe.segment.flatfield import FlatField, estimate_flatfield, no_flatfield
from wbcpipe.segment.registration.edges import coarse_factor, coarse_frame, edge_map
from wbcpipe.segment.registration.register import Alignment, identity, slide_transform_alignment, warp
from wbcpipe.segment.registration.slide_alignment import estimate_slide_alignment
from wbcpipe.system.blas_threads import single_threaded_blas
from wbcpipe.system.files import disk_errors, write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.samples.fields import FieldInfo

__all__ = [
    "STATISTICS_FIELDS",
    "SlideStatistics",
    "estimate_slide_statistics",
    "load_slide_statistics",
    "save_slide_statistics",
]

#: So many fields at most are looked at.
STATISTICS_FIELDS: Final = 16
#: Registration needs fewer of them.
_REGISTERED_FIELDS: Final = 8
#: Changes, too, whenever the same fields would give another statistics.
_FORMAT: Final = 4
_FLATFIELD_NAME: Final = "flatfield.npz"
_STATISTICS_NAME: Final = "slide_statistics.npz"


@dataclass(frozen=True)
class SlideStatistics:
    """What all fields share.

    Attributes:
        indices: fields it was found from.
        kind: ``scope``, ``stained-rgb`` or ``stack``; all but the first are registered and evenly lit by construction.
        modalities: M channel names.
        pixel_um: size of a frame's pixel.
        flatfield: the illumination.
        usual: the usual alignment.
        level: brightness of nuclei above background; 0 where no field showed any.
    """

    indices: tuple[int, ...]
    kind: str
    modalities: tuple[str, ...]
    pixel_um: float
    flatfield: FlatField
    usual: Alignment
    level: float

    def digest(self) -> str:
        """SHA-256 of all of the above."""
        whole = hashlib.sha256()
        for name, values in sorted({**_arrays(self.flatfield, "flat"), **_scalars(self)}.items()):
            whole.update(name.encode() + repr((values.dtype.str, values.shape)).encode())
            whole.update(np.ascontiguousarray(values).tobytes())
        return whole.hexdigest()


@single_threaded_blas
def estimate_slide_statistics(readings: Iterable[tuple[NDArray[np.uint16], FieldInfo]], kind: str) -> SlideStatistics:
    """Find a run's statistics.

    Args:
        readings: the first fields: frames (M, Y, X) uint16 and description; taken one at a time.
        kind: of the sample's fields.
    """
    coarse: list[list[NDArray[np.float32]]] = []
    levels: list[float] = []
    infos: list[FieldInfo] = []
    shape: tuple[int, ...] = ()
    for frames, info in readings:
        shape = frames.shape[1:]
        infos.append(info)
        if kind == "scope":
            coarse.append([coarse_frame(frame, info.pixel_um) for frame in frames])
        nuclear = nuclear_index(info.modalities)
        levels.append(
            nuclear_level(frames[nuclear], info.pixel_um, "fluorescence" if kind != "stained-rgb" else "stained")
        )
    first = infos[0]
    nuclear = nuclear_index(first.modalities)
    seen = [level for level in levels if level > 0]
    result = SlideStatistics(
        indices=tuple(info.index for info in infos),
        kind=kind,
        modalities=first.modalities,
        pixel_um=first.pixel_um,
        flatfield=no_flatfield(len(first.modalities)),
        usual=identity(len(first.modalities), shape),
        level=float(np.median(seen)) if seen else 0.0,
    )
    if kind != "scope":
        return result
    bright = [k != nuclear for k in range(len(first.modalities))]
    flatfield = estimate_flatfield(coarse, bright)
    edges = [
        _undo_slide_transform(
            [edge_map(frame, shading) for frame, shading in zip(frames, flatfield.shading, strict=True)],
            info,
            shape,
            nuclear,
        )
        for frames, info in zip(coarse[:_REGISTERED_FIELDS], infos, strict=False)
    ]
    usual = estimate_slide_alignment(edges, shape, first.pixel_um, reference=nuclear)
    return replace(result, flatfield=flatfield, usual=usual)


def _undo_slide_transform(
    edges: list[NDArray[np.float32]], info: FieldInfo, shape: tuple[int, ...], reference: int
) -> list[NDArray[np.float32]]:
    """M edge maps (y, x) as they would be had the slide not been taken off between the passes."""
    if info.slide_transform is None:
        return edges
    transform = slide_transform_alignment(info, len(edges), shape, reference=reference)
    factor = coarse_factor(info.pixel_um)
    return [v if k == reference else warp(v, transform, k, factor) for k, v in enumerate(edges)]


def _arrays(part: FlatField | Alignment, prefix: str) -> dict[str, NDArray[Any]]:
    return {f"{prefix}_{field.name}": np.asarray(getattr(part, field.name)) for field in fields(part)}


def _scalars(statistics: SlideStatistics) -> dict[str, NDArray[Any]]:
    return {
        "format": np.array(_FORMAT),
        "indices": np.array(statistics.indices, np.int64),
        "kind": np.array(statistics.kind),
        "modalities": np.array(statistics.modalities),
        "pixel_um": np.array(statistics.pixel_um),
        "level": np.array(statistics.level),
        **_arrays(statistics.usual, "usual"),
    }


def save_slide_statistics(work: Path, statistics: SlideStatistics) -> None:
    """Write ``flatfield.npz`` and then ``slide_statistics.npz`` below ``work``, each atomically."""
    with disk_errors(work):
        work.mkdir(parents=True, exist_ok=True)
    with write_atomic(work / _FLATFIELD_NAME) as handle:
        np.savez(handle, allow_pickle=False, **_arrays(statistics.flatfield, "flat"))
    with write_atomic(work / _STATISTICS_NAME) as handle:
        np.savez(handle, allow_pickle=False, **_scalars(statistics))


def load_slide_statistics(work: Path) -> SlideStatistics | None:
    """The statistics below ``work``; ``None`` where there is none, or none that this version can read."""
    try:
        with (
            np.load(work / _STATISTICS_NAME, allow_pickle=False) as scalars,
            np.load(work / _FLATFIELD_NAME, allow_pickle=False) as flat,
        ):
            if int(scalars["format"]) != _FORMAT:
                return None
            return SlideStatistics(
                indices=tuple(scalars["indices"].tolist()),
                kind=str(scalars["kind"]),
                modalities=tuple(scalars["modalities"].tolist()),
                pixel_um=float(scalars["pixel_um"]),
                flatfield=FlatField(**{field.name: flat[f"flat_{field.name}"] for field in fields(FlatField)}),
                usual=Alignment(**{field.name: scalars[f"usual_{field.name}"] for field in fields(Alignment)}),
                level=float(scalars["level"]),
            )
    except (FileNotFoundError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None
