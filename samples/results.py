"""Further results of a sample: each in a folder of its own, complete once its marker is there.

The current result lies in the sample's folder. Another one, of another bundle, other settings or
another version, lies in ``results/<result id>/`` and never replaces it. The id follows from all
that the result rests on. ``COMPLETE.json`` is written last and names every file of the result with
its size and SHA-256; a result without it does not exist.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field, StringConstraints

from wbcpipe.errors import SampleStateError
from wbcpipe.samples.records import Count, Part, Record, json_digest
from wbcpipe.system.files import file_errors, rename, sync_tree
from wbcpipe.system.storage import patiently
from wbcpipe.system.version import SOFTWARE, release_of

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.samples.sample import Sample

__all__ = [
    "MARKER",
    "RESULTS",
    "ResultBasis",
    "ResultFile",
    "ResultRecord",
    "check_result",
    "completed_results",
    "count_results",
    "find_result",
    "list_files",
    "publish_folder",
    "result_path",
    "seal_result",
    "software_release",
]

#: Folder of the results, in the folder of a sample and below its key in a bucket.
RESULTS: Final = "results"
#: The completion marker of a result.
MARKER: Final = "COMPLETE.json"
_ID: Final = "[0-9a-f]{16}"
_BLOCK_BYTES: Final = 1 << 20

Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
ResultId = Annotated[str, StringConstraints(pattern=f"^{_ID}$")]


class ResultBasis(Part):
    """All that a result rests on.

    Attributes:
        inputs_sha256: of the raw files: of the checksums of their pixels, or of the manifest of
            an upload.
        bundle: name of the bundle.
        bundle_sha256: of its weights.
        calibration_digest: short hash of its calibration.
        pixel_um: pixel size of the crops.
        detector: that found the nuclei.
        lab_sha256: of the laboratory's file; empty without one.
        software: name and release, see `software_release`.
    """

    inputs_sha256: str
    bundle: str
    bundle_sha256: str
    calibration_digest: str
    pixel_um: Annotated[float, Field(gt=0)]
    detector: str
    lab_sha256: str = ""
    software: str

    @property
    def result_id(self) -> str:
        """Return the name of the result: 16 hexadecimal digits.

        A bundle that is renamed gives the same id.
        """
        return json_digest(self.model_dump(mode="json", exclude={"bundle"}))[:16]


def software_release(software: str = SOFTWARE) -> str:
    """Return name and release of a software, whose builds between two releases are alike.

    >>> software_release("wbcpipe 1.2.1.dev14+g0a1b2c3")
    'wbcpipe 1.2.1'
    """
    name, _, version = software.partition(" ")
    return f"{name} {release_of(version)}"


class ResultFile(Part):
    """A file of a result.

    Attributes:
        path: relative to the result's folder, with slashes.
        size: in bytes.
        sha256: of the content.
    """

    path: str
    size: Count
    sha256: Sha256


class ResultRecord(Record):
    """The completion marker of a result, ``COMPLETE.json``.

    Attributes:
        sample: name of the sample.
        sample_created: time of its creation, as in ``sample.json``.
        result_id: see `ResultBasis.result_id`.
        basis: what the result rests on.
        created: UTC time, ISO 8601.
        files: every other file of the result, by path.
    """

    remedy = "restore it, or remove the folder of the result and process the sample again"

    sample: str
    sample_created: str
    result_id: ResultId
    basis: ResultBasis
    created: str
    files: tuple[ResultFile, ...]


def result_path(sample: Sample, result_id: str) -> Path:
    """Return the folder of a result.

    Raises:
        SampleStateError: this is no id of a result.
    """
    if not re.fullmatch(_ID, result_id):
        raise SampleStateError(
            f"{result_id!r} is no id of a result (16 hexadecimal digits); `wbcpipe results list "
            f"--sample {sample.name}` lists them."
        )
    return sample.path / RESULTS / result_id


def list_files(folder: Path) -> tuple[ResultFile, ...]:
    """Return every file below a folder but the marker, with size and SHA-256, by path."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != MARKER:
            size, digest = _size_and_digest(path)
            found.append(ResultFile(path=name, size=size, sha256=digest))
    return tuple(found)


def _size_and_digest(path: Path) -> tuple[int, str]:
    with file_errors(path, ResultRecord.remedy):
        return patiently(path, lambda: _hash(path))


def _hash(path: Path) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK_BYTES):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()


def seal_result(folder: Path, sample: Sample, basis: ResultBasis, created: str) -> ResultRecord:
    """Flush every file of a finished result and write its marker.

    Args:
        folder: of the result; it holds nothing else.
        sample: whose result it is.
        basis: what it rests on.
        created: UTC time, ISO 8601.
    """
    record = ResultRecord(
        sample=sample.name,
        sample_created=sample.record().created,
        result_id=basis.result_id,
        basis=basis,
        created=created,
        files=list_files(folder),
    )
    sync_tree(folder)
    record.write(folder / MARKER)
    return record


def publish_folder(folder: Path, target: Path) -> bool:
    """Give a sealed result its name; return ``False`` if it was there already.

    A result that is there is never replaced: the two are of the same basis. The caller holds the
    sample's lock.
    """
    if (target / MARKER).exists():
        return False
    rename(folder, target)
    return True


def count_results(sample: Sample) -> int:
    """Return the number of further results that have a marker, without reading it."""
    folder = sample.path / RESULTS
    return sum(
        re.fullmatch(_ID, path.parent.name) is not None for path in folder.glob(f"*/{MARKER}")
    )


def completed_results(sample: Sample) -> list[ResultRecord]:
    """Return the further results of a sample that are complete, the oldest first.

    Raises:
        SampleStateError: a marker is damaged, or of another sample.
    """
    folder = sample.path / RESULTS
    if not folder.is_dir():
        return []
    found = [
        _read(sample, path)
        for path in sorted(folder.iterdir())
        if re.fullmatch(_ID, path.name) and (path / MARKER).is_file()
    ]
    return sorted(found, key=lambda record: record.created)


def find_result(sample: Sample, result_id: str) -> ResultRecord | None:
    """Return the marker of a result; ``None`` without it.

    Raises:
        SampleStateError: no such id, or the marker is damaged or of another sample.
    """
    path = result_path(sample, result_id)
    return _read(sample, path) if (path / MARKER).is_file() else None


def _read(sample: Sample, path: Path) -> ResultRecord:
    record = ResultRecord.read(path / MARKER)
    created = sample.record().created
    stated = (record.sample, record.sample_created, record.result_id)
    # A renamed sample keeps its results, whose markers say the earlier name.
    if stated[1:] != (created, path.name) or record.basis.result_id != path.name:
        raise SampleStateError(
            f"{path / MARKER}: of result {record.result_id} of sample {record.sample!r} of "
            f"{record.sample_created}, which is not this one; {record.remedy}."
        )
    return record


def check_result(folder: Path, record: ResultRecord) -> None:
    """Compare every file of a result with its marker.

    Raises:
        SampleStateError: a file is missing, changed, or not of the result; the text names it.
    """
    wanted = {file.path: file for file in record.files}
    there = {file.path: file for file in list_files(folder)}
    for name in sorted(wanted.keys() | there.keys()):
        if wanted.get(name) != there.get(name):
            what = (
                "is missing"
                if name not in there
                else "is not of the result"
                if name not in wanted
                else "was changed"
            )
            raise SampleStateError(f"{folder / name}: the file {what}; {record.remedy}.")
