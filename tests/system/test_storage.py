"""Every writer of the program, with storage that refuses once, for a while, and for good."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from wbcpipe.acquire.capture.light_dose import DoseLedger
from wbcpipe.errors import DiskFullError, StorageError
from wbcpipe.samples.fields import FieldInfo, FrameInfo, read_field, write_field
from wbcpipe.samples.patient_store import PatientStore
from wbcpipe.system import storage
from wbcpipe.system.files import (
    append_event,
    append_line,
    make_folder,
    read_json,
    remove_tree,
    rename,
    stream_atomic,
    sync_file,
    write_atomic,
    write_json,
)
from wbcpipe.system.locks import exclusive_lock
from wbcpipe.system.storage import explained

if TYPE_CHECKING:
    from collections.abc import Callable

_SCANNER = PermissionError(errno.EACCES, "the file is being used by another process")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "LOCAL_WAIT_S", 0.05)
    monkeypatch.setattr(storage, "SHARE_WAIT_S", 0.05)
    monkeypatch.setattr(storage, "FIRST_DELAY_S", 0.001)


class _Storage:
    """Refuses operations on files in a folder.

    Attributes:
        refused: how often it has.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.refused, self._left, self._error = 0, 0, OSError()
        for owner, name in (
            *((Path, name) for name in ("replace", "rename", "mkdir", "open", "unlink")),
            *((os, name) for name in ("open", "write", "fsync")),
        ):
            patch.setattr(owner, name, self._wrap(getattr(owner, name), folder))

    def refuse(self, error: OSError, times: int) -> None:
        self._error, self._left = error, times

    def _wrap(self, call: Callable[..., Any], folder: Path) -> Callable[..., Any]:
        def wrapped(first: Any, *arguments: Any, **options: Any) -> Any:
            if self._left and (isinstance(first, int) or folder in Path(first).parents):
                self.refused, self._left = self.refused + 1, self._left - 1
                raise type(self._error)(*self._error.args)
            return call(first, *arguments, **options)

        return wrapped


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Storage:
    return _Storage(tmp_path, monkeypatch)


def _write_aside(path: Path) -> None:
    with write_atomic(path) as handle:
        handle.write(b"content")


def _write_planes(path: Path) -> None:
    frames = tuple(FrameInfo(name) for name in ("color1", "fluorescence"))
    write_field(
        path,
        np.arange(2 * 8 * 8, dtype=np.uint16).reshape(2, 8, 8),
        FieldInfo(0, 1.0, 2.0, 0.1, frames),
    )


def _record_light(path: Path) -> None:
    make_folder(path)
    ledger = DoseLedger(path, (200.0, 200.0))
    ledger.record(0, 1.0, 2.0, 20.0)
    ledger.record(1, 1.0, 2.0, 20.0)
    ledger.close()
    assert DoseLedger(path, (200.0, 200.0)).dose_ms(1.0, 2.0) == 40.0


def _write_array(path: Path) -> None:
    import zarr

    group = zarr.create_group(PatientStore(path), zarr_format=3)
    group.create_array("cells", data=np.arange(100), chunks=(10,))
    assert zarr.open_group(PatientStore(path), mode="r")["cells"][:].sum() == 4950  # type: ignore[index,union-attr]


def _move(path: Path) -> None:
    source = path.with_name("source")
    _write_aside(source)
    rename(source, path)


def _make_and_remove(path: Path) -> None:
    make_folder(path / "a" / "b")
    remove_tree(path / "a")
    assert path.is_dir()


def _flush(path: Path) -> None:
    append_line(path, "content")
    sync_file(path)


def _lock(path: Path) -> None:
    with exclusive_lock(path, path.with_suffix(".holder"), "a test", RuntimeError):
        assert "a test" in path.with_suffix(".holder").read_text(encoding="utf-8")


_WRITERS: dict[str, Callable[[Path], None]] = {
    "file": _write_aside,
    "json": lambda path: write_json(path, {"a": 1}),
    "event": lambda path: append_event(path, "field_taken", index=1),
    "line": lambda path: append_line(path, "content"),
    "field": _write_planes,
    "light": _record_light,
    "array": _write_array,
    "rename": _move,
    "folder": _make_and_remove,
    "flush": _flush,
    "lock": _lock,
}


