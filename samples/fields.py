"""One OME-TIFF per field and pass, written atomically, with positions, exposures, light and pixel
size.

Two checksums cover each byte of a file: one its pixels, computed while they are written, one
everything else. Both are in the file's own annotation, beside the field's index.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import re
import struct
import xml.etree.ElementTree as ElementTree
import zlib
from dataclasses import astuple, dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, Final, Literal

import google_crc32c
import numpy as np
import tifffile
from pydantic import TypeAdapter

from wbcpipe.errors import FrameFileError, StorageError
from wbcpipe.samples.belonging import sample_identity, why_foreign
from wbcpipe.samples.records import SampleKind
from wbcpipe.system.files import stream_atomic
from wbcpipe.system.storage import patiently

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "MODALITIES",
    "PASSES",
    "FieldInfo",
    "FieldTransform",
    "FrameInfo",
    "Pass",
    "complete_fields",
    "field_digest",
    "field_path",
    "fields_on_disk",
    "passes_digest",
    "passes_on_disk",
    "pixels_part",
    "read_field",
    "read_info",
    "read_passes",
    "read_passes_info",
    "write_field",
    "write_planes",
]

#: The modalities of a scope, in the channel order of every array.
MODALITIES: Final = ("color1", "color2", "color3", "fluorescence")
Pass = Literal["single", "brightfield", "fluorescence"]
#: The modalities of each pass over a slide: all at once, or bright field before staining and
#: fluorescence after it.
PASSES: Final[Mapping[Pass, tuple[str, ...]]] = MappingProxyType(
    {"single": MODALITIES, "brightfield": MODALITIES[:3], "fluorescence": MODALITIES[3:]}
)
_FIELD_NAME: Final = re.compile(r"field_(\d{5,})\.ome\.tif")
#: Reserves space for the description, which is written last.
_PLACEHOLDER: Final = " " * 4096
#: The checksum of everything but the pixels is computed with zeros in its own place.
_UNKNOWN: Final = b"0" * 8
_CHECKSUM: Final = re.compile(rb'K="(pixels|rest)_crc32c">([0-9a-f]{8})<')
#: The description lies in the first bytes of a file.
_HEAD_BYTES: Final = 1 << 15
_SAMPLE_KIND: Final[TypeAdapter[SampleKind]] = TypeAdapter(SampleKind)
_OME: Final = {"ome": "http://www.openmicroscopy.org/Schemas/OME/2016-06"}


@dataclass(frozen=True)
class FrameInfo:
    """One frame of a field.

    Attributes:
        modality: channel name.
        exposure_ms: camera exposure; 0 where unknown (imported images).
        wavelength_nm: of a transmitted light source, or of the fluorescence emission; ``None``
            where unknown.
        z_um: focus position at the exposure.
        time_s: since the start of the field's first exposure.
        derived: computed from other channels, not taken by a camera.
    """

    modality: str
    exposure_ms: float = 0.0
    wavelength_nm: float | None = None
    z_um: float = 0.0
    time_s: float = 0.0
    derived: bool = False


@dataclass(frozen=True)
class FieldTransform:
    """Position of a later pass's field on the slide, in the stage coordinates of the first pass.

    Attributes:
        x_um, y_um: of the image centre.
        rotation_deg: of the slide since the first pass; positive is clockwise in the image, whose y
            axis points down.
    """

    x_um: float
    y_um: float
    rotation_deg: float


@dataclass(frozen=True)
class FieldInfo:
    """A field: its position and its frames.

    Attributes:
        index: number in the plan, from 0.
        x_um: stage position of the image centre.
        y_um: stage position of the image centre.
        pixel_um: size of a pixel on the specimen.
        frames: one entry per channel of the file, in its order.
        saturation: pixel value from which a pixel counts as saturated.
        kind: ``scope``, ``stained-rgb`` (registered by construction) or ``stack``.
        source: the file an imported field came from.
        dose_ms: fluorescence exposure of the field's centre so far, including its own.
        faded: estimated fraction of the dye bleached there by earlier exposures; ``None`` where
            unknown.
        slide_transform: of the fluorescence frame, if it was taken in a pass of its own; else
            ``None``.
        acquired: start of the first exposure, UTC in ISO 8601; empty where unknown.
        shape_px: (rows, columns) of the frames that were read; (0, 0) where there are none yet.
        digest: checksums of the file that was read; empty where there is none yet.
        belongs_to: the sample that the file which was read names, see `samples.belonging`.
    """

    index: int
    x_um: float
    y_um: float
    pixel_um: float
    frames: tuple[FrameInfo, ...]
    saturation: int = 65535
    kind: SampleKind = "scope"
    source: str = ""
    dose_ms: float = 0.0
    faded: float | None = None
    slide_transform: FieldTransform | None = None
    acquired: str = ""
    shape_px: tuple[int, int] = field(default=(0, 0), compare=False)
    digest: str = field(default="", compare=False)
    belongs_to: str = field(default="", compare=False)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Return the channel names in order."""
        return tuple(frame.modality for frame in self.frames)


