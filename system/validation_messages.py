"""Messages for users about keys and values that pydantic refuses.

The key, the allowed values, the likely intent.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args, get_origin

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

__all__ = ["explain"]

#: Characters of a refused value that are shown.
_MAX_SHOWN: Final = 80
#: Ending of a key to the unit of its numbers, as people write it; longer endings first.
_UNITS: Final = {
    "_per_mm2": "/mm2",
    "_um_s": "um/s",
    "_percent": "%",
    "_um2": "um2",
    "_days": "days",
    "_deg": "deg",
    "_rad": "rad",
    "_min": "min",
    "_um": "um",
    "_nm": "nm",
    "_ms": "ms",
    "_px": "px",
    "_mb": "MB",
    "_gb": "GB",
    "_s": "s",
    "_h": "h",
}
#: Findings about a number that is not in its range.
_RANGE_ERRORS: Final = frozenset(
    {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number"}
)
_LIMITS: Final = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def explain(item: ErrorDetails, model: type[BaseModel], *, show_values: bool = True) -> str:
    """Return one finding of ``model``'s validation as a clause, without a full stop.

    Args:
        item: the finding.
        model: that was validated.
        show_values: say what was got; off where it may be secret.
    """
    location = [str(part) for part in item["loc"]]
    key = ".".join(location) or "(the file)"
    if item["type"] in (
        "extra_forbidden",
        "unexpected_keyword_argument",
    ):  # of a model, of a dataclass
        allowed = _keys_at(model, location[:-1])
        near = difflib.get_close_matches(location[-1], allowed, n=1, cutoff=0.5)
        hint = f", did you mean {near[0]!r}?" if near else ""
        return f"key {key!r} is not known{hint} (allowed: {', '.join(allowed)})"
    if item["type"] == "missing":
        return f"key {key!r} is missing"
    message = _range(item, model) or item["msg"].removeprefix("Value error, ")
    got = item.get("input")
    shown = "" if isinstance(got, dict) or not show_values else f" (got {_short(got)})"
    return f"key {key!r}: {message[:1].lower()}{message[1:]}{shown}"


def _range(item: ErrorDetails, model: type[BaseModel]) -> str:
    """Return the range of a number with its unit; empty for other findings and without a unit."""
    names = [part for part in item["loc"] if isinstance(part, str)]
    unit = next((_UNITS[end] for end in _UNITS if names and names[-1].endswith(end)), None)
    if unit is None or item["type"] not in _RANGE_ERRORS:
        return ""
    refused = item.get("ctx", {})
    found = next(
        (limits for limits in _limits_at(model, item["loc"]) if refused.items() <= limits.items()),
        refused,
    )
    if not found:
        return ""
    if found.keys() == {"ge", "le"}:
        words = f"{_number(found['ge'])} to {_number(found['le'])}"
    else:
        words = " and ".join(
            f"{_LIMITS[name]} {_number(value)}" for name, value in sorted(found.items())
        )
    return f"must be {words} {unit}"


def _number(value: float) -> str:
    return f"{value:.15g}"


def _limits_at(model: type[Any], location: Sequence[int | str]) -> Iterator[Mapping[str, float]]:
    """Yield the limits of each kind of number that is allowed at ``location``."""
    annotation: Any = model
    metadata: Sequence[Any] = ()
    for part in location:
        below = _model_in(annotation)
        field = below.__pydantic_fields__.get(part) if below is not None else None
        if field is not None:
            annotation, metadata = field.annotation, field.metadata
    yield from _limits_in(annotation, metadata)


def _limits_in(annotation: Any, metadata: Sequence[Any]) -> Iterator[Mapping[str, float]]:
    if get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        metadata = [*metadata, *more]
    flat = [part for one in metadata for part in (getattr(one, "metadata", None) or [one])]
    limits = {name: getattr(part, name) for part in flat for name in _LIMITS if hasattr(part, name)}
    if limits:
        yield limits
    for inner in get_args(annotation):
        yield from _limits_in(inner, ())


def _short(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a number of too many digits"
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."


def _keys_at(model: type[Any], location: list[str]) -> list[str]:
    """Return the keys allowed in the table at ``location``.

    Names and numbers of entries are skipped.
    """
    for part in location:
        if part in model.__pydantic_fields__:
            model = _model_in(model.__pydantic_fields__[part].annotation) or model
    return [name for name, field in model.__pydantic_fields__.items() if not field.exclude]


def _model_in(annotation: Any) -> type[Any] | None:
    """Return the model or dataclass that a field holds, alone or as the values of a table or a
    list.
    """
    if isinstance(annotation, type) and hasattr(annotation, "__pydantic_fields__"):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner))), None)
