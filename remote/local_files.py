"""The raw files of a local sample that may go to a bucket, and whether its scan has ended."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from wbcpipe.remote.records import LOG, safe_path
from wbcpipe.samples.fields import PASSES
from wbcpipe.samples.freed import freed_path, known_fields
from wbcpipe.system.process_limits import process_created

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from pathlib import Path

    from wbcpipe.samples.sample import Sample

__all__ = ["LocalFile", "RawFiles", "field_of", "raw_files", "scan_ended"]

#: Beside ``raw/``. The order and the picture of the label may name a patient: they stay.
_BESIDE: Final = ("sample.json", "scan.json", "truth.csv", LOG)
_FIELD: Final = re.compile(r"raw/(single|brightfield|fluorescence)/field_(\d{5,})\.ome\.tif")
_HOLDER: Final = re.compile(r"process (\d+), (\S+)")
#: Purposes of a lock on the sample under which raw files are written.
_WRITERS: Final = ("run", "acquire", "batch", "import")
#: The clocks of a file system and of the list of processes differ.
_CLOCK_S: Final = 2.0


class LocalFile(NamedTuple):
    """A file of a sample.

    Attributes:
        inside: its path below the sample's folder, with slashes.
        path: the file.
        size, mtime_ns: as of now.
    """

    inside: str
    path: Path
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class RawFiles:
    """The raw files of a sample.

    Attributes:
        files: by path, ``sample.json`` first.
        refused: links and names that do not go to a bucket, with the reason.
    """

    files: tuple[LocalFile, ...]
    refused: tuple[str, ...]


def field_of(inside: str) -> tuple[str, int] | None:
    """Return the pass and the index of a field's file; ``None`` of another file.

    >>> field_of("raw/single/field_00012.ome.tif")
    ('single', 12)
    """
    found = _FIELD.fullmatch(inside)
    return (found[1], int(found[2])) if found else None


def raw_files(sample: Sample) -> RawFiles:
    """Return the raw files of a sample that are complete on the disk.

    A file that exists is complete; one that is being written has a name with a dot in front. Links
    are not followed: what they point to is not of the sample.
    """
    refused: list[str] = []
    found = [
        LocalFile(path.relative_to(sample.path).as_posix(), path, state.st_size, state.st_mtime_ns)
        for path, state in _walk(sample, refused)
    ]
    found.sort(key=lambda file: (file.inside != "sample.json", file.inside))
    return RawFiles(tuple(found), tuple(sorted(refused)))


def _walk(sample: Sample, refused: list[str]) -> Iterator[tuple[Path, os.stat_result]]:
    for name in (*_BESIDE, "raw"):
        yield from _entries(sample.path / name, sample, refused)


def _entries(
    path: Path, sample: Sample, refused: list[str]
) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the regular files at or below a path."""
    if path.name.startswith(".") or path == freed_path(sample):
        return
    try:
        state = path.lstat()
    except FileNotFoundError:
        return
    inside = path.relative_to(sample.path).as_posix()
    folder = path.is_dir()
    # A junction of Windows is no link to Python, but leads elsewhere as one does.
    if path.is_symlink() or (folder and path.resolve() != sample.path.resolve() / inside):
        refused.append(f"{inside}: a link; it is not followed")
    elif folder:
        for child in sorted(path.iterdir()):
            yield from _entries(child, sample, refused)
    elif path.is_file():
        try:
            safe_path(inside)
        except ValueError as error:
            refused.append(f"{inside[:200]}: {error}")
            return
        yield path, state


def scan_ended(sample: Sample) -> bool:
    """Return whether a sample has all its raw files: its scan, or its import, has ended.

    The sample's lock is not taken, not even for a moment: a scan that starts then would be refused.

    Raises:
        SampleStateError: ``sample.json`` or ``freed.json`` is damaged.
    """
    if sample.record().kind == "scope":
        return (sample.path / "scan.json").exists() and not _being_scanned(sample)
    if _being_scanned(sample):
        return False
    known = max(len(known_fields(sample, name)) for name in PASSES)
    return 0 < _imported_fields(sample) <= known


def _being_scanned(sample: Sample) -> bool:
    """Return whether a living process holds the sample to write raw files.

    The note on who holds the lock stays after a kill. It counts only if it is younger than its
    process, and than the end of the scan.
    """
    note = sample.path / ".sample.holder"
    try:
        found = _HOLDER.match(note.read_text(encoding="utf-8", errors="replace"))
        written_s = note.stat().st_mtime
    except OSError:
        return False
    if found is None or found[2] not in _WRITERS:
        return False
    created_s = process_created(int(found[1]))
    if created_s is None or created_s > written_s + _CLOCK_S:
        return False
    with contextlib.suppress(OSError):
        return (sample.path / "scan.json").stat().st_mtime < written_s
    return True


def _imported_fields(sample: Sample) -> int:
    """Return the number of fields of the last import that ended; 0 if none has."""
    count = 0
    with contextlib.suppress(OSError), (sample.path / LOG).open("rb") as lines:
        for line in lines:
            if b'"fields_imported"' in line:
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    count = int(json.loads(line)["fields"])
    return count
