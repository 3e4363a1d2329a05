"""What every file of a sample says of where it belongs, so that a copy from another sample is
noticed.

A sample is identified by its name and the time of its creation, both in ``sample.json``, which is
written first. A file of the sample repeats them with its own place in the sample's folder.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["place_of", "sample_identity", "specimen_identity", "why_foreign"]

#: Folders between a sample's own and the deepest of its files.
_LEVELS: Final = 3


def sample_identity(path: Path) -> str:
    """Return the identity of the sample in whose folder ``path`` lies.

    Empty where there is none that can be read.
    """
    root = _root(path)
    return "" if root is None else _identity(root)


def place_of(path: Path) -> str:
    """Return what a file at ``path`` says of where it belongs: its sample's identity and its place
    there.

    Empty outside of a sample, or where ``sample.json`` cannot be read.
    """
    root = _root(path)
    identity = "" if root is None else _identity(root)
    return (
        f"{identity}, {path.relative_to(root).as_posix()}" if root is not None and identity else ""
    )


def specimen_identity(path: Path) -> str:
    """Return the specimen and the plan of the sample in whose folder ``path`` lies.

    Empty for a real slide.

    The same slide, scanned as two samples, has the same.
    """
    try:
        content = json.loads((path.parent / "sample.json").read_bytes())
        known = content["specimen"], content["plan"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
    return json.dumps(known, sort_keys=True)


def why_foreign(stated: str, here: str) -> str:
    """Return why a file does not belong where it lies, as a clause.

    Empty if it does, or if it does not say.

    Args:
        stated: what the file says.
        here: what it should say, of `place_of` or `sample_identity`.
    """
    if not stated or not here or stated == here:
        return ""
    return f"belongs to another sample or place ({stated}; here is {here})"


def _root(path: Path) -> Path | None:
    """Return the folder of the sample in which a file lies."""
    return next(
        (folder for folder in path.parents[: _LEVELS + 1] if (folder / "sample.json").exists()),
        None,
    )


def _identity(root: Path) -> str:
    path = root / "sample.json"
    try:
        state = path.stat()
    except OSError:
        return ""
    return _stated_identity(path, state.st_mtime_ns, state.st_ino)


@functools.lru_cache(maxsize=64)
def _stated_identity(path: Path, _modified_ns: int, _inode: int) -> str:
    try:
        content = json.loads(path.read_bytes())
        return f"sample {content['sample']} of {content['created']}" if content["created"] else ""
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""  # the reader of sample.json says what is wrong with it
