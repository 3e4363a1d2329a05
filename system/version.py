"""The version of this software, as files and messages state it."""

from importlib.metadata import version
from typing import Final

__all__ = ["SOFTWARE", "VERSION"]

VERSION: Final = version("wbcpipe")
#: Name and version, as provenance states them.
SOFTWARE: Final = f"wbcpipe {VERSION}"