def field_path(raw: Path, index: int) -> Path:
    """Return the file of field ``index`` below ``raw``."""
    return raw / f"field_{index:05d}.ome.tif"


def fields_on_disk(raw: Path) -> dict[int, Path]:
    """Return field index to file, in order of the index; files of other names are ignored."""
    if not raw.is_dir():
        return {}
    matches = [(_FIELD_NAME.fullmatch(path.name), path) for path in raw.iterdir()]
    return dict(sorted((int(match[1]), path) for match, path in matches if match))


def write_field(path: Path, images: NDArray[np.uint16], info: FieldInfo) -> None:
    """Write a field, atomically and flushed to the disk.

    Args:
        path: the file, see `field_path`.
        images: (C, Y, X) uint16, channels as in ``info.frames``.
        info: the field.

    Raises:
        ValueError: shape or dtype differ from the above.
        DiskFullError: no space left; no file remains.
    """
    if images.dtype != np.uint16 or images.ndim != 3 or len(images) != len(info.frames):
        raise ValueError(
            f"images of shape {images.shape}, {images.dtype}; ({len(info.frames)}, Y, X) uint16 "
            f"was expected."
        )
    patiently(path, lambda: write_planes(path, images.shape, iter(images), lambda: info))


def write_planes(
    path: Path,
    shape: tuple[int, ...],
    planes: Iterator[NDArray[np.uint16]],
    describe: Callable[[], FieldInfo],
    opened: Callable[[IO[bytes]], None] = lambda _: None,
) -> None:
    """Write a field while its frames arrive, atomically and flushed to the disk; it is tried once.

    Args:
        path: the file, see `field_path`.
        shape: (C, Y, X).
        planes: yields each frame (Y, X) uint16 once it is complete; it may wait, or raise to write
            no file.
        describe: returns the field, after the last frame.
        opened: called with the temporary file.

    Raises:
        DiskFullError: no space left; no file stays.
    """
    checksum = [0]

    def checked() -> Iterator[NDArray[np.uint16]]:
        for plane in planes:
            checksum[0] = google_crc32c.extend(checksum[0], _bytes_of(plane))
            yield plane

    with stream_atomic(path) as handle:
        opened(handle)
        with tifffile.TiffWriter(handle, byteorder="<") as tiff:
            place = tiff.write(
                checked(),
                shape=shape,
                dtype=np.uint16,
                photometric="minisblack",
                contiguous=True,
                metadata=None,
                description=_PLACEHOLDER,
                returnoffset=True,
            )
            # Values read back from the devices are known last, so the description is written
            # afterwards.
            xml, (channels, rows, columns) = tifffile.OmeXml(), shape
            metadata = _metadata(describe(), checksum[0], sample_identity(path))
            xml.addimage(np.uint16, shape, (channels, 1, 1, rows, columns, 1), **metadata)
            content = xml.tostring(declaration=True).encode()
            tiff.overwrite_description(content)  # type: ignore[arg-type] # UTF-8, so bytes
        assert place is not None
        _write_rest_checksum(handle, place[0], place[0] + 2 * math.prod(shape))


