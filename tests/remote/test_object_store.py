from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

import pytest

from wbcpipe.errors import (
    BucketNotFoundError,
    CorruptObjectError,
    CredentialsError,
    RemotePermissionError,
    RemoteStorageError,
    SampleStateError,
    WbcpipeError,
)
from wbcpipe.remote import object_store
from wbcpipe.remote.locations import ObjectLocation
from wbcpipe.remote.object_store import KeyTakenError, ObjectStore, RetryPolicy, open_store
from wbcpipe.remote.records import FileDigest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from wbcpipe.tests.remote.conftest import FakeS3, Fault

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "file.bin").write_bytes(CONTENT)
    return tmp_path / "file.bin"


def test_an_upload_is_verified_by_its_md5(store: ObjectStore, s3: FakeS3, file: Path) -> None:
    upload = store.upload(file, "S1/raw/a.bin")
    assert (upload.digest, upload.check, upload.sent) == (FileDigest.of(CONTENT), "etag-md5", True)
    assert s3.objects == {"site-1/S1/raw/a.bin": CONTENT}
    assert s3.requests == [("PUT", "site-1/S1/raw/a.bin")], "one request"
    assert store.counts.as_dict() == {
        "gets": 0,
        "puts": 1,
        "lists": 0,
        "heads": 0,
        "retries": 0,
        "bytes_read": 0,
        "bytes_written": len(CONTENT),
    }


def test_an_upload_whose_etag_is_no_md5_is_read_back(
    store: ObjectStore, s3: FakeS3, file: Path
) -> None:
    s3.etags["site-1/a"] = "0" * 32
    assert store.upload(file, "a").check == "read-back"
    assert s3.counts() == {"PUT": 1, "GET": 1}


def test_read_back_can_be_asked_for(s3: FakeS3, file: Path) -> None:
    asked = ObjectStore(ObjectLocation("s3", "laboratory", ""), read_back=True)
    assert asked.upload(file, "a").check == "read-back"
    assert s3.counts() == {"PUT": 1, "GET": 1}


def test_an_object_that_was_stored_wrongly_is_no_upload(
    store: ObjectStore, s3: FakeS3, file: Path
) -> None:
    s3.fault = lambda method, _key: "short" if method == "PUT" else None
    with pytest.raises(CorruptObjectError, match="cut short: 5120 of 10240 bytes"):
        store.upload(file, "a")


def test_an_object_is_never_replaced(store: ObjectStore, s3: FakeS3, file: Path) -> None:
    s3.objects |= {"site-1/same": CONTENT, "site-1/size": b"1", "site-1/content": CONTENT[::-1]}
    assert not store.upload(file, "same").sent
    for key in ("size", "content"):
        with pytest.raises(KeyTakenError):
            store.upload(file, key)
    assert s3.objects["site-1/content"] == CONTENT[::-1]
    assert not store.put_new("content", CONTENT)
    assert store.put_new("same", CONTENT), "it is there, with this content"


def test_a_write_whose_answer_was_lost_is_its_own(store: ObjectStore, s3: FakeS3) -> None:
    lost: Iterator[Fault] = iter(["lost"])
    s3.fault = lambda method, _key: next(lost, None) if method == "PUT" else None
    assert store.put_new("marker", b"mine")


def test_of_several_writers_one_creates_an_object(store: ObjectStore) -> None:
    won: list[int] = []
    barrier = threading.Barrier(6)

    def write(number: int) -> None:
        barrier.wait()
        if store.put_new("marker", b"%d" % number):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read("marker") == b"%d" % won[0]


@pytest.mark.parametrize("fault", ["503", "cut", "short"])
def test_a_fault_that_passes_is_not_seen(
    store: ObjectStore, s3: FakeS3, tmp_path: Path, fault: Fault
) -> None:
    s3.objects["site-1/a"] = CONTENT
    faults: Iterator[Fault] = iter([fault])
    s3.fault = lambda _method, _key: next(faults, None)
    store.download("a", tmp_path / "a", FileDigest.of(CONTENT))
    assert (tmp_path / "a").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: content[:-1], "cut short: 10239 of 10240 bytes"),
        (lambda content: content + b"0", "10241 bytes"),
        (lambda content: b"1" + content[1:], "its SHA-256 differs"),
        (None, "the object is missing"),
    ],
)
def test_an_object_that_is_not_the_expected_one_is_never_used(
    store: ObjectStore, s3: FakeS3, tmp_path: Path, change: object, reason: str
) -> None:
    if callable(change):
        s3.objects["site-1/a"] = change(CONTENT)
    for action in (
        lambda: store.download("a", tmp_path / "a", FileDigest.of(CONTENT)),
        lambda: store.read("a", FileDigest.of(CONTENT)),
        lambda: store.verify("a", FileDigest.of(CONTENT)),
    ):
        with pytest.raises(CorruptObjectError, match=reason):
            action()
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_is_too_large_is_not_read(store: ObjectStore, s3: FakeS3) -> None:
    s3.objects["site-1/a"] = CONTENT
    with pytest.raises(CorruptObjectError, match="expected 100"):
        store.read("a", max_bytes=100)


