"""What `wbcpipe view` puts into napari, and how one leaves through the fields."""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner

from wbcpipe.segment.cli import view as view_command
from wbcpipe.segment.view.field_view import FieldViewer
from wbcpipe.segment.view.layers import field_layers, open_viewer

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.samples.sample import Sample


class FakeViewer:
    """The part of napari's viewer that is used."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.status = ""
        self.layers: list[Any] = []
        self.keys: dict[str, Callable[[Any], None]] = {}
        self.scale_bar = types.SimpleNamespace(visible=False)

    def bind_key(self, key: str, function: Callable[[Any], None]) -> None:
        self.keys[key] = function

    def _add(self, data: Any, **options: Any) -> None:
        self.layers.append(types.SimpleNamespace(data=data, **options))

    add_image = add_labels = add_points = _add


@pytest.fixture
def napari(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """A napari whose window is closed at once; ``viewers`` are those opened, ``during`` is done
    while one is open.
    """
    fake = types.SimpleNamespace(viewers=[], during=lambda _viewer: None)

    def opened(title: str) -> FakeViewer:
        viewer = FakeViewer(title)
        fake.viewers.append(viewer)
        return viewer

    fake.Viewer = opened
    fake.run = lambda: fake.during(fake.viewers[-1])
    monkeypatch.setitem(sys.modules, "napari", fake)
    return fake


def test_layers_of_a_field(copy_run: Callable[[str], Sample]) -> None:
    view = FieldViewer(copy_run("seen")).load(0)
    layers = {layer.options["name"]: layer for layer in field_layers(view)}
    assert list(layers) == [
        "color1",
        "color2",
        "color3",
        "fluorescence",
        "cells",
        "nuclei",
        "calls",
    ]
    assert [name for name, layer in layers.items() if layer.options.get("visible", True)] == [
        "color1",
        "fluorescence",
        "cells",
        "calls",
    ]
    assert all(
        layer.options["scale"] == (view.pixel_um, view.pixel_um) for layer in layers.values()
    )
    points = layers["calls"]
    assert points.data.shape == (len(view.cells), 2)
    for number, (y, x) in enumerate(points.data.astype(int), 1):
        assert layers["cells"].data[y - 3 : y + 4, x - 3 : x + 4].max() == number
    nuclei, cells = layers["nuclei"].data, layers["cells"].data
    assert np.array_equal(nuclei[nuclei > 0], cells[nuclei > 0])
    assert np.count_nonzero(cells) > np.count_nonzero(nuclei) > 0
    assert all(len(column) == len(view.cells) for column in points.options["features"].values())


def test_leafing_keeps_what_is_hidden(
    copy_run: Callable[[str], Sample], napari: types.SimpleNamespace
) -> None:
    looker = FieldViewer(copy_run("leafed"))

    def leaf(viewer: FakeViewer) -> None:
        first = viewer.layers[0].data
        viewer.layers[0].visible = False
        viewer.keys["n"](viewer)
        assert viewer.title == "S, field 1"
        assert len(viewer.layers) == 7
        assert viewer.layers[0].visible is False
        assert not np.array_equal(viewer.layers[0].data, first)
        viewer.keys["p"](viewer)
        viewer.keys["p"](viewer)
        assert viewer.title == f"S, field {looker.fields[-1]}"

    napari.during = leaf
    open_viewer(looker, 0, title="S")
    (viewer,) = napari.viewers
    assert viewer.scale_bar.visible


def test_the_command(copy_run: Callable[[str], Sample], napari: types.SimpleNamespace) -> None:
    sample = copy_run("command")
    words = ["--sample", sample.name, "--data", str(sample.path.parent), "--field", "2"]
    assert CliRunner().invoke(view_command, words, catch_exceptions=False).exit_code == 0
    assert napari.viewers[0].title == "command, field 2"


def test_without_napari_the_message_says_what_to_install(
    copy_run: Callable[[str], Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "napari", None)
    sample = copy_run("bare")
    result = CliRunner().invoke(
        view_command, ["--sample", sample.name, "--data", str(sample.path.parent)]
    )
    assert "pip install 'wbcpipe[view]'" in str(result.exception)


def test_napari_takes_the_layers(copy_run: Callable[[str], Sample]) -> None:
    components = pytest.importorskip(
        "napari.components", reason="the extra 'view' is not installed"
    )
    viewer = components.ViewerModel()
    for data, options, kind in field_layers(FieldViewer(copy_run("real")).load(0)):
        getattr(viewer, f"add_{kind}")(data, **options)
    assert [layer.name for layer in viewer.layers][-1] == "calls"
    assert np.allclose(viewer.layers["color1"].scale, 0.1)
