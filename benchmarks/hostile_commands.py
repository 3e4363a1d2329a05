"""Give every command names, numbers, paths and files that no command should be given.

Each command line must be carried out, or refused in words with an exit code of its own: no
traceback, no "defect", no hang, bounded memory. The command lines follow from a seed; every
parameter of every command takes part, by its type.

Run: python benchmarks/hostile_commands.py [--commands 300] [--seed 1] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import random
import resource
import signal
import socket
import struct
import tempfile
import time
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import numpy as np
import tifffile
from PIL import Image

from wbcpipe.cli.commands import cli
from wbcpipe.errors import WbcpipeError, WorklistError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: A command that takes longer hangs.
LIMIT_S: Final = 20
#: Memory that all of them together may add.
LIMIT_MB: Final = 1500.0
#: Commands that open a window, write settings of the operating system, or only wait.
LEFT_OUT: Final = frozenset({"view", "batch install"})
#: Parameters that name a file or folder to write: nothing outside the temporary folder.
WRITTEN: Final = frozenset({"out", "core_log", "html", "metrics_textfile", "data"})
NAMES: Final = (
    *(
        "",
        " ",
        "..",
        ".",
        "/",
        "a/b",
        "a\\b",
        "../../etc",
        "-",
        "--",
        "CON",
        "nul.txt",
        "x" * 300,
        "x" * 70_000,
        "*",
    ),
    *(
        "a\nb",
        "a\tb",
        "\x1b[31m",
        "caf\udce9",
        "\ud83d",
        "\u202egnp",
        "[bold]",
        "{slide}",
        "%s%n",
        "$(id)",
        "a:b",
    ),
    *(
        "'",
        '"',
        "a=b",
        "=",
        ",",
        "NEU:-1%",
        "NEU:nan%",
        "x=1e999",
        "a.b.c=[[[",
        "os:system",
        "nothing.there:x",
        "é",
    ),
)
TARGETS: Final = ("new/file", "folder", "empty.json", "x" * 300, "caf\udce9", "circle/x", "pipe")
NUMBERS: Final = (
    *(
        "nan",
        "inf",
        "-inf",
        "1e300",
        "-1e300",
        "1e-300",
        "0",
        "-1",
        "1e15",
        "9" * 400,
        "9" * 5000,
        "0x10",
    ),
    *("1_0", "", " ", "0,1", "1.000,5", "٣", "true", "1e999", "-0.0", "1/2"),
)


@dataclass(frozen=True)
class Outcome:
    """What became of one command line.

    Attributes:
        arguments: of the command.
        end: ``done``, ``refused``, or what went wrong.
        seconds: that it took.
    """

    arguments: tuple[str, ...]
    end: str
    seconds: float


def png(width: int, height: int, colour_type: int = 2) -> bytes:
    """A PNG of this size that holds a few bytes of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def tiff(width: int, height: int, compression: int = 1, photometric: int = 2) -> bytes:
    """A TIFF of this size in 300 bytes."""
    entries = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, 8),
        (259, 3, compression),
        (262, 3, photometric),
    ]
    entries += [
        (273, 4, 200),
        (277, 3, 3 if photometric == 2 else 1),
        (278, 4, height),
        (279, 4, 100),
    ]
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    content = b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", 0)
    return content.ljust(300, b"\0")


