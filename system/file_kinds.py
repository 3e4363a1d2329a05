"""What lies at a path.

A file, nothing, or what can neither be read to its end nor be replaced by a file.
"""

from __future__ import annotations

import contextlib
import stat
from typing import TYPE_CHECKING, Final

from wbcpipe.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["check_target", "folder_needed", "is_file", "kind_of_special", "why_no_folder"]

_SPECIAL: Final = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a disk"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)


def kind_of_special(path: Path) -> str:
    """Return what lies at ``path``, links followed, if it is no regular file.

    Empty for a file, and for nothing.

    >>> import os
    >>> from pathlib import Path
    >>> kind_of_special(Path(os.devnull)), kind_of_special(Path("no such file"))
    ('a device', '')
    """
    mode = _mode(path)
    return next((text for is_kind, text in _SPECIAL if is_kind(mode)), "")


def is_file(path: Path) -> bool:
    """Return whether there is such a regular file; a name that no file can have is that of none."""
    return stat.S_ISREG(_mode(path))


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except (OSError, ValueError):  # such as a name that is too long, or one with a NUL
        return 0


def check_target(path: Path) -> None:
    """Check that a file can be written at ``path``: a device or pipe would be replaced, or would
    wait for ever.

    Raises:
        StorageError: a folder, device, pipe or socket lies there.
    """
    if kind := kind_of_special(path):
        raise StorageError(
            f"{path}: this is {kind}, and a file is to be written; give the path of a file."
        )


@contextlib.contextmanager
def folder_needed(path: Path) -> Iterator[None]:
    """Turn the lack of a file's folder into one clear error.

    Inside, a share that is gone has been waited for.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StorageError(
            f"{path}: its folder {why_no_folder(path.parent)}; give a path in a folder that exists."
        ) from error


def why_no_folder(folder: Path) -> str:
    """Return why ``folder`` is none, as the end of a sentence."""
    for part in (folder, *folder.parents):
        if kind := "a file" if is_file(part) else kind_of_special(part):
            return (
                "does not exist"
                if kind == "a folder"
                else f"cannot be one, because {part} is {kind}"
            )
    return "does not exist"
