"""Logs rotate, survive refusals, and take what libraries print."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from wbcpipe.system.log_files import bound_log, rotating_log

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_log_rotates_and_keeps_its_newest_lines(tmp_path: Path) -> None:
    path = tmp_path / "batch.log"
    with rotating_log(path, max_bytes=1000, older_files=2) as log:
        for number in range(200):
            log.info("line %d of a night \u2713", number)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "batch.log",
        "batch.log.1",
        "batch.log.2",
    ]
    assert all(file.stat().st_size <= 1000 for file in tmp_path.iterdir())
    assert (
        path.read_text(encoding="utf-8")
        .splitlines()[-1]
        .endswith("INFO line 199 of a night \u2713")
    )


def test_a_refused_rename_and_a_full_disk_stop_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "batch.log"

    def refuse(*_: object) -> None:
        raise PermissionError(13, "the file is open in a viewer")

    with rotating_log(path, max_bytes=500) as log:
        monkeypatch.setattr(os, "rename", refuse)
        for number in range(50):
            log.info("line %d", number)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line.rsplit(" ", 1)[1] for line in lines] == [str(number) for number in range(50)]
    if sys.platform == "linux":
        (tmp_path / "full.log").symlink_to("/dev/full")
        with rotating_log(tmp_path / "full.log") as log:
            log.info("lost")


def test_what_a_native_library_prints_is_logged_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "child.log"
    code = (
        "import os, sys; from pathlib import Path; from wbcpipe.system.log_files import "
        "bound_log, redirect_output;"
        f"path = Path({str(path)!r}); redirect_output(path); os.write(2, b'n' * 3000 + b'\\n');"
        "bound_log(path, max_bytes=1000); print('after', flush=True)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert path.read_text(encoding="utf-8") == "after\n"
    assert (tmp_path / "child.log.1").read_text(encoding="utf-8") == "n" * 999 + "\n"
    bound_log(path, max_bytes=1000)
    bound_log(tmp_path / "absent.log")
    assert path.stat().st_size == 6
