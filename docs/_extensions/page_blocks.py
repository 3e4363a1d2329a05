"""The code blocks of the pages, and how each is run.

Shell blocks of a page run in one shell, in order, in a scratch folder; Python blocks run in one
namespace, in the same folder; TOML and JSON blocks are read. A block that is not run is skipped in
the page itself, with a reason: ``<!-- skip: next "why" -->``. What a page takes as given is
prepared by an invisible block (`shared_samples`).
"""

from __future__ import annotations

import json
import os
import tempfile
import tomllib
import unittest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from page_shell import PageShell
from pydantic import TypeAdapter
from shared_samples import SharedSamples
from sybil import Sybil
from sybil.evaluators.skip import Skipper
from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser, SkipParser

from wbcpipe.acquire.config.scope import Scope

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sybil.example import Example

__all__ = ["DOCS", "PAGES", "is_block", "page_line", "run_blocks", "shared_folder"]

DOCS: Final = Path(__file__).parents[1]
#: Blocks in these languages are commands that this machine cannot run: each needs a skip.
_ELSEWHERE: Final = ("bat", "powershell")
#: Dated records, and what is made from the code.
_LEFT_OUT: Final = ["results/*", "decisions/*", "reference/generated/*", "_build/*"]


def _run_shell(example: Example) -> None:
    example.namespace["_shell"].run(str(example.parsed))


def _read_toml(example: Example) -> None:
    """Read TOML; tables of a scope file must be valid in one."""
    for name, value in tomllib.loads(str(example.parsed)).items():
        field = Scope.model_fields.get(name)
        if field is not None and isinstance(value, dict):
            TypeAdapter(field.annotation).validate_python(value)


def _read_json(example: Example) -> None:
    json.loads(str(example.parsed))


def _needs_another_system(_example: Example) -> None:
    raise AssertionError("commands of another system: skip the block, with the reason")


def shared_folder() -> Path:
    """Return the folder of the shared samples of this test run, one for all its workers.

    The environment variable ``DOCS_SAMPLES`` names a folder that is kept, for the next run.
    """
    if kept := os.environ.get("DOCS_SAMPLES"):
        return Path(kept)
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    return Path(tempfile.gettempdir()) / f"wbcpipe-docs-{run}"


def _open_page(namespace: dict[str, Any]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="wbcpipe-page-"))
    namespace["_shell"] = PageShell(folder, SharedSamples(shared_folder()).copy)
    namespace["_before"] = Path.cwd()
    os.chdir(folder)


def _close_page(namespace: dict[str, Any]) -> None:
    os.chdir(namespace["_before"])
    namespace["_shell"].close()


PAGES: Final = Sybil(
    parsers=[
        SkipParser(),
        PythonCodeBlockParser(),
        CodeBlockParser("sh", _run_shell),
        CodeBlockParser("toml", _read_toml),
        CodeBlockParser("json", _read_json),
        *(CodeBlockParser(language, _needs_another_system) for language in _ELSEWHERE),
    ],
    path=str(DOCS),
    patterns=["*.md"],
    excludes=_LEFT_OUT,
    setup=_open_page,
    teardown=_close_page,
)


def is_block(example: Example) -> bool:
    """Return whether an example is a block, and no directive that skips one."""
    return not isinstance(example.region.evaluator, Skipper)


def page_line(example: Example) -> str:
    """Return the page of a block and its line, as ``docs/how-to/night.md:12``."""
    page = Path(example.path).relative_to(DOCS.parent).as_posix()
    return f"{page}:{example.line}"


def run_blocks(path: Path) -> Iterator[tuple[str, str]]:
    """Run the blocks of a file that pytest does not hand to `PAGES`, since it is elsewhere.

    Yields:
        page and line of each block, and the reason why it was skipped, else empty.
    """
    document = PAGES.parse(path)
    _open_page(document.namespace)
    try:
        for example in document.examples():
            why = ""
            try:
                example.evaluate()
            except unittest.SkipTest as skip:
                why = str(skip)
            if is_block(example):
                yield page_line(example), why
    finally:
        _close_page(document.namespace)
