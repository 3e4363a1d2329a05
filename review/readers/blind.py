"""Blind readings: which cells a reader is given, and in what order."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import numpy as np

from wbcpipe.errors import SampleStateError
from wbcpipe.samples.review.entries import Reading

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from wbcpipe.samples.review.replay import ReviewState

__all__ = ["READING_CELLS", "draw_cells", "start_reading"]

READING_CELLS: Final = 200
"""Cells that each of two examiners counts for the reference differential of CLSI H20-A2."""


def draw_cells(
    sample: str,
    countable: Sequence[str],
    cells: int,
    *,
    seed: int,
    apart_from: Collection[str] = (),
) -> tuple[str, ...]:
    """Draw the cells of a blind reading, in random order.

    Which cells depends on the sample alone, so that all readers are given the same ones; their
    order on the seed.

    Args:
        sample: its name.
        countable: names of the cells that no quality flag excludes.
        cells: how many; all where there are fewer.
        seed: of the order.
        apart_from: names of cells not to draw, such as those of the first reader.
    """
    own = int.from_bytes(hashlib.sha256(sample.encode()).digest()[:8], "big")
    left = sorted(set(countable) - set(apart_from))
    drawn = [left[index] for index in np.random.default_rng(own).permutation(len(left))[:cells]]
    return tuple(
        drawn[index] for index in np.random.default_rng((own, seed)).permutation(len(drawn))
    )


def start_reading(
    state: ReviewState,
    sample: str,
    countable: Sequence[str],
    *,
    cells: int,
    seed: int,
    other_cells: bool = False,
) -> Reading:
    """Return the entry that begins a blind reading.

    Args:
        state: of the review.
        sample: its name.
        countable: names of the cells that no quality flag excludes.
        cells: how many to read.
        seed: of the order.
        other_cells: draw none that a blind reading has already: each reader counts cells of their
            own, as on two films.

    Raises:
        SampleStateError: there is no cell to read.
    """
    taken = (
        {cell for reading in state.readings.values() for cell in reading.cells}
        if other_cells
        else set()
    )
    drawn = draw_cells(sample, countable, cells, seed=seed, apart_from=taken)
    if not drawn:
        raise SampleStateError(
            f"{sample}: no cell is left to read; {len(countable)} count and {len(taken)} were read."
        )
    return Reading(
        event="start", reading=f"r{len(state.readings) + 1}-{seed}", seed=seed, cells=drawn
    )
