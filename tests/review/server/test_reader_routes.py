"""Two readers over the network: their agreement brings the reference differential of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


def _read(client: Any, seed: int, to: Callable[[int], str]) -> None:
    begun = client.post(
        "/api/samples/S1/readings", {"mode": "blind", "cells": 20, "seed": seed}
    ).json()
    reading, rows = begun["reading_id"], sorted(begun["rows"])
    keys = client.sample()["cells"]["key"]
    calls = [
        {"action": "call", "reading": reading, "cell": keys[row], "to": to(at)}
        for at, row in enumerate(rows)
    ]
    finish = {"action": "reading", "event": "finish", "reading": reading}
    assert client.write(*calls, finish).status_code == 200


def test_agreement_of_two_blind_readers_has_their_reference(
    client: Any, serve: Callable[..., Any]
) -> None:
    other = serve("Bo", like=client)
    _read(client, 1, lambda at: "NEU" if at < 12 else "LYM")
    _read(other, 2, lambda at: "NEU" if at < 13 else "LYM")
    found = client.get("/api/samples/S1/agreement?a=Ada&b=Bo").json()
    assert (found["agreement"]["cells"], len(found["differ"])) == (20, 1)
    reference = found["reference"]
    assert reference["classes"][0]["percent"] == pytest.approx(62.5)
    assert (reference["white_cells"], len(reference["open_cells"])) == (20, 1)
    assert any("200 are asked for" in note for note in reference["notes"])
    assert client.get("/api/samples/S1/agreement?a=Ada&b=machine").json()["reference"] is None
