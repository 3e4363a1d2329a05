"""Planned = taken + missing, counted from the files on disk, never from what the run believes it did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wbcpipe.errors import AcquisitionError, FrameFileError
from wbcpipe.samples.field_status import read_missing, write_missing
from wbcpipe.samples.fields import PASSES, fields_on_disk, read_info

if TYPE_CHECKING:
    from collections.abc import Container, Iterable
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.samples.fields import FieldInfo, Pass
    from wbcpipe.samples.sample import Sample

__all__ = ["Outcome", "drop_stale", "quarantine_damaged", "reconcile"]


@dataclass(frozen=True)
class Outcome:
    """What became of the fields that were wanted.

    Attributes:
        taken: indices of those with a file, in order.
        missing: index to the reason of the others.
    """

    taken: tuple[int, ...]
    missing: dict[int, str]


def reconcile(raw: Path, wanted: Iterable[int], empty: Container[int] = ()) -> Outcome:
    """Look each wanted field up on the disk.

    Args:
        raw: folder of the fields and of ``missing.json``.
        wanted: indices of planned fields.
        empty: those that were skipped as bare glass.

    Raises:
        AcquisitionError: a field is neither on disk nor recorded as missing, or is both; the text names them.
    """
    there, recorded = fields_on_disk(raw), read_missing(raw)
    indices = [index for index in sorted(set(wanted)) if index not in empty]
    lost = [index for index in indices if index not in there and index not in recorded]
    twice = [index for index in indices if index in there and index in recorded]
    if lost or twice:
        parts = [f"fields {_some(lost)} have neither a file nor an entry in missing.json"] if lost else []
        parts += [f"fields {_some(twice)} have a file and an entry in missing.json"] if twice else []
        raise AcquisitionError(
            f"{raw}: {'; '.join(parts)}. Nothing but wbcpipe may write there; run the same command again."
        )
    return Outcome(
        tuple(index for index in indices if index in there),
        {index: recorded[index] for index in indices if index in recorded},
    )


def drop_stale(raw: Path, there: Iterable[int]) -> None:
    """Take fields that are whole on disk out of ``missing.json``: a kill fell between the two writings."""
    recorded = read_missing(raw)
    stale = recorded.keys() & set(there)
    if stale:
        write_missing(raw, {index: text for index, text in recorded.items() if index not in stale})


def quarantine_damaged(sample: Sample, scope: Scope, pass_name: Pass = "single") -> dict[int, FieldInfo]:
    """Look at each field of a pass; those that are damaged move to ``raw/quarantine``. Gives back the whole ones."""
    raw = sample.raw_path(pass_name)
    height_px, width_px = scope.camera.image_px
    least_bytes = 2 * len(PASSES[pass_name]) * height_px * width_px
    whole: dict[int, FieldInfo] = {}
    for index, path in fields_on_disk(raw).items():
        try:
            info = read_info(path)
            if info.index != index or info.modalities != PASSES[pass_name] or path.stat().st_size < least_bytes:
                raise FrameFileError(f"{path}: not the field {index} of this plan.")
            whole[index] = info
        except FrameFileError as error:
            folder = raw.parent / "quarantine"
            folder.mkdir(exist_ok=True)
            name = path.name if pass_name == "single" else f"{pass_name}_{path.name}"
            target = folder / name
            for number in range(1, 10_000):
                if not target.exists():
                    break
                target = folder / f"{name}.{number}"
            path.rename(target)
            sample.log("quarantined", field=index, file=str(target.relative_to(sample.path)), reason=str(error))
    return whole


def _some(indices: list[int]) -> str:
    shown = ", ".join(str(index) for index in indices[:20])
    return shown + (f" and {len(indices) - 20} more" if len(indices) > 20 else "")
