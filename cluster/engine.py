"""Submit the stages of many samples, and collect what became of them."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Final

from distributed import as_completed
from distributed.scheduler import KilledWorker

from wbcpipe.cluster.connect import SCHEDULER_LOST
from wbcpipe.cluster.records import STAGES, SampleOutcome, StageRecord
from wbcpipe.cluster.stages import run_stage
from wbcpipe.errors import ClusterError, WbcpipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from distributed import Client, Future

    from wbcpipe.cluster.records import SampleTask, Stage

__all__ = ["RETRIES", "process_samples"]

#: Further attempts of a stage that a fault of the machine has ended.
RETRIES: Final = 2
_DONE: Final[dict[Stage, str]] = {
    "segment": "samples segmented",
    "classify": "samples classified",
    "report": "samples reported",
}


def process_samples(
    client: Client,
    tasks: Sequence[SampleTask],
    progress: Callable[[str, int, int], None] = lambda _task, _done, _total: None,
    failed: Callable[[StageRecord], None] = lambda _record: None,
) -> list[SampleOutcome]:
    """Process samples, the stages of each one after the other; return what became of them.

    A stage that a fault of its machine has ended is tried `RETRIES` times more, where the scheduler
    sees fit. A sample that fails does not stop the others.

    Args:
        client: of the scheduler.
        tasks: one for each sample.
        progress: called with (what was done, samples done, samples in all).
        failed: called for each sample that fails, at once.

    Raises:
        ClusterError: the scheduler was lost. What is complete stays; the same call goes on.
    """
    chains = {task.sample: _submit(client, task, uuid.uuid4().hex[:8]) for task in tasks}
    places = {future.key: (name, n) for name, one in chains.items() for n, future in enumerate(one)}
    records: dict[str, list[StageRecord | None]] = {name: [None] * len(STAGES) for name in chains}
    done = dict.fromkeys(STAGES, 0)
    futures = [future for chain in chains.values() for future in chain]
    reported: set[str] = set()
    try:
        for future in as_completed(futures, loop=client.loop):
            name, number = places[future.key]
            record = _record_of(future, name, STAGES[number])
            records[name][number] = record
            if record.state == "failed" and name not in reported:
                reported.add(name)
                failed(record)
            done[STAGES[number]] += 1
            progress(_DONE[STAGES[number]], done[STAGES[number]], len(tasks))
    except BaseException:
        # Ctrl-C: what has not started does not start. A stage that runs ends by itself on a cluster
        # elsewhere, and with its process on this machine; neither leaves anything half visible.
        if client.status == "running":
            client.cancel(futures, force=True)
        raise
    found = [[record for record in records[task.sample] if record is not None] for task in tasks]
    return [SampleOutcome.of(one) for one in found]


def _submit(client: Client, task: SampleTask, token: str) -> list[Future]:
    """Submit the stages of a sample; each depends on the one before."""
    chain: list[Future] = []
    for number, stage in enumerate(STAGES):
        chain.append(
            client.submit(
                run_stage,
                stage,
                task,
                chain[-1] if chain else None,
                # A key as a pair makes one group of each stage, which dask hands out to workers as
                # they become free.
                key=(f"wbcpipe-{stage}", f"{task.sample}-{token}"),
                retries=RETRIES,
                # A sample is finished before the next one begins: its scratch is free again.
                priority=number,
                pure=False,
            )
        )
    return chain


def _record_of(future: Future, name: str, stage: Stage) -> StageRecord:
    if future.status == "finished":
        return StageRecord.model_validate_json(future.result())
    if future.status == "error":
        return _machine_fault(future.exception(), name, stage)
    raise ClusterError(SCHEDULER_LOST)


def _machine_fault(error: BaseException | None, name: str, stage: Stage) -> StageRecord:
    text = " ".join(str(error).split())
    if isinstance(error, KilledWorker):
        text = (
            f"its workers died {error.allowed_failures + 1} times, the last at "
            f"{error.last_worker.address}: killed, or out of memory; try the sample alone, with "
            f"fewer workers."
        )
    return StageRecord(
        sample=name,
        stage=stage,
        state="failed",
        error=type(error).__name__,
        reason=f"{text} (tried {RETRIES + 1} times)"
        if not isinstance(error, KilledWorker)
        else text,
        exit_code=error.exit_code if isinstance(error, WbcpipeError) else ClusterError.exit_code,
    )