@pytest.mark.parametrize(
    ("writer", "name"),
    [
        *((writer, name) for writer in _WRITERS for name in ("EACCES", "ENETDOWN", "EIO")),
        *(
            (writer, name)
            for writer in ("file", "array")
            for name in ("EHOSTUNREACH", "ESTALE", "ENOTCONN")
        ),
    ],
)
def test_each_operation_may_be_refused_once(
    tmp_path: Path, disk: _Storage, writer: str, name: str
) -> None:
    error = OSError(getattr(errno, name), name)
    for times in (1, 2):
        folder = tmp_path / str(times)
        folder.mkdir()
        disk.refused = 0
        disk.refuse(error, times)
        _WRITERS[writer](folder / "target")
        assert disk.refused == times
        disk.refuse(error, 0)


@pytest.mark.parametrize(
    "writer", ["file", "json", "event", "line", "field", "array", "rename", "lock"]
)
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (_SCANNER, ["refuses the file", "being used by another process", "virus scanner"]),
        (
            OSError(errno.ENETDOWN, "Network is down"),
            ["does not answer", "Network is down", "run the same command"],
        ),
        (OSError(errno.EROFS, "Read-only file system"), ["refuses the file", "permissions"]),
    ],
    ids=["scanner", "share", "read-only"],
)
def test_storage_that_refuses_for_good_is_named(
    tmp_path: Path, disk: _Storage, writer: str, error: OSError, words: list[str]
) -> None:
    target = tmp_path / "target"
    disk.refuse(error, 10**6)
    with pytest.raises(StorageError) as caught:
        _WRITERS[writer](target)
    assert caught.value.exit_code == 15
    assert str(tmp_path) in str(caught.value)
    assert all(word in str(caught.value) for word in words)


def test_a_full_disk_is_not_waited_for(tmp_path: Path, disk: _Storage) -> None:
    disk.refuse(OSError(errno.ENOSPC, "no space left"), 1)
    with pytest.raises(DiskFullError):
        write_json(tmp_path / "a.json", 1)
    assert disk.refused == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_short_write_of_numpy_is_a_full_disk(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full, pytest.raises(OSError, match="requested") as caught:
        np.zeros(10**5).tofile(full)
    assert caught.value.errno is None
    assert isinstance(explained(caught.value), DiskFullError)
    with pytest.raises(DiskFullError), stream_atomic(tmp_path / "a"):
        raise caught.value
    assert list(tmp_path.iterdir()) == []


def test_an_error_that_is_no_state_of_the_storage_stays_as_it_is(
    tmp_path: Path, disk: _Storage
) -> None:
    with pytest.raises(
        StorageError, match=r"absent/a\.json: its folder does not exist; give a path"
    ):
        write_json(tmp_path / "absent" / "a.json", 1)
    disk.refuse(OSError(errno.EINVAL, "invalid argument"), 1)
    with pytest.raises(OSError, match="invalid argument") as caught:
        write_json(tmp_path / "a.json", 1)
    assert not isinstance(caught.value, StorageError)


def test_a_reader_is_patient_too(tmp_path: Path, disk: _Storage) -> None:
    write_json(tmp_path / "a.json", {"a": 1})
    _write_planes(tmp_path / "field.ome.tif")
    disk.refuse(_SCANNER, 2)
    assert read_json(tmp_path / "a.json") == {"a": 1}
    disk.refuse(_SCANNER, 2)
    assert read_field(tmp_path / "field.ome.tif")[1].index == 0


def test_a_share_that_is_gone_is_not_taken_for_a_damaged_field(
    tmp_path: Path, disk: _Storage
) -> None:
    _write_planes(tmp_path / "field.ome.tif")
    disk.refuse(OSError(errno.ESTALE, "Stale file handle"), 10**6)
    with pytest.raises(StorageError, match="Stale file handle"):
        read_field(tmp_path / "field.ome.tif")


def test_who_waits_for_a_share_gives_signs_of_life(
    tmp_path: Path, disk: _Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "SHARE_WAIT_S", 60.0)
    clock = iter(range(1000))
    monkeypatch.setattr("wbcpipe.system.storage.time.monotonic", lambda: float(next(clock)))
    monkeypatch.setattr("wbcpipe.system.storage.time.sleep", lambda _s: None)
    said: list[str] = []
    storage.report_waits(said.append)
    try:
        disk.refuse(OSError(errno.EHOSTUNREACH, "No route to host"), 10)
        write_json(tmp_path / "a.json", 1)
    finally:
        storage.report_waits(None)
    # Each try was refused twice: to write, and to tidy up.
    assert len(said) == 4
    assert "No route to host" in said[0]
