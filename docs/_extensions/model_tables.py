"""Tables of the keys of pydantic models, as Markdown."""

from __future__ import annotations

import inspect
import json
import re
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, TypeAdapter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic.fields import FieldInfo

__all__ = ["attribute_texts", "cell", "description", "key_rows", "key_table", "schema_of", "table"]

_ENTRY: Final = re.compile(r"^(?P<names>[`\w, *]+?):(?: (?P<text>.*))?$")
_SIMPLE: Final = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "null": "nothing",
    "object": "table",
    "array": "list",
}
Schema = dict[str, Any]


def cell(text: str) -> str:
    """Return a text as it stands in a cell of a Markdown table."""
    text = text.replace("``", "`").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
    return re.sub(r":(?:py:)?\w+:`([^`]+)`", r"`\1`", text).strip()


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def description(thing: object) -> str:
    """Return the first paragraph of a docstring."""
    return (inspect.getdoc(thing) or "").partition("\n\n")[0].replace("\n", " ")


def _entries(doc: str) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of the section ``Attributes`` of a docstring."""
    _, _, section = doc.partition("\nAttributes:\n")
    names: list[str] = []
    text: list[str] = []
    for line in section.splitlines():
        if line and not line.startswith(" "):
            break
        entry = _ENTRY.match(line[4:])
        if line.startswith("    ") and not line.startswith("     ") and entry:
            yield from ((name, " ".join(text)) for name in names)
            names = [name.strip(" `*") for name in entry["names"].split(",")]
            text = [entry["text"] or ""]
        elif line.strip():
            text.append(line.strip())
    yield from ((name, " ".join(text)) for name in names)


def attribute_texts(model: type) -> dict[str, str]:
    """Return what the docstrings of a class and of its bases say of each attribute."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        found |= dict(_entries(inspect.cleandoc(base.__doc__ or "")))
    return found


def schema_of(model: type[BaseModel]) -> Schema:
    """Return the JSON Schema of a model, as files have its keys."""
    return TypeAdapter(model).json_schema(by_alias=True)


def _limits(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f" from {low:g} to {high:g}"
    parts = [
        f"{sign} {limit:g}"
        for sign, limit in (("≥", low), (">", above), ("≤", high), ("<", below))
        if limit is not None
    ]
    return " " + ", ".join(parts) if parts else ""


def _type(schema: Schema, definitions: Mapping[str, Schema]) -> str:
    """Return the type of a value in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        target = definitions.get(name, {})
        return f"table `{name}`" if target.get("type") == "object" else _type(target, definitions)
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            kinds = [_type(part, definitions) for part in schema[key] if part.get("type") != "null"]
            return " or ".join(dict.fromkeys(kinds))
    kind = schema.get("type", "any value")
    if kind == "array":
        if "prefixItems" in schema:
            parts = [_type(part, definitions) for part in schema["prefixItems"]]
            if len(set(parts)) == 1:
                return f"list of {len(parts)}: {parts[0]}"
            return f"list: {', '.join(parts)}"
        return f"list of {_type(schema.get('items', {}), definitions)}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"table of {_type(schema['additionalProperties'], definitions)}"
    return _SIMPLE.get(str(kind), str(kind)) + _limits(schema)


def _default(field: FieldInfo, value: Any) -> str:
    if field.is_required():
        return "required"
    if value is None or value == {} or value == [] or isinstance(value, dict):
        return ""
    return f"`{json.dumps(value, ensure_ascii=False)}`" if value != "" else "empty"


def key_rows(model: type[BaseModel]) -> list[tuple[str, ...]]:
    """Return one row for each key: name, type, default, meaning.

    Raises:
        ValueError: a key has no type in the model's schema.
    """
    schema = schema_of(model)
    definitions = schema.get("$defs", {})
    texts = attribute_texts(model)
    rows = []
    for name, field in model.model_fields.items():
        if field.exclude:
            continue
        key = field.alias or name
        found = schema["properties"].get(key)
        if found is None:
            raise ValueError(f"{model.__name__}.{name} is not in the schema")
        meaning = field.description or texts.get(name, "")
        rows.append(
            (
                f"`{key}`",
                cell(_type(found, definitions)),
                cell(_default(field, found.get("default"))),
                cell(meaning[:1].upper() + meaning[1:]),
            )
        )
    return rows


def key_table(model: type[BaseModel]) -> str:
    """Return the keys of a model as a Markdown table."""
    return table(("key", "value", "default", "meaning"), key_rows(model))
