"""Which commands have an effect on a row, by its state.

Pure; for the operator's terminal and for the supervisor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, get_args

from wbcpipe.batch.row_status import RowState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wbcpipe.batch.records import CommandKind
    from wbcpipe.batch.row_status import RowStatus

__all__ = ["addressed_by_all", "command_problem"]

#: States in which a command has an effect.
_EFFECTIVE: Final[Mapping[CommandKind, frozenset[RowState]]] = {
    "hold": frozenset({"waiting", "scanned", "stained"}),
    "release": frozenset({"held"}),
    "skip": frozenset(get_args(RowState)) - {"finished", "skipped"},
    "retry": frozenset({"quarantined", "skipped"}),
}
#: What to do instead.
_ADVICE: Final[Mapping[tuple[CommandKind, RowState], str]] = {
    ("hold", "scanning"): "it is being scanned; `skip` ends it, `stop` ends the batch after it",
    (
        "hold",
        "staining",
    ): "its slide is being stained; `skip` ends it, `stop` ends the batch after it",
    ("hold", "processing"): "its scan is complete, and it needs the microscope no more",
    ("hold", "held"): "it is on hold already",
    ("hold", "finished"): "it is finished",
    ("hold", "skipped"): "it is skipped already",
    ("hold", "quarantined"): "it is quarantined, and is not tried again unless `retry` asks for it",
    ("skip", "finished"): "it is finished; its result stays",
    ("skip", "skipped"): "it is skipped already",
    ("retry", "waiting"): "it waits, and is tried without being asked",
    (
        "retry",
        "finished",
    ): "it is finished; to scan the slide again, add it under another sample name",
    ("retry", "held"): "it is on hold; `release` lets it start",
    ("retry", "scanning"): "it is being scanned",
    ("retry", "processing"): "it is being processed",
}


def command_problem(kind: CommandKind, status: RowStatus) -> str:
    """Return why a command has no effect on a row, as a clause; empty if it has one.

    Args:
        kind: one that names a sample.
        status: of the row.
    """
    if status.state in _EFFECTIVE[kind]:
        return ""
    return _ADVICE.get((kind, status.state), f"its state is '{status.state}'")


def addressed_by_all(kind: CommandKind, status: RowStatus) -> bool:
    """Return whether ``--all`` means this row: rows that are waiting, on hold, or quarantined."""
    meant: dict[str, RowState] = {"hold": "waiting", "release": "held", "retry": "quarantined"}
    return status.state == meant.get(kind)
