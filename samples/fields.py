"""One OME-TIFF a field and pass: written whole or not at all, read back with positions, exposures and pixel size."""

from __future__ import annotations

import contextlib
import logging
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import astuple, dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, Final, Literal

import numpy as np
import tifffile
from pydantic import TypeAdapter

from wbcpipe.errors import FrameFileError
from wbcpipe.samples.records import SampleKind
from wbcpipe.system.files import write_atomic

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
    "field_path",
    "fields_on_disk",
    "passes_on_disk",
    "read_field",
    "read_info",
    "read_passes",
    "read_passes_info",
    "whole_fields",
    "write_field",
    "write_planes",
]

#: The modalities of a scope, in the channel order of every array.
MODALITIES: Final = ("color1", "color2", "color3", "fluorescence")
Pass = Literal["single", "brightfield", "fluorescence"]
#: The modalities of each pass over a slide: all at once, or bright field before the stain and fluorescence after it.
PASSES: Final[Mapping[Pass, tuple[str, ...]]] = MappingProxyType(
    {"single": MODALITIES, "brightfield": MODALITIES[:3], "fluorescence": MODALITIES[3:]}
)
_FIELD_NAME: Final = re.compile(r"field_(\d{5,})\.ome\.tif")
#: Stands where the description will be: about as long, so that the file's end need not take it.
_PLACEHOLDER: Final = " " * 4096
_SAMPLE_KIND: Final[TypeAdapter[SampleKind]] = TypeAdapter(SampleKind)
_OME: Final = {"ome": "http://www.openmicroscopy.org/Schemas/OME/2016-06"}


@dataclass(frozen=True)
class FrameInfo:
    """One frame of a field.

    Attributes:
        modality: channel name.
        exposure_ms: camera exposure; 0 where unknown (imported pictures).
        wavelength_nm: of a transmitted light source, or of the fluorescence emission; ``None`` where unknown.
        z_um: focus position at the exposure.
        time_s: seconds since the field's first exposure began.
        derived: computed from other channels, not seen by a camera.
    """

    modality: str
    exposure_ms: float = 0.0
    wavelength_nm: float | None = None
    z_um: float = 0.0
    time_s: float = 0.0
    derived: bool = False


@dataclass(frozen=True)
class FieldTransform:
    """How a field of a later pass lies on the slide as the first pass saw it.

    Attributes:
        x_um, y_um: the stage position of the first pass that shows what is in the middle of this image.
        rotation_deg: how far the slide is turned since; positive is clockwise in the image, whose y grows downwards.
    """

    x_um: float
    y_um: float
    rotation_deg: float


@dataclass(frozen=True)
class FieldInfo:
    """A field: where it lies and what frames it has.

    Attributes:
        index: number in the plan, from 0.
        x_um: stage position of the image centre.
        y_um: stage position of the image centre.
        pixel_um: size of a pixel on the specimen.
        frames: one entry per channel of the file, in its order.
        saturation: pixel value from which a pixel counts as saturated.
        kind: ``scope``, ``stained-rgb`` (registered by construction) or ``stack``.
        source: the file an imported field came from.
        dose_ms: fluorescence exposure that the middle of the field has had so far, this field's own included.
        faded: estimated share of the dye that earlier exposures have bleached there; ``None`` where it is not known.
        slide_transform: where the fluorescence frame lies, when it was taken in a pass of its own; ``None`` otherwise.
        acquired: when its first exposure began, UTC in ISO 8601; empty where unknown.
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

    @property
    def modalities(self) -> tuple[str, ...]:
        """Channel names in order."""
        return tuple(frame.modality for frame in self.frames)


def field_path(raw: Path, index: int) -> Path:
    """The file of field ``index`` below ``raw``."""
    return raw / f"field_{index:05d}.ome.tif"


def fields_on_disk(raw: Path) -> dict[int, Path]:
    """Field index to file, in order of the index; files of other names are not fields."""
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
        DiskFullError: no space left; no file stays.
    """
    if images.dtype != np.uint16 or images.ndim != 3 or len(images) != len(info.frames):
        raise ValueError(
            f"images of shape {images.shape}, {images.dtype}; ({len(info.frames)}, Y, X) uint16 was expected."
        )
    write_planes(path, images.shape, iter(images), lambda: info)


def write_planes(
    path: Path,
    shape: tuple[int, ...],
    planes: Iterator[NDArray[np.uint16]],
    describe: Callable[[], FieldInfo],
    opened: Callable[[IO[bytes]], None] = lambda _: None,
) -> None:
    """Write a field as its frames come, atomically and flushed to the disk.

    Args:
        path: the file, see `field_path`.
        shape: (C, Y, X).
        planes: gives each frame (Y, X) uint16 once it is whole; may wait for it, or raise to write no file at all.
        describe: gives the field, after the last frame.
        opened: told the file that is written aside.

    Raises:
        DiskFullError: no space left; no file stays.
    """
    with write_atomic(path) as handle:
        opened(handle)
        with tifffile.TiffWriter(handle, byteorder="<") as tiff:
            tiff.write(
                planes,
                shape=shape,
                dtype=np.uint16,
                photometric="minisblack",
                contiguous=True,
                metadata=None,
                description=_PLACEHOLDER,
            )
            # What was read back from the devices is known last, so the description takes its place afterwards.
            tiff.overwrite_description(_ome_xml(shape, describe()))  # type: ignore[arg-type] # UTF-8, so bytes


