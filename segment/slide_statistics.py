"""Statistics of a slide, shared by all its fields.

Illumination, registration, brightness of nuclei.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wbcpipe.imaging.arrays import percentiles
from wbcpipe.samples.cell_columns import nuclear_index
from wbcpipe.samples.records import Record, SampleKind
from wbcpipe.samples.segment_settings.settings import SegmentSettings
from wbcpipe.segment.detection.detect import nuclear_level
from wbcpipe.segment.flatfield import FlatField, estimate_flatfield, no_flatfield
from wbcpipe.segment.registration.edges import coarse_factor, coarse_frame, edge_map
from wbcpipe.segment.registration.register import (
    Alignment,
    identity,
    slide_transform_alignment,
    warp,
)
from wbcpipe.segment.registration.slide_alignment import estimate_slide_alignment
from wbcpipe.segment.work_files import read_work_file, write_work_file
from wbcpipe.system.blas_threads import single_threaded_blas

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.samples.fields import FieldInfo
    from wbcpipe.samples.segment_settings.registration import RegistrationSettings

__all__ = [
    "MIN_SIDE",
    "REGISTERED_KINDS",
    "STATISTICS_FIELDS",
    "SlideStatistics",
    "estimate_slide_statistics",
    "load_slide_statistics",
    "save_slide_statistics",
]

#: Maximum number of fields from which the statistics are estimated.
STATISTICS_FIELDS: Final = 16
#: Registration needs fewer of them.
_REGISTERED_FIELDS: Final = 8
#: Samples whose channels may be displaced; those of a colour picture are not.
REGISTERED_KINDS: Final = ("scope", "stack")
#: Smaller fields, in pixels of an edge map, show too little to register.
MIN_SIDE: Final = 32
_FILE_NAME: Final = "slide_statistics.npz"
_FLATFIELD, _ALIGNMENT = "flatfield_", "alignment_"
_DEFAULT: Final = SegmentSettings()


class _StatisticsRecord(Record):
    """The stored part of the statistics that is no array.

    Its version changes with the method of estimation, too.
    """

    field_indices: tuple[int, ...]
    kind: SampleKind
    modalities: tuple[str, ...]
    pixel_um: float
    nuclear_level: float
    settings_sha256: str
    input_digests: tuple[str, ...]


@dataclass(frozen=True)
class SlideStatistics:
    """Properties that all fields of a slide share.

    Attributes:
        field_indices: fields from which they were estimated.
        kind: of the sample; only fields of a ``scope`` need flat-field correction, those of a
            ``stack`` need registration, too.
        modalities: M channel names.
        pixel_um: size of a frame's pixel.
        flatfield: the illumination.
        alignment: of the modalities, typical of the slide.
        nuclear_level: brightness of nuclei above background; 0 where no field showed any.
        settings_sha256: of the settings with which they were estimated.
        input_digests: checksums of the files of ``field_indices``, see `samples.fields`.
    """

    field_indices: tuple[int, ...]
    kind: SampleKind
    modalities: tuple[str, ...]
    pixel_um: float
    flatfield: FlatField
    alignment: Alignment
    nuclear_level: float
    settings_sha256: str = ""
    input_digests: tuple[str, ...] = ()

    def digest(self) -> str:
        """Return the SHA-256 of all of the above but the checksums: they hold the time at which
        frames were taken.
        """
        digest = hashlib.sha256(_record(self).model_dump_json(exclude={"input_digests"}).encode())
        for name, values in sorted(_arrays(self).items()):
            digest.update(name.encode() + repr((values.dtype.str, values.shape)).encode())
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()


@single_threaded_blas()
def estimate_slide_statistics(
    readings: Iterable[tuple[NDArray[np.uint16], FieldInfo]],
    kind: SampleKind,
    *,
    settings: SegmentSettings = _DEFAULT,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> SlideStatistics:
    """Estimate the statistics of a slide from its first fields.

    Args:
        readings: at least one field: frames (M, Y, X) uint16 and description; read one at a time.
        kind: of the sample.
        settings: of detection, registration and flat field.
        progress: called with (steps done, steps in all) of the registration, which takes most of
            the time.
    """
    coarse: list[list[NDArray[np.float32]]] = []
    levels: list[float] = []
    infos: list[FieldInfo] = []
    measured: list[FieldInfo] = []
    shape: tuple[int, ...] = ()
    registration = settings.registration
    for frames, info in readings:
        shape = shape or frames.shape[1:]
        infos.append(info)
        # Imported fields may differ in size; those of the first one's size show how the channels
        # lie.
        if kind in REGISTERED_KINDS and (not coarse or frames.shape[1:] == shape):
            shape = frames.shape[1:]
            coarse.append([coarse_frame(frame, info.pixel_um, registration) for frame in frames])
            measured.append(info)
        nuclear = nuclear_index(info.modalities)
        levels.append(
            nuclear_level(
                frames[nuclear],
                info.pixel_um,
                "fluorescence" if kind != "stained-rgb" else "stained",
                settings.detection,
            )
        )
    first = infos[0]
    nuclear = nuclear_index(first.modalities)
    seen = [level for level in levels if level > 0]
    result = SlideStatistics(
        field_indices=tuple(info.index for info in infos),
        kind=kind,
        modalities=first.modalities,
        pixel_um=first.pixel_um,
        flatfield=no_flatfield(len(first.modalities)),
        alignment=identity(len(first.modalities), shape),
        nuclear_level=float(np.median(seen)) if seen else 0.0,
        settings_sha256=settings.statistics_digest(),
        input_digests=tuple(info.digest for info in infos),
    )
    if kind not in REGISTERED_KINDS or len(first.modalities) == 1:
        return result
    if min(coarse[0][0].shape) < MIN_SIDE:
        trusted = np.arange(len(first.modalities)) == nuclear
        return replace(result, alignment=replace(result.alignment, trusted=trusted))
    if kind == "scope":
        bright = [k != nuclear for k in range(len(first.modalities))]
        flatfield = estimate_flatfield(coarse, bright, settings.flatfield)
    else:
        # The values of an import stay as they are; its shading is needed to find edges.
        bright = [_has_bright_background(planes) for planes in zip(*coarse, strict=True)]
        shading = estimate_flatfield(coarse, bright, settings.flatfield)
        flatfield = replace(result.flatfield, shading=shading.shading)
        search_um = registration.stack_search_px * first.pixel_um
        search_um = max(registration.slide_search_um, search_um)
        registration = registration.model_copy(update={"slide_search_um": search_um})
    edges = [
        _undo_slide_transform(
            [
                edge_map(frame, shading, registration)
                for frame, shading in zip(frames, flatfield.shading, strict=True)
            ],
            info,
            shape,
            nuclear,
            registration,
        )
        for frames, info in zip(coarse[:_REGISTERED_FIELDS], measured, strict=False)
    ]
    alignment = estimate_slide_alignment(
        edges, shape, first.pixel_um, reference=nuclear, settings=registration, progress=progress
    )
    return replace(result, flatfield=flatfield, alignment=alignment)


def _has_bright_background(planes: Sequence[NDArray[np.float32]]) -> bool:
    """Return whether what a channel of a stack shows in several fields (y, x) is dark on bright."""
    low, middle, high = np.median([percentiles(plane, 1, 50, 99) for plane in planes], axis=0)
    return bool(middle - low > high - middle)


def _undo_slide_transform(
    edges: list[NDArray[np.float32]],
    info: FieldInfo,
    shape: tuple[int, ...],
    reference: int,
    settings: RegistrationSettings,
) -> list[NDArray[np.float32]]:
    """Return M edge maps (y, x) as if the slide had stayed on the stage between the passes."""
    if info.slide_transform is None:
        return edges
    transform = slide_transform_alignment(info, len(edges), shape, reference=reference)
    factor = coarse_factor(info.pixel_um, settings)
    return [v if k == reference else warp(v, transform, k, factor) for k, v in enumerate(edges)]


def save_slide_statistics(work: Path, statistics: SlideStatistics) -> None:
    """Write the statistics below ``work``, atomically.

    Raises:
        DiskFullError: no space left.
    """
    write_work_file(work / _FILE_NAME, _record(statistics), _arrays(statistics))


def load_slide_statistics(
    work: Path, input_digest: Callable[[int], str], settings_sha256: str | None = None
) -> SlideStatistics | None:
    """Read the statistics below ``work``.

    Return ``None`` where there are none, or they rest on other files or settings.

    Args:
        work: the sample's folder of intermediate results.
        input_digest: returns the checksums of a field's files now; empty if they cannot be read.
        settings_sha256: of the settings now, see `SegmentSettings.statistics_digest`; ``None`` to
            accept any.
    """
    found = read_work_file(work / _FILE_NAME, _StatisticsRecord)
    if found is None:
        return None
    record, arrays = found
    if settings_sha256 not in (None, record.settings_sha256):
        return None
    for index, digest in zip(record.field_indices, record.input_digests, strict=False):
        if input_digest(index) not in ("", digest):
            return None
    return SlideStatistics(
        **record.model_dump(exclude={"format_version"}),
        flatfield=FlatField(
            **{field.name: arrays[_FLATFIELD + field.name] for field in fields(FlatField)}
        ),
        alignment=Alignment(
            **{field.name: arrays[_ALIGNMENT + field.name] for field in fields(Alignment)}
        ),
    )


def _record(statistics: SlideStatistics) -> _StatisticsRecord:
    return _StatisticsRecord.model_validate(statistics, from_attributes=True)


def _arrays(statistics: SlideStatistics) -> dict[str, NDArray[Any]]:
    parts = ((_FLATFIELD, statistics.flatfield), (_ALIGNMENT, statistics.alignment))
    return {
        prefix + field.name: np.asarray(getattr(part, field.name))
        for prefix, part in parts
        for field in fields(part)
    }
