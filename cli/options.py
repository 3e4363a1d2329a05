"""Options that several commands share, with one meaning and one help text."""

from __future__ import annotations

import functools
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args

import click

from wbcpipe.cli.click_types import ParamType, PathType
from wbcpipe.system.compute import Device, EngineName
from wbcpipe.system.file_kinds import is_file, kind_of_special

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "OutputFile",
    "OutputFolder",
    "OutputPath",
    "already_stained_option",
    "core_log_option",
    "data_option",
    "deadline_option",
    "deadline_time",
    "device_option",
    "engine_option",
    "json_option",
    "options_into",
    "place_option",
    "sample_option",
    "scope_option",
    "sequencing_option",
    "slot_option",
    "specimen_options",
]

_Options = TypeVar("_Options")
_DURATION: Final = re.compile(r"(?:(\d{1,3})h)?(?:(\d{1,4})m)?(?:(\d{1,5})s)?")
_CLOCK: Final = re.compile(r"(\d{1,2}):(\d{2})")


def deadline_time(text: str, now: datetime) -> datetime:
    """Return the time of a deadline given as a span from now, or as a time of day, today or
    tomorrow.

    Args:
        text: such as ``90m``, ``2h``, ``1h30m``, ``45s``, or ``06:30``.
        now: local time.

    Raises:
        ValueError: the text is neither; the error says what is allowed.

    >>> evening = datetime(2026, 11, 22, 22, 0)
    >>> str(deadline_time("1h30m", evening)), str(deadline_time("06:30", evening))
    ('2026-11-22 23:30:00', '2026-11-23 06:30:00')
    """
    if clock := _CLOCK.fullmatch(text):
        hour, minute = int(clock[1]), int(clock[2])
        if hour > 23 or minute > 59:
            raise ValueError(f"{text!r} is not a time of day: give 00:00 to 23:59")
        at = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
        return at if at > now else at + timedelta(days=1)
    span = _DURATION.fullmatch(text)
    if span is None or not text:
        raise ValueError(
            f"{text!r} is not a deadline: give a span such as 90m, 2h or 1h30m, or a time of day "
            f"such as 06:30"
        )
    hours, minutes, seconds = (int(number or 0) for number in span.groups())
    length = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    if not length:
        raise ValueError(f"{text!r} is a span of zero: give a longer one, such as 90m")
    return now + length


class _Deadline(ParamType[float]):
    """A span or a time of day, as seconds of `time.time`."""

    name = "deadline"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        try:
            return deadline_time(str(value).strip(), datetime.now().astimezone()).timestamp()
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


class OutputFile(PathType[Path]):
    """A file to write: a folder, device, pipe or socket is refused before the command begins."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)
        self.name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path; end the command where no file can be written."""
        path = super().convert(value, param, ctx)
        if kind := kind_of_special(path):
            self.fail(
                f"{path}: this is {kind}, and a file is to be written; give the path of a file.",
                param,
                ctx,
            )
        return path


class OutputFolder(PathType[Path]):
    """A folder to write to, which may not exist yet: anything else of that name is refused."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)
        self.name = "directory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path; end the command where no folder can be."""
        path = super().convert(value, param, ctx)
        kind = "a file" if is_file(path) else kind_of_special(path)
        if kind and kind != "a folder":
            self.fail(
                f"{path}: this is {kind}, and a folder is needed; give the path of a folder.",
                param,
                ctx,
            )
        return path


class OutputPath(PathType[Path]):
    """A file or a folder to write, as another option decides: a device, pipe or socket is
    refused.
    """

    def __init__(self) -> None:
        super().__init__(path_type=Path)
        self.name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path; end the command where neither can be written."""
        path = super().convert(value, param, ctx)
        kind = kind_of_special(path)
        if kind and kind != "a folder":
            self.fail(
                f"{path}: this is {kind}, and a file or folder is to be written; give the path of "
                f"a file or folder.",
                param,
                ctx,
            )
        return path


def options_into(
    kind: type[_Options],
) -> Callable[[Callable[[_Options], None]], Callable[..., None]]:
    """Give a command its options as one dataclass: place it below the last option.

    Args:
        kind: the dataclass; its fields are named as the options' parameters.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Greeting:
    ...     name: str
    ...     loud: bool
    >>> options_into(Greeting)(lambda options: print(options.name))(name="Ada", loud=False)
    Ada
    """

    def wrap(command: Callable[[_Options], None]) -> Callable[..., None]:
        @functools.wraps(command)
        def call(**given: Any) -> None:
            command(kind(**given))

        return call

    return wrap


data_option: Final = click.option(
    "--data",
    type=OutputFolder(),
    help="Folder of the samples; default $WBCPIPE_DATA, else ./wbc-data.",
)
json_option: Final = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object and nothing else."
)
sample_option: Final = click.option(
    "--sample", "name", required=True, metavar="NAME", help="The sample."
)
scope_option: Final = click.option(
    "--scope",
    "scope_name",
    default="demo",
    show_default=True,
    help="Name of a scope, or path of its .toml file.",
)
slot_option: Final = click.option(
    "--slot",
    help="Slot of the stage insert that holds the slide [A, or the one that the scope's loader "
    "serves].",
)
place_option: Final = click.option(
    "--place",
    type=click.IntRange(min=1),
    metavar="N",
    help="The slide's place in the scope's loader, from 1.",
)
core_log_option: Final = click.option(
    "--core-log",
    type=OutputFile(),
    help="Write all that Micro-Manager's core and its drivers do to this file (at most 60 MB), "
    "for a driver's author.",
)
already_stained_option: Final = click.option(
    "--already-stained",
    is_flag=True,
    help="With --protocol two-pass: the slide is stained; do not stain it.",
)
sequencing_option: Final = click.option(
    "--sequencing",
    type=click.Choice(["auto", "on", "off"]),
    help="Take the frames of a field in one hardware sequence; the files are the same [as in the "
    "scope file].",
)
device_option: Final = click.option(
    "--device",
    type=click.Choice(get_args(Device)),
    default="auto",
    show_default=True,
    help="Where to compute.",
)
engine_option: Final = click.option(
    "--engine",
    type=click.Choice(get_args(EngineName)),
    default="auto",
    show_default=True,
    help="Inference engine; auto takes torch on a GPU, else OpenVINO, else torch.",
)
deadline_option: Final = click.option(
    "--deadline",
    "deadline_s",
    type=_Deadline(),
    metavar="SPAN|HH:MM",
    help="Start no field after this: 90m, 2h or 1h30m from now, or a time of day. Fields already "
    "taken are processed.",
)


def specimen_options(command: Callable[..., None]) -> Callable[..., None]:
    """``--specimen-seed`` and ``--specimen-preparation``."""
    seed = click.option(
        "--specimen-seed",
        type=click.IntRange(min=0),
        help="Virtual scope only: which specimen [7].",
    )
    preparation = click.option(
        "--specimen-preparation",
        type=click.Choice(["blood-film", "buffy-coat"]),
        help="Virtual scope only: a healthy blood film, or white cells enriched, all classes "
        "alike [blood-film].",
    )
    return seed(preparation(command))