def _ome_xml(shape: tuple[int, ...], info: FieldInfo) -> bytes:
    channels, rows, columns = shape
    xml = tifffile.OmeXml()
    xml.addimage(np.uint16, shape, (channels, 1, 1, rows, columns, 1), **_metadata(info))
    return xml.tostring(declaration=True).encode()


def _metadata(info: FieldInfo) -> dict[str, Any]:
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
    images = np.empty((0, 0, 0), np.uint16)
    try:
        with _without_warnings(), tifffile.TiffFile(path) as tiff:
            xml = tiff.ome_metadata
            if xml is None:
                raise FrameFileError(f"{path}: no OME metadata; fields are OME-TIFF files written by wbcpipe.")
            info = _parse(xml, path)
            page = tiff.pages[0]
            # The frames lie one behind the other, the pages' own descriptions after them.
            end = page.dataoffsets[0] + len(info.frames) * sum(page.databytecounts)
            if len(tiff.pages) != len(info.frames) or path.stat().st_size < end:
                raise FrameFileError(
                    f"{path}: truncated: {len(tiff.pages)} of {len(info.frames)} frames in {path.stat().st_size} "
                    f"bytes, more than {end} were expected; the field must be taken again."
                )
            if pixels:
                images = tiff.series[0].asarray().reshape(len(info.frames), *page.shape)  # (C, Y, X)
    except FrameFileError:
        raise
    except FileNotFoundError as error:
        raise FrameFileError(f"{path}: no such file.") from error
    except (tifffile.TiffFileError, ElementTree.ParseError, ValueError, KeyError, IndexError, TypeError) as error:
        raise FrameFileError(f"{path}: damaged ({error}); the field must be taken again.") from error
    if pixels and images.dtype != np.uint16:
        raise FrameFileError(f"{path}: pixels are {images.dtype}, uint16 was expected.")
    return info, images


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep tifffile from telling of a damaged file by itself: the error does."""
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
    notes = {entry.get("K"): entry.text or "" for entry in root.findall(".//ome:MapAnnotation/ome:Value/ome:M", _OME)}
    if pixels is None or "field" not in notes or not planes or len(planes) != len(channels):
        raise FrameFileError(f"{path}: OME metadata without wbcpipe's field annotation; was it written by wbcpipe?")
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
    )


def _wavelength_nm(channel: ElementTree.Element) -> float | None:
    found = channel.get("EmissionWavelength") or channel.get("ExcitationWavelength")
    return None if found is None else float(found)


def passes_on_disk(raw: Path) -> tuple[Pass, ...]:
    """The passes that the fields of a sample consist of: ``single``, or bright field and fluorescence.

    Args:
        raw: ``raw/`` of the sample, which holds a folder for each pass.
    """
    two = (raw / "brightfield").is_dir() and not (raw / "single").is_dir()
    return ("brightfield", "fluorescence") if two else ("single",)


def whole_fields(raw: Path) -> list[int]:
    """The fields that every pass of a sample has a file of, in order; ``raw`` as for `passes_on_disk`."""
    there = [set(fields_on_disk(raw / name)) for name in passes_on_disk(raw)]
    return sorted(set.intersection(*there))


def read_passes_info(raw: Path, index: int) -> FieldInfo:
    """The description of a field, of all its passes together; ``raw`` as for `passes_on_disk`.

    Raises:
        FrameFileError: a file is not there or damaged.
    """
    return _together([read_info(field_path(raw / name, index)) for name in passes_on_disk(raw)], raw)


def read_passes(raw: Path, index: int) -> tuple[NDArray[np.uint16], FieldInfo]:
    """A field with the frames of all its passes: (C, Y, X) uint16 and its description.

    The position is that of the first pass; ``slide_transform`` says how the fluorescence frame lies against it.

    Raises:
        FrameFileError: a file is not there or damaged, or the passes do not fit together.
    """
    parts = [read_field(field_path(raw / name, index)) for name in passes_on_disk(raw)]
    info = _together([part[1] for part in parts], raw)
    if len(parts) == 1:
        return parts[0]
    if len({images.shape[1:] for images, _ in parts}) > 1:
        raise FrameFileError(f"{raw}: field {index} has frames of different sizes in its passes; take it again.")
    return np.concatenate([images for images, _ in parts]), info


def _together(infos: Sequence[FieldInfo], raw: Path) -> FieldInfo:
    first, last = infos[0], infos[-1]
    if last.pixel_um != first.pixel_um:
        raise FrameFileError(
            f"{raw}: field {first.index} has pixels of {first.pixel_um:g} and {last.pixel_um:g} um in its passes; both "
            "must be taken on the same scope."
        )
    frames = tuple(frame for info in infos for frame in _since(first, info))
    return replace(first, frames=frames, slide_transform=last.slide_transform, dose_ms=last.dose_ms, faded=last.faded)


def _since(first: FieldInfo, info: FieldInfo) -> tuple[FrameInfo, ...]:
    """The frames of a pass, their times counted from the beginning of the first pass."""
    if info is first or not (first.acquired and info.acquired):
        return info.frames
    later_s = (datetime.fromisoformat(info.acquired) - datetime.fromisoformat(first.acquired)).total_seconds()
    return tuple(replace(frame, time_s=round(frame.time_s + later_s, 3)) for frame in info.frames)
