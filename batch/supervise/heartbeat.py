"""The heartbeat of a batch.

A file that says what runs, so that other commands can tell, and a restart can clean up.
"""

from __future__ import annotations

import contextlib
import socket
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import psutil

from wbcpipe.batch.records import Heartbeat, MicroscopeState
from wbcpipe.errors import DiskFullError
from wbcpipe.system.process_limits import process_created

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from wbcpipe.batch.records import MicroscopeWord
    from wbcpipe.batch.state.batch_folder import BatchFolder
    from wbcpipe.batch.supervise.sample_run import SampleRun

__all__ = ["HeartbeatWriter"]

_INTERVAL_S: Final = 2.0


class HeartbeatWriter:
    """Writes the heartbeat every two seconds, or at once after `make_due`.

    Args:
        folder: of the batch.
        alive: called at each heartbeat.
        free_bytes: tells the free space at a path.
    """

    def __init__(
        self, folder: BatchFolder, alive: Callable[[], None], free_bytes: Callable[[Path], int]
    ) -> None:
        self._folder, self._alive, self._free_bytes = folder, alive, free_bytes
        self._pid, self._created = (
            psutil.Process().pid,
            process_created(psutil.Process().pid) or 0.0,
        )
        self._written_s = 0.0
        self._shown = ""
        self._since = datetime.now(UTC)

    def make_due(self) -> None:
        """Let the next `beat` write."""
        self._written_s = 0.0

    def beat(
        self,
        runs: Collection[SampleRun],
        microscope: Callable[[], tuple[MicroscopeWord, str, str]],
        stopping: str,
    ) -> None:
        """Write the heartbeat, if it is due; a full disk does not stop the batch here.

        Args:
            runs: the processes.
            microscope: returns the state of the microscope, the sample that uses it, and the reason
                of the state.
            stopping: what `batch stop` asked for, if it did.
        """
        now_s = time.monotonic()
        if now_s - self._written_s < _INTERVAL_S:
            return
        self._written_s = now_s
        self._alive()
        state, sample, reason = microscope()
        if f"{state} {sample}" != self._shown:
            self._shown, self._since = f"{state} {sample}", datetime.now(UTC)
        heartbeat = Heartbeat(
            time=datetime.now(UTC),
            pid=self._pid,
            created=self._created,
            host=socket.gethostname(),
            microscope=MicroscopeState(
                state=state, sample=sample, since=self._since, reason=reason
            ),
            processes=tuple(run.status() for run in runs),
            stopping=stopping,
            disk_free_bytes=self._free_bytes(self._folder.root),
        )
        with contextlib.suppress(DiskFullError, OSError):
            self._folder.write_heartbeat(heartbeat)
