"""``raw/freed.json``: the raw fields that were removed here, because a bucket holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Final

from pydantic import Field

from wbcpipe.errors import FieldsFreedError
from wbcpipe.samples.fields import field_path, fields_on_disk, passes_on_disk
from wbcpipe.samples.records import Count, Part, Record

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.samples.fields import Pass
    from wbcpipe.samples.sample import Sample

__all__ = [
    "FreedField",
    "FreedFields",
    "freed_path",
    "known_fields",
    "missing_here",
    "read_freed",
    "refuse_if_freed",
    "taken_fields",
]

_NAME: Final = "freed.json"


class FreedField(Part):
    """A field that a bucket holds.

    Attributes:
        pass_name: folder below ``raw/``.
        index: of the field.
        size: bytes of its file.
        sha256: of its file.
    """

    pass_name: Annotated[str, Field(pattern="^(single|brightfield|fluorescence)$")]
    index: Count
    size: Count
    sha256: str


class FreedFields(Record):
    """``raw/freed.json``: written before the first of these files is removed.

    A field that is named here and lies on the disk has not been removed, or was brought back.

    Attributes:
        location: of the bucket, with its prefix.
        manifest: number of the sample's manifest there.
        raw_digest: SHA-256 of all raw files, by that manifest.
        freed: UTC time, ISO 8601.
        fields: that may be removed.
    """

    remedy: ClassVar[str] = "bring the fields back with `wbcpipe sync --from`"
    names_sample: ClassVar[bool] = True

    location: str
    manifest: Annotated[int, Field(ge=1)]
    raw_digest: str
    freed: str
    fields: tuple[FreedField, ...]


def freed_path(sample: Sample) -> Path:
    """Return the path of ``raw/freed.json``."""
    return sample.path / "raw" / _NAME


def read_freed(sample: Sample) -> FreedFields | None:
    """Read which fields were freed; ``None`` if none were.

    Raises:
        SampleStateError: the record is damaged.
    """
    return FreedFields.read_if_present(freed_path(sample))


def missing_here(sample: Sample, record: FreedFields | None) -> list[FreedField]:
    """Return the freed fields that are not on the disk."""
    return [
        one
        for one in (record.fields if record else ())
        if not field_path(sample.path / "raw" / one.pass_name, one.index).exists()
    ]


def known_fields(sample: Sample, pass_name: Pass) -> set[int]:
    """Return the fields of a pass that were taken: on the disk, or freed.

    Raises:
        SampleStateError: ``freed.json`` is damaged.
    """
    record = read_freed(sample)
    freed = {one.index for one in (record.fields if record else ()) if one.pass_name == pass_name}
    return freed | set(fields_on_disk(sample.raw_path(pass_name)))


def taken_fields(sample: Sample) -> list[int]:
    """Return the fields that were taken in every pass, in order: on the disk, or freed.

    Raises:
        SampleStateError: ``freed.json`` is damaged.
    """
    passes = passes_on_disk(sample.path / "raw")
    return sorted(set.intersection(*(known_fields(sample, name) for name in passes)))


def refuse_if_freed(sample: Sample, purpose: str) -> None:
    """Refuse what needs the raw fields of a sample, or would take them again.

    Args:
        sample: may have freed fields.
        purpose: of the caller, such as ``segment``.

    Raises:
        FieldsFreedError: fields were freed.
    """
    record = read_freed(sample)
    if record is not None and (missing := missing_here(sample, record)):
        raise FieldsFreedError(
            f"sample {sample.name!r}: {len(missing)} raw fields were freed here on "
            f"{record.freed[:10]} and are in {record.location}, so it cannot be used to {purpose}; "
            f"bring them back with `wbcpipe sync {sample.name} --from {record.location}`."
        )
