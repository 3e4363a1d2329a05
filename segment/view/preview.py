"""A figure of one field.

Every registered channel, the outlines of nuclei and cells, and a list of the cells.
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar
from scipy import ndimage

from wbcpipe.imaging.arrays import block_mean
from wbcpipe.samples.cell_columns import UNIDENTIFIED
from wbcpipe.segment.detection.masks import NUCLEUS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from wbcpipe.segment.view.field_view import CellAnnotation, FieldView

__all__ = ["composite_planes", "preview_png", "scale_bar_um"]

_DPI: Final = 100
#: Longer side of a panel.
_PANEL_INCH: Final = 9.0
_TITLE_INCH: Final = 0.35
_FONT_PT: Final = 12
_LINES_PER_COLUMN: Final = 40
_PAPER, _INK = "#16181b", "#ebeef0"
#: Distinct for colour-blind readers, on bright and on dark ground.
_COUNTED, _DOUBTFUL, _REJECTED, _NUCLEUS_LINE = "#009eff", "#ff9600", "#e1283c", "#f03cc8"
#: Percentiles of a frame that become black and white.
_BRIGHTFIELD_PERCENTILES: Final = (0.3, 99.7)
_FLUORESCENCE_PERCENTILES: Final = (30.0, 99.95)
_FLUORESCENCE_GAMMA: Final = 0.6
_ACRIDINE_ORANGE: Final = LinearSegmentedColormap.from_list(
    "acridine orange", [(0.0, (0.0, 0.0, 0.0)), (0.7, (0.0, 0.63, 0.08)), (1.0, (0.6, 0.9, 0.52))]
)


def preview_png(view: FieldView, *, title: str) -> bytes:
    """Draw a field.

    Args:
        view: the field.
        title: stands above the panels.

    Returns: A PNG: one panel for each modality, one of three bright fields together in colour where
        there are three, and a list of the cells.
    """
    planes = composite_planes(view)
    count = len(view.modalities) + (planes is not None) + 1  # the list takes a panel
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    height, width = (_PANEL_INCH * side / max(view.owner.shape) for side in view.owner.shape)
    size = (columns * width, rows * (height + _TITLE_INCH) + _TITLE_INCH)
    figure = Figure(size, dpi=_DPI, facecolor=_PAPER)
    figure.suptitle(
        title, x=0.005, y=1 - 0.05 / size[1], ha="left", va="top", color=_INK, fontsize=_FONT_PT + 3
    )
    spacing = {"wspace": 0.01, "hspace": _TITLE_INCH / height, "top": 1 - 2 * _TITLE_INCH / size[1]}
    axes = figure.subplots(
        rows, columns, squeeze=False, gridspec_kw={"left": 0, "right": 1, "bottom": 0, **spacing}
    )
    panels = axes.ravel().tolist()
    for axis in panels:
        axis.set_axis_off()
    for modality, axis in enumerate(panels[: len(view.modalities)]):
        _show_modality(axis, view, modality)
    if planes is not None:
        axis = panels[len(view.modalities)]
        _show(axis, view, np.stack([_stretch(_panel_pixels(view.images[k])) for k in planes], -1))
        _set_title(axis, " + ".join(view.modalities[k] for k in planes))
    for axis in panels[: count - 1]:
        _annotate(axis, view)
    _list_cells(panels[count - 1], view)
    encoded = io.BytesIO()
    figure.savefig(encoded, format="png", pil_kwargs={"compress_level": 4})
    return encoded.getvalue()


def composite_planes(view: FieldView) -> tuple[int, int, int] | None:
    """Return the bright fields shown as red, green and blue, longest wavelength first; ``None``
    without three.
    """
    bright = [k for k in range(len(view.modalities)) if not _is_fluorescence(view, k)]
    if len(bright) < 3:
        return None
    if np.isfinite(view.wavelength_nm[bright]).all():
        bright.sort(key=lambda k: -float(view.wavelength_nm[k]))
    return bright[0], bright[1], bright[2]


def scale_bar_um(width_um: float) -> float:
    """Return a round length of about a sixth of a panel's width.

    >>> [scale_bar_um(width) for width in (205.0, 48.0, 1200.0)]
    [20.0, 5.0, 200.0]
    """
    longest = width_um / 6
    decade = 10.0 ** np.floor(np.log10(longest))
    return float(max(step * decade for step in (1, 2, 5) if step * decade <= longest))


def _is_fluorescence(view: FieldView, modality: int) -> bool:
    return view.modalities[modality].startswith("fluorescence")


def _show_modality(axis: Axes, view: FieldView, modality: int) -> None:
    image = _panel_pixels(view.images[modality])
    if _is_fluorescence(view, modality):
        low, high = np.percentile(image[::3, ::3], _FLUORESCENCE_PERCENTILES)
        norm = PowerNorm(_FLUORESCENCE_GAMMA, low, max(high, low + 1), clip=True)
        _show(axis, view, image, cmap=_ACRIDINE_ORANGE, norm=norm)
    else:
        _show(axis, view, _stretch(image), cmap="gray", vmin=0, vmax=255)
    name = view.modalities[modality]
    notes = []
    if np.isfinite(view.wavelength_nm[modality]):
        notes.append(f"{view.wavelength_nm[modality]:g} nm")
    if name in view.derived:
        notes.append("derived, not seen by a camera")
    if not view.trusted[modality]:
        notes.append("NOT REGISTERED")
    _set_title(axis, f"{name}  ({', '.join(notes)})" if notes else name)


def _panel_pixels(image: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return an image (Y, X) at no more than twice a panel's resolution."""
    return block_mean(image, max(1, int(max(image.shape) / (_PANEL_INCH * _DPI))))


