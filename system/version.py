"""The version of this software, as files and messages state it."""

import re
from importlib.metadata import version
from typing import Final

__all__ = ["RELEASE", "SOFTWARE", "VERSION", "release_of"]


def release_of(text: str) -> str:
    """Return the release that a version belongs to: its leading numbers.

    A build between two releases has the number of commits, the commit and perhaps a date in its
    version. Results do not depend on these: they are made anew where the release differs.

    >>> release_of("1.2.1.dev14+g0a1b2c3.d20261130"), release_of("1.2.0")
    ('1.2.1', '1.2.0')
    """
    found = re.match(r"\d+(\.\d+)*", text)
    return found.group() if found else text


VERSION: Final = version("wbcpipe")
#: Decides whether a result was made by the same software.
RELEASE: Final = release_of(VERSION)
#: Name and version, as provenance states them.
SOFTWARE: Final = f"wbcpipe {VERSION}"
