"""The pages say what is there: commands, options, modules, links and blocks."""

from __future__ import annotations

import importlib.util
import re
import shlex
from typing import TYPE_CHECKING, Final

import click
import pytest
from generated_reference import FRAGMENTS
from page_blocks import DOCS, run_blocks, shared_folder
from shared_samples import SharedSamples

from wbcpipe.cli.commands import cli

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ROOT: Final = DOCS.parent
#: Languages of a block: run, read, or shown as it is.
LANGUAGES: Final = {"sh", "python", "toml", "json", "bat", "powershell", "text"}
FENCE: Final = re.compile(r"^```(?P<language>[^\n]*)$\n(?P<text>.*?)^```$", re.M | re.S)
WRITTEN: Final = sorted(
    path
    for path in DOCS.rglob("*.md")
    if not {"results", "decisions", "generated", "_build"} & set(path.relative_to(DOCS).parts)
)
READMES: Final = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "hardware_configs/README.md"]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (language, text) of the fenced blocks of a page that are no directives of MyST."""
    for found in FENCE.finditer(path.read_text(encoding="utf-8")):
        if not found["language"].startswith("{"):
            yield found["language"], found["text"]


@pytest.mark.parametrize("path", [*WRITTEN, *READMES], ids=name)
def test_each_block_has_a_language_and_no_command_is_only_indented(path: Path) -> None:
    assert {language for language, _ in blocks(path)} <= LANGUAGES
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    assert not re.findall(r"^\n {4}(?:wbcpipe|pip|python)\b.*", text, re.M)


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each wbcpipe command of a shell block."""
    text = re.sub(r"<<(\w+)\n.*?^\1$", "", text.replace("\\\n", " "), flags=re.M | re.S)
    for line in text.splitlines():
        for part in re.split(r"&&|\|\||[;|]", line):
            words = shlex.split(part, comments=True) if "wbcpipe" in part else []
            if words[:1] == ["wbcpipe"]:
                yield words[1:]


def resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """Return the command that some words name, and the words that are left."""
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        below = command.get_command(context, words[0])
        if below is None:
            break
        command, words = below, words[1:]
    return command, words


SHELL: Final = [
    (path, words)
    for path in [*WRITTEN, *READMES]
    for language, text in blocks(path)
    if language in {"sh", "bat", "powershell"}
    for words in commands(text)
]


@pytest.mark.parametrize(
    ("path", "words"), SHELL, ids=[f"{name(path)}: {' '.join(words)}" for path, words in SHELL]
)
def test_each_command_of_a_page_has_its_options(path: Path, words: list[str]) -> None:
    """Also of the blocks that are skipped."""
    command, rest = resolve(words)
    assert command is not cli or rest[:1] in (["--help"], ["--version"]), f"{path}: {words}"
    options = {option for parameter in command.params for option in parameter.opts}
    options |= {option for parameter in command.params for option in parameter.secondary_opts}
    rest = rest[: rest.index("--")] if "--" in rest else rest
    given = {word.partition("=")[0] for word in rest if word.startswith("--")}
    assert given <= options | {"--help"}, f"{path}: {' '.join(words)}"


@pytest.mark.parametrize("path", sorted((DOCS / "explanation").glob("*.md")), ids=name)
def test_each_module_of_an_explanation_exists(path: Path) -> None:
    for module in re.findall(r"`(wbcpipe(?:\.\w+)+)`", path.read_text(encoding="utf-8")):
        assert importlib.util.find_spec(module), module


def test_each_fragment_is_included_by_a_page() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in WRITTEN)
    for fragment in [*FRAGMENTS, "commands"]:
        assert f"{{include}} generated/{fragment}.md" in text, fragment


def test_each_file_of_a_sample_is_on_its_page(tmp_path: Path) -> None:
    SharedSamples(shared_folder()).copy("reviewed", tmp_path)
    text = (DOCS / "reference" / "files.md").read_text(encoding="utf-8")
    sample = tmp_path / "wbc-data" / "S001"
    for path in sample.rglob("*"):
        where = path.relative_to(sample)
        is_lock = path.suffix in (".lock", ".holder")
        if path.is_file() and not is_lock and where.parts[0] not in ("cells.zarr", "work"):
            shown = re.sub(r"^field_\d+", "field_*", path.name)
            assert re.sub(r"^signed_\d+", "signed_<n>", shown) in text, where


@pytest.mark.parametrize("path", READMES, ids=name)
def test_the_links_of_a_readme_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        assert "://" in target or (path.parent / target).exists(), target


def test_the_readme_is_short() -> None:
    assert len(READMES[0].read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("path", READMES[:2], ids=name)
def test_the_blocks_of_a_readme_run_or_are_skipped(
    path: Path, record_property: Callable[[str, object], None]
) -> None:
    for block, why in run_blocks(path):
        record_property("skipped block" if why else "block", f"{block} {why}".strip())
