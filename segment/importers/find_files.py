"""Find the files of an import below the given paths, with their labels, and say what is passed
over.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wbcpipe.errors import ImportDataError
from wbcpipe.samples.cell_columns import CLASSES
from wbcpipe.system.user_files import UserFile, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from wbcpipe.samples.records import ImportKind

__all__ = [
    "BSCCM_INDEX",
    "FoundFiles",
    "ImageFile",
    "class_of",
    "files_sha256",
    "find_image_files",
    "nearest_class",
    "order_classes",
]

_RGB_SUFFIXES: Final = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"}
_STACK_SUFFIXES: Final = {".tif", ".tiff", ".npy", ".npz"}
_FIJI: Final = (
    "open it in Fiji (File > Import > Bio-Formats) or with Python's bioio, and save "
    "each field as OME-TIFF"
)
#: Formats of microscopes and cameras that are not read, by suffix.
_FOREIGN: Final = {
    ".czi": "Zeiss CZI",
    ".lsm": "Zeiss LSM",
    ".zvi": "Zeiss ZVI",
    ".nd2": "Nikon ND2",
    ".lif": "Leica LIF",
    ".xlef": "Leica LIF",
    ".oib": "Olympus OIB",
    ".oif": "Olympus OIF",
    ".oir": "Olympus OIR",
    ".vsi": "Olympus VSI",
    ".svs": "Aperio SVS",
    ".ndpi": "Hamamatsu NDPI",
    ".mrxs": "3DHISTECH MRXS",
    ".scn": "Leica SCN",
    ".ims": "Imaris IMS",
    ".dcm": "DICOM",
    ".cif": "Amnis CIF",
}
_COMMON_NAMES: Final = {
    "NEU": "neu ne neut neutro neutrophil neutrophile seg segmented band bne sne pmn",
    "LYM": "lym ly lymph lympho lymphocyte",
    "EOS": "eos eo eosin eosino eosinophil eosinophile",
    "MO": "mo mon mono monocyte",
    "BAS": "bas ba baso basophil basophile",
}
_CLASS_OF: Final = {name: label for label, names in _COMMON_NAMES.items() for name in names.split()}
#: From what similarity a name may be a misspelt class; a name of few letters differs more by one.
_ALIKE: Final = 0.78
_SHORT: Final = 3
_ALIKE_SHORT: Final = 0.65
#: What a Mac or Windows adds to folders.
_OF_THE_SYSTEM: Final = re.compile(r"\._.*|\.DS_Store|Thumbs\.db|desktop\.ini", re.IGNORECASE)
_MANIFEST: Final = "manifest.csv"
BSCCM_INDEX: Final = "BSCCM_index.csv"
"""File of a folder that holds single cells in the layout of BSCCM."""
#: What a Zarr group holds: of version 3, of version 2.
_ZARR_GROUP: Final = ("zarr.json", ".zgroup")


@dataclass(frozen=True)
class ImageFile:
    """One file to import.

    Attributes:
        path: the file.
        name: its path below the given folder, with forward slashes; the file's name if the file
            itself was given. Bytes that are not UTF-8 are written as ``\\xNN``.
        label: class name, empty where unknown.
    """

    path: Path
    name: str
    label: str = ""

    @property
    def user_file(self) -> UserFile:
        """The same for the checks of its size."""
        return UserFile(self.path, "an image", ImportDataError)


@dataclass(frozen=True)
class FoundFiles:
    """The files of an import.

    Attributes:
        files: to import, in order.
        passed_over: number of other files in the folders, by suffix or by what they are.
    """

    files: tuple[ImageFile, ...]
    passed_over: dict[str, int]

    def note(self) -> str | None:
        """Return a line on the files that are passed over; ``None`` if there are none."""
        if not self.passed_over:
            return None
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.passed_over.items()))
        return f"passed over {sum(self.passed_over.values())} other files: {kinds}"


def class_of(name: str) -> str:
    """Return the class for a common name of it; any other name is a class of its own.

    >>> [class_of(text) for text in ("Neutrophils", "lymphocyte", "EO", "blast")]
    ['NEU', 'LYM', 'EOS', 'blast']
    """
    letters = re.sub(r"[^a-z]", "", name.lower())
    return (
        _CLASS_OF.get(letters)
        or _CLASS_OF.get(letters.removesuffix("s"))
        or printable(name).strip()
    )


def nearest_class(name: str, known: Iterable[str]) -> str:
    """Return the known class whose code or common name is most like a name; empty if none is.

    >>> [nearest_class(text, ("NEU", "LYM", "BAS")) for text in ("Lymfocyte", "neu2", "blast")]
    ['LYM', 'NEU', '']
    """
    words: dict[str, str] = {}
    for label in known:
        words[re.sub(r"[^a-z]", "", label.lower())] = label
        words.update((word, label) for word, code in _CLASS_OF.items() if code == label)
    letters = re.sub(r"[^a-z]", "", name.lower())
    cutoff = _ALIKE if len(letters) > _SHORT else _ALIKE_SHORT
    near = difflib.get_close_matches(letters, [word for word in words if word], 1, cutoff)
    return words[near[0]] if near else ""


def order_classes(labels: Iterable[str]) -> list[str]:
    """Return the distinct labels: known classes in wbcpipe's order, then others by name, without
    the empty label.

    >>> order_classes(["blast", "MO", "", "NEU", "MO"])
    ['NEU', 'MO', 'blast']
    """
    present = set(labels) - {""}
    return [name for name in CLASSES if name in present] + sorted(present - set(CLASSES))


def find_image_files(paths: Sequence[Path], kind: ImportKind, *, labels: bool) -> FoundFiles:
    """Find the image files below ``paths``, sorted by name, each once.

    Labels come from a ``manifest.csv`` (columns file, label) in a given folder, else from the names
    of the sub-folders.

    Args:
        paths: files and folders; folders are searched with all their sub-folders.
        kind: ``stained-rgb`` or ``stack``: decides the file types taken from folders.
        labels: whether to look for labels.

    Raises:
        ImportDataError: a path does not exist or is of a format that is not read, there is no file
            of this kind, or a manifest does not fit the files.
    """
    suffixes = _RGB_SUFFIXES if kind == "stained-rgb" else _STACK_SUFFIXES
    found: dict[Path, ImageFile] = {}
    passed_over: Counter[str] = Counter()
    for path in paths:
        given = UserFile(path, "an image, or a folder of images", ImportDataError)
        try:
            is_folder = path.is_dir()
        except (OSError, ValueError):
            is_folder = False
        if foreign := _foreign_format(path):
            raise given.refuse(f"{foreign} is not read; {_FIJI}.")
        if is_folder and _is_store(path):
            found.setdefault(path.resolve(), ImageFile(path, printable(path.name)))
        elif is_folder:
            for file in _folder(path, suffixes, passed_over, labels=labels):
                found.setdefault(file.path.resolve(), file)
        else:
            given.size()
            label = _class_of_folder(path.parent.name) if labels else ""
            found.setdefault(path.resolve(), ImageFile(path, printable(path.name), label))
    if not found:
        others = FoundFiles((), dict(passed_over)).note()
        foreign = ", ".join(sorted(set(passed_over) & set(_FOREIGN.values())))
        raise ImportDataError(
            f"{', '.join(printable(str(path)) for path in paths) or 'no path given'}: nothing to "
            f"import as {kind}; give files that end in {' '.join(sorted(suffixes))}."
            + (f" ({others})" if others else "")
            + (f" {foreign} is not read: {_FIJI}." if foreign else "")
        )
    return FoundFiles(tuple(found.values()), dict(passed_over))


def _foreign_format(path: Path) -> str | None:
    return _FOREIGN.get(path.suffix.lower())


def _is_store(path: Path) -> bool:
    """Return whether a folder is a file of its own: a Zarr group, or a set in the layout of
    BSCCM.
    """
    return any((path / name).is_file() for name in (*_ZARR_GROUP, BSCCM_INDEX))


def _folder(
    root: Path, suffixes: set[str], passed_over: Counter[str], *, labels: bool
) -> list[ImageFile]:
    files = _files_below(root, suffixes, passed_over)
    names = [printable(path.relative_to(root).as_posix()) for path in files]
    manifest = root / _MANIFEST
    if not labels or not files:
        return [ImageFile(path, name) for path, name in zip(files, names, strict=True)]
    if manifest.is_file():
        listed = _read_manifest(manifest)
        missing = sorted(set(listed) - set(names))
        if missing:
            raise ImportDataError(
                f"{printable(str(manifest))}: lists {len(missing)} files that are not there, "
                f"first {missing[0]!r}; complete the folder."
            )
        return [
            ImageFile(path, name, class_of(listed.get(name, "")))
            for path, name in zip(files, names, strict=True)
        ]
    return [
        ImageFile(
            path,
            name,
            class_of(path.parent.name) if path.parent != root else _class_of_folder(root.name),
        )
        for path, name in zip(files, names, strict=True)
    ]


def _files_below(root: Path, suffixes: set[str], passed_over: Counter[str]) -> list[Path]:
    """Return the files of these types, in order of their names; count all others."""
    files: list[Path] = []
    foreign_folders: list[Path] = []
    for path in sorted(root.rglob("*"), key=lambda path: path.relative_to(root).as_posix()):
        if any(folder in path.parents for folder in foreign_folders):
            continue
        format_name = _foreign_format(path)
        if path.is_dir():
            if _is_store(path):
                foreign_folders.append(path)
                files.append(path)
            elif format_name:
                foreign_folders.append(path)
                passed_over[format_name] += 1
        elif _OF_THE_SYSTEM.fullmatch(path.name) or "__MACOSX" in path.parts:
            passed_over["of the operating system"] += 1
        elif path.suffix.lower() in suffixes and path.is_file():
            files.append(path)
        elif path.name != _MANIFEST:
            suffix = printable(path.suffix.lower()) or "without a suffix"
            passed_over[format_name or (suffix if path.is_file() else "no regular file")] += 1
    return files


def _class_of_folder(name: str) -> str:
    label = class_of(name)
    return label if label in CLASSES else ""


def _read_manifest(path: Path) -> dict[str, str]:
    file = UserFile(path, "a table with the columns file and label", ImportDataError)
    try:
        reader = csv.DictReader(file.read_text(max_bytes=256 * 2**20).splitlines())
        if not {"file", "label"} <= set(reader.fieldnames or ()):
            raise file.refuse(f"columns {reader.fieldnames}; 'file' and 'label' are needed.")
        return {(row["file"] or "").replace("\\", "/"): row["label"] or "" for row in reader}
    except csv.Error as error:
        raise file.refuse(f"not readable as CSV ({error}).") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _store_sha256(root: Path) -> str:
    """Return the SHA-256 over the names and bytes of all files of a store."""
    digest = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(root).as_posix()}\0{_sha256(path)}\n".encode())
    return digest.hexdigest()


def files_sha256(files: Sequence[ImageFile]) -> str:
    """Return the SHA-256 over names, labels and bytes of the files, in order.

    Raises:
        ImportDataError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for file in files:
        try:
            content = _store_sha256(file.path) if file.path.is_dir() else _sha256(file.path)
        except OSError as error:
            raise file.user_file.refuse(
                f"cannot be read ({error.strerror}); replace or leave out the file."
            ) from error
        digest.update(f"{file.name}\0{file.label}\0{content}\n".encode())
    return digest.hexdigest()
