"""A field as napari layers: registered channels, masks and cells, to look at and to leaf through."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from wbcpipe.errors import ConfigError, FrameFileError
from wbcpipe.segment.detection.masks import NUCLEUS

if TYPE_CHECKING:
    from wbcpipe.segment.view.field_view import FieldView, FieldViewer

__all__ = ["Layer", "field_layers", "open_viewer"]

_INSTALL: Final = "pip install 'wbcpipe[view]'"
#: Percentiles of a channel that become black and white.
_CONTRAST: Final = (0.5, 99.8)


class Layer(NamedTuple):
    """One layer, as napari's `Layer.create` takes it.

    Attributes:
        data: array.
        options: of the layer, ``name`` among them.
        kind: ``image``, ``labels`` or ``points``.
    """

    data: Any
    options: dict[str, Any]
    kind: str


def field_layers(view: FieldView) -> list[Layer]:
    """The layers of one field, the lowest first; all in um.

    Images (Y, X) of each modality, of which one bright field and the fluorescence are shown at first; labels (Y, X)
    int32 of cells and of nuclei, numbered as in the preview; points (N, 2) of the cells with number, call, confidence,
    label, flags and row of ``cells.zarr`` as features.
    """
    scale = (view.pixel_um, view.pixel_um)
    layers = []
    shown_bright = False
    for k, name in enumerate(view.modalities):
        glows = name.startswith("fluorescence")
        low, high = np.percentile(view.images[k][::4, ::4], _CONTRAST)
        options: dict[str, Any] = {
            "name": name + ("" if view.trusted[k] else " (NOT REGISTERED)"),
            "scale": scale,
            "units": ("um", "um"),
            "contrast_limits": (float(low), float(max(high, low + 1))),
            "colormap": "green" if glows else "gray",
            "blending": "additive" if glows else "translucent_no_depth",
            "visible": glows or not shown_bright,
        }
        shown_bright |= not glows
        layers.append(Layer(view.images[k], options, "image"))
    nuclei = np.where(view.parts == NUCLEUS, view.owner, 0).astype(np.int32)
    for name, labels in (("cells", view.owner), ("nuclei", nuclei)):
        options = {"name": name, "scale": scale, "units": ("um", "um"), "opacity": 0.5, "visible": name == "cells"}
        layers.append(Layer(labels.astype(np.int32), options, "labels"))
    marks = view.cells
    places = np.array([(mark.y_px, mark.x_px) for mark in marks], float).reshape(-1, 2)
    options = {
        "name": "calls",
        "scale": scale,
        "units": ("um", "um"),
        "size": 12.0,
        "symbol": "ring",
        "face_color": ["lime" if mark.counts else "red" for mark in marks] or "lime",
        "features": {
            "number": np.arange(1, len(marks) + 1),
            "call": np.array([mark.call for mark in marks], str),
            "confidence": np.array([np.nan if mark.confidence is None else mark.confidence for mark in marks], float),
            "label": np.array([mark.label for mark in marks], str),
            "flags": np.array([", ".join(mark.flags) for mark in marks], str),
            "row": np.array([-1 if mark.row is None else mark.row for mark in marks], int),
        },
        "text": {"string": "{number} {call} {flags}", "color": "yellow", "size": 10, "anchor": "upper_left"},
    }
    layers.append(Layer(places, options, "points"))
    return layers


def open_viewer(looker: FieldViewer, index: int, *, title: str) -> None:
    """Show a field in a napari window until that is closed; N and P go to the next and the previous field.

    Args:
        looker: of the sample.
        index: the first field shown.
        title: of the window.

    Raises:
        ConfigError: napari is not installed.
        FrameFileError: the field is not there or damaged.
    """
    view = looker.load(index)
    try:
        napari = importlib.import_module("napari")
    except ImportError as error:
        raise ConfigError(f"napari is not installed: {_INSTALL}.") from error
    viewer = napari.Viewer(title=f"{title}, field {index}")
    place = looker.fields.index(index)
    _fill(viewer, view)
    viewer.scale_bar.visible = True

    def go(step: int) -> None:
        nonlocal place
        place = (place + step) % len(looker.fields)
        here = looker.fields[place]
        viewer.title = f"{title}, field {here}"
        try:
            _fill(viewer, looker.load(here))
        except FrameFileError as error:
            viewer.status = str(error)

    viewer.bind_key("n", lambda _: go(1))
    viewer.bind_key("p", lambda _: go(-1))
    napari.run()


def _fill(viewer: Any, view: FieldView) -> None:
    """Put a field's layers in place of those there; what the user shows and hides stays so."""
    visible = {layer.name: layer.visible for layer in viewer.layers}
    viewer.layers.clear()
    for data, options, kind in field_layers(view):
        add = getattr(viewer, f"add_{kind}")
        add(data, **{**options, "visible": visible.get(options["name"], options.get("visible", True))})
