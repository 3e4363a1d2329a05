"""The lock that lets one process at a time drive a microscope: run, doctor, calibrate or staining.

The operating system holds it as long as the process lives, so a crash leaves nothing behind. A
running Micro-Manager is known by its port, one that is loaded into this process by its .cfg. A
virtual scope in this process needs no lock.
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
from wbcpipe.system.files import make_folder
from wbcpipe.system.locks import exclusive_lock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wbcpipe.acquire.config.scope import Scope

__all__ = ["microscope_lock"]

#: The child of a process that was killed ends within a frame.
WAIT_S: Final = 3.0


@contextlib.contextmanager
def microscope_lock(scope: Scope) -> Iterator[None]:
    """Lock the microscope of ``scope`` while the block runs.

    Raises:
        HardwareBusyError: another process drives it; the text names its process id and command.
    """
    bridged = scope.micromanager.backend == "bridge"
    if scope.virtual and not bridged:
        yield
        return
    config = hashlib.sha256(str(scope.config_path.resolve()).encode()).hexdigest()[:16]
    path = _folder() / (
        f"port-{scope.micromanager.port}.lock" if bridged else f"config-{config}.lock"
    )
    which = (
        f"Micro-Manager on port {scope.micromanager.port}"
        if bridged
        else f"the microscope of {scope.config_path}"
    )

    def busy(holder: str) -> HardwareBusyError:
        return HardwareBusyError(
            f"scope {scope.name!r}: {which} is driven by another process ({holder}). Wait for it "
            f"to end, or stop it."
        )

    holder = path.with_suffix(".holder")
    for file in (path, holder):
        file.touch()
        _let_all_write(file, 0o666)
    process = multiprocessing.current_process().name
    purpose = Path(sys.argv[0]).name if process == "MainProcess" else process
    with exclusive_lock(path, holder, purpose, busy, wait_s=WAIT_S):
        yield


def _folder() -> Path:
    """Return the folder of the locks, shared by all users of this computer."""
    shared = os.environ.get("PROGRAMDATA") if sys.platform == "win32" else None
    folder = Path(shared or tempfile.gettempdir()) / "wbcpipe-locks"
    make_folder(folder)
    _let_all_write(folder, 0o777)
    return folder


def _let_all_write(path: Path, mode: int) -> None:
    with contextlib.suppress(
        PermissionError
    ):  # another user's, which that user made writable for all
        path.chmod(mode)
