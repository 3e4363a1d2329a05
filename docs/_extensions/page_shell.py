"""One bash for the shell blocks of a page, in a folder of its own."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PageShell", "ShellBlockError"]

_MARK: Final = "block-ended"
#: Longest time of one block, in seconds; the longest scans four fields on a busy machine.
_LIMIT_S: Final = 420


class ShellBlockError(AssertionError):
    """A command of a block failed; the text has the block's output."""


class PageShell:
    """A bash that runs block after block and ends at the first command that fails.

    Variables, functions and the working folder last from block to block. Each block has no input,
    so that a command that would ask a person ends.

    Args:
        folder: where the page's commands run; samples are stored below it.
        prepare: copies a shared sample of the given name into ``folder``, for `prepare` in a block.
    """

    def __init__(self, folder: Path, prepare: Callable[[str, Path], None]) -> None:
        self.folder = folder
        self._prepare = prepare
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("WBCPIPE_")},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "COLUMNS": "100",
            "OMP_NUM_THREADS": "1",
        }
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def run(self, block: str) -> str:
        """Run a block and return its output.

        A line ``prepare NAME...`` copies shared samples first.

        Raises:
            ShellBlockError: a command failed, or the block took too long.
        """
        script, output = self.folder / ".block.sh", self.folder / ".block.out"
        lines = []
        for line in block.splitlines(keepends=True):
            if line.startswith("prepare "):
                for name in line.split()[1:]:
                    self._prepare(name, self.folder)
            else:
                lines.append(line)
        script.write_text("".join(lines), encoding="utf-8")
        if self._bash.poll() is not None:
            raise ShellBlockError("an earlier block of this page failed, and its shell has ended")
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        paths = [shlex.quote(str(path)) for path in (script, output)]
        self._bash.stdin.write(f"set -eo pipefail\n. {paths[0]} >{paths[1]} 2>&1 </dev/null\n")
        self._bash.stdin.write(f"echo {_MARK}\n")
        self._bash.stdin.flush()
        signal.signal(signal.SIGALRM, self._stop)
        signal.alarm(_LIMIT_S)
        try:
            ended_well = self._bash.stdout.readline().strip() == _MARK
        finally:
            signal.alarm(0)
        text = output.read_text(encoding="utf-8", errors="replace") if output.exists() else ""
        if not ended_well:
            raise ShellBlockError(f"the block failed:\n{block}\n{text[-6000:]}")
        return text

    def _stop(self, _number: int, _frame: object) -> None:
        os.killpg(self._bash.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the shell and what it started, and remove the folder."""
        if self._bash.poll() is None:
            os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.wait()
        for stream in (self._bash.stdin, self._bash.stdout):
            assert stream is not None
            stream.close()
        shutil.rmtree(self.folder, ignore_errors=True)
