"""Standard output that is full, closed, read no further, or cannot print a name.

The exit code is the command's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_COMMAND = [sys.executable, "-m", "wbcpipe"]
_LINUX = pytest.mark.skipif(
    sys.platform != "linux", reason="/dev/full, and closed descriptors, are POSIX"
)


def _run(words: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*_COMMAND, *words], check=False, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload,no-any-return]


@_LINUX
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_standard_output_does_not_change_the_exit_code(
    tmp_path: Path, unbuffered: str
) -> None:
    with Path("/dev/full").open("wb") as full:
        run = _run(
            ["scopes"],
            stdout=full,
            cwd=tmp_path,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    assert run.returncode == 0
    assert run.stderr == b"wbcpipe: standard output was lost: No space left on device.\n"


@_LINUX
def test_a_reader_that_stops_early_is_no_error(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        run = _run(["--help"], stdout=write, cwd=tmp_path)
    finally:
        os.close(write)
    assert (run.returncode, run.stderr) == (0, b"")


@_LINUX
def test_closed_streams_are_replaced_before_a_file_gets_their_number(tmp_path: Path) -> None:
    code = (
        "import os, sys; os.close(1); sys.stdout = None;"
        "from wbcpipe.cli.streams import protect_standard_streams; protect_standard_streams();"
        "print('lost'); file = open('data.bin', 'wb'); os.write(1, b'native'); file.close();"
        "sys.exit(os.path.getsize('data.bin'))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0
    run = subprocess.run(
        f"'{sys.executable}' -m wbcpipe scopes >&-", shell=True, check=False, cwd=tmp_path
    )
    assert run.returncode == 0


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_name_that_the_console_cannot_print_is_escaped(tmp_path: Path, encoding: str) -> None:
    folder = tmp_path / "Pr\u00e4parate \u2713"
    folder.mkdir()
    run = _run(
        ["report", "--sample", "S1", "--data", str(folder)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert run.returncode == 11
    assert b"\\u2713" in run.stderr
    assert b"defect" not in run.stderr
