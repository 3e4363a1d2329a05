"""What a setting is: a number with a default, a unit, a range and the benchmark behind it."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["SettingsTable", "redefined", "setting"]

_UNIT: Final = "unit"
_BENCHMARK: Final = "benchmark"


class SettingsTable(BaseModel):
    """Base of the tables of settings: frozen, finite numbers, unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def setting(
    default: float,
    unit: str,
    description: str,
    *,
    benchmark: str,
    ge: float,
    le: float,
) -> Any:
    """Return the field of a setting.

    Args:
        default: the value where no file gives another.
        unit: of the value; empty for plain numbers.
        description: what the number decides, in words.
        benchmark: script of ``benchmarks/`` and page of ``docs/results/`` that hold it.
        ge, le: the lowest and highest value that is allowed.
    """
    return Field(
        default=default,
        description=description,
        ge=ge,
        le=le,
        json_schema_extra={_UNIT: unit, _BENCHMARK: benchmark},
    )


def redefined(model: type[SettingsTable], name: str, default: float, benchmark: str = "") -> Any:
    """Return a setting of another table with another default, for a table derived from it.

    Args:
        model: the other table.
        name: of the setting there.
        default: the value where no file gives another.
        benchmark: that holds this value; that of the other table by default.
    """
    field = model.model_fields[name]
    bounds = {
        side: value
        for limit in field.metadata
        for side in ("ge", "le")
        if (value := getattr(limit, side, None)) is not None
    }
    extra = field.json_schema_extra
    assert isinstance(extra, dict)
    return setting(
        default,
        str(extra[_UNIT]),
        field.description or "",
        benchmark=benchmark or str(extra[_BENCHMARK]),
        **bounds,
    )
