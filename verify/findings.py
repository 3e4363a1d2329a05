"""Collects what is found while a sample is checked."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from wbcpipe.errors import WbcpipeError
from wbcpipe.verify.records import Damage, SampleCheck

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from wbcpipe.samples.sample import Sample

__all__ = ["Findings"]


class Findings:
    """The damages of one sample, as they are found.

    Args:
        sample: that is checked.
        quick: pixels are not read.
        progress: called with (task, units done, units in all).
    """

    def __init__(
        self, sample: Sample, *, quick: bool, progress: Callable[[str, int, int], None]
    ) -> None:
        self.sample, self.quick, self.progress = sample, quick, progress
        self._damages: list[Damage] = []
        self._files = self._bytes = 0
        self.freed, self.freed_to = 0, ""

    def add(self, path: Path, problem: str, remedy: str, *, lost: str = "") -> None:
        """Add a damage.

        Args:
            path: of the file.
            problem: what is wrong with it.
            remedy: the command that makes it anew, with ``{name}`` for the sample's name; empty
                where nothing does.
            lost: what the file alone holds.
        """
        inside = (
            path.relative_to(self.sample.path).as_posix()
            if path.is_relative_to(self.sample.path)
            else str(path)
        )
        if remedy:
            advice = (
                f"`{remedy.format(name=self.sample.name)}` makes it anew"
                if " (" not in remedy
                else remedy
            )
        else:
            advice = f"lost unless you have a copy: {lost}"
        shown = problem.removeprefix(f"{path}: ")
        self._damages.append(
            Damage(file=inside, problem=shown, remedy=advice, can_be_made_anew=bool(remedy))
        )

    @contextlib.contextmanager
    def file(
        self, path: Path, remedy: str, *, lost: str = "", count: bool = True
    ) -> Iterator[None]:
        """Check a file in the block; an error there is a damage of this file.

        Args:
            path: of the file, or of a folder that is one thing.
            remedy, lost: as for `add`.
            count: count the file and its size.
        """
        if count:
            self.count(path)
        try:
            yield
        except WbcpipeError as error:
            self.add(path, str(error), remedy, lost=lost)
        except OSError as error:
            self.add(path, f"cannot be read ({error.strerror or error})", remedy, lost=lost)

    def is_damaged(self, path: Path) -> bool:
        """Return whether a damage of the file was found so far."""
        return any(self.sample.path / damage.file == path for damage in self._damages)

    def count(self, path: Path) -> None:
        """Count a file, or those in a folder, as checked."""
        with contextlib.suppress(OSError):
            files = (
                [path] if path.is_file() else [entry for entry in path.iterdir() if entry.is_file()]
            )
            self._files += len(files)
            self._bytes += sum(entry.stat().st_size for entry in files)

    def result(self) -> SampleCheck:
        """Return what was found; a file and problem that two checks met are named once."""
        damages = tuple(
            {(damage.file, damage.problem): damage for damage in self._damages}.values()
        )
        return SampleCheck(
            sample=self.sample.name,
            files=self._files,
            bytes=self._bytes,
            quick=self.quick,
            freed=self.freed,
            freed_to=self.freed_to,
            damages=damages,
        )
