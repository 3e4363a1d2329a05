"""Show fields in napari: registered channels, masks and cells as layers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np

from wbcpipe.errors import FrameFileError, MissingPackageError
from wbcpipe.segment.detection.masks import NUCLEUS

if TYPE_CHECKING:
    from wbcpipe.segment.view.field_view import FieldView, FieldViewer

__all__ = ["Layer", "field_layers", "open_viewer"]

_INSTALL: Final = "pip install 'wbcpipe[view]'"
#: Percentiles of a channel that become black and white.
_CONTRAST: Final = (0.5, 99.8)


class Layer(NamedTuple):
    """One layer, in the form of napari's `Layer.create`.

    Attributes:
        data: array.
        options: of the layer, ``name`` among them.
        kind: ``image``, ``labels`` or ``points``.
    """

    data: Any
    options: dict[str, Any]
    kind: Literal["image", "labels", "points"]


def field_layers(view: FieldView) -> list[Layer]:
    """Return the layers of one field, the lowest first; all in um.

    There are images (Y, X) of each modality, of which one bright field and the fluorescence are
    visible at first; labels (Y, X) int32 of cells and of nuclei, numbered as in the preview; points
    (N, 2) of the cells, with number, call, confidence, label, flags and row of ``cells.zarr`` as
    features.
    """
    scale = (view.pixel_um, view.pixel_um)
    layers = []
    shown_bright = False
    for k, name in enumerate(view.modalities):
        fluorescent = name.startswith("fluorescence")
        low, high = np.percentile(view.images[k][::4, ::4], _CONTRAST)
        options: dict[str, Any] = {
            "name": name + ("" if view.trusted[k] else " (NOT REGISTERED)"),
            "scale": scale,
            "units": ("um", "um"),
            "contrast_limits": (float(low), float(max(high, low + 1))),
            "colormap": "green" if fluorescent else "gray",
            "blending": "additive" if fluorescent else "translucent_no_depth",
            "visible": fluorescent or not shown_bright,
        }
        shown_bright |= not fluorescent
        layers.append(Layer(view.images[k], options, "image"))
    nuclei = np.where(view.parts == NUCLEUS, view.owner, 0).astype(np.int32)
    for name, labels in (("cells", view.owner), ("nuclei", nuclei)):
        options = {
            "name": name,
            "scale": scale,
            "units": ("um", "um"),
            "opacity": 0.5,
            "visible": name == "cells",
        }
        layers.append(Layer(labels.astype(np.int32), options, "labels"))
    cells = view.cells
    centres = np.array([(cell.y_px, cell.x_px) for cell in cells], float).reshape(-1, 2)
    options = {
        "name": "calls",
        "scale": scale,
        "units": ("um", "um"),
        "size": 12.0,
        "symbol": "ring",
        "face_color": ["lime" if cell.counts else "red" for cell in cells] or "lime",
        "features": {
            "number": np.arange(1, len(cells) + 1),
            "call": np.array([cell.call for cell in cells], str),
            "confidence": np.array(
                [np.nan if cell.confidence is None else cell.confidence for cell in cells], float
            ),
            "label": np.array([cell.label for cell in cells], str),
            "flags": np.array([", ".join(cell.flags) for cell in cells], str),
            "row": np.array([-1 if cell.row is None else cell.row for cell in cells], int),
        },
        "text": {
            "string": "{number} {call} {flags}",
            "color": "yellow",
            "size": 10,
            "anchor": "upper_left",
        },
    }
    layers.append(Layer(centres, options, "points"))
    return layers


def open_viewer(viewer: FieldViewer, index: int, *, title: str) -> None:
    """Show a field in a napari window until the window is closed; N and P show the next and the
    previous field.

    Args:
        viewer: of the sample.
        index: of the field shown first.
        title: of the window.

    Raises:
        MissingPackageError: napari is not installed.
        FrameFileError: the field does not exist or is damaged.
    """
    view = viewer.load(index)
    try:
        napari = importlib.import_module("napari")
    except ImportError as error:
        raise MissingPackageError(f"napari is not installed: {_INSTALL}.") from error
    window = napari.Viewer(title=f"{title}, field {index}")
    position = viewer.fields.index(index)
    _fill(window, view)
    window.scale_bar.visible = True

    def go(step: int) -> None:
        nonlocal position
        position = (position + step) % len(viewer.fields)
        here = viewer.fields[position]
        window.title = f"{title}, field {here}"
        try:
            _fill(window, viewer.load(here))
        except FrameFileError as error:
            window.status = str(error)

    window.bind_key("n", lambda _: go(1))
    window.bind_key("p", lambda _: go(-1))
    napari.run()


def _fill(window: Any, view: FieldView) -> None:
    """Replace the layers of a window by those of a field; what the user hides stays hidden."""
    visible = {layer.name: layer.visible for layer in window.layers}
    window.layers.clear()
    for data, options, kind in field_layers(view):
        add = getattr(window, f"add_{kind}")
        add(
            data,
            **{**options, "visible": visible.get(options["name"], options.get("visible", True))},
        )
