"""Bring results from a bucket to the sample in a data folder, where people review them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wbcpipe.errors import ConfigError, CorruptObjectError
from wbcpipe.remote.locations import ObjectLocation, parse_location
from wbcpipe.remote.object_store import open_store
from wbcpipe.remote.results import completed_results, fetch_result
from wbcpipe.samples.results import (
    MARKER,
    ResultRecord,
    check_result,
    find_result,
    publish_folder,
    result_path,
)
from wbcpipe.system.files import make_folder, remove_tree

if TYPE_CHECKING:
    from wbcpipe.samples.sample import Sample

__all__ = ["fetch_results"]


def fetch_results(sample: Sample, text: str) -> list[ResultRecord]:
    """Copy the results of a sample that are not here yet; each is complete or not there.

    The caller holds the sample's lock.

    Args:
        sample: in a data folder.
        text: URL of the bucket.

    Returns:
        The markers of the results that were copied.

    Raises:
        ConfigError: the text is no URL of a bucket.
        CorruptObjectError: an object is damaged, or a result is of another sample.
        RemoteStorageError: the store cannot be reached.
    """
    location = parse_location(text)
    if not isinstance(location, ObjectLocation):
        raise ConfigError(f"--from {text}: give the URL of a bucket, as s3://BUCKET/PREFIX.")
    store = open_store(location)
    fetched = []
    for published in completed_results(store, sample.name):
        if find_result(sample, published.result_id) is not None:
            continue
        target = result_path(sample, published.result_id)
        aside = target.with_name(f".{target.name}.fetched")
        remove_tree(aside)
        make_folder(aside)
        fetch_result(store, published, aside)
        record = ResultRecord.read(aside / MARKER)
        if record.sample_created != sample.record().created:
            raise CorruptObjectError(
                f"{location}: result {published.result_id} is of the sample {record.sample!r} of "
                f"{record.sample_created}, not of the one here; give another --from."
            )
        check_result(aside, record)
        publish_folder(aside, target)
        fetched.append(record)
    return fetched
