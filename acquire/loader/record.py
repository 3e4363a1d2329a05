"""``<data>/loader/<scope>.json``.

Which slide the loader has put on a microscope's stage, and what it was doing.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import AwareDatetime, Field

from wbcpipe.acquire.config.slide_policies import SlidePlace
from wbcpipe.samples.records import Record
from wbcpipe.system.files import make_folder

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope

__all__ = ["LoaderRecord", "loader_path", "read_loader", "write_loader"]


class LoaderRecord(Record):
    """What the loader last did.

    Attributes:
        state: ``loading`` and ``unloading`` are written before anything moves; a process that was
            killed leaves them.
        place: the slide, its slot and its place in the loader; ``None`` with an empty stage.
        method: of the scope file, or ``operator`` where the operator said what lies on the stage.
        since: of the state.
        step: the last step that started.
        reason: why it failed.
    """

    remedy: ClassVar[str] = (
        "look at the stage and state what lies there with `wbcpipe loader state`"
    )

    state: Literal["empty", "loading", "loaded", "unloading"]
    place: SlidePlace | None = None
    method: str = ""
    since: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    step: str = ""
    reason: str = ""


def loader_path(scope: Scope, data: Path) -> Path:
    """Return the path of a scope's record below the data root."""
    return data / "loader" / f"{scope.name}.json"


def read_loader(scope: Scope, data: Path) -> LoaderRecord:
    """Return the record; an empty stage where there is none.

    Raises:
        SampleStateError: the file is damaged.
    """
    return LoaderRecord.read_if_present(loader_path(scope, data)) or LoaderRecord(state="empty")


def write_loader(scope: Scope, data: Path, record: LoaderRecord) -> None:
    """Write the record, atomically."""
    path = loader_path(scope, data)
    make_folder(path.parent)
    record.write(path)
