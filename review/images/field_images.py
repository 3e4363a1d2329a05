"""A whole field with its cells outlined, from the frames on disk and the stored masks."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from wbcpipe.report.cell_thumbnails import display_panel
from wbcpipe.review.images.strips import encode_webp, mask_outlines
from wbcpipe.samples.fields import complete_fields, read_passes_info
from wbcpipe.segment.segment_field import crop_centres
from wbcpipe.segment.view.field_view import FieldViewer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wbcpipe.report.cell_thumbnails import Contrast
    from wbcpipe.samples.cell_store import CellStore
    from wbcpipe.samples.sample import Sample

__all__ = ["COMPOSITE", "FieldImages"]

COMPOSITE: Final = "composite"
"""In place of a modality: three bright-field modalities as red, green and blue."""
_QUALITY: Final = 80
#: Fields in memory with all their modalities: 34 MB each with a camera of 2048 x 2048 pixels.
_FIELDS: Final = 2
_ENCODED: Final = 24
#: Side of the square around a cell that has no mask.
_BOX_UM: Final = 12.0


class FieldImages:
    """The fields of one sample, for people.

    Args:
        sample: the sample.
        store: its cells.
        contrast: of its cells.
    """

    def __init__(self, sample: Sample, store: CellStore, contrast: Contrast) -> None:
        self._sample, self._store, self._contrast = sample, store, contrast
        self._lock = threading.Lock()
        self._field_index = store.column("field_index")
        self._centres_px = np.stack([store.column("y_px"), store.column("x_px")], -1).astype(
            np.float64
        )
        self._registered = functools.lru_cache(_FIELDS)(self._load)
        self._encoded = functools.lru_cache(_ENCODED)(self._encode)

    @functools.cached_property
    def _viewer(self) -> FieldViewer:
        return FieldViewer(self._sample)

    def has(self, index: int) -> bool:
        """Return whether a field has all its frames."""
        return index in complete_fields(self._sample.path / "raw")

    @property
    def choices(self) -> tuple[str, ...]:
        """What `image` can show: the modalities, and `COMPOSITE` if there is one."""
        return (*self._store.modalities, *((COMPOSITE,) if self._contrast.composite else ()))

    def _load(self, index: int) -> NDArray[np.uint16]:
        return self._viewer.registered_frames(index)

    def image(self, index: int, modality: str) -> bytes:
        """Return a field as WebP: evenly lit, registered to the nuclear channel, in the contrast of
        its cells.

        Args:
            index: of the field.
            modality: one of `choices`.

        Raises:
            FrameFileError: there is no such field, or it is damaged.
            ValueError: there is no such modality.
        """
        number = self.choices.index(modality)
        with self._lock:
            return self._encoded(index, number)

    def _encode(self, index: int, number: int) -> bytes:
        frames = self._registered(index)
        channels = (number,) if number < len(frames) else self._contrast.composite or ()
        return encode_webp(
            Image.fromarray(display_panel(frames, self._contrast, channels)), quality=_QUALITY
        )

    def describe(self, index: int) -> dict[str, Any]:
        """Return a field's size and its cells with their outlines, [y, x] in its pixels.

        Raises:
            FrameFileError: there is no such field, or it is damaged.
        """
        info = read_passes_info(self._sample.path / "raw", index)
        height, width = info.shape_px
        rows = np.flatnonzero(self._field_index == index)
        ratio = self._store.pixel_um / info.pixel_um
        centres = crop_centres(self._centres_px[rows], ratio, self._store.sides_px[0])
        cells = [
            {"row": int(row), "outline": self._outline(int(row), centre, ratio)}
            for row, centre in zip(rows, centres, strict=True)
        ]
        return {
            "index": index,
            "width": width,
            "height": height,
            "pixel_um": info.pixel_um,
            "cells": cells,
        }

    def _box(self, side_px: int) -> NDArray[np.bool_]:
        """Return a square around the centre, in place of the mask of a cell that has none."""
        inside = (
            np.abs(np.arange(side_px) - (side_px - 1) / 2) * self._store.pixel_um <= _BOX_UM / 2
        )
        return np.asarray(inside[:, None] & inside)

    def _outline(self, row: int, centre: NDArray[np.float64], ratio: float) -> list[list[float]]:
        mask = self._store.masks(row, row + 1)[0] > 0
        outlines = mask_outlines(mask) or mask_outlines(self._box(mask.shape[0]))
        return np.round((outlines[0] - (mask.shape[0] - 1) / 2) * ratio + centre, 1).tolist()  # type: ignore[no-any-return]
