"""``batch install``: print or write what starts a batch every night."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from wbcpipe.cli.click_types import ParamType
from wbcpipe.cli.options import OutputFolder, data_option, deadline_time, options_into
from wbcpipe.errors import ConfigError

if TYPE_CHECKING:
    from wbcpipe.batch.install.units import NightStart

__all__ = ["InstallOptions", "install"]

_HINTS = {
    "linux": (
        "Install: save both files in ~/.config/systemd/user/, then\n"
        "  systemctl --user daemon-reload && systemctl --user enable --now {unit}.timer\n"
        "  loginctl enable-linger        or the batch ends when you log out\n"
        "Watch: journalctl --user -u {unit}.service -f, or wbcpipe batch status --watch\n"
        "Stop:  wbcpipe batch stop, or systemctl --user stop {unit}.service"
    ),
    "windows": (
        'Install: schtasks /Create /TN "{unit}" /XML "{unit}.xml"   (as --out writes it, in '
        "UTF-16)\n"
        "The user must stay logged on (a locked screen is fine): drivers of cameras and stages "
        "need a session.\n"
        "Watch: wbcpipe batch status --watch.   Stop: wbcpipe batch stop.   Remove: schtasks "
        '/Delete /TN "{unit}"'
    ),
}


class _TimeOfDay(ParamType[datetime]):
    """A time of day, as its next occurrence."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        if isinstance(value, datetime):
            return value
        text = str(value).strip()
        try:
            if ":" not in text:
                raise ValueError(f"{text!r} is not a time of day: give one such as 19:00")
            return deadline_time(text, datetime.now())
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


@dataclass(frozen=True)
class InstallOptions:
    """The options of ``batch install``, by their names on the command line; see its help."""

    worklist: Path
    run_options: tuple[str, ...]
    at: datetime
    system: Literal["windows", "linux"]
    unit: str
    out: Path | None
    data: Path | None


@click.command("install")
@click.argument("worklist", type=click.Path(path_type=Path, dir_okay=False), default="NIGHT.csv")
@click.argument("run_options", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--at",
    type=_TimeOfDay(),
    default="19:00",
    show_default=True,
    metavar="HH:MM",
    help="When it starts.",
)
@click.option(
    "--for",
    "system",
    type=click.Choice(["windows", "linux"]),
    default="windows" if sys.platform == "win32" else "linux",
    show_default=True,
    help="The operating system that will start it.",
)
@click.option(
    "--unit",
    default="wbcpipe-night",
    show_default=True,
    metavar="NAME",
    help="Name of the unit or task.",
)
@click.option(
    "--out",
    type=OutputFolder(),
    metavar="FOLDER",
    help="Write them there [print].",
)
@data_option
@options_into(InstallOptions)
def install(options: InstallOptions) -> None:
    """Print the files with which the operating system runs WORKLIST every night; install nothing.

    For Linux a systemd service and its timer, for Windows a task for the Task Scheduler. They start
    `batch run` at the given time and start it again after a failure: the same command resumes. The
    worklist may be written later. What follows -- goes to `batch run`.
    docs/how-to/unattended.md says what else the computer needs.

    \b
    Examples:
      wbcpipe batch install NIGHT.csv --at 19:00
      wbcpipe batch install NIGHT.csv --for windows --out task -- --scope my-scope.toml
    """
    from wbcpipe.batch.install.units import start_files
    from wbcpipe.system.files import make_folder, write_atomic

    start = _start(options)
    for file in start_files(start, options.system):
        if options.out is None:
            click.echo(file.text)
        else:
            make_folder(options.out)
            with write_atomic(options.out / file.name) as handle:
                handle.write(file.content())
            click.echo(str(options.out / file.name))
    click.echo(_HINTS[options.system].format(unit=start.unit), err=True)


def _start(options: InstallOptions) -> NightStart:
    from wbcpipe.batch.commands.run import run
    from wbcpipe.batch.install.units import NightStart
    from wbcpipe.samples.sample import data_root

    if not options.unit.replace("-", "").replace("_", "").isalnum() or not options.unit.isascii():
        raise ConfigError(
            f"--unit {options.unit!r}: only letters, digits, '-' and '_' are allowed."
        )
    worklist = options.worklist.absolute()
    words = [str(worklist), "--data", str(data_root(options.data).absolute()), *options.run_options]
    run.make_context("wbcpipe batch run", list(words))  # a mistake is told now, not at night
    return NightStart(
        unit=options.unit,
        words=(sys.executable, "-m", "wbcpipe", "batch", "run", *words),
        folder=Path.cwd(),
        at=options.at,
        title=worklist.name,
    )
