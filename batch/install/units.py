"""Fill in the files with which an operating system starts a batch."""

from __future__ import annotations

import functools
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import jinja2

from wbcpipe.errors import ConfigError

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

__all__ = ["NightStart", "StartFile", "System", "start_files"]

System = Literal["windows", "linux"]
#: Characters that a word of a unit file may have without quotes.
_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-=:,+@")


@dataclass(frozen=True)
class NightStart:
    """What is started when.

    Attributes:
        unit: name of the unit or task.
        words: of the command line, the program first.
        folder: in which it runs, absolute.
        at: the first start, in local time; then daily.
        title: of the batch, for people.
    """

    unit: str
    words: tuple[str, ...]
    folder: Path
    at: datetime
    title: str


@dataclass(frozen=True)
class StartFile:
    """A file to be installed.

    Attributes:
        name: of the file.
        text: its content, with line feeds.
        encoding: in which the operating system reads it.
    """

    name: str
    text: str
    encoding: str = "utf-8"

    def content(self) -> bytes:
        """Return the file's bytes: `schtasks` reads UTF-16 with a byte order mark, and Windows's
        line ends.
        """
        text = self.text.replace("\n", "\r\n") if self.encoding == "utf-16" else self.text
        return text.encode(self.encoding)


def start_files(start: NightStart, system: System) -> list[StartFile]:
    """Return the files for an operating system.

    Raises:
        ConfigError: a word or path has a line break, which neither system takes.
    """
    for word in (*start.words, str(start.folder), start.title):
        if not word.isprintable():
            raise ConfigError(
                f"{word!r} has a character that cannot be printed: rename the file or folder."
            )
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("wbcpipe.batch.install"),
        autoescape=jinja2.select_autoescape(enabled_extensions=("xml.j2",)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    render = functools.partial(_render, environment, start)
    if system == "windows":
        return [StartFile(f"{start.unit}.xml", render("wbcpipe-night.xml.j2"), "utf-16")]
    return [
        StartFile(f"{start.unit}.{kind}", render(f"wbcpipe-night.{kind}.j2"))
        for kind in ("service", "timer")
    ]


def _render(environment: jinja2.Environment, start: NightStart, template: str) -> str:
    return environment.get_template(template).render(
        unit=start.unit,
        title=start.title if template.endswith("xml.j2") else start.title.replace("%", "%%"),
        folder=str(start.folder)
        if template.endswith("xml.j2")
        else str(start.folder).replace("%", "%%"),
        command=" ".join(map(_systemd_word, start.words)),
        program=start.words[0],
        arguments=subprocess.list2cmdline(start.words[1:]),
        at=f"{start.at:%H:%M}",
        start=f"{start.at:%Y-%m-%dT%H:%M:00}",
    )


def _systemd_word(word: str) -> str:
    """Quote a word of `ExecStart`: ``%`` begins a specifier there, ``$`` a variable."""
    if word and _PLAIN.issuperset(word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'