def _bytes_of(plane: NDArray[np.uint16]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(plane, "<u2").reshape(-1).view(np.uint8)


def _read_rest(handle: IO[bytes], start: int, stop: int) -> bytes:
    """Read a file without its pixels, which are the bytes ``start`` to ``stop``."""
    handle.seek(0)
    head = handle.read(start)
    handle.seek(stop)
    return head + handle.read()


def _rest_checksum(rest: bytes) -> tuple[str, re.Match[bytes] | None]:
    """Return the checksum of the bytes around the pixels as it must be, and the one that they
    hold.
    """
    found = next((match for match in _CHECKSUM.finditer(rest) if match[1] == b"rest"), None)
    if found is not None:
        rest = rest[: found.start(2)] + _UNKNOWN + rest[found.end(2) :]
    return f"{google_crc32c.value(rest):08x}", found


def _write_rest_checksum(handle: IO[bytes], start: int, stop: int) -> None:
    handle.flush()
    checksum, place = _rest_checksum(_read_rest(handle, start, stop))
    assert place is not None
    at = place.start(2)
    handle.seek(
        at if at < start else at - start + stop
    )  # a long description is at the end of the file
    handle.write(checksum.encode())
    handle.seek(0, 2)


def field_digest(path: Path) -> str:
    """Return the checksums that a field's file states, without checking them.

    Empty where there are none.
    """
    try:
        with path.open("rb") as handle:
            found = _stated_checksums(handle.read(_HEAD_BYTES))
    except OSError:
        return ""
    return _digest(found) if len(found) == 2 else ""


def _stated_checksums(content: bytes) -> dict[bytes, bytes]:
    return {match[1]: match[2] for match in _CHECKSUM.finditer(content)}


def pixels_part(digest: str) -> str:
    """Return that part of a field's digest that does not change when the same frames are taken at
    another time.
    """
    return "".join(digest[start : start + 8] for start in range(0, len(digest), 16))


def _digest(checksums: Mapping[bytes, bytes]) -> str:
    return (checksums[b"pixels"] + checksums[b"rest"]).decode()


def _metadata(info: FieldInfo, pixels_checksum: int, identity: str) -> dict[str, Any]:
    frames = info.frames
    return {
        "axes": "CYX",
        "Name": f"field {info.index}",
        **({"AcquisitionDate": info.acquired} if info.acquired else {}),
        "PhysicalSizeX": info.pixel_um,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": info.pixel_um,
        "PhysicalSizeYUnit": "µm",
        "Channel": [_channel(frame, info.kind) for frame in frames],
        "Plane": {
            "ExposureTime": [frame.exposure_ms for frame in frames],
            "ExposureTimeUnit": ["ms"] * len(frames),
            "PositionX": [info.x_um] * len(frames),
            "PositionXUnit": ["µm"] * len(frames),
            "PositionY": [info.y_um] * len(frames),
            "PositionYUnit": ["µm"] * len(frames),
            "PositionZ": [frame.z_um for frame in frames],
            "PositionZUnit": ["µm"] * len(frames),
            "DeltaT": [round(frame.time_s, 6) for frame in frames],
            "DeltaTUnit": ["s"] * len(frames),
        },
        "MapAnnotation": {
            "Namespace": "wbcpipe.field",
            "field": str(info.index),
            **({"belongs_to": identity} if identity else {}),
            "pixels_crc32c": f"{pixels_checksum:08x}",
            "rest_crc32c": _UNKNOWN.decode(),
            "kind": info.kind,
            "saturation": str(info.saturation),
            "source": info.source,
            "derived": ",".join(frame.modality for frame in frames if frame.derived),
            "dose_ms": repr(info.dose_ms),
            **({} if info.faded is None else {"faded": repr(info.faded)}),
            **(
                {}
                if info.slide_transform is None
                else {"slide_transform": ",".join(map(repr, astuple(info.slide_transform)))}
            ),
        },
    }


def _channel(frame: FrameInfo, kind: str) -> dict[str, Any]:
    """Return the attributes of a channel; only a microscope's illumination is known."""
    channel: dict[str, Any] = {"Name": frame.modality}
    transmitted = frame.modality not in PASSES["fluorescence"]
    if kind == "scope":
        channel["IlluminationType"] = "Transmitted" if transmitted else "Epifluorescence"
        channel["ContrastMethod"] = "Brightfield" if transmitted else "Fluorescence"
    if frame.wavelength_nm is not None:
        light = "Excitation" if transmitted else "Emission"
        channel |= {f"{light}Wavelength": frame.wavelength_nm, f"{light}WavelengthUnit": "nm"}
    return channel


def read_info(path: Path) -> FieldInfo:
    """Read a field's description without its pixels.

    Raises:
        FrameFileError: not one of wbcpipe's OME-TIFF files, or damaged.
    """
    return _read(path, pixels=False)[0]


def read_field(path: Path) -> tuple[NDArray[np.uint16], FieldInfo]:
    """Read a field: (C, Y, X) uint16 and its description.

    Raises:
        FrameFileError: the file is truncated, damaged, or not one of wbcpipe's.
    """
    info, images = _read(path, pixels=True)
    return images, info


def _read(path: Path, *, pixels: bool) -> tuple[FieldInfo, NDArray[np.uint16]]:
    try:
        return patiently(path, lambda: _read_once(path, pixels=pixels))
    except StorageError as error:
        cause = error.__cause__
        if (
            isinstance(cause, OSError) and cause.errno == errno.EIO
        ):  # the disk has lost the file's content
            raise FrameFileError(f"{path}: cannot be read ({cause.strerror}).") from error
        raise  # nothing is known of the file: it is not to be taken for damaged
    except FrameFileError:
        raise
    except OSError as error:
        raise FrameFileError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _read_once(path: Path, *, pixels: bool) -> tuple[FieldInfo, NDArray[np.uint16]]:
    images = np.empty((0, 0, 0), np.uint16)
    try:
        with _without_warnings(), tifffile.TiffFile(path) as tiff:
            xml = tiff.ome_metadata
            if xml is None:
                raise FrameFileError(
                    f"{path}: no OME metadata; fields are OME-TIFF files written by wbcpipe."
                )
            info = _parse(xml, path)
            page = tiff.pages[0]
            # The frames lie one behind the other, the pages' own descriptions after them.
            end = page.dataoffsets[0] + len(info.frames) * sum(page.databytecounts)
            if len(tiff.pages) != len(info.frames) or path.stat().st_size < end:
                raise FrameFileError(
                    f"{path}: truncated: {len(tiff.pages)} of {len(info.frames)} frames in "
                    f"{path.stat().st_size} bytes, more than {end} were expected; the field must "
                    f"be taken again."
                )
            start = page.dataoffsets[0]
            digest = _check_rest(path, start, start + 2 * len(info.frames) * math.prod(page.shape))
            info = replace(info, shape_px=(page.shape[-2], page.shape[-1]), digest=digest)
            if pixels:
                images = (
                    tiff.series[0].asarray().reshape(len(info.frames), *page.shape)
                )  # (C, Y, X)
    except FrameFileError:
        raise
    except FileNotFoundError as error:
        raise FrameFileError(f"{path}: no such file.") from error
    except _DAMAGES as error:
        raise FrameFileError(
            f"{path}: damaged ({error}); the field must be taken again."
        ) from error
    _check_identity(path, info)
    if pixels:
        _check_pixels(path, images, info)
    return info, images


def _check_identity(path: Path, info: FieldInfo) -> None:
    name = _FIELD_NAME.fullmatch(path.name)
    if name and int(name[1]) != info.index:
        raise FrameFileError(
            f"{path}: holds field {info.index}, as a copy under another name does; remove it."
        )
    if foreign := why_foreign(info.belongs_to, sample_identity(path)):
        raise FrameFileError(f"{path}: {foreign}; move it away: the field must be taken again.")


def _check_pixels(path: Path, images: NDArray[np.uint16], info: FieldInfo) -> None:
    if images.dtype != np.uint16:
        raise FrameFileError(f"{path}: pixels are {images.dtype}, uint16 was expected.")
    if f"{google_crc32c.value(_bytes_of(images)):08x}" != info.digest[:8]:
        raise FrameFileError(
            f"{path}: the pixels are damaged (checksum); the field must be taken again."
        )


def _check_rest(path: Path, start: int, stop: int) -> str:
    """Check everything but the pixels; return both checksums that the file states."""
    with path.open("rb") as handle:
        rest = _read_rest(handle, start, stop)
    checksum, found = _rest_checksum(rest)
    stated = _stated_checksums(rest)
    if len(stated) != 2 or found is None or found[2] != checksum.encode():
        raise FrameFileError(
            f"{path}: the description is damaged (checksum); the field must be taken again."
        )
    return _digest(stated)


#: What tifffile, its dependencies and the parser of XML raise for damaged files.
_DAMAGES: Final = (
    tifffile.TiffFileError,
    ElementTree.ParseError,
    ArithmeticError,
    AttributeError,
    IndexError,
    KeyError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Suppress tifffile's own messages about a damaged file: the error reports it."""
    logger, drop = logging.getLogger("tifffile"), logging.Filter("nothing of this name")
    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)


def _parse(xml: str, path: Path) -> FieldInfo:
    root = ElementTree.fromstring(xml)
    pixels = root.find(".//ome:Pixels", _OME)
    planes = root.findall(".//ome:Plane", _OME)
    channels = root.findall(".//ome:Channel", _OME)
    date = root.find(".//ome:AcquisitionDate", _OME)
    notes = {
        entry.get("K"): entry.text or ""
        for entry in root.findall(".//ome:MapAnnotation/ome:Value/ome:M", _OME)
    }
    if pixels is None or "field" not in notes or not planes or len(planes) != len(channels):
        raise FrameFileError(
            f"{path}: OME metadata without wbcpipe's field annotation; was it written by wbcpipe?"
        )
    derived = set(notes.get("derived", "").split(","))
    frames = tuple(
        FrameInfo(
            modality=channel.attrib["Name"],
            exposure_ms=float(plane.attrib["ExposureTime"]),
            wavelength_nm=_wavelength_nm(channel),
            z_um=float(plane.attrib["PositionZ"]),
            time_s=float(plane.attrib["DeltaT"]),
            derived=channel.attrib["Name"] in derived,
        )
        for channel, plane in zip(channels, planes, strict=True)
    )
    return FieldInfo(
        index=int(notes["field"]),
        x_um=float(planes[0].attrib["PositionX"]),
        y_um=float(planes[0].attrib["PositionY"]),
        pixel_um=float(pixels.attrib["PhysicalSizeX"]),
        frames=frames,
        saturation=int(notes["saturation"]),
        kind=_SAMPLE_KIND.validate_python(notes["kind"]),
        source=notes["source"],
        dose_ms=float(notes.get("dose_ms", 0.0)),
        faded=float(notes["faded"]) if "faded" in notes else None,
        slide_transform=FieldTransform(*map(float, notes["slide_transform"].split(",")))
        if "slide_transform" in notes
        else None,
        acquired=date.text or "" if date is not None else "",
        belongs_to=notes.get("belongs_to", ""),
    )


def _wavelength_nm(channel: ElementTree.Element) -> float | None:
    found = channel.get("EmissionWavelength") or channel.get("ExcitationWavelength")
    return None if found is None else float(found)


def passes_on_disk(raw: Path) -> tuple[Pass, ...]:
    """Return the passes of a sample: ``single``, or bright field and fluorescence.

    Args:
        raw: ``raw/`` of the sample, which has a folder for each pass.
    """
    two = (raw / "brightfield").is_dir() and not (raw / "single").is_dir()
    return ("brightfield", "fluorescence") if two else ("single",)


def complete_fields(raw: Path) -> list[int]:
    """Return the fields that have a file in every pass, in order; ``raw`` as for
    `passes_on_disk`.
    """
    there = [set(fields_on_disk(raw / name)) for name in passes_on_disk(raw)]
    return sorted(set.intersection(*there))


def read_passes_info(raw: Path, index: int) -> FieldInfo:
    """Read the description of a field, with all its passes; ``raw`` as for `passes_on_disk`.

    Raises:
        FrameFileError: a file is not there or damaged.
    """
    return _merge_passes(
        [read_info(field_path(raw / name, index)) for name in passes_on_disk(raw)], raw
    )


def passes_digest(raw: Path, index: int) -> str:
    """Return the checksums that the files of a field state, see `field_digest`; ``raw`` as for
    `passes_on_disk`.
    """
    found = [field_digest(field_path(raw / name, index)) for name in passes_on_disk(raw)]
    return "".join(found) if all(found) else ""


def read_passes(raw: Path, index: int) -> tuple[NDArray[np.uint16], FieldInfo]:
    """Read a field with the frames of all its passes: (C, Y, X) uint16 and its description.

    The position is that of the first pass; ``slide_transform`` relates the fluorescence frame to
    it.

    Raises:
        FrameFileError: a file is not there or damaged, or the passes do not fit together.
    """
    parts = [read_field(field_path(raw / name, index)) for name in passes_on_disk(raw)]
    info = _merge_passes([part[1] for part in parts], raw)
    if len(parts) == 1:
        return parts[0]
    if len({images.shape[1:] for images, _ in parts}) > 1:
        raise FrameFileError(
            f"{raw}: field {index} has frames of different sizes in its passes; take it again."
        )
    return np.concatenate([images for images, _ in parts]), info


def _merge_passes(infos: Sequence[FieldInfo], raw: Path) -> FieldInfo:
    first, last = infos[0], infos[-1]
    if last.pixel_um != first.pixel_um:
        raise FrameFileError(
            f"{raw}: field {first.index} has pixels of {first.pixel_um:g} and {last.pixel_um:g} "
            f"um in its passes; both must be taken on the same scope."
        )
    frames = tuple(frame for info in infos for frame in _since(first, info))
    digest = "".join(info.digest for info in infos)
    return replace(
        first,
        frames=frames,
        digest=digest,
        slide_transform=last.slide_transform,
        dose_ms=last.dose_ms,
        faded=last.faded,
    )


def _since(first: FieldInfo, info: FieldInfo) -> tuple[FrameInfo, ...]:
    """Return the frames of a pass, with times from the start of the first pass."""
    if info is first or not (first.acquired and info.acquired):
        return info.frames
    later_s = (
        datetime.fromisoformat(info.acquired) - datetime.fromisoformat(first.acquired)
    ).total_seconds()
    return tuple(replace(frame, time_s=round(frame.time_s + later_s, 3)) for frame in info.frames)
