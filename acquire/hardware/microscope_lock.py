"""A microscope is driven by one process at a time: a run, doctor, calibrate or a staining beside it is refused.

Held by the operating system for as long as its process lives, so a crash leaves nothing behind. A running
Micro-Manager is known by its port, one that is loaded here by its .cfg; a virtual scope that is loaded here is nobody
else's hardware.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from wbcpipe.errors import HardwareBusyError
from wbcpipe.system.locks import exclusive_lock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wbcpipe.acquire.config.scope import Scope

__all__ = ["microscope_lock"]

#: A process that was killed leaves its child, which ends within a frame.
_WAIT_S: Final = 3.0


@contextlib.contextmanager
def microscope_lock(scope: Scope, *, wait_s: float | None = None) -> Iterator[None]:
    """Drive the microscope of ``scope`` alone while the block runs; ``wait_s``: for another process to end.

    Raises:
        HardwareBusyError: another process drives it; the text names its process id and what it is.
    """
    bridged = scope.micromanager.backend == "bridge"
    if scope.virtual and not bridged:
        yield
        return
    config = hashlib.sha256(str(scope.config_path.resolve()).encode()).hexdigest()[:16]
    path = _folder() / (f"port-{scope.micromanager.port}.lock" if bridged else f"config-{config}.lock")
    which = f"Micro-Manager on port {scope.micromanager.port}" if bridged else f"the microscope of {scope.config_path}"

    def busy(holder: str) -> HardwareBusyError:
        return HardwareBusyError(
            f"scope {scope.name!r}: {which} is driven by another process ({holder}); two at once would move and light "
            "the slide under each other. Wait for it to end, or stop it."
        )

    holder = path.with_suffix(".holder")
    for file in (path, holder):
        file.touch()
        _let_all_write(file, 0o666)
    with exclusive_lock(path, holder, _purpose(), busy, wait_s=_WAIT_S if wait_s is None else wait_s):
        yield


def _folder() -> Path:
    """Of this computer, and of all its users: what is held there is its hardware."""
    shared = os.environ.get("PROGRAMDATA") if sys.platform == "win32" else None
    folder = Path(shared or tempfile.gettempdir()) / "wbcpipe-locks"
    folder.mkdir(parents=True, exist_ok=True)
    _let_all_write(folder, 0o777)
    return folder


def _let_all_write(path: Path, mode: int) -> None:
    with contextlib.suppress(PermissionError):  # another user's, who let all write when it was made
        path.chmod(mode)


def _purpose() -> str:
    name = multiprocessing.current_process().name
    return Path(sys.argv[0]).name if name == "MainProcess" else name
