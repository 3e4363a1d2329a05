"""A picture of one field for people: every registered channel, the outlines of nuclei and cells, what was found."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import TYPE_CHECKING, Final

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage.measure import find_contours

from wbcpipe.samples.cell_columns import UNIDENTIFIED
from wbcpipe.segment.detection.masks import NUCLEUS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wbcpipe.segment.view.field_view import CellAnnotation, FieldView

__all__ = ["PANEL_PX", "composite_planes", "preview_png", "scale_bar_um"]

#: Longer side of a panel.
PANEL_PX: Final = 900
_GAP_PX: Final = 6
_HEAD_PX: Final = 34
_LINE_PX: Final = 23
_FONT_PX: Final = 17
_PAPER: Final = (22, 24, 27)
_INK: Final = (235, 238, 240)
_SOFT: Final = (150, 157, 164)
#: Told apart by colour-blind readers too, and seen on bright and on dark ground.
_COUNTED: Final = (0, 158, 255)
_DOUBTFUL: Final = (255, 150, 0)
_LEFT_OUT: Final = (225, 40, 60)
_NUCLEUS: Final = (240, 60, 200)
_BRIGHT_PERCENTILES: Final = (0.3, 99.7)
_GLOW_PERCENTILES: Final = (30.0, 99.95)
_GLOW_GAMMA: Final = 0.6


def preview_png(view: FieldView, *, title: str) -> bytes:
    """Draw a field.

    Args:
        view: the field.
        title: stands above it.

    Returns:
        A PNG: one panel for each modality, one of the bright fields together in colour where there are three, and
        a list of the cells.
    """
    height, width = view.owner.shape
    zoom = PANEL_PX / max(height, width)
    size = (max(1, round(width * zoom)), max(1, round(height * zoom)))
    panels = [(_name(view, k), _panel(view, k, size)) for k in range(len(view.modalities))]
    planes = composite_planes(view)
    if planes:
        grey = [_stretched(view.images[k], _BRIGHT_PERCENTILES, size) for k in planes]
        panels.append((" + ".join(view.modalities[k] for k in planes), np.stack(grey, -1)))
    pictures = [_annotated(panel, view, zoom, lettered=True) for _, panel in panels]
    columns = 3 if len(panels) > 4 else 2 if len(panels) > 1 else 1
    lines = _list_lines(view)
    per_column = max(1, (size[1] - 2 * _LINE_PX) // _LINE_PX)
    fits = len(panels) % columns != 0 and len(lines) <= per_column
    rows = -(-len(panels) // columns)
    grid = (columns * (size[0] + _GAP_PX) - _GAP_PX, rows * (size[1] + _HEAD_PX))
    below = 0 if fits else (-(-len(lines) // (2 * columns)) + 1) * _LINE_PX
    sheet = Image.new("RGB", (grid[0], _HEAD_PX + grid[1] + below + _GAP_PX), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((8, 6), title, _INK, _font(_FONT_PX + 3))
    places = [
        (k % columns * (size[0] + _GAP_PX), _HEAD_PX + k // columns * (size[1] + _HEAD_PX)) for k in range(len(panels))
    ]
    for (name, _), picture, (left, top) in zip(panels, pictures, places, strict=True):
        pen.text((left + 8, top + 7), name, _INK, _font(_FONT_PX))
        sheet.paste(picture, (left, top + _HEAD_PX))
    if fits:
        left = len(panels) % columns * (size[0] + _GAP_PX) + 14
        _write_list(pen, lines, (left, _HEAD_PX + (rows - 1) * (size[1] + _HEAD_PX) + _HEAD_PX), len(lines), 0)
    else:
        per = -(-len(lines) // (2 * columns))
        _write_list(pen, lines, (8, _HEAD_PX + grid[1] + _LINE_PX // 2), per, grid[0] // (2 * columns))
    encoded = io.BytesIO()
    sheet.save(encoded, "PNG", compress_level=4)
    return encoded.getvalue()


def composite_planes(view: FieldView) -> tuple[int, int, int] | None:
    """The bright fields shown as red, green and blue, the longest wavelength first; ``None`` without three."""
    bright = [k for k in range(len(view.modalities)) if not _glows(view, k)]
    if len(bright) < 3:
        return None
    if np.isfinite(view.wavelength_nm[bright]).all():
        bright.sort(key=lambda k: -float(view.wavelength_nm[k]))
    return bright[0], bright[1], bright[2]


def scale_bar_um(width_um: float) -> float:
    """A round length of about a sixth of a picture's width.

    >>> [scale_bar_um(width) for width in (205.0, 48.0, 1200.0)]
    [20.0, 5.0, 200.0]
    """
    longest = width_um / 6
    decade = 10.0 ** np.floor(np.log10(longest))
    return float(max(step * decade for step in (1, 2, 5) if step * decade <= longest))


def _glows(view: FieldView, modality: int) -> bool:
    return view.modalities[modality].startswith("fluorescence")


def _name(view: FieldView, modality: int) -> str:
    name = view.modalities[modality]
    notes = []
    if np.isfinite(view.wavelength_nm[modality]):
        notes.append(f"{view.wavelength_nm[modality]:g} nm")
    if name in view.derived:
        notes.append("derived, not seen by a camera")
    if not view.trusted[modality]:
        notes.append("NOT REGISTERED")
    return f"{name}  ({', '.join(notes)})" if notes else name


def _panel(view: FieldView, modality: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """One modality as (y, x, 3) uint8 of the panel's size (width, height)."""
    if not _glows(view, modality):
        return np.stack([_stretched(view.images[modality], _BRIGHT_PERCENTILES, size)] * 3, -1)
    grey = _stretched(view.images[modality], _GLOW_PERCENTILES, size) / np.float32(255)
    light = grey**_GLOW_GAMMA
    edge = np.clip((light - 0.7) / 0.3, 0, 1)
    glow = np.stack([0.6 * edge, 0.9 * light, 0.12 * light + 0.4 * edge], -1)
    return (255 * np.clip(glow, 0, 1)).round().astype(np.uint8)


