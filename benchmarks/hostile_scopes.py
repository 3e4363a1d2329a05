"""Damage scope files and .cfg files in every way that editors, people and disks do, and give each
to `doctor`.

Each must be accepted, or refused in one line that names the file: no traceback, no hang, bounded
memory. The damages follow from a seed. Run: python benchmarks/hostile_scopes.py [--scopes 300]
[--seed 1] [--json]
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import re
import resource
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from click.testing import CliRunner

from wbcpipe.acquire.cli import doctor
from wbcpipe.errors import WbcpipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHIPPED: Final = Path(__file__).parents[1] / "hardware_configs"
#: A scope that takes longer hangs.
LIMIT_S: Final = 5.0
#: Memory that all of them together may add.
LIMIT_MB: Final = 200.0
NUMBERS: Final = (
    *(
        "nan",
        "inf",
        "-inf",
        "1e300",
        "-1e300",
        "1e15",
        "4e7",
        "-1",
        "0",
        "1e-9",
        "0.001",
        "0,1",
        "1.000,5",
    ),
    *(
        "0x" + "f" * 5000,
        "9" * 400,
        "9" * 5000,
        "true",
        '"12"',
        "[]",
        "{}",
        "1979-05-27",
        "0.1.2",
        "",
        "1e999",
    ),
)
TEXTS: Final = (
    *(
        "",
        " ",
        "\\u0000",
        "C:\\Users\\x",
        "C:/temp",
        "../../..",
        "Öl",
        "\u202e",
        "'",
        "x" * 100_000,
        "[bold]",
    ),
    *(
        "{slide:999999999}",
        "Core",
        "Camera ",
        "LED",
        "State-5",
        "-",
        "#",
        ",",
        "a,b,c,d,e,f,g,h",
        "\n",
        "\t",
    ),
    *("nan", "%s%n", "(" * 500),
)


@dataclass(frozen=True)
class Outcome:
    """What became of one damaged scope.

    Attributes:
        damages: their names.
        end: ``accepted``, ``refused``, or what went wrong.
        seconds: of `doctor`.
    """

    damages: str
    end: str
    seconds: float


def numbers(rng: random.Random, content: bytes) -> bytes:
    """Put another number in the place of one."""
    found = list(re.finditer(rb"(?<![\w.])-?\d+(\.\d+)?(?![\w.])", content))
    return _replace(content, rng.choice(found), rng.choice(NUMBERS).encode()) if found else content


def texts(rng: random.Random, content: bytes) -> bytes:
    """Put another text in the place of one in quotes or between commas."""
    found = list(re.finditer(rb'(?<=")[^"\n]*(?=")|(?<=,)[^,\n]+(?=[,\n])', content))
    return _replace(content, rng.choice(found), rng.choice(TEXTS).encode()) if found else content


def lines(rng: random.Random, content: bytes) -> bytes:
    """Delete, double, move, indent or cut lines."""
    parts = content.split(b"\n")
    at, to = rng.randrange(len(parts)), rng.randrange(len(parts))
    match rng.randrange(6):
        case 0:
            del parts[at : at + rng.choice((1, 1, 5))]
        case 1:
            parts.insert(to, parts[at])
        case 2:
            parts.insert(to, parts.pop(at))
        case 3:
            parts[at] = rng.choice((b" ", b"\t", b"#")) + parts[at]
        case 4:
            parts[at] = parts[at][: len(parts[at]) // 2]
        case _:
            parts[at] = parts[at] * (3000 if len(parts[at]) < 1000 else 2)
    return b"\n".join(parts)


def bits(rng: random.Random, content: bytes) -> bytes:
    """Flip bits, as a disk does."""
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 3, 30))):
        if damaged:
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def runs(rng: random.Random, content: bytes) -> bytes:
    """Cut, empty, zero or fill a run of bytes."""
    at = rng.randrange(len(content) + 1)
    length = rng.choice((1, 16, 400, len(content)))
    filling = rng.choice(
        (
            b"",
            b"\0" * length,
            bytes(rng.randrange(256) for _ in range(min(length, 400))),
            b"[" * 3000,
        )
    )
    return content[:at] + filling + content[at + length :]


def encodings(rng: random.Random, content: bytes) -> bytes:
    """Save as another editor or system does."""
    text = content.decode("utf-8", "replace")
    match rng.randrange(6):
        case 0:
            return b"\xef\xbb\xbf" + content
        case 1:
            return text.encode("utf-16")
        case 2:
            return content.replace(b"\n", b"\r\n")
        case 3:
            return content.replace(b"\n", b"\r")
        case 4:
            return "# Objektiv: 40x Öl\n".encode("cp1252") + content
        case _:
            return text.replace("e", "é").encode("cp1252", "replace")


def keys(rng: random.Random, content: bytes) -> bytes:
    """Misspell a word."""
    found = list(re.finditer(rb"\w{3,}", content))
    if not found:
        return content
    word = rng.choice(found)
    return _replace(
        content, word, rng.choice((word[0].swapcase(), word[0][:-1], word[0] + b"x", word[0][::-1]))
    )


DAMAGES: Final[tuple[Callable[[random.Random, bytes], bytes], ...]] = (
    *(numbers, numbers, texts, texts, lines, lines, bits, runs, encodings, keys),
)


def _replace(content: bytes, match: re.Match[bytes], by: bytes) -> bytes:
    return content[: match.start()] + by + content[match.end() :]


def damaged_scopes(seed: int, count: int) -> Iterator[tuple[str, bytes, str, bytes]]:
    """Yield the damages' names, the scope file, the name of its .cfg, and the .cfg."""
    scopes = sorted(SHIPPED.glob("*.toml"))
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        toml = rng.choice(scopes).read_bytes()
        cfg_name = re.search(rb'config = "([^"]+)"', toml)
        assert cfg_name is not None
        name = cfg_name[1].decode()
        contents = {"toml": toml, "cfg": (SHIPPED / name).read_bytes()}
        done = []
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            which, damage = rng.choice(("toml", "cfg")), rng.choice(DAMAGES)
            contents[which] = damage(rng, contents[which])
            done.append(f"{which} {damage.__name__}")
        yield ", ".join(done), contents["toml"], name, contents["cfg"]


