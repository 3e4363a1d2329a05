"""The settings as rows, for people, for machines and for the documentation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from wbcpipe.samples.segment_settings.base import SettingsTable
from wbcpipe.samples.segment_settings.settings import SegmentSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

__all__ = ["DEFAULT", "SettingRow", "setting_rows", "settings_markdown", "settings_toml"]

#: Source of a value that no file gives.
DEFAULT: Final = "default"


@dataclass(frozen=True)
class SettingRow:
    """One setting.

    Attributes:
        table: of the file, such as ``segment.masks``.
        purpose: what the table is about.
        name: key in the table.
        value: in force.
        default: the value where no file gives another.
        unit: of the value; empty for plain numbers.
        lowest, highest: the values that are allowed; ``None`` for a list of numbers.
        description: what the number decides.
        benchmark: script and page that hold the default.
        source: what gives the value: ``default``, or the name of a file.
    """

    table: str
    purpose: str
    name: str
    value: float | list[float]
    default: float | list[float]
    unit: str
    lowest: float | None
    highest: float | None
    description: str
    benchmark: str
    source: str

    @property
    def range_text(self) -> str:
        """The values that are allowed, in words."""
        if self.lowest is None or self.highest is None:
            return "a list of numbers"
        return f"{_number(self.lowest)} to {_number(self.highest)}"

    @property
    def value_text(self) -> str:
        """The value, as TOML writes it."""
        return _toml(self.value)

    @property
    def default_text(self) -> str:
        """The default, as TOML writes it."""
        return _toml(self.default)


def setting_rows(
    settings: SegmentSettings, sources: Mapping[str, Mapping[str, Any]] | None = None
) -> list[SettingRow]:
    """Return every setting, table by table.

    Args:
        settings: in force.
        sources: name of a file to what it gives, as nested tables; a later one goes before an
            earlier one.
    """
    return list(_rows(SegmentSettings, settings, "segment", dict(sources or {})))


def _rows(
    model: type[SettingsTable],
    table: SettingsTable,
    key: str,
    sources: Mapping[str, Mapping[str, Any]],
) -> Iterator[SettingRow]:
    inner: list[tuple[str, SettingsTable]] = []
    purpose = (model.__doc__ or "").splitlines()[0].removesuffix(".")
    for name, field in model.model_fields.items():
        value = getattr(table, name)
        if isinstance(value, SettingsTable):
            inner.append((name, value))
            continue
        given = [source for source, tables in sources.items() if name in tables]
        bounds = {
            side: found
            for limit in field.metadata
            for side in ("ge", "le")
            if (found := getattr(limit, side, None)) is not None
        }
        yield SettingRow(
            table=key,
            purpose=purpose,
            name=name,
            value=_plain(value),
            default=_plain(field.default),
            unit=_extra(field, "unit"),
            lowest=bounds.get("ge"),
            highest=bounds.get("le"),
            description=field.description or "",
            benchmark=_extra(field, "benchmark"),
            source=given[-1] if given else DEFAULT,
        )
    for name, value in inner:
        below = {
            source: found
            for source, tables in sources.items()
            if isinstance(found := tables.get(name), Mapping)
        }
        yield from _rows(type(value), value, f"{key}.{name}", below)


def _extra(field: FieldInfo, name: str) -> str:
    extra = field.json_schema_extra
    return str(extra[name]) if isinstance(extra, dict) else ""


def _plain(value: Any) -> float | list[float]:
    return list(value) if isinstance(value, tuple) else float(value)


def _number(value: float) -> str:
    return f"{value:g}"


def _toml(value: float | list[float]) -> str:
    """Return a number, or a list of numbers, as TOML and JSON alike write it."""
    return json.dumps(value)


def settings_markdown() -> str:
    """Return the reference of all settings: a heading and a table for each table of the file."""
    lines: list[str] = []
    for table, rows in groupby(setting_rows(SegmentSettings()), lambda row: row.table):
        entries = list(rows)
        lines += [f"## `[{table}]`", "", f"{entries[0].purpose}.", ""]
        lines += [
            "| key | default | unit | allowed | what it decides | benchmark |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| `{row.name}` | {row.default_text} | {row.unit} | {row.range_text} | "
            f"{row.description} | {_in_code(row.benchmark)} |"
            for row in entries
        ]
        lines.append("")
    return "\n".join(lines)


def _in_code(paths: str) -> str:
    return ", ".join(f"`{path}`" for path in paths.split(", "))


def settings_toml(rows: list[SettingRow]) -> str:
    """Return a file of settings with the values that files give; the others are comments.

    Args:
        rows: from `setting_rows`.
    """
    lines: list[str] = []
    for table, group in groupby(rows, lambda row: row.table):
        entries = list(group)
        lines += [f"# {entries[0].purpose}.", f"[{table}]"]
        for row in entries:
            unit = f"unit: {row.unit}; " if row.unit else ""
            lines += [
                "",
                f"# {row.description[:1].upper()}{row.description[1:]}.",
                f"# {unit}{row.range_text}; default {row.default_text}; {row.benchmark}.",
                ("# " if row.source == DEFAULT else "") + f"{row.name} = {row.value_text}",
            ]
        lines.append("")
    return "\n".join(lines)
