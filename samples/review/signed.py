"""Keep the cells of a signed sample from being replaced unseen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wbcpipe.errors import SampleStateError
from wbcpipe.samples.review.journal import Journal

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["refuse_if_signed"]


def refuse_if_signed(cells: Path) -> None:
    """Refuse to change the cells of a signed sample.

    Args:
        cells: path of ``cells.zarr``, beside which the journal lies.

    Raises:
        SampleStateError: the sample is signed, or its journal is damaged.
    """
    path = cells.with_name("review") / "journal.jsonl"
    if not path.exists():
        return
    signed = Journal(path).state().signed
    if signed is not None:
        name = cells.parent.name
        raise SampleStateError(
            f"{cells}: not changed: {signed.entry.reader} signed sample {name!r} at "
            f"{signed.entry.time}. Withdraw or amend the signature first (`wbcpipe review --sample "
            f"{name}`)."
        )
