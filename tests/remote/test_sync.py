from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from wbcpipe.errors import RemotePermissionError
from wbcpipe.remote.locations import ObjectLocation
from wbcpipe.remote.object_store import ObjectStore, RetryPolicy
from wbcpipe.remote.sync import SyncOptions, sync_samples
from wbcpipe.samples.records import SampleRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.samples.sample import Sample
    from wbcpipe.tests.remote.conftest import FakeS3

    WriteSample = Callable[..., Sample]


@pytest.fixture
def hasty(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """A store that gives up at once."""
    monkeypatch.setattr("wbcpipe.remote.connect.MAX_RETRIES", 0)
    return ObjectStore(store.location, retry=RetryPolicy(attempts=1))


def test_watch_waits_for_the_scan_and_for_the_network(
    hasty: ObjectStore, s3: FakeS3, write_sample: WriteSample, end_scan: Callable[[Sample], None]
) -> None:
    sample = write_sample(ended=False)
    pauses: list[float] = []
    said: list[str] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 1:  # the network goes
            s3.fault = lambda _method, _key: "503"
            end_scan(sample)
        elif len(pauses) == 3:  # and comes back
            s3.fault = lambda _method, _key: None

    options = SyncOptions(watch=True, expected=1, free_local=True)
    (found,) = sync_samples(hasty, lambda: [sample], options, say=said.append, sleep=sleep)
    assert pauses == [5.0, 5.0, 10.0]
    assert found.done
    assert (found.push.state, found.push.sent) == ("complete", 6)
    assert found.free is not None
    assert found.free.freed == 2
    assert sum("Trying again" in line for line in said) == 2


def test_watch_frees_a_sample_when_it_is_no_longer_in_use(
    store: ObjectStore, write_sample: WriteSample, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample, now = write_sample(), [0.0]
    monkeypatch.setattr(
        "wbcpipe.remote.sync.time", SimpleNamespace(monotonic=lambda: now[0], sleep=None)
    )
    used = sample.lock("classify")
    used.__enter__()

    def sleep(seconds: float) -> None:
        now[0] += seconds
        assert now[0] < 1000
        if now[0] == 100:
            used.__exit__(None, None, None)

    options = SyncOptions(watch=True, expected=1, free_local=True)
    said: list[str] = []
    (found,) = sync_samples(store, lambda: [sample], options, say=said.append, sleep=sleep)
    assert found.free is not None
    assert (found.free.freed, found.free.later) == (2, False)
    assert now[0] == 120, "it was tried at 0, 60 and 120 s"
    assert sum("in use" in line for line in said) == 1


def test_a_sample_that_cannot_be_pushed_does_not_stop_the_others(
    store: ObjectStore, write_sample: WriteSample
) -> None:
    samples = [write_sample(name) for name in ("S1", "S2")]
    samples[0].info_path.write_text("damaged")
    said: list[str] = []
    first, second = sync_samples(store, lambda: samples, SyncOptions(), say=said.append)
    assert "not readable as JSON" in str(first.error)
    assert first.as_dict()["error"]
    assert second.push.state == "complete"
    assert said[0].startswith("S1: ")


def test_watch_ends_at_what_no_waiting_mends(
    s3: FakeS3, write_sample: WriteSample, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = write_sample()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "READERKEYCANARY")
    del s3
    reader = ObjectStore(ObjectLocation("s3", "laboratory", ""))
    with pytest.raises(RemotePermissionError, match="do not allow to write"):
        sync_samples(reader, lambda: [sample], SyncOptions(watch=True))


def test_a_sample_named_before_its_scan_is_waited_for(
    store: ObjectStore, write_sample: WriteSample
) -> None:
    samples: list[Sample] = []

    def sleep(_seconds: float) -> None:
        sample = write_sample()
        sample.write(SampleRecord(sample="S1", created="2026-11-30"))
        samples.append(sample)

    options = SyncOptions(watch=True, expected=1)
    (found,) = sync_samples(store, lambda: samples, options, sleep=sleep)
    assert found.push.state == "complete"
