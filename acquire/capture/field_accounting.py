"""Planned = taken + missing + empty, counted from the files on disk, never from memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from wbcpipe.errors import AcquisitionError, FrameFileError
from wbcpipe.samples.field_status import read_missing, read_skipped, write_missing
from wbcpipe.samples.fields import PASSES, fields_on_disk, read_info
from wbcpipe.system.files import make_folder, rename

if TYPE_CHECKING:
    from collections.abc import Container, Iterable
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.samples.fields import FieldInfo, Pass
    from wbcpipe.samples.sample import Sample

__all__ = ["FieldInventory", "check_all_fields_accounted"]


@dataclass
class FieldInventory:
    """Fields of a pass that need not be taken.

    Attributes:
        taken: Fields that are complete on disk, by index.
        empty: Foreground area (um2) of the fields that were skipped as empty, by index.
    """

    taken: dict[int, FieldInfo] = field(default_factory=dict)
    empty: dict[int, float] = field(default_factory=dict)

    @classmethod
    def read(cls, sample: Sample, scope: Scope, pass_name: Pass) -> Self:
        """Read from disk what earlier runs took; damaged files move to quarantine.

        A second pass skips the fields that were empty in the first.
        """
        raw = sample.raw_path(pass_name)
        make_folder(raw)
        taken = _quarantine_damaged(sample, scope, pass_name)
        recorded = read_missing(raw)
        if recorded.keys() & taken.keys():  # a run can be killed between the two writes
            write_missing(
                raw, {index: reason for index, reason in recorded.items() if index not in taken}
            )
        checked = sample.raw_path("brightfield") if pass_name == "fluorescence" else raw
        return cls(
            taken,
            {index: area for index, area in read_skipped(checked).items() if index not in taken},
        )


def check_all_fields_accounted(
    raw: Path, wanted: Iterable[int], empty: Container[int] = ()
) -> None:
    """Check that each wanted field is either on disk or recorded as missing.

    Args:
        raw: Folder of the fields and of ``missing.json``.
        wanted: Indices of planned fields.
        empty: Indices that were skipped as bare glass.

    Raises:
        AcquisitionError: A field is neither on disk nor recorded as missing, or is both; the text
            names the fields.
    """
    there, recorded = fields_on_disk(raw), read_missing(raw)
    indices = [index for index in sorted(set(wanted)) if index not in empty]
    lost = [index for index in indices if index not in there and index not in recorded]
    twice = [index for index in indices if index in there and index in recorded]
    if lost or twice:
        parts = (
            [f"fields {_listed(lost)} have neither a file nor an entry in missing.json"]
            if lost
            else []
        )
        parts += (
            [f"fields {_listed(twice)} have a file and an entry in missing.json"] if twice else []
        )
        raise AcquisitionError(
            f"{raw}: {'; '.join(parts)}. Nothing but wbcpipe may write there; run the same "
            f"command again."
        )


def _quarantine_damaged(sample: Sample, scope: Scope, pass_name: Pass) -> dict[int, FieldInfo]:
    """Move damaged fields of a pass to ``raw/quarantine`` and return the complete ones by index."""
    raw = sample.raw_path(pass_name)
    height_px, width_px = scope.camera.image_px
    min_bytes = 2 * len(PASSES[pass_name]) * height_px * width_px
    complete: dict[int, FieldInfo] = {}
    for index, path in fields_on_disk(raw).items():
        try:
            info = read_info(path)
            if (
                info.index != index
                or info.modalities != PASSES[pass_name]
                or path.stat().st_size < min_bytes
            ):
                raise FrameFileError(f"{path}: not the field {index} of this plan.")
            complete[index] = info
        except FrameFileError as error:
            folder = raw.parent / "quarantine"
            make_folder(folder)
            name = path.name if pass_name == "single" else f"{pass_name}_{path.name}"
            names = (name, *(f"{name}.{number}" for number in range(1, 10_000)))
            target = next(folder / one for one in names if not (folder / one).exists())
            rename(path, target)
            sample.log(
                "quarantined",
                field=index,
                file=str(target.relative_to(sample.path)),
                reason=str(error),
            )
    return complete


def _listed(indices: list[int]) -> str:
    shown = ", ".join(str(index) for index in indices[:20])
    return shown + (f" and {len(indices) - 20} more" if len(indices) > 20 else "")