def test_objects_and_folders_are_listed_over_pages(store: ObjectStore, s3: FakeS3) -> None:
    s3.objects |= {f"site-1/S1/raw/{number:04d}": b"1" for number in range(1500)}
    s3.objects["site-10/S2/raw/x"] = b"1"
    found = store.objects("S1/raw")
    assert len(found) == 1500
    assert found["S1/raw/0007"].size == 1
    assert store.folders() == ["S1"]
    assert store.counts.lists == s3.counts()["LIST"] == 3
    assert store.head("S1/raw/9999") is None


def test_a_large_file_goes_in_parts_and_is_read_back(
    folder_store: ObjectStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "SINGLE_PUT_BYTES", 100)
    upload = folder_store.upload(file, "a/b.bin")
    assert (upload.digest, upload.check) == (FileDigest.of(CONTENT), "read-back")
    assert not folder_store.upload(file, "a/b.bin").sent
    file.write_bytes(CONTENT[::-1])
    with pytest.raises(KeyTakenError):
        folder_store.upload(file, "a/b.bin")


def test_a_link_is_not_uploaded(folder_store: ObjectStore, file: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(file)
    with pytest.raises(SampleStateError, match="no regular file"):
        folder_store.upload(tmp_path / "link", "a")


ERRORS = {
    "bucket": (BucketNotFoundError, 71, "there is no such bucket"),
    "key": (CredentialsError, 72, "the credentials are refused (InvalidAccessKeyId)"),
    "writing": (RemotePermissionError, 73, "the credentials do not allow to write"),
    "listing": (RemotePermissionError, 73, "the credentials do not allow to list"),
    "network": (RemoteStorageError, 70, "the connection was refused"),
    "server": (RemoteStorageError, 70, "HTTP 503 SlowDown"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_is_wrong_is_one_line_with_its_own_code_and_no_secret(
    case: str,
    s3: FakeS3,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    kind, code, text = ERRORS[case]
    caplog.set_level(logging.DEBUG)
    if case == "key":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "OTHERKEYCANARY")
    elif case == "writing":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "READERKEYCANARY")
    elif case == "listing":
        s3.fault = lambda method, _key: "403" if method == "LIST" else None
    elif case == "network":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    elif case == "server":
        s3.fault = lambda _method, _key: "503"
    bucket = "unknown" if case == "bucket" else "laboratory"
    monkeypatch.setattr("wbcpipe.remote.connect.MAX_RETRIES", 1)
    with pytest.raises(kind) as failed:
        open_store(ObjectLocation("s3", bucket, "x")).put_new("a", b"1")
    assert type(failed.value) is kind
    assert failed.value.exit_code == code
    assert text in str(failed.value)
    assert failed.value.__cause__ is None
    assert failed.value.__context__ is None, "the answer of the store is not kept"
    shown = f"{failed.value!r}{caplog.text}{capfd.readouterr()}"
    assert "CANARY" not in shown
    assert "\n" not in str(failed.value)


def test_no_credentials_are_shown_of_a_store(store: ObjectStore) -> None:
    assert "CANARY" not in f"{store}{store!r}{vars(store)}"


def test_credentials_come_from_the_usual_files(
    s3: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    secrets, config = tmp_path / "credentials", tmp_path / "config"
    secrets.write_text(
        "[default]\naws_access_key_id = OTHER\naws_secret_access_key = x\n"
        "[lab]\naws_access_key_id = WRITERKEYCANARY\naws_secret_access_key = a%b\n"
    )
    config.write_text(f"[profile lab]\nregion = eu-north-1\nendpoint_url = {s3.address}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(secrets))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    assert open_store(ObjectLocation("s3", "laboratory", "")).put_new("a", b"1")


def test_an_address_with_credentials_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://key:CANARY@127.0.0.1:9000")
    with pytest.raises(WbcpipeError, match="holds credentials") as refused:
        open_store(ObjectLocation("s3", "laboratory", ""))
    assert "CANARY" not in str(refused.value)


def test_a_folder_that_is_not_there_is_no_bucket(tmp_path: Path) -> None:
    with pytest.raises(BucketNotFoundError, match="no such folder"):
        open_store(ObjectLocation("file", "", str(tmp_path / "none")))
    assert not (tmp_path / "none").exists()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_no_permission(folder_store: ObjectStore) -> None:
    path = folder_store.location.prefix
    os.chmod(path, 0o500)  # noqa: PTH101 - of a string
    try:
        with pytest.raises(RemotePermissionError):
            folder_store.put_new("a", b"1")
    finally:
        os.chmod(path, 0o700)  # noqa: PTH101


def test_delays_double_with_a_random_part() -> None:
    delays = list(RetryPolicy(attempts=4, first_delay_s=1, max_delay_s=3).delays_s())
    assert len(delays) == 3
    for delay, most in zip(delays, (1, 2, 3), strict=True):
        assert most / 2 <= delay <= most
