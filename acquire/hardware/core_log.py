"""The core's own log on demand: what a driver did, for the one who wrote it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from wbcpipe.errors import ConfigError
from wbcpipe.system.file_kinds import kind_of_special

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["check_core_log", "log_hint", "start_core_log"]

#: The log is begun anew at this size, and as many older parts are kept: some 60 MB in all.
MAX_LOG_BYTES: Final = 20_000_000
_OLDER_PARTS: Final = 2


def check_core_log(path: Path) -> None:
    """Check that a core could write its log to a file.

    Raises:
        ConfigError: the file cannot be written.
    """
    if kind := kind_of_special(path):
        raise ConfigError(
            f"{path}: the core's log cannot be written there: this is {kind}; give the path of a "
            f"file."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass
    except OSError as error:
        raise ConfigError(
            f"{path}: the core's log cannot be written there ({error.strerror}); give another file."
        ) from error


def start_core_log(core: Any, path: Path) -> None:
    """Let a core of this process write all that it does to a file, of bounded size.

    Raises:
        ConfigError: the file cannot be written.
    """
    check_core_log(path)
    core.set_primary_log_file_rotation(MAX_LOG_BYTES, _OLDER_PARTS)
    core.set_primary_log_file(str(path))
    core.enable_debug_log(True)


def log_hint(path: Path | None) -> str:
    """Return where the log of a failure stands, as a sentence after a blank.

    Empty where none is written.
    """
    return f" The core's log: {path}." if path is not None else ""
