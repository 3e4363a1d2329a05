"""What a row of a worklist asks of a scan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from wbcpipe.acquire.loader.workflow import LoadRequest
from wbcpipe.acquire.open_microscope import specimen_for
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.errors import ConfigError
from wbcpipe.scan.request import ScanRequest
from wbcpipe.scan.targets import parse_target

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.batch.records import WorklistRow

__all__ = ["load_request", "row_request", "stage_slot"]

#: As `run` takes where nothing is said.
_CELLS: Final = 200


def load_request(row: WorklistRow, scope: Scope, data: Path) -> LoadRequest | None:
    """Return what the scope's loader brings to the stage; ``None`` where it has none.

    Args:
        row: its slot is the slide's place in the loader.
        scope: loaded from ``row.scope``.
        data: data root.

    Raises:
        ConfigError: the slot is no place in the loader, or the slide's id is not allowed.
    """
    if not scope.loader_slot:
        return None
    if row.slot and not row.slot.isdecimal():
        raise ConfigError(
            f"slot {row.slot!r} is no place in the loader of scope {scope.name!r}, which counts "
            f"its places from 1."
        )
    request = LoadRequest(scope, data, row.slide or row.sample, int(row.slot or 0))
    request.place()
    return request


def stage_slot(row: WorklistRow, scope: Scope) -> str:
    """Return the slot of the stage on which the row's slide is scanned: the loader's, else that of
    the row.
    """
    return scope.loader_slot or row.slot or next(iter(scope.slots))


def row_request(row: WorklistRow, scope: Scope, data: Path) -> ScanRequest:
    """Return what a row asks for, as `run` with the same options.

    Args:
        row: of the worklist.
        scope: loaded from ``row.scope``.
        data: data root.

    Raises:
        ConfigError: the scope has no such slot, or its scan area holds no field; or the specimen,
            or the place in the loader, is not allowed.
        StageLimitError: the scan area is outside the limits of the stage.
    """
    return ScanRequest(
        scope=scope,
        plan=AcquisitionPlan.from_scope(scope, stage_slot(row, scope)),
        specimen=specimen_for(scope, row.specimen_seed, row.specimen_preparation),
        slide=row.slide,
        load=load_request(row, scope, data),
        cells=_CELLS if row.cells is None and not row.precision else row.cells,
        fields=row.fields,
        precision=tuple(parse_target(text) for text in row.precision),
        deadline_s=None if row.deadline is None else row.deadline.timestamp(),
        two_pass=row.protocol != "one-pass",
    )
