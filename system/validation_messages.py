"""Messages for users about keys and values that pydantic refuses.

The key, the allowed values, the likely intent.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, Final, get_args

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

__all__ = ["explain"]

#: Characters of a refused value that are shown.
_MAX_SHOWN: Final = 80


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
    message = item["msg"].removeprefix("Value error, ")
    got = item.get("input")
    shown = "" if isinstance(got, dict) or not show_values else f" (got {_short(got)})"
    return f"key {key!r}: {message[:1].lower()}{message[1:]}{shown}"


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
