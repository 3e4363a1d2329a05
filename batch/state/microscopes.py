"""Which microscopes a batch uses, in words; a virtual one is named as such."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.acquire.hardware.core_log import check_core_log
from wbcpipe.acquire.hardware.device_adapters import require_core
from wbcpipe.errors import WbcpipeError
from wbcpipe.system.packages import CLASSIFICATION, require

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.batch.records import WorklistRow

__all__ = [
    "check_core_logs",
    "check_packages",
    "describe_scope",
    "microscope_lines",
    "virtual_scopes",
]


def describe_scope(scope: Scope) -> str:
    """Return the name of a scope and what it is."""
    kind = (
        "VIRTUAL: it draws its images, no real slide is scanned" if scope.virtual else scope.title
    )
    return f"{scope.name} ({kind})" if kind else scope.name


def microscope_lines(rows: Iterable[WorklistRow]) -> list[str]:
    """Return a line for each microscope, with the number of its rows.

    A scope that cannot be read has none.
    """
    lines = []
    for name, count in Counter(row.scope for row in rows).items():
        if (scope := _load(name)) is not None:
            lines.append(
                f"microscope {describe_scope(scope)}: {count} slide{'s' if count > 1 else ''}"
            )
    return lines


def virtual_scopes(rows: Iterable[WorklistRow]) -> tuple[str, ...]:
    """Return the names of the virtual scopes of some rows."""
    scopes = (_load(name) for name in dict.fromkeys(row.scope for row in rows))
    return tuple(scope.name for scope in scopes if scope is not None and scope.virtual)


def check_core_logs(rows: Iterable[WorklistRow], path: Path | None) -> None:
    """Check that the core of each microscope can write its log to a file; ``None`` for no log.

    Raises:
        ConfigError: the file cannot be written, or a core runs in Micro-Manager, which keeps a log
            of its own.
    """
    if path is None:
        return
    check_core_log(path)
    for name in {row.scope for row in rows}:
        if (scope := _load(name)) is not None:
            scope.with_core_log(path)


def check_packages(rows: Iterable[WorklistRow]) -> None:
    """Check that this computer has the packages that scan and classify some rows.

    Raises:
        MissingPackageError: one is not installed; the text says how to install it.
    """
    scopes = [scope for name in {row.scope for row in rows} if (scope := _load(name)) is not None]
    for scope in scopes:
        require_core(scope)
    if scopes:
        require(CLASSIFICATION, "a batch, which classifies its cells,")


def _load(name: str) -> Scope | None:
    """Return a scope; ``None`` if its file cannot be read, which its rows say."""
    try:
        return load_scope(name)
    except (WbcpipeError, OSError, ValueError):
        return None
