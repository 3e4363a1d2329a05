"""JSON with exact decimals, and the line of each value in a text."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any, Final, TypeAlias

__all__ = ["JsonPath", "dump_json", "line_of", "load_json", "value_lines"]

JsonPath: TypeAlias = tuple[str | int, ...]
_MARK: Final = "\x01"
_MARKED: Final = re.compile(r'"\\u0001([0-9.]+)"')
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+|\n')


def dump_json(content: Any) -> bytes:
    """Return indented JSON in UTF-8; a `Decimal` keeps its digits."""
    text = json.dumps(_marked(content), indent=2, ensure_ascii=False)
    return f"{_MARKED.sub(lambda found: found[1], text)}\n".encode()


def _marked(value: Any) -> Any:
    match value:
        case dict():
            return {name: _marked(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_marked(inner) for inner in value]
        case Decimal():
            return f"{_MARK}{value:f}"
        case _:
            return value


def load_json(text: str) -> Any:
    """Parse JSON; figures with a point become `Decimal`.

    Raises:
        ValueError: it is not JSON, or nested too deep.
    """
    try:
        return json.loads(text, parse_float=Decimal, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")


def value_lines(text: str) -> dict[JsonPath, int]:
    """Return the line, from 1, on which each value of a valid JSON text begins."""
    lines: dict[JsonPath, int] = {}
    path: list[str | int] = []
    kinds: list[str] = []
    line, key_next, key_read = 1, False, False
    for found in _TOKEN.finditer(text):
        token = found[0]
        if token == "\n":
            line += 1
        elif token in "}]":
            kinds.pop()
            path.pop()
            key_next = False
        elif token == ",":
            if kinds[-1] == "[":
                path[-1] = int(path[-1]) + 1
            else:
                key_next = True
        elif token == ":":
            key_read = True
        elif key_next and not key_read and token.startswith('"'):
            path[-1] = json.loads(token)
            key_next = False
        else:
            key_read = False
            lines.setdefault(tuple(path), line)
            if token in "{[":
                kinds.append(token)
                path.append(0 if token == "[" else "")
                key_next = token == "{"
    return lines


def line_of(lines: dict[JsonPath, int], path: JsonPath) -> int:
    """Return the line of a value, or of the nearest one that contains it."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)
