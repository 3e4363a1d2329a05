"""A laboratory's own reference intervals, from a TOML or JSON file."""

from __future__ import annotations

import json
import math
import tomllib
from typing import TYPE_CHECKING, Any

from wbcpipe.errors import ConfigError
from wbcpipe.report.differential import Reference

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["load_reference"]


def load_reference(path: Path, classes: Sequence[str]) -> Reference:
    """Read reference intervals.

    The file, TOML or JSON by its ending, holds ``source`` (text) and ``percent``: class name to ``[lowest, highest]``.
    A class that it does not name gets no flag.

    Raises:
        ConfigError: the file is absent or not readable, or a key, class or interval in it does not hold.
    """
    content = _read(path)
    if unknown := sorted(set(content) - {"source", "percent"}):
        raise ConfigError(f"{path}: unknown key {unknown[0]!r}; allowed are 'source' and 'percent'.")
    percent = content.get("percent")
    if not isinstance(percent, dict) or not percent:
        raise ConfigError(f"{path}: 'percent' is missing; give class = [lowest, highest], e.g. NEU = [40, 75].")
    if strange := sorted(set(percent) - set(classes)):
        raise ConfigError(f"{path}: unknown class {strange[0]!r}; the cells were called as {', '.join(classes)}.")
    source = content.get("source", path.name)
    if not isinstance(source, str):
        raise ConfigError(f"{path}: 'source' is {source!r}; a text that says whose intervals they are was expected.")
    return Reference({name: _interval(path, name, value) for name, value in percent.items()}, source)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: reference intervals cannot be read ({error.strerror or error}).") from error
    except ValueError as error:
        kind = "JSON" if path.suffix.lower() == ".json" else "TOML"
        raise ConfigError(f"{path}: not readable as {kind} ({error}).") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: an object with 'source' and 'percent' was expected.")
    return content


def _interval(path: Path, name: str, value: object) -> tuple[float, float]:
    if isinstance(value, list) and len(value) == 2 and all(_is_percentage(bound) for bound in value):
        low, high = float(value[0]), float(value[1])
        if low < high:
            return low, high
    raise ConfigError(f"{path}: {name} = {value!r}; two percentages [lowest, highest] between 0 and 100 were expected.")


def _is_percentage(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 100
