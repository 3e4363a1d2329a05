"""Push several samples, once or as long as they are scanned."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from wbcpipe.errors import (
    BucketNotFoundError,
    CredentialsError,
    RemotePermissionError,
    RemoteStorageError,
    WbcpipeError,
)
from wbcpipe.remote.free import FreeReport, free_sample
from wbcpipe.remote.push import PushReport, SamplePusher, Throttle
from wbcpipe.remote.store_errors import OF_ONE_SAMPLE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wbcpipe.remote.object_store import ObjectStore
    from wbcpipe.samples.sample import Sample

__all__ = ["SampleSync", "SyncOptions", "sync_samples"]

#: Pauses after a network error.
_FIRST_PAUSE_S: Final = 5.0
_MAX_PAUSE_S: Final = 300.0
#: With ``watch``: between two looks at a sample of which nothing is left to do, or to free.
_DONE_EVERY_S: Final = 60.0
#: What no waiting mends.
_FINAL: Final = (BucketNotFoundError, CredentialsError, RemotePermissionError)


@dataclass(frozen=True)
class SyncOptions:
    """How samples are pushed.

    Attributes:
        watch: push again and again, until each sample is complete.
        endless: with ``watch``: until stopped; samples that come later are pushed too.
        expected: with ``watch``: number of samples that must be complete.
        free_local: remove local fields that are verified.
        read_back: read each object to verify it.
        poll_s: pause between two pushes.
        throttle: limits the rate.
    """

    watch: bool = False
    endless: bool = False
    expected: int = 0
    free_local: bool = False
    read_back: bool = False
    poll_s: float = 5.0
    throttle: Throttle = field(default_factory=Throttle)


@dataclass
class SampleSync:
    """What happened to one sample.

    Attributes:
        push: sums over all pushes, and the last state.
        free: fields that were freed; ``None`` if nobody asked.
        error: why the sample is not pushed; ``None`` if it is.
        next_s: when it is looked at again, if nothing is left to do, of `time.monotonic`.
        free_s: when freeing is tried again, likewise.
    """

    push: PushReport
    free: FreeReport | None = None
    error: WbcpipeError | None = None
    next_s: float = 0.0
    free_s: float = 0.0

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        waits = self.free is not None and self.free.later
        return self.error is None and self.push.state != "scanning" and not waits

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {
            **asdict(self.push),
            "free": asdict(self.free) if self.free else None,
            "error": str(self.error or ""),
        }


def sync_samples(
    store: ObjectStore,
    samples: Callable[[], Sequence[Sample]],
    options: SyncOptions,
    *,
    say: Callable[[str], None] = lambda _text: None,
    progress: Callable[[str, int, int], None] = lambda _task, _done, _total: None,
    sleep: Callable[[float], None] = time.sleep,
) -> list[SampleSync]:
    """Push samples, and free their fields if the options say so.

    An error of one sample is reported, and the others go on. Without ``watch`` an error of the
    store ends the call; with it, one of the network is waited for.

    Args:
        store: receives the samples.
        samples: returns the samples to push; called before each round.
        options: see `SyncOptions`.
        say: called with each event, as a line for people.
        progress: called with (task, files done, files in all).
        sleep: waits.

    Raises:
        BucketNotFoundError, CredentialsError, RemotePermissionError: the store cannot be used.
        RemoteStorageError: the network is gone, without ``watch``.
    """
    rounds = _Rounds(store, options, say, progress)
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            rounds.go(samples())
            pause_s = _FIRST_PAUSE_S
        except RemoteStorageError as error:
            if not options.watch or isinstance(error, _FINAL):
                raise
            say(f"{error} Trying again in {pause_s:.0f} s.")
            sleep(pause_s)
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)
            continue
        if not options.watch or rounds.ended():
            return list(rounds.found.values())
        sleep(options.poll_s)


class _Rounds:
    """What happened to each sample, round after round."""

    def __init__(
        self,
        store: ObjectStore,
        options: SyncOptions,
        say: Callable[[str], None],
        progress: Callable[[str, int, int], None],
    ) -> None:
        self.found: dict[str, SampleSync] = {}
        self._store, self._options, self._say = store, options, say
        self._progress = progress
        self._pushers: dict[str, SamplePusher] = {}

    def ended(self) -> bool:
        """Return whether nothing is left to do, and nothing can come."""
        expected = not self._options.endless and len(self.found) >= self._options.expected
        return expected and all(one.done for one in self.found.values())

    def go(self, samples: Sequence[Sample]) -> None:
        """Push each sample once; an error of the store ends the round."""
        alone = len(samples) == 1 and not self._options.watch
        for sample in samples:
            name = sample.name
            before = self.found.get(name)
            if (
                before is not None
                and before.done
                and (not self._options.endless or time.monotonic() < before.next_s)
            ):
                continue
            if name not in self._pushers:
                self._pushers[name] = SamplePusher(
                    self._store, sample, throttle=self._options.throttle, progress=self._progress
                )
            now = _sync_one(self._pushers[name], before, self._options, self._say)
            now.next_s = time.monotonic() + _DONE_EVERY_S
            self.found[name] = now
            # The error of a single sample ends the command, which prints it.
            if now.error is not None and not alone and _is_news(now, before):
                self._say(f"{name}: {now.error}")


def _is_news(now: SampleSync, before: SampleSync | None) -> bool:
    return before is None or str(before.error) != str(now.error)


def _sync_one(
    pusher: SamplePusher,
    before: SampleSync | None,
    options: SyncOptions,
    say: Callable[[str], None],
) -> SampleSync:
    """Push one sample, free its fields, and say what is new."""
    name = pusher.sample.name
    try:
        push = pusher.push()
    except OF_ONE_SAMPLE as error:
        return _failed(name, error, before)
    now = SampleSync(_sum(before.push if before else None, push))
    if push.sent or before is None or before.push.state != push.state or before.error:
        say(_line(push))
    now.free, now.free_s = (before.free, before.free_s) if before else (None, 0.0)
    if options.free_local and push.state == "complete" and time.monotonic() >= now.free_s:
        now.free_s = time.monotonic() + _DONE_EVERY_S
        try:
            free = free_sample(pusher.store, pusher.sample, read_back=options.read_back)
        except OF_ONE_SAMPLE as error:
            return _failed(name, error, now)
        if now.free is None or free.freed or free.reason != now.free.reason:
            say(_free_line(name, free))
            earlier = now.free or FreeReport()
            now.free = replace(
                free,
                freed=earlier.freed + free.freed,
                freed_bytes=earlier.freed_bytes + free.freed_bytes,
            )
    return now


def _failed(name: str, error: WbcpipeError, before: SampleSync | None) -> SampleSync:
    push = before.push if before else PushReport(name)
    return SampleSync(push, before.free if before else None, error)


def _sum(before: PushReport | None, now: PushReport) -> PushReport:
    """Return the last push with the sums of all."""
    if before is None:
        return now
    names = {*before.checks, *now.checks}
    return replace(
        now,
        sent=before.sent + now.sent,
        sent_bytes=before.sent_bytes + now.sent_bytes,
        checks={one: before.checks.get(one, 0) + now.checks.get(one, 0) for one in sorted(names)},
    )


def _line(push: PushReport) -> str:
    if push.state == "nothing":
        return f"{push.sample}: no raw fields; nothing to push"
    state = "complete" if push.state == "complete" else "so far; its scan has not ended"
    sent = f"{push.sent} sent now, {push.sent_bytes / 1e6:.1f} MB" if push.sent else "nothing new"
    refused = f"; not pushed: {'; '.join(push.refused)}" if push.refused else ""
    return f"{push.sample}: {push.files} files in the bucket, {state} ({sent}){refused}"


def _free_line(name: str, free: FreeReport) -> str:
    if not free.freed and not free.reason:
        return f"{name}: no field to free"
    kept = f"; {free.kept} kept: {free.reason}" if free.kept else ""
    return f"{name}: {free.freed} fields freed, {free.freed_bytes / 1e6:.1f} MB{kept}"
