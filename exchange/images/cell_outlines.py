"""The outlines of cells in the pixels of their field."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wbcpipe.review.images.strips import mask_outlines
from wbcpipe.segment.segment_field import crop_centres

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from wbcpipe.samples.cell_store import CellStore
    from wbcpipe.samples.fields import FieldInfo

__all__ = ["outlines_of_field"]


def outlines_of_field(
    store: CellStore, info: FieldInfo
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield the row of each cell of a field with its outline (P, 2), (y, x) in pixels.

    A cell without mask has none.

    Args:
        store: the cells.
        info: of the field.
    """
    rows = np.flatnonzero(store.column("field_index") == info.index)
    centres_px = np.stack([store.column("y_px")[rows], store.column("x_px")[rows]], -1).astype(
        np.float64
    )
    ratio = store.pixel_um / info.pixel_um
    if not len(rows):
        return
    for row, centre in zip(rows, crop_centres(centres_px, ratio, store.sides_px[0]), strict=True):
        mask = store.masks(int(row), int(row) + 1)[0] > 0
        for outline in mask_outlines(mask)[:1]:
            yield (
                int(row),
                (np.asarray(outline, np.float64) - (mask.shape[0] - 1) / 2) * ratio + centre,
            )
