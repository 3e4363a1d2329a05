"""What pydantic found wrong in a file, in a user's words: which key, what is allowed there, what was perhaps meant."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = ["explain"]


def explain(item: ErrorDetails, model: type[BaseModel]) -> str:
    """One finding of ``model``'s validation as a clause, without a closing stop."""
    location = [str(part) for part in item["loc"]]
    key = ".".join(location) or "(the file)"
    if item["type"] == "extra_forbidden":
        allowed = _keys_at(model, location[:-1])
        near = difflib.get_close_matches(location[-1], allowed, n=1, cutoff=0.5)
        hint = f", did you mean {near[0]!r}?" if near else ""
        return f"key {key!r} is not known{hint} (allowed: {', '.join(allowed)})"
    if item["type"] == "missing":
        return f"key {key!r} is missing"
    message = item["msg"].removeprefix("Value error, ")
    got = item.get("input")
    shown = "" if isinstance(got, dict) else f" (got {got!r})"
    return f"key {key!r}: {message[:1].lower()}{message[1:]}{shown}"


def _keys_at(model: type[BaseModel], location: list[str]) -> list[str]:
    """The keys allowed in the table at ``location``; names and numbers of entries are passed over."""
    for part in location:
        if part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return [name for name, field in model.model_fields.items() if not field.exclude]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, alone or as the values of a table or a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner))), None)
