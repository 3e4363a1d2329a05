"""What a report of a problem must say about the computer: versions and platform, no names."""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from wbcpipe.system.version import VERSION

__all__ = ["describe_environment", "without_home"]


def describe_environment() -> dict[str, object]:
    """Return the versions of wbcpipe, Python and the installed requirements, and the platform.

    The name of the computer, of its user and of its folders are not in it.
    """
    packages = {}
    for requirement in requires("wbcpipe") or ():
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue  # of an extra
    packages.pop("wbcpipe", None)  # some extras name others
    return {
        "wbcpipe": VERSION,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "packages": dict(sorted(packages.items())),
    }


def without_home(text: str) -> str:
    """Return a text whose paths begin with ``~`` where they named the user's home folder."""
    home = str(Path.home())
    return text if home == Path.home().anchor else text.replace(home, "~")
