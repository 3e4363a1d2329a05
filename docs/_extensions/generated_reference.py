"""Write the parts of the reference that the code knows, whenever the site is built.

Each function of `FRAGMENTS` returns the Markdown of one file in ``reference/generated/``, which a
page includes. The commands have a page each in ``reference/commands/``.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from model_tables import cell, description, key_table, schema_of, table
from pydantic import BaseModel

import wbcpipe
from wbcpipe import errors
from wbcpipe.acquire.config.scope import Scope
from wbcpipe.classify.training.recipe import Recipe
from wbcpipe.cli.commands import COMMANDS
from wbcpipe.report.gates import LIMITS
from wbcpipe.samples.cell_columns import COLUMNS, MORPHOMETRY, REJECTED, QcFlag
from wbcpipe.samples.records import Record
from wbcpipe.samples.segment_settings.table import settings_markdown
from wbcpipe.segment.features.field_quality import FIELD_FIGURES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sphinx.application import Sphinx

__all__ = ["FRAGMENTS", "command_pages", "keep_examples", "records", "setup", "write_reference"]

_NOT_THE_PACKAGE: Final = ("wbcpipe.tests", "wbcpipe.benchmarks", "wbcpipe.docs", "wbcpipe.build")


def exit_codes() -> str:
    """Return the exit codes, from `wbcpipe.errors`."""
    found = {
        0: "Success.",
        1: "A defect in wbcpipe: please report it with the output of `--debug`.",
        2: "A mistake in the command line.",
        129: "Stopped by SIGHUP: the terminal was closed.",
        143: "Stopped by SIGTERM.",
    }
    names = {0: "", 1: "", 2: "", 129: "`InterruptedRunError`", 143: "`InterruptedRunError`"}
    for name in errors.__all__:
        error = getattr(errors, name)
        if error is not errors.WbcpipeError:
            names[error.exit_code] = f"`{name}`"
            found[error.exit_code] = description(error)
    rows = [(str(code), cell(text), names[code]) for code, text in sorted(found.items())]
    return table(("code", "meaning", "error"), rows)


def _shape(entry: tuple[int | str, ...]) -> str:
    return f", ({', '.join(map(str, entry))})" if entry else ""


def columns() -> str:
    """Return the columns of ``cells.zarr``, from `wbcpipe.samples.cell_columns`."""
    rows = [
        (f"`{name}`", column.dtype + _shape(column.shape), column.unit, cell(column.meaning))
        for name, column in (COLUMNS | MORPHOMETRY).items()
    ]
    return table(("column", "type", "unit", "meaning"), rows)


def _member_texts(path: Path) -> dict[str, str]:
    """Return the docstrings that follow the members of the enums of a module."""
    import ast

    found = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ClassDef):
            continue
        for member, text in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(member, ast.Assign)
                and isinstance(member.targets[0], ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                found[member.targets[0].id] = " ".join(str(text.value.value).split())
    return found


def qc_flags() -> str:
    """Return the bits of ``qc_flags``, with what each means for the count."""
    source = importlib.import_module(QcFlag.__module__).__file__
    assert source is not None
    texts = _member_texts(Path(source))
    rows = [
        (
            f"`{flag.name}`",
            str(flag.value),
            "no" if flag in REJECTED else "yes",
            cell(texts[str(flag.name)]),
        )
        for flag in QcFlag
    ]
    return table(("bit", "value", "counted?", "meaning"), rows)


def field_figures() -> str:
    """Return the figures of a field, from `wbcpipe.segment.features.field_quality`."""
    rows = [
        (
            f"`{name}`",
            "each modality" if figure.per_modality else "the field",
            figure.unit,
            cell(figure.meaning),
        )
        for name, figure in FIELD_FIGURES.items()
    ]
    return table(("figure", "of", "unit", "meaning"), rows)


def gates() -> str:
    """Return the quality gates and their limits, from `wbcpipe.report.gates`."""
    rows = [
        (f"`{name}`", limit.comparison, f"{limit.limit:g} {limit.unit}".strip(), cell(limit.title))
        for name, limit in LIMITS.items()
    ]
    return table(("gate", "must be", "limit", "meaning"), rows)


def _nested(model: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield (table of the file, model) of the tables below a model, each model once."""
    for name, field in model.model_fields.items():
        if field.exclude:
            continue
        below = f"{path}.{name}" if path else name
        for part in _models(field.annotation):
            yield (f"{below}.NAME" if "dict" in str(field.annotation) else below), part
            yield from _nested(part, below)


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    arguments = getattr(annotation, "__args__", ()) or ()
    return [model for argument in arguments for model in _models(argument)]


def _key_sections(
    root: type[BaseModel], heading: str, level: str, elsewhere: tuple[str, ...] = ()
) -> str:
    """Return a section for the keys of a file, and one for each table in it.

    Tables below those of ``elsewhere`` have a page of their own.
    """
    parts = [f"{level} {heading}\n", key_table(root)]
    seen: dict[type[BaseModel], str] = {}
    for path, model in _nested(root, ""):
        if model in seen or path.split(".")[0] in elsewhere:
            continue
        seen[model] = path
        parts += [f"{level} `[{path}]`\n", cell(description(model)) + "\n", key_table(model)]
    return "\n".join(parts)


