"""`labels export` and `labels import` that are killed (SIGKILL) while they write."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest

from wbcpipe.labels.export import LABELS_FILE
from wbcpipe.samples.cell_attributes import CellAttributes
from wbcpipe.samples.cell_columns import COLUMNS, entry_shape
from wbcpipe.samples.cell_store import CellBlock, CellStore
from wbcpipe.samples.records import SampleRecord
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from pathlib import Path

CELLS = 6
#: Runs a command line for each line that it reads, in a copy of itself: zarr is loaded once. A copy
#: kills itself where it opens, renames or removes a file for the n-th time, 0: never.
#: Writes the exit code and the moments of each.
SERVER = """
import json, os, signal, sys
import zarr
import wbcpipe.labels.apply, wbcpipe.labels.cli, wbcpipe.labels.export
from wbcpipe.pipeline import main

sys.dont_write_bytecode = True
count = 0

def run(moment, arguments):
    def hook(event, arguments):
        global count
        opens = event == "open" and isinstance(arguments[2], int)
        writes = opens and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in ("os.rename", "os.remove", "os.mkdir"):
            count += 1
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    try:
        main(arguments)
    except SystemExit as end:
        return end.code or 0

for line in sys.stdin:
    reading, writing = os.pipe()
    if not (copy := os.fork()):
        os.dup2(2, 1)
        code = run(*json.loads(line))
        os.write(writing, str(count).encode())
        os._exit(code)
    os.close(writing)
    code = os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1])
    print(json.dumps([code, int(os.read(reading, 20) or 0)]), flush=True)
    os.close(reading)
"""

Run = Callable[..., tuple[int, int]]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Run a command that is killed at a moment.

    Return its exit code and the moments that it had, if it ended.
    """
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        commands, answers = server.stdin, server.stdout
        assert commands
        assert answers

        def run(moment: int, *arguments: str) -> tuple[int, int]:
            print(json.dumps([moment, arguments]), file=commands, flush=True)
            code, moments = json.loads(answers.readline())
            return code, moments

        yield run
        commands.close()
        assert server.wait(10) == 0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("killed")
    sample = Sample.open(root, "cells")
    sample.write(
        SampleRecord(sample="cells", created="2026-11-30T00:00:00+00:00", kind="stained-rgb")
    )
    random_ = np.random.default_rng(1)
    columns = {
        name: np.zeros((CELLS, *entry_shape(column, 4)), column.dtype)
        for name, column in COLUMNS.items()
    }
    columns["field_index"] = np.arange(CELLS, dtype=np.int32)
    images = random_.integers(0, 65535, (CELLS, 4, 32, 32)).astype(np.uint16)
    block = CellBlock(images, np.ones((CELLS, 32, 32), np.uint8), columns, [""] * CELLS)
    attributes = CellAttributes(
        modalities=("color1", "color2", "color3", "fluorescence"), pixel_um=0.1, kind="stained-rgb"
    )
    CellStore.create(sample.cells_path, [block], attributes)
    return root


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def state_of(root: Path) -> tuple[object, ...]:
    """What an import of labels changes, without its date."""
    store = CellStore(root / "cells" / "cells.zarr")
    store.check("label")
    told = [(one.source, one.sha256, one.cells) for one in store.attributes.labelled]
    return store.labels(), store.attributes.classes, told


def test_an_export_killed_at_any_moment_is_completed_by_the_same_command(
    root: Path, tmp_path: Path, run: Run
) -> None:
    def command(out: Path) -> tuple[str, ...]:
        return ("labels", "export", "--sample", "cells", "--out", str(out), "--data", str(root))

    whole = tmp_path / "whole"
    code, total = run(0, *command(whole))
    assert code == 0
    assert total > 2 * CELLS
    expected = files_of(whole)
    for moment in range(1, total + 1):
        broken = tmp_path / f"at {moment}"
        assert run(moment, *command(broken))[0] == -9
        assert run(0, *command(broken))[0] == 0
        assert files_of(broken) == expected
    assert run(0, *command(whole))[0] == 0
    assert files_of(whole) == expected


def test_an_import_killed_at_any_moment_is_completed_by_the_same_command(
    root: Path, tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "out"
    assert (
        run(0, "labels", "export", "--sample", "cells", "--out", str(out), "--data", str(root))[0]
        == 0
    )
    with (out / LABELS_FILE).open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    for row, label in zip(rows, ("NEU", "LYM", "blast", "NEU", "", "EOS"), strict=True):
        row["label"] = label
    with (out / LABELS_FILE).open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)

    def imported(name: str, moment: int) -> tuple[int, int]:
        data = tmp_path / name
        if not data.exists():
            shutil.copytree(root, data)
        return run(moment, "labels", "import", str(out), "--sample", "cells", "--data", str(data))

    code, total = imported("whole", 0)
    assert code == 0
    expected = state_of(tmp_path / "whole")
    assert expected[0] == ["NEU", "LYM", "blast", "NEU", "", "EOS"]
    assert total >= 8
    for moment in range(1, total + 1):
        assert imported(f"at {moment}", moment)[0] == -9
        assert imported(f"at {moment}", 0)[0] == 0
        assert state_of(tmp_path / f"at {moment}") == expected
