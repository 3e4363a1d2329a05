"""Options that name a file or folder to write, of every command."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click
import pytest

from wbcpipe.cli.commands import cli
from wbcpipe.cli.options import OutputFile, OutputFolder, OutputPath
from wbcpipe.errors import StorageError, WbcpipeError
from wbcpipe.pipeline import main
from wbcpipe.samples.records import FocusRecord
from wbcpipe.system.files import append_event, append_line, make_folder, stream_atomic, write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

#: Options of other types that name what is read.
READ = {
    "alerts",
    "alerts_path",
    "certificate",
    "file",
    "key",
    "lab",
    "onnx",
    "order",
    "password_file",
    "recipe_path",
    "reference",
    "reference_differential",
    "scope_name",
    "settings",
}


def commands(
    group: click.Group, before: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    if before:
        yield before, group
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*before, name))
        else:
            yield (*before, name), command


OUTPUTS = [
    pytest.param(words, option, id=" ".join((*words, option.opts[0])))
    for words, command in commands(cli)
    for option in command.params
    if isinstance(option.type, (OutputFile, OutputFolder, OutputPath)) and option.name != "data"
]


@pytest.fixture
def special(tmp_path: Path) -> Iterator[dict[str, Path]]:
    pipe, address, link = tmp_path / "pipe", tmp_path / "socket", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        yield {
            "device": Path("/dev/null"),
            "full": Path("/dev/full"),
            "pipe": pipe,
            "socket": address,
            "link": link,
        }


def test_every_option_of_a_path_either_reads_or_checks_what_it_writes() -> None:
    unchecked = [
        (*words, option.name)
        for words, command in commands(cli)
        for option in command.params
        if isinstance(option, click.Option)
        and type(option.type) is click.Path
        and option.name not in READ
    ]
    assert unchecked == []
    assert len(OUTPUTS) >= 12


@pytest.mark.parametrize(("words", "option"), OUTPUTS)
def test_an_output_that_is_no_regular_file_is_refused_in_one_line(
    words: tuple[str, ...],
    option: click.Option,
    special: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    targets = {**special}
    if isinstance(option.type, OutputFile):
        targets["folder"] = special["pipe"].parent
    elif isinstance(option.type, OutputFolder):
        targets["file"] = special["pipe"].parent / "file"
        targets["file"].touch()
    for target in targets.values():
        with pytest.raises(SystemExit) as end:
            main([*words, option.opts[0], str(target)])
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error: ")]
        assert end.value.code == 2
        assert len(said) == 1
        assert f"{target}: this is " in said[0]
        assert "give the path of a" in said[0]
        assert not list(Path("/dev").glob(".*.partial"))


@pytest.mark.parametrize("writer", [write_atomic, stream_atomic])
def test_a_file_is_never_written_over_what_is_no_file(
    writer: Callable[[Path], AbstractContextManager[IO[bytes]]],
    special: dict[str, Path],
    tmp_path: Path,
) -> None:
    for target in (*special.values(), tmp_path):
        before = target.stat()
        with pytest.raises(StorageError, match="give the path of a file"), writer(target) as handle:
            handle.write(b"content")
        assert target.stat() == before


def test_a_file_whose_folder_is_none_is_refused(special: dict[str, Path], tmp_path: Path) -> None:
    for path, reason in (
        (special["pipe"] / "a" / "b", "pipe is a pipe; give a path"),
        (special["socket"] / "b", "socket is a socket; give a path"),
        (tmp_path / "none" / "b", "its folder does not exist"),
    ):
        with pytest.raises(StorageError, match=reason), write_atomic(path):
            pass
        with pytest.raises(StorageError, match=reason):
            append_line(path, "content")


def test_a_line_is_never_appended_to_what_is_no_file(special: dict[str, Path]) -> None:
    for target in special.values():
        with pytest.raises(StorageError, match="this is a "):
            append_line(target, "content")
        with pytest.raises(WbcpipeError, match=r"this is a (device|pipe|socket), no regular file"):
            append_event(target, "scan_ended")


def test_a_folder_is_not_made_below_what_is_no_folder(
    special: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for blocker in (*special.values(), tmp_path / "file"):
        for folder in (blocker, blocker / "a", blocker / "a" / "b"):
            with pytest.raises(StorageError, match="cannot be one, because"):
                make_folder(folder)


def test_a_record_that_is_a_pipe_or_a_device_is_refused_at_once(special: dict[str, Path]) -> None:
    for path in special.values():
        with pytest.raises(
            WbcpipeError, match=r"this is a (device|pipe|socket), no regular file; restore"
        ):
            FocusRecord.read(path)
