from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from wbcpipe.errors import FrameFileError
from wbcpipe.samples.sample import Sample
from wbcpipe.segment.cli import segment
from wbcpipe.segment.view.field_view import FieldViewer
from wbcpipe.segment.view.preview import composite_planes, preview_png, scale_bar_um

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.samples.cell_store import CellStore


def test_a_field_not_yet_segmented_is_drawn_and_nothing_is_written(
    copy_run: Callable[[str], Sample], tmp_path: Path
) -> None:
    sample = copy_run("plain")
    before = sorted(path for path in sample.path.rglob("*"))
    out = tmp_path / "look" / "two.png"
    words = [
        "--sample",
        "plain",
        "--data",
        str(tmp_path),
        "--preview",
        "2",
        "--out",
        str(out),
        "--json",
    ]
    result = CliRunner().invoke(segment, words, catch_exceptions=False)
    said = json.loads(result.output)
    assert said["field"] == 2
    assert said["cells"] > 1
    assert sorted(path for path in sample.path.rglob("*")) == before
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 900


def test_the_view_agrees_with_what_is_stored(unbroken: CellStore) -> None:
    sample = Sample("virtual", unbroken.path.parent)
    view = FieldViewer(sample).load(0)
    assert view.stored
    rows = [mark.row for mark in view.cells if mark.row is not None]
    assert rows == np.flatnonzero(unbroken.column("field_index") == 0).tolist()
    for k, mark in enumerate(view.cells):
        if mark.row is None:
            continue
        area_um2 = np.count_nonzero(view.owner == k + 1) * view.pixel_um**2
        assert area_um2 == pytest.approx(float(unbroken.column("area_um2")[mark.row]), rel=0.02)
        assert mark.label == unbroken.labels()[mark.row]
    # Registered: nuclei absorb at 550 nm just where they glow.
    nucleus, around = view.parts == 2, view.parts == 0
    assert view.images[1][nucleus].mean() < view.images[1][around].max()
    assert view.images[3][nucleus].mean() > 5 * view.images[3][around].mean()
    assert view.trusted.all()


def test_outlines_are_drawn_in_every_panel_where_the_cells_are(unbroken: CellStore) -> None:
    view = FieldViewer(Sample("virtual", unbroken.path.parent)).load(0)
    pixels = np.asarray(Image.open(io.BytesIO(preview_png(view, title="t"))).convert("RGB"))
    nucleus_ink = (pixels == (240, 60, 200)).all(-1)
    halves = [nucleus_ink[: len(pixels) // 2], nucleus_ink[len(pixels) // 2 :]]
    columns = pixels.shape[1] // 3
    panels = [half[:, k * columns : (k + 1) * columns] for half in halves for k in range(3)]
    assert all(panel.sum() > 100 for panel in panels[:5])
    assert composite_planes(view) == (0, 1, 2)


def test_a_field_that_is_not_there(unbroken: CellStore) -> None:
    with pytest.raises(FrameFileError, match="no field 9 with all its frames; there are 6, 0 to 5"):
        FieldViewer(Sample("virtual", unbroken.path.parent)).load(9)


def test_out_needs_preview(copy_run: Callable[[str], Sample], tmp_path: Path) -> None:
    copy_run("plain")
    result = CliRunner().invoke(
        segment, ["--sample", "plain", "--data", str(tmp_path), "--out", "x.png"]
    )
    assert result.exit_code == 2
    assert "--preview" in result.output


@pytest.mark.parametrize(("width_um", "bar_um"), [(205.0, 20.0), (48.0, 5.0), (1200.0, 200.0)])
def test_scale_bars_are_round(width_um: float, bar_um: float) -> None:
    assert scale_bar_um(width_um) == bar_um
