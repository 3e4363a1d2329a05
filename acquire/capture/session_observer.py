"""What an acquisition session reports while it runs."""

from __future__ import annotations

__all__ = ["SessionObserver"]


class SessionObserver:
    """Receives the events of an `AcquisitionSession`.

    Override the methods of interest; by default they do nothing. `taken`, `missing` and `empty` are
    called in the order of the fields, from the thread that writes them.
    """

    def progress(self, text: str) -> None:
        """Receive a sentence about the current work."""

    def started(self, index: int) -> None:
        """Receive the index of a field before the first device moves for it."""

    def taken(self, index: int) -> None:
        """Receive the index of a field whose file is complete on disk."""

    def missing(self, index: int, reason: str) -> None:
        """Receive the index of a field that could not be taken, and the reason."""

    def empty(self, index: int, foreground_um2: float) -> None:
        """Receive the index of a field that was skipped as empty, and its foreground area."""