def npy(shape: tuple[int, ...], kind: str = "<u2") -> bytes:
    """An array of numpy of this shape that holds a few bytes."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": kind, "fortran_order": False, "shape": shape}
    )
    return header.getvalue() + bytes(100)


def write_files(folder: Path) -> None:
    """Write the files and other things that are given to commands."""
    deep = 100_000
    contents = {
        "empty.json": b"",
        "deep.json": b"[" * deep + b"]" * deep,
        "deeper.json": b'{"a":' * 3000 + b"1" + b"}" * 3000,
        "list.json": b"[1, 2]",
        "nan.json": b'{"percent": {"NEU": [NaN, 1e999]}, "epochs": NaN}',
        "digits.json": b'{"epochs": ' + b"9" * 10_000 + b"}",
        "surrogate.json": b'{"source": "\\ud800", "percent": {"NEU": [1, 2]}}',
        "latin1.json": '{"source": "Zürich"}'.encode("latin-1"),
        "utf16.json": '{"source": "x"}'.encode("utf-16"),
        "deep.toml": b"a = " + b"[" * deep,
        "dotted.toml": b".".join([b"a"] * 5000) + b" = 1",
        "null.toml": b"\0" * 1000,
        "comma.toml": b"camera = 0,1",
        "rows.csv": b"sample,slide\n" + b"x" * 100_000 + b'\n"',
        "nul.csv": b"sample\n\0\n",
        "bomb.tif": tiff(65_535, 65_535),
        "lzw.tif": tiff(65_535, 65_535, compression=5),
        "jpeg.tif": tiff(40_000, 40_000, compression=7, photometric=6),
        "zero.tif": tiff(0, 0),
        "short.tif": tiff(500, 500),
        "header.tif": b"II*\0\xff\xff\xff\xff",
        "loop.tif": b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
        "cells.npy": npy((10**9, 4, 70, 70)),
        "plane.npy": npy((4, 10**6, 10**6)),
        "none.npy": npy((0, 4, 0, 0)),
        "negative.npy": npy((-5, 4, 70, 70)),
        "objects.npy": npy((2, 2), "|O"),
        "short.npy": npy((2, 4, 70, 70)),
        "zip.npz": b"PK\x03\x04" + bytes(100),
        "large.png": png(9_400, 9_400),
        "huge.png": png(2_000_000_000, 2_000_000_000),
        "none.png": png(0, 0),
        "half.png": png(400, 400),
        "text.jpg": b"hello",
        "head.jpg": b"\xff\xd8\xff\xe0\0\x10JFIF\0",
        "x.webp": b"RIFF\xff\xff\xff\xffWEBPVP8 ",
        "x.bmp": b"BM" + bytes(52),
        "x.czi": b"ZISRAWFILE",
        "bundle.json": b'{"format_version": 1e400}',
        "caf\udce9.json": b"{",
        "caf\udce9.png": png(400, 400),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder").mkdir()
    (folder / "folder" / "only.txt").write_text("x")
    (folder / "scan.ome.zarr").mkdir()
    (folder / "circle").symlink_to("circle")
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(folder / "socket"))  # a socket's path may have 107 bytes
    with (folder / "endless.json").open("wb") as handle:
        handle.truncate(20 * 2**30)
    noise = np.random.default_rng(1).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    tifffile.imwrite(folder / "plane.tif", noise[..., 0])
    tifffile.imwrite(
        folder / "nan.tif", np.full((40, 40, 3), np.nan, np.float32), photometric="rgb"
    )


def commands(
    group: click.Group, before: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command with its words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*before, name))
        elif " ".join((*before, name)) not in LEFT_OUT:
            yield (*before, name), command


def command_lines(seed: int, count: int, folder: Path) -> Iterator[tuple[str, ...]]:
    """Yield command lines that follow from a seed; ``folder`` as of `write_files`."""
    random_ = random.Random(seed)
    table = list(commands(cli))
    paths = [
        *(str(path) for path in sorted(folder.iterdir(), key=os.fsencode)),
        "/dev/zero",
        "/dev/full",
        "/dev/null",
    ]
    paths += [str(folder / "not there"), str(folder / ("x" * 300)), "/proc/self/mem", ""]
    for number in range(count):
        words, command = table[number % len(table)]
        arguments = [*words]
        for parameter in command.params:
            arguments += _given(random_, parameter, paths, folder)
        yield tuple(arguments)


def _given(
    random_: random.Random, parameter: click.Parameter, paths: Sequence[str], folder: Path
) -> list[str]:
    """Return a parameter with a hostile value.

    What is not required is left out more often than not.
    """
    # Without a scope of its own a command would open the virtual one, and do what it is asked for.
    must = (
        parameter.required
        or parameter.name in ("scope_name", "alerts", "alerts_path")
        or parameter.nargs == -1
    )
    if not must and random_.random() < 0.6:
        return []
    name = parameter.opts[0]
    if isinstance(parameter, click.Option) and parameter.is_flag:
        return [name]
    if isinstance(parameter.type, click.Choice) and random_.random() < 0.9:
        value = random_.choice([str(choice) for choice in parameter.type.choices])
    elif parameter.name in WRITTEN:
        value = str(folder / random_.choice(TARGETS))
    elif isinstance(parameter.type, click.Path) or parameter.name in (
        "scope_name",
        "bundle",
        "paths",
        "alerts",
    ):
        value = random_.choice(paths)
    elif "int" in parameter.type.name or "float" in parameter.type.name:
        value = random_.choice(NUMBERS)
    else:
        value = random_.choice([*NAMES, *NAMES, *paths, *NUMBERS, "good"])
    return [value] if isinstance(parameter, click.Argument) else [name, value]


class TooLongError(BaseException):
    """A command hangs; no handler of an ordinary error may take it."""


def try_command(arguments: tuple[str, ...]) -> Outcome:
    """Run one command line in this process, as `pipeline.main` does."""
    began = time.perf_counter()
    told = io.StringIO()
    try:
        with _time_limit(), contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            cli.main(args=list(arguments), prog_name="wbcpipe", standalone_mode=False)
        end = "done"
    except TooLongError:
        end = f"hangs: more than {LIMIT_S} s"
    except (WbcpipeError, click.ClickException) as error:
        # A worklist is refused with all its mistakes, one a line.
        several = isinstance(error, (click.ClickException, WorklistError))
        lines = 1 if several else len(str(error).splitlines())
        end = "refused" if lines == 1 else f"{lines} lines: {error}"
    except (SystemExit, click.Abort, KeyboardInterrupt):
        end = "refused"
    except Exception as error:  # noqa: BLE001 - what this script looks for
        end = f"a defect: {type(error).__name__}: {error}"
    end = "a traceback is printed" if "Traceback (most" in told.getvalue() else end
    return Outcome(arguments, end[:500], time.perf_counter() - began)


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def too_long(_signal: int, _frame: Any) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(seed: int, count: int) -> list[Outcome]:
    """Run command lines in a temporary folder."""
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        folder = Path(name) / "files"
        folder.mkdir()
        write_files(folder)
        os.environ["WBCPIPE_DATA"] = str(Path(name) / "data")
        make_sample(Path(name))
        return [try_command(arguments) for arguments in command_lines(seed, count, folder)]


def make_sample(folder: Path) -> None:
    """Import a sample named ``good``, so that commands get beyond its name."""
    y, x = np.mgrid[:120, :120] - 60
    cell = np.full((120, 120, 3), (245, 230, 210), np.uint8)
    cell[np.hypot(y, x) < 40] = (215, 190, 200)
    cell[np.hypot(y, x) < 25] = (95, 55, 140)
    Image.fromarray(cell).save(folder / "cell.png")
    options = ["--sample", "good", "--kind", "stained-rgb", "--pixel-um", "0.1"]
    outcome = try_command(("import", "cells", str(folder / "cell.png"), *options))
    if outcome.end != "done":
        raise SystemExit(f"the sample could not be imported: {outcome.end}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--commands", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    outcomes = run(given.seed, given.commands)
    added_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before_mb
    ends = Counter(one.end if one.end in ("done", "refused") else "wrong" for one in outcomes)
    wrong = [one for one in outcomes if one.end not in ("done", "refused")]
    slowest = max(outcomes, key=lambda one: one.seconds)
    if given.json:
        print(
            json.dumps(
                {
                    "name": "hostile_commands",
                    "commands": len(outcomes),
                    "ends": dict(ends),
                    "wrong": [{"arguments": one.arguments, "end": one.end} for one in wrong],
                    "slowest_s": slowest.seconds,
                    "added_mb": added_mb,
                    "cpu": platform.processor() or platform.machine(),
                }
            )
        )
    else:
        for one in wrong:
            print(f"{one.end}\n    {' '.join(ascii(word)[:120] for word in one.arguments)}")
        print(
            f"{len(outcomes)} command lines: "
            + ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
        )
        print(
            f"slowest {slowest.seconds:.1f} s "
            f"({' '.join(ascii(word)[:60] for word in slowest.arguments)})"
        )
        print(f"memory added {added_mb:.0f} MB")
    if wrong or added_mb > LIMIT_MB:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
