"""Images over the network.

Strips, outlines, similar cells, and rows and fields that do not exist.
"""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

from wbcpipe.review.images.strips import TILE_PX


def test_a_strip_shows_the_modalities_side_by_side(shared_client: Any) -> None:
    digest = shared_client.sample()["digest"]
    answer = shared_client.get(f"/api/samples/S1/strips/0.webp?v={digest}")
    assert answer.headers["content-type"] == "image/webp"
    assert "immutable" in answer.headers["cache-control"]
    assert Image.open(io.BytesIO(answer.content)).size == (5 * TILE_PX, TILE_PX)
    old = shared_client.get("/api/samples/S1/strips/0.webp?v=old")
    assert "immutable" not in old.headers["cache-control"]
    full = shared_client.get("/api/samples/S1/strips/0.webp?side=224")
    assert Image.open(io.BytesIO(full.content)).size == (80, 16)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("strips/120.webp", 404),
        ("strips/-1.webp", 404),
        ("strips/1e3.webp", 404),
        ("strips/99999999999999999999.webp", 404),
        ("outlines/120.json", 404),
        ("fields/0.webp", 404),
        ("fields/0.json", 404),
        ("similar", 400),
        ("similar?rows=", 400),
        ("similar?rows=0,", 400),
        ("similar?rows=-1", 400),
        ("similar?rows=\u0661", 400),
        ("similar?rows=120", 404),
        ("similar?rows=" + ",".join(["0"] * 101), 400),
    ],
)
def test_what_does_not_exist_is_refused(shared_client: Any, path: str, status: int) -> None:
    answer = shared_client.get(f"/api/samples/S1/{path}")
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"


def test_similar_cells_follow_the_chosen_ones(shared_client: Any) -> None:
    order = shared_client.get("/api/samples/S1/similar?rows=3,75").json()["order"]
    assert set(order[:2]) == {3, 75}
    assert sorted(order) == list(range(120))
    # Two classes are planted, each with one probability: the cells of both come first.
    calls = shared_client.sample()["cells"]["now"]
    assert {calls[row] for row in order[:100]} == {"NEU", "LYM"}


def test_a_cell_without_mask_has_no_outline(shared_client: Any) -> None:
    assert shared_client.get("/api/samples/S1/outlines/0.json").json() == {
        "side_px": 16,
        "cell": [],
        "nucleus": [],
    }


def test_the_map_of_imported_cells_has_no_fields(shared_client: Any) -> None:
    found = shared_client.get("/api/samples/S1/map").json()
    assert found["fields"] == []
    assert len(found["cells"]["y_um"]) == 120
