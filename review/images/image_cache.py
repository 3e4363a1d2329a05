"""Images of cells that were made once, in one SQLite file below ``work/review/``.

SQLite keeps the file intact when the process is killed. It holds nothing that cannot be made again:
a file that is damaged is begun anew, and where none can be written, images are made again each
time.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from typing import TYPE_CHECKING, Any, Final

import google_crc32c

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["ImageCache"]

_PREFIX: Final = "cells-"
_SUFFIX: Final = ".sqlite"
#: Another process of the same sample writes for a few milliseconds.
_BUSY_S: Final = 1.0


class ImageCache:
    """Images by number, each with its checksum; may be used by several threads and processes.

    Args:
        folder: ``work/review`` of the sample.
        digest: of the cells; files of other cells are removed.
    """

    def __init__(self, folder: Path, digest: str) -> None:
        self._path = folder / f"{_PREFIX}{digest[:32]}{_SUFFIX}"
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.glob(f"{_PREFIX}*"):
                if not path.name.startswith(self._path.name):
                    path.unlink(missing_ok=True)
        self._open()

    def _open(self) -> None:
        """Open the file; one that is no database is removed and begun anew."""
        for _attempt in range(2):
            try:
                connection = sqlite3.connect(self._path, timeout=_BUSY_S, check_same_thread=False)
            except sqlite3.Error:
                return
            try:
                with connection:
                    connection.execute("PRAGMA journal_mode = TRUNCATE")
                    connection.execute("PRAGMA synchronous = NORMAL")
                    connection.execute(
                        "CREATE TABLE IF NOT EXISTS image (number INTEGER PRIMARY KEY, crc32c "
                        "INTEGER, webp BLOB)"
                    )
                self._connection = connection
                return
            except (
                sqlite3.OperationalError
            ):  # another process writes, a full disk, a folder that is read-only
                connection.close()
                return
            except sqlite3.DatabaseError:
                connection.close()
                self._remove()

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def get(self, number: int) -> bytes | None:
        """Return an image; ``None`` where there is none, or a damaged one."""
        with self._lock:
            rows = self._run("SELECT crc32c, webp FROM image WHERE number = ?", (number,))
        if (
            not rows
            or not isinstance(rows[0][1], bytes)
            or google_crc32c.value(rows[0][1]) != rows[0][0]
        ):
            return None
        return rows[0][1]

    def numbers(self) -> set[int]:
        """Return the numbers of all images."""
        with self._lock:
            return {int(row[0]) for row in self._run("SELECT number FROM image", ())}

    def put(self, images: Mapping[int, bytes]) -> bool:
        """Keep images, all or none of them; return whether they are kept."""
        rows = [(number, google_crc32c.value(webp), webp) for number, webp in images.items()]
        with self._lock:
            if self._connection is None:
                return False
            try:
                with self._connection:
                    self._connection.executemany(
                        "INSERT OR REPLACE INTO image VALUES (?, ?, ?)", rows
                    )
            except sqlite3.Error as error:
                self._begin_anew(error)
                return False
            return True

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _run(self, statement: str, values: tuple[int, ...]) -> list[tuple[Any, ...]]:
        if self._connection is None:
            return []
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            self._begin_anew(error)
            return []

    def _begin_anew(self, error: sqlite3.Error) -> None:
        """Replace a damaged file.

        A disk that is full and a file that is in use stay as they are.
        """
        if self._connection is None or isinstance(error, sqlite3.OperationalError):
            return
        self._connection.close()
        self._connection = None
        self._remove()
        self._open()
