"""Find and read images and stacks of other origin, with their labels."""

from __future__ import annotations

import csv
import hashlib
import re
import struct
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

from wbcpipe.errors import ImportDataError
from wbcpipe.samples.cell_columns import CLASSES
from wbcpipe.segment.stain_separation import density_channel, scale_16bit

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wbcpipe.samples.records import ImportKind

__all__ = [
    "ImageFile",
    "add_derived_channel",
    "class_of",
    "files_sha256",
    "find_image_files",
    "order_classes",
    "read_images",
]

_RGB_SUFFIXES: Final = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp"}
_STACK_SUFFIXES: Final = {".tif", ".tiff", ".npy", ".npz"}
_COMMON_NAMES: Final = {
    "NEU": "neu ne neut neutro neutrophil neutrophile seg segmented band bne sne pmn",
    "LYM": "lym ly lymph lympho lymphocyte",
    "EOS": "eos eo eosin eosino eosinophil eosinophile",
    "MO": "mo mon mono monocyte",
    "BAS": "bas ba baso basophil basophile",
}
_CLASS_OF: Final = {name: label for label, names in _COMMON_NAMES.items() for name in names.split()}
#: What numpy, zipfile and zlib raise for unknown compression, a password, a damaged stream or a damaged header.
_ARCHIVE_DAMAGES: Final = (KeyError, MemoryError, RuntimeError, SyntaxError, TypeError, struct.error, zlib.error)


@dataclass(frozen=True)
class ImageFile:
    """One file to import.

    Attributes:
        path: the file.
        name: its path below the given folder, with forward slashes; the file's name if the file itself was given.
        label: class name, empty where unknown.
    """

    path: Path
    name: str
    label: str = ""


def class_of(name: str) -> str:
    """Return the class for a common name of it; any other name is a class of its own.

    >>> [class_of(text) for text in ("Neutrophils", "lymphocyte", "EO", "blast")]
    ['NEU', 'LYM', 'EOS', 'blast']
    """
    letters = re.sub(r"[^a-z]", "", name.lower())
    return _CLASS_OF.get(letters) or _CLASS_OF.get(letters.removesuffix("s")) or name.strip()


def order_classes(labels: Iterable[str]) -> list[str]:
    """Return the distinct labels: known classes in wbcpipe's order, then others by name, without the empty label.

    >>> order_classes(["blast", "MO", "", "NEU", "MO"])
    ['NEU', 'MO', 'blast']
    """
    present = set(labels) - {""}
    return [name for name in CLASSES if name in present] + sorted(present - set(CLASSES))


def find_image_files(paths: Sequence[Path], kind: ImportKind, *, labels: bool) -> list[ImageFile]:
    """Find the image files below ``paths``, sorted by name, each once.

    Labels come from a ``manifest.csv`` (columns file, label) in a given folder, else from the names of the sub-folders.

    Args:
        paths: files and folders; folders are searched with all their sub-folders.
        kind: ``stained-rgb`` or ``stack``: decides the file types taken from folders.
        labels: whether to look for labels.

    Raises:
        ImportDataError: a path does not exist, there is no file of this kind, or a manifest does not fit the files.
    """
    suffixes = _RGB_SUFFIXES if kind == "stained-rgb" else _STACK_SUFFIXES
    found: dict[Path, ImageFile] = {}
    for path in paths:
        if path.is_dir():
            for file in _folder(path, suffixes, labels=labels):
                found.setdefault(file.path.resolve(), file)
        elif path.is_file():
            label = _class_of_folder(path.parent.name) if labels else ""
            found.setdefault(path.resolve(), ImageFile(path, path.name, label))
        else:
            raise ImportDataError(f"{path}: no such file or folder; give image files, or folders that hold them.")
    if not found:
        raise ImportDataError(
            f"{', '.join(map(str, paths)) or 'no path given'}: nothing to import as {kind}; "
            f"give files that end in {' '.join(sorted(suffixes))}."
        )
    return list(found.values())


def _folder(root: Path, suffixes: set[str], *, labels: bool) -> list[ImageFile]:
    files = sorted(
        (path for path in root.rglob("*") if path.suffix.lower() in suffixes and path.is_file()),
        key=lambda path: path.relative_to(root).as_posix(),
    )
    names = [path.relative_to(root).as_posix() for path in files]
    manifest = root / "manifest.csv"
    if not labels or not files:
        return [ImageFile(path, name) for path, name in zip(files, names, strict=True)]
    if manifest.is_file():
        listed = _read_manifest(manifest)
        missing = sorted(set(listed) - set(names))
        if missing:
            raise ImportDataError(
                f"{manifest}: lists {len(missing)} files that are not there, first {missing[0]!r}; complete the folder."
            )
        return [ImageFile(path, name, class_of(listed.get(name, ""))) for path, name in zip(files, names, strict=True)]
    return [
        ImageFile(path, name, class_of(path.parent.name) if path.parent != root else _class_of_folder(root.name))
        for path, name in zip(files, names, strict=True)
    ]


def _class_of_folder(name: str) -> str:
    label = class_of(name)
    return label if label in CLASSES else ""


def _read_manifest(path: Path) -> dict[str, str]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle)
            if not {"file", "label"} <= set(reader.fieldnames or ()):
                raise ImportDataError(f"{path}: columns {reader.fieldnames}; 'file' and 'label' are needed.")
            return {row["file"].replace("\\", "/"): row["label"] or "" for row in reader}
    except (UnicodeDecodeError, csv.Error) as error:
        raise ImportDataError(f"{path}: not readable as CSV ({error}).") from error


