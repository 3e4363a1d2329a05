"""What a row of a worklist asks of a scan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from wbcpipe.acquire.open_microscope import specimen_for
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.scan.request import ScanRequest
from wbcpipe.scan.targets import parse_target

if TYPE_CHECKING:
    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.batch.records import WorklistRow

__all__ = ["loader_slot", "row_request", "stage_slot"]

#: As `run` takes where nothing is said.
_CELLS: Final = 200


def stage_slot(row: WorklistRow, scope: Scope) -> str:
    """Return the slot of the stage on which the row's slide is scanned: the loader's, else that of the row."""
    return loader_slot(scope) or row.slot or next(iter(scope.slots))


def loader_slot(scope: Scope) -> str:
    """Return the slot of the stage to which the scope's loader brings slides; empty where it has no loader."""
    return str(getattr(scope, "loader_slot", ""))


def row_request(row: WorklistRow, scope: Scope) -> ScanRequest:
    """Return what a row asks for, as `run` with the same options.

    Args:
        row: of the worklist.
        scope: loaded from ``row.scope``.

    Raises:
        ConfigError: the scope has no such slot, or its scan area holds no field; or the specimen is not allowed.
        StageLimitError: the scan area is outside the limits of the stage.
    """
    return ScanRequest(
        scope=scope,
        plan=AcquisitionPlan.from_scope(scope, stage_slot(row, scope)),
        specimen=specimen_for(scope, row.specimen_seed, row.specimen_preparation),
        cells=_CELLS if row.cells is None and not row.precision else row.cells,
        fields=row.fields,
        precision=tuple(parse_target(text) for text in row.precision),
        deadline_s=None if row.deadline is None else row.deadline.timestamp(),
        two_pass=row.protocol != "one-pass",
    )
