"""Samples and files that pages take as given, made once for all of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from filelock import FileLock

import wbcpipe
from wbcpipe.laboratory.lab_file import find_lab
from wbcpipe.review.readers.blind import start_reading
from wbcpipe.review.readers.calls import open_read_sample
from wbcpipe.review.server.open_samples import OpenSample
from wbcpipe.samples.review.entries import Call, Look, Reading
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.samples.review.entries import Action

__all__ = ["SharedSamples"]

#: Lines of the shipped scope that make its fields, and the area with them, small.
_SMALL: Final = (
    ("[2048, 2048]", "[1024, 1024]"),
    ("[-2500.0, 2500.0]", "[-250.0, 250.0]"),
    ("[27500.0, 32500.0]", "[29750.0, 30250.0]"),
    ('config = "demo.cfg"', 'config = "my-scope.cfg"'),
)


def _wbcpipe(folder: Path, *words: str) -> None:
    command = [sys.executable, "-m", "wbcpipe", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"


class SharedSamples:
    """Make a sample when the first page needs it, and copy it to each page.

    Args:
        folder: of all workers of a test run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._makers: dict[str, Callable[[Path], None]] = {
            "my-scope": self._my_scope,
            "S001": lambda folder: self._scan(folder, "S001", 7),
            "S002": lambda folder: self._scan(folder, "S002", 8),
            "photographs": self._photographs,
            "night": self._night,
            "reviewed": self._reviewed,
        }

    def copy(self, name: str, to: Path) -> None:
        """Copy what ``name`` stands for into a folder.

        It is `my-scope`, the scope file of a small virtual scope; `S001` or `S002`, a sample of it;
        `photographs`, a folder of pictures of single cells; `night`, a data root with a batch that
        ended; or `reviewed`, `S001` as two readers left it.

        Raises:
            ValueError: nothing of that name is made here.
        """
        if name not in self._makers:
            raise ValueError(f"prepare {name}: only {', '.join(self._makers)} can be prepared")
        made = self.folder / name
        with FileLock(f"{made}.lock"):
            if not made.exists():
                fresh = self.folder / f"{name}.making"
                shutil.rmtree(fresh, ignore_errors=True)  # of a run that failed
                fresh.mkdir(parents=True)
                self._makers[name](fresh)
                fresh.rename(made)
        shutil.copytree(made, to, dirs_exist_ok=True)

    def _my_scope(self, folder: Path) -> None:
        shipped = Path(wbcpipe.__path__[0]) / "hardware_configs"
        toml = (shipped / "demo.toml").read_text(encoding="utf-8")
        cfg = (shipped / "demo.cfg").read_text(encoding="utf-8").replace("Size,2048", "Size,1024")
        for old, new in _SMALL:
            assert old in toml, old
            toml = toml.replace(old, new)
        (folder / "my-scope.toml").write_text(toml, encoding="utf-8")
        (folder / "my-scope.cfg").write_text(cfg, encoding="utf-8")

    def _scan(self, folder: Path, name: str, seed: int) -> None:
        self.copy("my-scope", folder)
        options = ["--fields", "12", "--specimen-preparation", "buffy-coat"]
        scope = ["--scope", "./my-scope.toml", "--specimen-seed", str(seed)]
        _wbcpipe(folder, "run", "--sample", name, *scope, *options)

    def _night(self, folder: Path) -> None:
        """Run a worklist of one slide, with the check of the microscope before it."""
        self.copy("my-scope", folder)
        rows = "sample,slot,scope,fields,specimen_preparation\nN001,A,my-scope.toml,4,buffy-coat\n"
        (folder / "NIGHT.csv").write_text(rows, encoding="utf-8")
        _wbcpipe(folder, "batch", "run", "NIGHT.csv")

    def _reviewed(self, folder: Path) -> None:
        """Let two readers read a sample blind, and one look at every cell and sign."""
        self.copy("S001", folder)
        sample = OpenSample(Sample.open(folder / "wbc-data", "S001"), find_lab(folder / "wbc-data"))
        session = sample.session
        countable = open_read_sample(sample.sample).countable
        for seed, reader in enumerate(("anna", "ben"), start=1):
            state = session.journal.state()
            start = start_reading(state, "S001", countable, cells=200, seed=seed)
            calls = dict(zip(session.keys, session.rows.predicted_class, strict=True))
            edits: list[Action] = [
                Call(reading=start.reading, cell=cell, to=str(calls[cell])) for cell in start.cells
            ]
            end = Reading(event="finish", reading=start.reading)
            session.append([start, *edits, end], reader=reader, base=session.journal.head())
        look = Look(cells=tuple(session.keys))
        session.append([look], reader="anna", base=session.journal.head())
        session.sign(reader="anna", base=session.journal.head())

    def _photographs(self, folder: Path) -> None:
        """Write pictures of the cells of a sample, in a folder for each class."""
        scanned = folder / "scanned"
        self.copy("S001", scanned)
        _wbcpipe(scanned, "labels", "export", "--sample", "S001", "--out", "labels")
        shutil.rmtree(scanned / "labels" / "unlabelled")
        (scanned / "labels" / "labels.csv").unlink()
        (scanned / "labels").rename(folder / "photographs")
        shutil.rmtree(scanned)