def _show(axis: Axes, view: FieldView, image: NDArray[Any], **options: Any) -> None:
    """Show an image of any resolution in the field's pixels."""
    height, width = view.owner.shape
    axis.imshow(image, extent=(-0.5, width - 0.5, height - 0.5, -0.5), **options)
    axis.autoscale(False)


def _set_title(axis: Axes, text: str) -> None:
    axis.set_title(text, loc="left", color=_INK, fontsize=_FONT_PT + 1, pad=4)


def _stretch(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return a bright field (Y, X) as uint8, its contrast stretched."""
    low, high = np.percentile(image[::3, ::3], _BRIGHTFIELD_PERCENTILES)
    return np.asarray(255 * np.clip((image - low) / max(high - low, 1.0), 0, 1), np.uint8)


def _annotate(axis: Axes, view: FieldView) -> None:
    """Add outlines, the cells' numbers and a scale bar to a panel."""
    width = view.owner.shape[1]
    boxes = ndimage.find_objects(view.owner, max_label=len(view.cells))
    for number, (cell, box) in enumerate(zip(view.cells, boxes, strict=True), 1):
        left = right = cell.x_px
        if box is not None:
            rows, columns = (np.arange(side.start - 1, side.stop + 1) for side in box)
            inside = np.pad(view.owner[box] == number, 1)
            nucleus = inside & np.pad(view.parts[box] == NUCLEUS, 1)
            if nucleus.any():
                axis.contour(
                    columns,
                    rows,
                    nucleus,
                    [0.5],
                    colors=_NUCLEUS_LINE,
                    linewidths=0.8,
                    antialiased=False,
                )
            axis.contour(columns, rows, inside, [0.5], colors=_colour(cell), linewidths=1.4)
            left, right = columns[0], columns[-1]
        outside_left = right > 0.9 * width
        call = {"": "", UNIDENTIFIED: " ?"}.get(cell.call, f" {cell.call}")
        axis.annotate(
            f"{number}{call}",
            (left if outside_left else right, cell.y_px),
            xytext=(-5 if outside_left else 5, 0),
            textcoords="offset points",
            ha="right" if outside_left else "left",
            va="center",
            fontsize=_FONT_PT,
            color="white" if _colour(cell) == _REJECTED else "black",
            bbox={"boxstyle": "round,pad=0.15", "facecolor": _colour(cell), "edgecolor": "none"},
            annotation_clip=True,
        )
    length_um = scale_bar_um(width * view.pixel_um)
    bar = AnchoredSizeBar(
        axis.transData,
        length_um / view.pixel_um,
        f"{length_um:g} µm",
        "lower right",
        label_top=True,
        size_vertical=6,
    )
    axis.add_artist(bar)


def _colour(cell: CellAnnotation) -> str:
    if not cell.counts:
        return _REJECTED
    return _DOUBTFUL if cell.flags or cell.call == UNIDENTIFIED else _COUNTED


def _list_cells(axis: Axes, view: FieldView) -> None:
    """Write a line for each cell, in its colour, and the meaning of the colours."""
    lines = [
        (_describe(number, cell, view), _colour(cell)) for number, cell in enumerate(view.cells, 1)
    ]
    lines = lines or [("no white cell in this field", _INK)]
    lines += [
        ("", _PAPER),
        ("outline: counted", _COUNTED),
        ("outline: counted, with a doubt", _DOUBTFUL),
        ("outline: not counted", _REJECTED),
        ("inner outline: nucleus", _NUCLEUS_LINE),
    ]
    columns = math.ceil(len(lines) / _LINES_PER_COLUMN)
    axis.legend(
        [Line2D([], [], color=colour, linewidth=2) for _, colour in lines],
        [text for text, _ in lines],
        loc="upper left",
        ncols=columns,
        labelcolor="linecolor",
        frameon=False,
        fontsize=_FONT_PT * min(1.0, 3 / columns),
    )


def _describe(number: int, cell: CellAnnotation, view: FieldView) -> str:
    words = [str(number)]
    if cell.call:
        words.append(cell.call if cell.confidence is None else f"{cell.call} {cell.confidence:.2f}")
    if cell.label:
        words.append(f"truth {cell.label}")
    if view.stored and cell.row is None:
        words.append("another field shows it better")
    words.append(", ".join(name.replace("_", " ") for name in cell.flags) or "no flag")
    return "   ".join(words)
