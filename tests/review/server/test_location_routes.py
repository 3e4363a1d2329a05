"""The cell-location test over the network, on a sample with fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.classification_record import Classification
from wbcpipe.samples.sample import Sample
from wbcpipe.segment.importers.fields import import_fields
from wbcpipe.segment.importers.inputs import FieldImport
from wbcpipe.segment.run import segment_sample

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CENTRES = {"left": ((90, 90), (90, 250), (230, 180)), "right": ((100, 200), (220, 110))}


@pytest.fixture
def smear(tmp_path: Path) -> Sample:
    """Two fields with three and two violet nuclei on a light ground, classified."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name, centres in CENTRES.items():
        y, x = np.mgrid[:320, :340]
        rgb = np.full((320, 340, 3), (225, 215, 220), np.uint8)
        rgb += np.random.default_rng(len(centres)).integers(0, 6, rgb.shape, np.uint8)
        for cy, cx in centres:
            radius = np.hypot(y - cy, x - cx)
            rgb[radius < 42] = (200, 190, 225)
            rgb[radius < 30] = (95, 40, 140)
        Image.fromarray(rgb).save(pictures / f"{name}.png")
    sample = Sample.open(tmp_path / "data", "smear")
    import_fields([pictures], sample, FieldImport("stained-rgb", 0.15))
    segment_sample(sample, pixel_um=0.1, jobs=1)
    store = CellStore(sample.cells_path)
    probability = np.full((5, len(store.modalities), 2), 0.5, np.float32)
    half = np.full(5, 0.5, np.float32)
    how = Classification(
        bundle="test",
        sha256="c" * 64,
        classes=("NEU", "LYM"),
        heads=store.modalities,
        threshold=0.4,
        risk_control=None,
    )
    store.write_predictions(probability, ["NEU"] * 5, half, half, classification=how)
    return sample


def test_marks_become_a_result_with_its_trend(smear: Sample, serve: Callable[..., Any]) -> None:
    client = serve("Ada")
    path = f"/api/samples/{smear.name}/location-test"
    begun = client.get(path).json()
    assert (begun["fields"], begun["results"], begun["trend"]["tests"]) == ([0, 1], [], 0)
    places = [
        (300, 40),
        (302, 41),
        (92, 91),
    ]  # one missed cell, marked twice, and one that was found
    marks = [{"action": "location_mark", "field": 0, "y_px": y, "x_px": x} for y, x in places]
    assert client.write(*marks, name=smear.name).status_code == 200
    other = serve("Ben", like=client)
    assert other.write({**marks[0], "y_px": 20, "x_px": 300}, name=smear.name).status_code == 200
    result = client.post(path, {"fields": [0, 1]}).json()["result"]
    assert (result["found"], result["missed"], result["already_found"]) == (5, 1, 1)
    assert result["percent"] == pytest.approx(500 / 6)
    assert result["passed"] is False
    second = client.post(path, {"fields": [1]}).json()
    assert (second["result"]["found"], second["result"]["missed"], second["result"]["passed"]) == (
        2,
        0,
        True,
    )
    assert [item["fields"] for item in second["results"]] == [2, 1]
    assert second["trend"]["tests"] == 2


@pytest.mark.parametrize("fields", [[], [7], ["0"], [True], None, {"0": 1}, [[0]]])
def test_fields_that_do_not_exist_are_refused(
    smear: Sample, serve: Callable[..., Any], fields: Any
) -> None:
    client = serve("Ada")
    answer = client.post(f"/api/samples/{smear.name}/location-test", {"fields": fields})
    assert answer.status_code == 400
    assert "`fields` must be the indices" in answer.json()["error"]
    assert client.get("/api/samples/none/location-test").status_code == 404
