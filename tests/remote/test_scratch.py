from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from wbcpipe.errors import DiskFullError
from wbcpipe.remote.scratch import check_space, remove_leftovers, scratch_folder

if TYPE_CHECKING:
    from pathlib import Path


def test_a_folder_is_of_one_task_and_removed_after_it(tmp_path: Path) -> None:
    with scratch_folder(tmp_path) as one, scratch_folder(tmp_path) as two:
        assert one != two
        (one / "file").write_text("x")
        assert remove_leftovers(tmp_path) == 0, "both are in use"
        assert (one / "file").exists()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys\n"
        "from wbcpipe.remote.scratch import scratch_folder\n"
        "with scratch_folder(pathlib.Path(sys.argv[1])) as folder:\n"
        "    (folder / 'file').write_text('x')\n"
        "    os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    mine = tmp_path / "wbcpipe-stage-notes"
    mine.mkdir()
    (tmp_path / "wbcpipe-stage-notes.lock").touch()
    target = tmp_path / "target"
    target.mkdir()
    (target / "keep").touch()
    link = tmp_path / f"wbcpipe-stage-{'0' * 32}"
    link.symlink_to(target)
    link.with_name(link.name + ".lock").touch()
    assert len([path for path in tmp_path.iterdir() if (path / "file").exists()]) == 1
    assert remove_leftovers(tmp_path) == 1
    assert mine.exists()
    assert (target / "keep").exists()
    assert not any((path / "file").exists() for path in tmp_path.iterdir() if path.is_dir())


def test_a_sample_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    check_space(tmp_path, 1000)
    with pytest.raises(DiskFullError, match="GB are free, and the sample needs"):
        check_space(tmp_path, 10**18)