def scope_keys() -> str:
    """Return every key of a scope file, from `wbcpipe.acquire.config`."""
    return _key_sections(Scope, "Keys above the tables", "###", elsewhere=("segment",))


def recipe_keys() -> str:
    """Return every key of a recipe, from `wbcpipe.classify.training`."""
    return _key_sections(Recipe, "Keys of a recipe", "##").replace("`[", "`").replace("]`", "`")


def _subclasses(model: type) -> Iterator[type]:
    for below in model.__subclasses__():
        yield below
        yield from _subclasses(below)


def _import_everything() -> None:
    """Import every module of the package, so that every record is known."""
    for module in pkgutil.walk_packages(wbcpipe.__path__, "wbcpipe."):
        if not module.name.startswith(_NOT_THE_PACKAGE) and not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def records() -> list[type[Record]]:
    """Return the models of the files on disk, in the order of their names."""
    _import_everything()
    found = {
        record
        for record in _subclasses(Record)
        if not record.__name__.startswith("_") and record.__module__.startswith("wbcpipe.")
    }
    return sorted(found, key=lambda record: (record.__module__, record.__name__))


def record_tables() -> str:
    """Return a section for each record, with its keys and those of its parts."""
    parts = []
    for record in records():
        name = record.__name__
        schema = f"{name}.schema.json"
        parts += [
            f"## {name}\n",
            f"{cell(description(record))} Module `{record.__module__}`.\n",
            f"JSON Schema: {{download}}`{schema} <generated/schemas/{schema}>`\n",
            key_table(record),
        ]
        seen = set()
        for path, model in _nested(record, ""):
            if model not in seen and not issubclass(model, Record):
                seen.add(model)
                parts += [f"**`{path}`**: {cell(description(model))}\n", key_table(model)]
    return "\n".join(parts)


def public_names() -> str:
    """Return the documentation of what `import wbcpipe` gives, from its docstrings."""
    parts = []
    for name in wbcpipe.__all__:
        thing = getattr(wbcpipe, name)
        if not callable(thing):
            continue
        kind = "autoclass" if isinstance(thing, type) else "autofunction"
        members = "   :members:\n" if isinstance(thing, type) else ""
        directive = f".. {kind}:: wbcpipe.{name}\n{members}"
        parts.append(f"## {name}\n\n```{{eval-rst}}\n{directive}```\n")
    return "\n".join(parts)


#: File in ``reference/generated/`` to the function that returns its text.
FRAGMENTS: Final[dict[str, Callable[[], str]]] = {
    "exit-codes": exit_codes,
    "columns": columns,
    "qc-flags": qc_flags,
    "field-figures": field_figures,
    "gates": gates,
    "scope-keys": scope_keys,
    "settings": settings_markdown,
    "recipe-keys": recipe_keys,
    "records": record_tables,
    "public-names": public_names,
}


def command_pages() -> dict[str, str]:
    """Return the page of each command, by the command's name."""
    return {
        name: f".. click:: {where}\n   :prog: wbcpipe {name}\n   :nested: full\n"
        for name, (where, _) in COMMANDS.items()
    }


def _write(path: Path, text: str) -> None:
    """Write a file if its text changed, so that Sphinx reads only what is new."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def write_reference(folder: Path) -> None:
    """Write the generated files below ``folder``, the source of the reference."""
    for name, fragment in FRAGMENTS.items():
        _write(folder / "generated" / f"{name}.md", fragment())
    rows = [
        (f"[`{name}`](commands/{name}.rst)", cell(text)) for name, (_, text) in COMMANDS.items()
    ]
    _write(folder / "generated" / "commands.md", table(("command", "purpose"), rows))
    pages = command_pages()
    for name, text in pages.items():
        _write(folder / "commands" / f"{name}.rst", text)
    for page in (folder / "commands").glob("*.rst"):
        if page.stem not in pages:
            page.unlink()
    for record in records():
        text = json.dumps(schema_of(record), indent=2, ensure_ascii=False) + "\n"
        _write(folder / "generated" / "schemas" / f"{record.__name__}.schema.json", text)


def _on_start(app: Sphinx) -> None:
    write_reference(Path(app.srcdir) / "reference")


def keep_examples(_app: Sphinx, _context: object, lines: list[str]) -> None:
    """Turn the paragraphs that a help text must not wrap into code blocks, in place.

    sphinx-click makes a line block of such a paragraph, in which the ``*`` of a shell is markup.
    """
    found: list[str] = []
    inside = False
    for line in lines:
        is_kept = line.startswith("| ")
        text = line.removeprefix("| ")
        if not is_kept:
            found.append(line)
        elif not inside and text.endswith(":"):
            found += [text, ""]
            is_kept = False
        else:
            found += [] if inside else ["", ".. code-block:: text", ""]
            found.append(f"   {text}")
        inside = is_kept
    lines[:] = found


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("builder-inited", _on_start)
    for part in ("description", "epilog"):
        app.connect(f"sphinx-click-process-{part}", keep_examples)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
