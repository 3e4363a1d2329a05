"""What a server is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wbcpipe.laboratory.lab_file import Lab
from wbcpipe.review.server.sessions import Sessions

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.review.server.address import ServerAddress
    from wbcpipe.review.server.passwords import PasswordFile

__all__ = ["ServerOptions"]


@dataclass(frozen=True)
class ServerOptions:
    """The options of a server.

    Attributes:
        root: the data root.
        address: where it listens.
        passwords: of the readers; ``None``: a link that works once begins the session.
        sessions: of the readers.
        lab: settings of the laboratory.
    """

    root: Path
    address: ServerAddress
    passwords: PasswordFile | None = None
    sessions: Sessions = field(default_factory=Sessions)
    lab: Lab = field(default_factory=Lab)
