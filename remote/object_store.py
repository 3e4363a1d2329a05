"""A store of objects: every request is tried again, and every byte is checked."""

from __future__ import annotations

import hashlib
import itertools
import random
import threading
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import obstore
from obstore import exceptions

from wbcpipe.errors import CorruptObjectError, SampleStateError, WbcpipeError
from wbcpipe.remote.connect import connect
from wbcpipe.remote.file_digest import file_digest
from wbcpipe.remote.records import FileDigest, WrongContentError
from wbcpipe.remote.store_errors import may_pass, meaning
from wbcpipe.system.files import disk_errors, stream_atomic, sync_directory, sync_file
from wbcpipe.system.storage import patiently

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wbcpipe.remote.locations import ObjectLocation
    from wbcpipe.remote.records import Check

__all__ = [
    "KeyTakenError",
    "ObjectInfo",
    "ObjectStore",
    "RequestCounts",
    "RetryPolicy",
    "Upload",
    "open_store",
]

ResultT = TypeVar("ResultT")

#: A larger file goes in parts: such an object has no MD5 as its ETag, and is read back.
SINGLE_PUT_BYTES: Final = 64 * 2**20
_PART_BYTES: Final = 16 * 2**20
_PAGE: Final = 1000
#: Of a record; one of 10,000 fields has 2 MB.
MAX_RECORD_BYTES: Final = 64 * 2**20