def files_sha256(files: Sequence[ImageFile]) -> str:
    """Return the SHA-256 over names, labels and bytes of the files, in order."""
    digest = hashlib.sha256()
    for file in files:
        with file.path.open("rb") as handle:
            content = hashlib.file_digest(handle, "sha256").hexdigest()
        digest.update(f"{file.name}\0{file.label}\0{content}\n".encode())
    return digest.hexdigest()


def read_images(
    file: ImageFile, kind: ImportKind, label_array: str | None = None
) -> tuple[NDArray[np.uint16], list[str]]:
    """Read the N images of a file as (N, C, Y, X) uint16 over the full range, and the label of each.

    Args:
        file: one colour image, or a stack of any number of images.
        kind: ``stained-rgb``, with C = 3, or ``stack``.
        label_array: name of the label array in a ``.npz``; by default ``label``, ``labels``, or the only array of text.

    Raises:
        ImportDataError: the file is unreadable, or of another shape or type.
    """
    if kind == "stained-rgb":
        return _read_rgb(file.path)[None], [file.label]
    images, labels = _read_stack(file.path, label_array)
    return images, [label or file.label for label in labels]


def add_derived_channel(image: NDArray[np.uint16], kind: ImportKind) -> NDArray[np.uint16]:
    """Return an image (C, Y, X) with the nuclear density of a stained image as its last channel."""
    return np.concatenate([image, density_channel(image)[None]]) if kind == "stained-rgb" else image


def _read_rgb(path: Path) -> NDArray[np.uint16]:
    """Read a colour image as (3, Y, X) uint16 over the full range."""
    try:
        if path.suffix.lower() in {".tif", ".tiff"}:
            pixels = _tiff(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(path) as image:
                    if image.mode in {"1", "L", "LA", "I", "I;16", "F"}:
                        raise ImportDataError(f"{path}: a grey image ({image.mode}); stained-rgb needs colour.")
                    pixels = np.asarray(image.convert("RGB"))
    except ImportDataError:
        raise
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombWarning) as error:
        raise ImportDataError(f"{path}: not readable as an image ({error}); replace or leave out the file.") from error
    except Image.DecompressionBombError as error:
        raise ImportDataError(f"{path}: too large to be a field of view ({error}).") from error
    if pixels.ndim == 3 and pixels.shape[0] in (3, 4) and pixels.shape[2] not in (3, 4):
        pixels = np.moveaxis(pixels, 0, -1)  # (Y, X, C)
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or pixels.dtype not in (np.uint8, np.uint16):
        raise ImportDataError(
            f"{path}: shape {pixels.shape}, {pixels.dtype}; (Y, X, 3) of 8 or 16 bits was expected for stained-rgb."
        )
    if np.ptp(pixels) and (pixels[..., 1:3] == pixels[..., :1]).all():
        raise ImportDataError(f"{path}: a grey image, its three planes are the same; stained-rgb needs colour.")
    if min(pixels.shape[:2]) < 16:
        raise ImportDataError(f"{path}: {pixels.shape[1]} x {pixels.shape[0]} pixels; at least 16 x 16 are needed.")
    return scale_16bit(pixels[..., :3])


def _tiff(path: Path) -> NDArray[Any]:
    try:
        return np.asarray(tifffile.imread(path))
    except (tifffile.TiffFileError, ValueError, IndexError, KeyError, TypeError) as error:
        raise ImportDataError(f"{path}: not readable as TIFF ({error}); replace or leave out the file.") from error


def _read_stack(path: Path, label_array: str | None) -> tuple[NDArray[np.uint16], list[str]]:
    """Read a stack as (N, C, Y, X) uint16 with its labels, empty where there are none.

    ``.tif`` and ``.npy`` hold one (C, Y, X) or many (N, C, Y, X) images; ``.npz`` an array ``images`` of these and,
    optionally, one label for each.
    """
    labels: list[str] = []
    try:
        if path.suffix.lower() == ".npz":
            images, labels = _npz(path, label_array)
        elif path.suffix.lower() == ".npy":
            images = np.load(path, allow_pickle=False)
        else:
            images = _tiff(path)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, *_ARCHIVE_DAMAGES) as error:
        if isinstance(error, ImportDataError):
            raise
        raise ImportDataError(f"{path}: not readable ({error}); replace or leave out the file.") from error
    images = images[None] if images.ndim == 3 else images
    if images.ndim != 4 or images.dtype not in (np.uint8, np.uint16) or not images.size or images.shape[1] > 64:
        raise ImportDataError(
            f"{path}: shape {images.shape}, {images.dtype}; (N, C, Y, X) or (C, Y, X) of 8 or 16 bits was expected."
        )
    scaled = images.astype(np.uint16) * np.uint16(257) if images.dtype == np.uint8 else images
    return np.asarray(scaled, np.uint16), labels or [""] * len(images)


def _npz(path: Path, label_array: str | None) -> tuple[NDArray[Any], list[str]]:
    with np.load(path, allow_pickle=False) as archive:
        if "images" not in archive.files:
            raise ImportDataError(f"{path}: arrays {archive.files}; one named 'images' is needed.")
        images = archive["images"]
        others = {name: archive[name] for name in archive.files if name != "images"}
    text = [name for name, values in others.items() if values.dtype.kind == "U" and values.ndim == 1]
    common = [name for name in ("label", "labels") if name in others]
    name = label_array or (common or text if len(common or text) == 1 else [None])[0]
    if name is None:
        return images, []
    if name not in others or others[name].shape != (len(images),):
        raise ImportDataError(f"{path}: no label array {name!r} of length {len(images)}; arrays: {sorted(others)}.")
    return images, [class_of(str(value)) for value in others[name]]