def try_scope(folder: Path, scope: tuple[str, bytes, str, bytes]) -> Outcome:
    """Give a damaged scope to `doctor --offline` in this process."""
    damages, toml, name, cfg = scope
    (folder / "scope.toml").write_bytes(toml)
    (folder / name).write_bytes(cfg)
    started_s = time.monotonic()
    result = CliRunner().invoke(
        doctor,
        [
            "--scope",
            str(folder / "scope.toml"),
            "--offline",
            "--json",
            "--data",
            str(folder / "data"),
        ],
    )
    seconds = time.monotonic() - started_s
    return Outcome(damages, _end(result.exception, result.stdout, seconds), seconds)


def _end(error: BaseException | None, printed: str, seconds: float) -> str:
    if error is not None and not isinstance(error, WbcpipeError):
        return f"a defect: {type(error).__name__}: {error}"
    if seconds > LIMIT_S:
        return f"a hang of {seconds:.0f} s"
    try:
        checks = json.loads(printed)["checks"]
    except (ValueError, KeyError):
        return "no JSON"
    if any("\n" in check["detail"] or "Traceback" in check["detail"] for check in checks):
        return "more than one line"
    return "accepted" if error is None else "refused"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--scopes", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        intact = sorted(SHIPPED.glob("demo.toml"))[0].read_bytes()
        try_scope(
            Path(folder), ("none", intact, "demo.cfg", (SHIPPED / "demo.cfg").read_bytes())
        )  # loads the modules
        before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        outcomes = [
            try_scope(Path(folder), scope) for scope in damaged_scopes(options.seed, options.scopes)
        ]
        grown_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before_mb
    ends = Counter(
        outcome.end if outcome.end in ("accepted", "refused") else "wrong" for outcome in outcomes
    )
    wrong = [outcome for outcome in outcomes if outcome.end not in ("accepted", "refused")]
    rows = [
        {"damages": outcome.damages, "end": outcome.end, "seconds": round(outcome.seconds, 2)}
        for outcome in wrong
    ]
    slowest_s = max(outcome.seconds for outcome in outcomes)
    if options.json:
        versions = {"python": platform.python_version()}
        summary = {"accepted": ends["accepted"], "refused": ends["refused"], "wrong": ends["wrong"]}
        more = {"slowest_s": round(slowest_s, 2), "grown_mb": round(grown_mb, 1)}
        content = {
            "name": "hostile scopes",
            "ratio": ends["wrong"] / len(outcomes),
            "rows": rows,
            "versions": versions,
        }
        print(json.dumps({**content, **summary, **more, "cpu": platform.processor()}))
    else:
        shares = ", ".join(f"{ends[end]} {end}" for end in ("refused", "accepted", "wrong"))
        print(f"{len(outcomes)} damaged scopes: {shares}")
        print(f"slowest {slowest_s:.2f} s, memory grown by {grown_mb:.0f} MB")
        for row in rows:
            print(f"  {row['damages']}: {row['end']}")
    raise SystemExit(bool(wrong) or grown_mb > LIMIT_MB)


if __name__ == "__main__":
    main()