@dataclass
class RequestCounts:
    """Requests and bytes of a store; requests that obstore repeats itself count once.

    Attributes:
        gets, puts, lists, heads: requests; a list of n objects is ceil(n / 1000).
        retries: requests repeated by `ObjectStore`, which are also counted above.
        bytes_read, bytes_written: content of objects.
    """

    gets: int = 0
    puts: int = 0
    lists: int = 0
    heads: int = 0
    retries: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, **numbers: int) -> None:
        """Add to counts, by name."""
        with self._lock:
            for name, number in numbers.items():
                setattr(self, name, getattr(self, name) + number)

    def as_dict(self) -> dict[str, int]:
        """Return the counts by name."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name[0] != "_"}


@dataclass(frozen=True)
class RetryPolicy:
    """How often a request is tried whose answer was wrong; obstore's own tries come first.

    Attributes:
        attempts: in all.
        first_delay_s: before the second one; each later one is twice as long.
        max_delay_s: of one delay.
    """

    attempts: int = 5
    first_delay_s: float = 0.2
    max_delay_s: float = 10.0

    def delays_s(self) -> Iterator[float]:
        """Yield the delay before each further attempt, with a random part (full jitter)."""
        for number in range(self.attempts - 1):
            yield random.uniform(0.5, 1) * min(self.max_delay_s, self.first_delay_s * 2**number)


class ObjectInfo(NamedTuple):
    """An object: its size in bytes, and its ETag, which may be empty."""

    size: int
    etag: str


class Upload(NamedTuple):
    """A verified upload.

    Attributes:
        digest: of the content.
        check: how it was verified.
        sent: whether it was sent now; else the same content was there.
    """

    digest: FileDigest
    check: Check
    sent: bool


class KeyTakenError(Exception):
    """There is an object with other content at a key."""


class ObjectStore:
    """A store of objects below the prefix of a location.

    It can be used from several threads.

    Args:
        location: of the store.
        retry: see `RetryPolicy`.
        read_back: verify each upload by reading the object, also where the ETag tells.

    Attributes:
        counts: requests and bytes so far.
    """

    def __init__(
        self, location: ObjectLocation, *, retry: RetryPolicy | None = None, read_back: bool = False
    ) -> None:
        self.location = location
        self.counts = RequestCounts()
        self._retry = retry or RetryPolicy()
        self._read_back = read_back
        self._backend = connect(location)

    def __str__(self) -> str:
        return str(self.location)

    def url(self, key: str) -> str:
        """Return the address of an object, for messages."""
        return f"{self.location}/{key}"

    def check(self) -> None:
        """Ask for one object, to find a wrong bucket, address or credentials.

        Raises:
            BucketNotFoundError, CredentialsError, RemotePermissionError, RemoteStorageError: what
                is wrong.
        """
        self._call("list", lambda: next(iter(obstore.list(self._backend, chunk_size=1)), None))
        self.counts.add(lists=1)

    def objects(self, prefix: str) -> dict[str, ObjectInfo]:
        """Return the objects below a prefix by key, in order of the key."""

        def action() -> dict[str, ObjectInfo]:
            stream = obstore.list(self._backend, prefix, chunk_size=_PAGE)
            return {
                one["path"]: ObjectInfo(one["size"], (one["e_tag"] or "").strip('"'))
                for one in itertools.chain.from_iterable(stream)
            }

        found = self._call(f"list {self.url(prefix)}", action)
        self.counts.add(lists=max(1, -(-len(found) // _PAGE)))
        return dict(sorted(found.items()))

    def folders(self, prefix: str = "") -> list[str]:
        """Return the names directly below a prefix that have objects below them."""
        found = self._call(
            f"list {self.url(prefix)}",
            lambda: obstore.list_with_delimiter(self._backend, prefix or None),
        )
        names = [path.rstrip("/").rpartition("/")[2] for path in found["common_prefixes"]]
        self.counts.add(lists=max(1, -(-(len(names) + len(found["objects"])) // _PAGE)))
        return sorted(names)

    def head(self, key: str) -> ObjectInfo | None:
        """Return the size and ETag of an object; ``None`` if there is none."""
        self.counts.add(heads=1)
        try:
            found = self._call(f"read {self.url(key)}", lambda: obstore.head(self._backend, key))
        except FileNotFoundError:
            return None
        return ObjectInfo(found["size"], (found["e_tag"] or "").strip('"'))

    def read(
        self, key: str, expected: FileDigest | None = None, *, max_bytes: int = MAX_RECORD_BYTES
    ) -> bytes:
        """Return the content of an object.

        Args:
            key: of the object.
            expected: its size and SHA-256, which are checked.
            max_bytes: of an object whose size is not known.

        Raises:
            CorruptObjectError: it is missing, larger than allowed, or not the expected one.
        """
        if expected is not None:
            max_bytes = expected.size

        def action() -> bytes:
            content = b"".join(self._chunks(key, max_bytes))
            if expected is not None:
                expected.require(len(content), hashlib.sha256(content).hexdigest())
            return content

        return self._call(f"read {self.url(key)}", action, key=key)

    def download(self, key: str, path: Path, expected: FileDigest) -> None:
        """Write an object to a file, which appears when its size and SHA-256 are verified.

        Raises:
            CorruptObjectError: it is missing, or not the expected one; no file stays.
            DiskFullError: no space left.
        """

        def action() -> None:
            sha, size = hashlib.sha256(), 0
            with stream_atomic(path) as handle:
                for chunk in self._chunks(key, expected.size):
                    sha.update(chunk)
                    size += len(chunk)
                    handle.write(chunk)
                expected.require(size, sha.hexdigest())

        self._call(f"read {self.url(key)}", action, key=key)

    def verify(self, key: str, expected: FileDigest) -> None:
        """Read an object and compare it with what it must be.

        Raises:
            CorruptObjectError: it is missing, or differs.
        """

        def action() -> None:
            sha, size = hashlib.sha256(), 0
            for chunk in self._chunks(key, expected.size):
                sha.update(chunk)
                size += len(chunk)
            expected.require(size, sha.hexdigest())

        self._call(f"read {self.url(key)}", action, key=key)

    def put_new(self, key: str, content: bytes) -> bool:
        """Create an object; return whether it holds this content now, and did not hold another.

        Of several writers with different content exactly one gets ``True``.
        """
        try:
            self._put(key, content)
        except KeyTakenError:
            return False
        return True

    def upload(self, path: Path, key: str, *, there: ObjectInfo | None = None) -> Upload:
        """Create an object with the content of a file, and verify it.

        An object is never replaced.

        Args:
            path: a regular file; a link is refused.
            key: of the object.
            there: the object, if it is known to exist: nothing is sent.

        Raises:
            KeyTakenError: there is an object with other content.
            SampleStateError: the file changed meanwhile, or is no regular file.
            CorruptObjectError: what is read back differs from what was sent, again and again.
        """
        if path.is_symlink() or not path.is_file():
            raise SampleStateError(f"{path}: no regular file; it is not uploaded.")
        with disk_errors(path):
            size = path.stat().st_size
            if size <= SINGLE_PUT_BYTES:
                content = patiently(path, path.read_bytes)
                return self._put(key, content, there)
        return self._put_parts(path, key, size, there or self.head(key))

    def _put(self, key: str, content: bytes, there: ObjectInfo | None = None) -> Upload:
        digest, md5 = FileDigest.of(content), hashlib.md5(content, usedforsecurity=False)

        def compare(found: ObjectInfo | None) -> tuple[str, bool]:
            if found is not None and found.size != len(content):
                raise KeyTakenError(key)
            return found.etag if found else "", False

        def action() -> tuple[str, bool]:
            if there is not None:
                return compare(there)
            self.counts.add(puts=1, bytes_written=len(content))
            try:
                answer = obstore.put(
                    self._backend, key, content, mode="create", use_multipart=False
                )
            except exceptions.AlreadyExistsError:
                # Also after a try whose answer was lost: the content decides.
                return compare(self.head(key))
            return (answer["e_tag"] or "").strip('"'), True

        etag, sent = self._call(f"write {self.url(key)}", action)
        self._flush(key)
        check: Check = "etag-md5"
        if etag != md5.hexdigest() or self._read_back:
            check = "read-back"
            try:
                self.verify(key, digest)
            except CorruptObjectError:
                if sent:
                    raise
                raise KeyTakenError(key) from None
        return Upload(digest, check, sent)

    def _put_parts(self, path: Path, key: str, size: int, there: ObjectInfo | None) -> Upload:
        """Upload a large file in parts, with little memory; no object may be at the key."""
        if there is not None:
            digest = FileDigest(size=size, sha256=file_digest(path)[1])
            try:
                self.verify(key, digest)
            except CorruptObjectError:
                raise KeyTakenError(key) from None
            return Upload(digest, "read-back", False)
        sha = hashlib.sha256()

        def parts() -> Iterator[bytes]:
            with path.open("rb") as handle:
                while part := handle.read(_PART_BYTES):
                    sha.update(part)
                    yield part

        def action() -> None:
            nonlocal sha
            sha = hashlib.sha256()
            self.counts.add(puts=2 + -(-size // _PART_BYTES), bytes_written=size)
            # One part at a time: memory stays small, and so does the load of the network.
            obstore.put(self._backend, key, parts(), chunk_size=_PART_BYTES, max_concurrency=1)

        self._call(f"write {self.url(key)}", action)
        self._flush(key)
        digest = FileDigest(size=size, sha256=sha.hexdigest())
        self.verify(key, digest)
        return Upload(digest, "read-back", True)

    def _flush(self, key: str) -> None:
        """Make an object of a folder durable, before anything rests on it."""
        if self.location.scheme == "file":
            path = Path(self.location.prefix, *key.split("/"))
            sync_file(path)
            sync_directory(path.parent)

    def _chunks(self, key: str, max_bytes: int) -> Iterator[bytes]:
        """Yield the content of an object, of at most ``max_bytes``."""
        self.counts.add(gets=1)
        found = obstore.get(self._backend, key)
        if found.meta["size"] > max_bytes:
            raise WrongContentError(f"it has {found.meta['size']} bytes, expected {max_bytes}")
        for chunk in found.stream():
            self.counts.add(bytes_read=len(chunk))
            yield bytes(chunk)

    def _call(self, what: str, action: Callable[[], ResultT], *, key: str = "") -> ResultT:
        """Carry out a request, with retries.

        Args:
            what: it does, for messages.
            action: the request.
            key: of the object that must exist.
        """
        failure: Exception
        for delay_s in (*self._retry.delays_s(), None):
            try:
                return action()
            except WrongContentError as error:
                failure = CorruptObjectError(
                    f"{self.url(key)}: not the object of the manifest ({error}); it is not used. "
                    f"Upload it again, or restore it."
                )
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    failure = meaning(error, self.location, what)
                elif key:
                    failure = CorruptObjectError(
                        f"{self.url(key)}: the object is missing; upload it again, or restore it."
                    )
                else:
                    failure = FileNotFoundError(self.url(key))
                break
            except WbcpipeError:
                raise
            except (exceptions.BaseError, ValueError) as error:
                failure = meaning(error, self.location, what)
                if not may_pass(error):
                    break
            if delay_s is not None:
                self.counts.add(retries=1)
                time.sleep(delay_s)
        # Outside of the handler, so that the store's own text is not in the error's context.
        raise failure


def open_store(location: ObjectLocation, *, read_back: bool = False) -> ObjectStore:
    """Open the store of a location, and ask it for one object.

    Args:
        location: of the store.
        read_back: verify each upload by reading the object, also where the ETag tells.

    Raises:
        BucketNotFoundError, CredentialsError, RemotePermissionError, RemoteStorageError: it cannot
            be used, and why.
    """
    store = ObjectStore(location, read_back=read_back)
    store.check()
    return store
