"""End and remove what a supervisor that was killed has left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from wbcpipe.system.process_limits import end_tree, is_alive
from wbcpipe.system.semaphores import remove_abandoned_semaphores

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.batch.records import ProcessStatus
    from wbcpipe.batch.state.batch_folder import BatchFolder

__all__ = ["end_leftovers"]

#: Processes of samples notice the death of the supervisor, close the shutter and end; most within a
#: frame.
_GRACE_S: Final = 5.0


def end_leftovers(folder: BatchFolder, say: Callable[[str], None]) -> list[ProcessStatus]:
    """End the processes of samples that an earlier supervisor has left, and return them.

    Semaphores that were killed with it are removed.

    They are known by process id and creation time, from the last heartbeat. A process that was
    started after it is not known; it has lost its parent all the same, and ends by itself.
    """
    heartbeat = folder.heartbeat()
    found = (
        []
        if heartbeat is None
        else [one for one in heartbeat.processes if is_alive(one.pid, one.created)]
    )
    for process in found:
        say(
            f"ending process {process.pid} of sample {process.sample}, which an earlier "
            f"supervisor left"
        )
        end_tree(process.pid, process.created, _GRACE_S)
    remove_abandoned_semaphores()
    return found
