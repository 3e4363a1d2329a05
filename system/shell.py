"""Write words into a command that a message tells people to run."""

from __future__ import annotations

import shlex
import subprocess
import sys

__all__ = ["shell_word"]


def shell_word(text: str) -> str:
    """Return a text as one word of a command line, in quotes where the shell needs them.

    >>> shell_word("mylab")
    'mylab'
    """
    return subprocess.list2cmdline([text]) if sys.platform == "win32" else shlex.quote(text)
