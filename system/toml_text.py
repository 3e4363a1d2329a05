"""Reads a TOML file that people write by hand, and says what to write where it is not valid."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Final

from wbcpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["MAX_BYTES", "parse_toml"]

#: Bytes of the largest file; a scope file has some ten thousand.
MAX_BYTES: Final = 4_000_000
_DECIMAL_COMMA: Final = re.compile(r"=\s*[-+]?\d+,\d+\s*(#.*)?$")
_PATH_ADVICE: Final = (
    "write a path with / or in single quotes: folder = 'C:\\Program Files\\Micro-Manager-2.0'"
)


def parse_toml(path: Path, content: bytes) -> dict[str, object]:
    """Parse the content of a TOML file; a byte order mark of UTF-8 is skipped.

    Raises:
        ConfigError: It is not valid TOML in UTF-8; the text says where, and what to write.
    """
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: too large (at most {MAX_BYTES} bytes).")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError(f"{path}: saved as UTF-16 (Notepad: 'Unicode'); save it as UTF-8.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{path}: line {line} is not UTF-8 ({error.reason}); save the file as UTF-8."
        ) from error
    try:
        parsed = tomllib.loads(text)
        texts = list(_texts(parsed))  # dotted keys nest tables deeper than the parser does
    except RecursionError:
        raise ConfigError(f"{path}: not TOML: its lists or tables are nested too deep.") from None
    except ValueError as error:  # TOMLDecodeError; or a number with thousands of digits
        raise ConfigError(f"{path}: not TOML: {error}{_advice(text, str(error))}.") from error
    for key, value in texts:
        if any(ord(character) < 32 and character not in "\r\n" for character in value):
            raise ConfigError(
                f"{path}: key {key!r}: {value!r} has a control character, as a backslash in "
                f"double quotes makes one; {_PATH_ADVICE}."
            )
    return parsed


def _advice(text: str, message: str) -> str:
    """Return what to write instead, as a clause; empty where the parser's message must do."""
    found = re.search(r"at line (\d+)", message)
    lines = text.splitlines()
    number = int(found[1]) if found else 0
    line = lines[number - 1] if 1 <= number <= len(lines) else ""
    if _DECIMAL_COMMA.search(line):
        return f"; {line.strip()!r} has a decimal comma: write a point, such as 0.1"
    if "\\" in line:
        return f"; {line.strip()!r} has a backslash in double quotes: {_PATH_ADVICE}"
    return f"; the line is {line.strip()[:80]!r}" if line.strip() else ""


def _texts(table: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield each text of nested tables and lists with its key."""
    if isinstance(table, dict):
        for name, value in table.items():
            yield from _texts(value, f"{key}.{name}" if key else str(name))
    elif isinstance(table, list):
        for value in table:
            yield from _texts(value, key)
    elif isinstance(table, str):
        yield key, table
