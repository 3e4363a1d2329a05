"""``process``: choose samples, process them on the workers, and compare the results."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from wbcpipe.cluster.changes import ChangeTable, make_table
from wbcpipe.cluster.plan import (
    Plan,
    Selection,
    TaskOptions,
    choose_samples,
    plan_tasks,
    resolve_data,
)
from wbcpipe.cluster.read_results import result_pairs
from wbcpipe.cluster.selection import parse_where
from wbcpipe.errors import ConfigError
from wbcpipe.system.user_files import UserFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.cli.progress import Reporter
    from wbcpipe.cluster.options import ProcessOptions
    from wbcpipe.cluster.records import SampleOutcome

__all__ = ["Processed", "process_and_compare"]


@dataclass(frozen=True)
class Processed:
    """What `process_and_compare` did.

    Attributes:
        data: folder or URL of the samples.
        plan: the tasks, and the samples that were refused before.
        outcomes: of each task.
        changes: how counts changed; ``None`` if no further result was made or found.
    """

    data: str
    plan: Plan
    outcomes: tuple[SampleOutcome, ...]
    changes: ChangeTable | None

    def content(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        return {
            "data": self.data,
            "samples": [
                {
                    "sample": one.sample,
                    "state": one.state,
                    "result": one.last.result,
                    "cells": one.last.cells,
                    "counts": one.last.counts,
                    "error": one.last.error,
                    "reason": one.last.reason,
                    "traffic": one.traffic.model_dump(),
                    "stages": [stage.model_dump(mode="json") for stage in one.stages],
                }
                for one in self.outcomes
            ],
            "refused": [
                {"sample": name, "error": type(error).__name__, "reason": str(error)}
                for name, error in self.plan.refused.items()
            ],
            "changes": self.changes.model_dump(mode="json") if self.changes else None,
        }


def process_and_compare(options: ProcessOptions, reporter: Reporter) -> Processed:
    """Choose samples, process them, and compare further results with the earlier ones.

    Raises:
        ConfigError: an option is not valid, or dask is not installed.
        ClusterError: the scheduler does not answer or was lost, or its workers cannot be used.
        WbcpipeError: the samples cannot be read.
    """
    conditions = parse_where(options.where) if options.where is not None else ()
    reporter.start_phase("reading the samples")
    data, store = resolve_data(options.data)
    selection = Selection(options.names, options.everything, conditions)
    chosen = choose_samples(data, store, selection, reporter.say)
    task_options = TaskOptions(
        options.bundle,
        lab=_lab_text(options.lab, in_bucket=store is not None),
        scratch=str(options.scratch.absolute()) if options.scratch else "",
    )
    plan = plan_tasks(chosen, data, store, task_options, reporter.update)
    # The error of a single sample ends the command, which prints it.
    say = reporter.say if len(chosen) > 1 else lambda _text: None
    for name, error in plan.refused.items():
        say(f"{name}: FAILED: {error}")
    outcomes: tuple[SampleOutcome, ...] = ()
    if plan.tasks:
        outcomes = _process(options, plan, reporter, say)
    reporter.start_phase("comparing the results")
    pairs = result_pairs(data, store, outcomes)
    return Processed(data, plan, outcomes, make_table(pairs) if pairs else None)


def _process(
    options: ProcessOptions, plan: Plan, reporter: Reporter, say: Callable[[str], None]
) -> tuple[SampleOutcome, ...]:
    try:
        from wbcpipe.cluster import connect, engine
    except ImportError as error:
        raise ConfigError(
            f"`wbcpipe process` needs dask ({error}); install the extra: "
            f"`pip install wbcpipe[cluster]`."
        ) from error
    workers = connect.Workers(
        options.scheduler or "",
        options.workers or 0,
        connect.needed_bytes(plan.frame_px),
        options.tls,
        options.scratch,
    )
    tasks = plan.tasks
    if not options.scheduler:
        number = connect.number_of_workers(workers.number, workers.needed_bytes)
        workers = replace(workers, number=number)
        tasks = tuple(replace(one, threads=connect.threads_of_each(number)) for one in tasks)
    reporter.say("starting workers" if not options.scheduler else "connecting to the scheduler")
    with connect.connect(workers) as client:
        found = engine.process_samples(
            client,
            tasks,
            reporter.update,
            lambda record: say(f"{record.sample}: FAILED: {record.reason}"),
        )
    return tuple(found)


def _lab_text(path: Path | None, *, in_bucket: bool) -> str:
    """Return the content of the laboratory's file, after it was checked.

    Raises:
        ConfigError: it is not valid, or not for samples in a folder.
    """
    if path is None:
        return ""
    if not in_bucket:
        raise ConfigError("--lab is for samples in a bucket; a data folder has its lab.toml.")
    from wbcpipe.laboratory.lab_file import load_lab

    load_lab(path)
    return UserFile(path, "a laboratory's file", ConfigError).read_text()
