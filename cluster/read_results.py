"""Read results of samples to compare them: of a data folder, or of a bucket."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from wbcpipe.cluster.changes import CountedResult
from wbcpipe.cluster.workspace import CURRENT
from wbcpipe.errors import WbcpipeError
from wbcpipe.report.document import document_paths, read_document
from wbcpipe.samples.differential_record import DifferentialRecord
from wbcpipe.samples.results import result_path
from wbcpipe.samples.sample import Sample
from wbcpipe.system.files import parse_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wbcpipe.cluster.records import SampleOutcome
    from wbcpipe.remote.object_store import ObjectStore
    from wbcpipe.remote.records import PublishedResult

__all__ = ["read_local_result", "read_remote_document", "result_pairs"]


def result_pairs(
    data: str, store: ObjectStore | None, outcomes: Sequence[SampleOutcome]
) -> list[tuple[str, CountedResult, CountedResult]]:
    """Return the earlier and the later result of each sample that has a further one.

    The earlier one is the current result, in a bucket the one before. A sample without an earlier
    result, or whose documents cannot be read, is left out.
    """
    found = []
    for outcome in outcomes:
        if outcome.state == "failed" or outcome.last.result in ("", CURRENT):
            continue
        try:
            pair = (
                _local_pair(Path(data), outcome) if store is None else _remote_pair(store, outcome)
            )
        except WbcpipeError:
            continue  # no report yet, or damaged: `status` says so
        if pair is not None:
            found.append((outcome.sample, *pair))
    return found


def _local_pair(root: Path, outcome: SampleOutcome) -> tuple[CountedResult, CountedResult]:
    sample = Sample.open(root, outcome.sample)
    return (
        read_local_result(sample, CURRENT),
        read_local_result(sample, outcome.last.result),
    )


def read_local_result(sample: Sample, result: str) -> CountedResult:
    """Read a result of a sample.

    Args:
        sample: in a data folder.
        result: ``current``, or an id.

    Raises:
        SampleStateError: it has no documents, or they are damaged.
    """
    folder = sample.path if result == CURRENT else result_path(sample, result)
    place = Sample(sample.name, folder)
    document = read_document(place)
    return CountedResult(result, document, document_paths(place)[1].read_bytes())


def _remote_pair(
    store: ObjectStore, outcome: SampleOutcome
) -> tuple[CountedResult, CountedResult] | None:
    from wbcpipe.remote.results import completed_results, read_result_file

    records = completed_results(store, outcome.sample)
    ids = [record.result_id for record in records]
    if outcome.last.result not in ids or len(ids) < 2:
        return None
    here = ids.index(outcome.last.result)
    both = [
        CountedResult(
            record.result_id,
            read_remote_document(store, record),
            read_result_file(store, record, "cells.csv"),
        )
        for record in (records[here - 1 if here else 1], records[here])
    ]
    return both[0], both[1]


def read_remote_document(store: ObjectStore, record: PublishedResult) -> DifferentialRecord:
    """Read ``differential.json`` of a result in a bucket.

    Raises:
        CorruptObjectError: the result has none, or it is damaged.
        SampleStateError: it does not hold what the model allows.
    """
    from wbcpipe.remote.results import read_result_file

    content = parse_json(read_result_file(store, record, "differential.json").decode())
    for key in ("sha256", "belongs_to"):  # the object itself was verified
        content.pop(key, None)
    return DifferentialRecord.parse(content, Path(record.result_id) / "differential.json")