def _stretched(image: NDArray[np.uint16], percentiles: tuple[float, float], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A frame (Y, X) from its dark to its bright, as (y, x) uint8 of ``size`` (width, height)."""
    low, high = np.percentile(image[::3, ::3], percentiles)
    grey = np.clip((image.astype(np.float32) - low) / max(float(high - low), 1.0), 0, 1)
    shrunk = Image.fromarray(grey).resize(
        size, Image.Resampling.BOX if size[1] < len(grey) else Image.Resampling.BICUBIC
    )
    return np.asarray((np.clip(np.asarray(shrunk), 0, 1) * 255).round(), np.uint8)


def _annotated(panel: NDArray[np.uint8], view: FieldView, zoom: float, *, lettered: bool) -> Image.Image:
    """The panel with outlines, the cells' numbers and a scale bar."""
    picture = Image.fromarray(panel)
    pen = ImageDraw.Draw(picture)
    for k, mark in enumerate(view.cells):
        for outline in _outlines(view, k, nucleus=True):
            _draw(pen, outline, zoom, _NUCLEUS, 1)
        for outline in _outlines(view, k, nucleus=False):
            _draw(pen, outline, zoom, _colour(mark), 2)
    if lettered:
        for k, mark in enumerate(view.cells):
            _letter(pen, picture.size, view, k, zoom, _short(k, mark), _colour(mark))
    _scale_bar(pen, picture.size, view.pixel_um / zoom)
    return picture


def _outlines(view: FieldView, cell: int, *, nucleus: bool) -> list[NDArray[np.float64]]:
    """Closed lines (n, 2) as (y, x) in the field's pixels around a cell, or around the parts of its nucleus."""
    rows, columns = np.nonzero(_around(view, cell))
    if not rows.size:
        return []
    top, left = _window(view, cell)[0].start, _window(view, cell)[1].start
    box = np.s_[top + rows.min() : top + rows.max() + 1, left + columns.min() : left + columns.max() + 1]
    mine = view.owner[box] == cell + 1
    mask = np.pad(mine & (view.parts[box] == NUCLEUS) if nucleus else mine, 1)
    corner = np.array([top + rows.min() - 1, left + columns.min() - 1])
    return [line + corner for line in find_contours(mask.astype(np.float32), 0.5)]  # type: ignore[no-untyped-call]


def _window(view: FieldView, cell: int) -> tuple[slice, slice]:
    reach = round(16.0 / view.pixel_um)
    mark = view.cells[cell]
    y, x = (slice(max(0, int(at) - reach), int(at) + reach + 1) for at in (mark.y_px, mark.x_px))
    return y, x


def _around(view: FieldView, cell: int) -> NDArray[np.bool_]:
    return np.asarray(view.owner[_window(view, cell)] == cell + 1)


def _draw(
    pen: ImageDraw.ImageDraw, line: NDArray[np.float64], zoom: float, colour: tuple[int, int, int], width: int
) -> None:
    points = [((x + 0.5) * zoom, (y + 0.5) * zoom) for y, x in line.tolist()]
    pen.line(points, colour, width, joint="curve")


def _letter(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    view: FieldView,
    cell: int,
    zoom: float,
    text: str,
    colour: tuple[int, int, int],
) -> None:
    """Write beside a cell, within the panel."""
    mark = view.cells[cell]
    here = np.nonzero(_around(view, cell))
    reach = (np.ptp(here[1]) / 2 if here[1].size else 40) * zoom
    font = _font(_FONT_PX)
    right, bottom = pen.textbbox((0, 0), text, font)[2:]
    x = mark.x_px * zoom + reach + 5
    if x + right > size[0] - 3:
        x = mark.x_px * zoom - reach - 5 - right
    x = min(max(x, 3.0), max(3.0, size[0] - 3.0 - right))
    y = min(max(mark.y_px * zoom - bottom / 2, 3.0), size[1] - bottom - 3.0)
    pen.rounded_rectangle((x - 4, y - 1, x + right + 4, y + bottom + 3), 4, colour)
    pen.text((x, y), text, (0, 0, 0) if sum(colour) > 400 else (255, 255, 255), font)


def _scale_bar(pen: ImageDraw.ImageDraw, size: tuple[int, int], pixel_um: float) -> None:
    length_um = scale_bar_um(size[0] * pixel_um)
    length = round(length_um / pixel_um)
    right, bottom = size[0] - 16, size[1] - 14
    pen.rectangle((right - length - 2, bottom - 8, right + 2, bottom), (0, 0, 0))
    pen.rectangle((right - length, bottom - 6, right, bottom - 2), (255, 255, 255))
    text = f"{length_um:g} µm"
    font = _font(_FONT_PX)
    wide = pen.textlength(text, font)
    pen.text(
        (right - (length + wide) / 2, bottom - 31), text, (255, 255, 255), font, stroke_width=2, stroke_fill=(0, 0, 0)
    )


def _colour(mark: CellAnnotation) -> tuple[int, int, int]:
    if not mark.counts:
        return _LEFT_OUT
    return _DOUBTFUL if mark.flags or mark.call == UNIDENTIFIED else _COUNTED


def _short(cell: int, mark: CellAnnotation) -> str:
    call = {"": "", UNIDENTIFIED: " ?"}.get(mark.call, f" {mark.call}")
    return f"{cell + 1}{call}"


def _list_lines(view: FieldView) -> list[tuple[str, tuple[int, int, int]]]:
    """What is written beside the panels: a line for each cell, with its colour, and what the colours mean."""
    lines = []
    for k, mark in enumerate(view.cells):
        words = [f"{k + 1:>3}"]
        if mark.call:
            words.append(mark.call if mark.confidence is None else f"{mark.call} {mark.confidence:.2f}")
        if mark.label:
            words.append(f"truth {mark.label}")
        if view.stored and mark.row is None:
            words.append("another field shows it better")
        words.append(", ".join(name.replace("_", " ") for name in mark.flags) or "no flag")
        lines.append(("   ".join(words), _colour(mark)))
    if not lines:
        lines.append(("no white cell in this field", _SOFT))
    lines.append(("", _SOFT))
    lines.append(("outline: counted", _COUNTED))
    lines.append(("outline: counted with a doubt", _DOUBTFUL))
    lines.append(("outline: left out", _LEFT_OUT))
    lines.append(("inner outline: nucleus", _NUCLEUS))
    return lines


def _write_list(
    pen: ImageDraw.ImageDraw,
    lines: Sequence[tuple[str, tuple[int, int, int]]],
    corner: tuple[int, int],
    per_column: int,
    column_px: int,
) -> None:
    for k, (text, colour) in enumerate(lines):
        place = (corner[0] + k // per_column * column_px, corner[1] + k % per_column * _LINE_PX)
        pen.text(place, text, colour, _font(_FONT_PX))


@functools.cache
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    # Pillow's own font lacks the micro sign; this one comes with matplotlib.
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size_px)
