"""Edits over the network: what is written, merged, refused.

Two tabs, two readers, a signature, a blind reading.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from wbcpipe.laboratory.lab_file import Lab, load_lab
from wbcpipe.report.document import read_document
from wbcpipe.report.stage import write_report
from wbcpipe.samples.review.journal import read_journal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.samples.sample import Sample

LAB_FILE = """
version = "1"
[[extra_class]]
name = "<i>SMUDGE</i>"
meaning = "smudge cell"
[sign]
unidentified = "soft"
doubtful = "soft"
"""
SCRIPT = "<script>alert('x')</script>\"'&\u00e9\u0000"[:-1]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A laboratory's file that does not lie in the data root."""
    path = tmp_path / "elsewhere.toml"
    path.write_text(LAB_FILE)
    return load_lab(path)


def assign(key: str, to: str) -> dict[str, Any]:
    return {"action": "assign", "cells": [{"cell": key, "from": "", "to": to}]}


def counts(answer: dict[str, Any]) -> dict[str, int]:
    return {line["name"]: line["count"] for line in answer["differential"]["after"]}


def test_a_sample_has_its_cells_in_columns(client: Any) -> None:
    found = client.sample()
    cells = found["cells"]
    assert {len(column) for column in cells.values()} == {120}
    assert found["classes"] == ["NEU", "LYM", "EOS", "MO", "BAS"]
    assert [found["classes"][index] for index in cells["machine"][:2]] == ["NEU", "NEU"]
    assert cells["machine"][115:118] == [-1, -1, -1]
    assert cells["now"][115] == "unidentified"
    assert cells["excluded"][118:] == ["blurred", "debris"]
    assert cells["order3"][0][0] == 0
    assert len(cells["heads"][0]) == 4
    assert counts(found) == {"NEU": 70, "LYM": 36, "EOS": 3, "MO": 5, "BAS": 1}
    assert found["differential"]["before"] == found["differential"]["after"]
    assert (found["head"], found["undo"], found["state"]) == ("", [], "preliminary")


def test_edits_are_written_undone_and_brought_back_over_a_restart(client: Any, serve: Any) -> None:
    key = client.sample()["cells"]["key"][0]
    answer = client.write(assign(key, "LYM"), base="").json()
    assert counts(answer)["LYM"] == 37
    assert [entry["reader"] for entry in answer["newer"]] == ["Ada"]
    assert answer["newer"][0]["cells"] == [{"cell": key, "from": "NEU", "to": "LYM"}]
    undone = (
        serve("Ada").write({"action": "undo", "target": answer["undo"][-1]}).json()
    )  # another server
    assert counts(undone)["LYM"] == 36
    again = client.write({"action": "redo", "target": undone["redo"][-1]}).json()
    assert counts(again)["LYM"] == 37
    found = serve("Bo").sample()
    assert found["cells"]["now"][0] == "LYM"
    assert (found["cells"]["changed"][0], found["cells"]["looked"][0]) == (1, 1)
    assert found["undo"] == []  # an edit is undone by who made it


def test_two_tabs_merge_what_concerns_other_cells(client: Any, serve: Any) -> None:
    keys = client.sample()["cells"]["key"]
    tab = serve("Ada", like=client)
    first = client.write(assign(keys[0], "LYM"), base="").json()
    second = tab.write(assign(keys[1], "EOS"), base="").json()  # it does not know the first
    assert [entry["cells"][0]["cell"] for entry in second["newer"]] == keys[:2]
    assert counts(second)["LYM"] == 37
    assert counts(second)["EOS"] == 4
    poll = client.get(f"/api/samples/S1/entries?after={first['head']}").json()
    assert poll["head"] == second["head"]
    assert len(poll["newer"]) == 1


def test_an_edit_on_a_stale_base_writes_nothing_and_shows_the_newer_one(
    client: Any, serve: Any, planted: Sample
) -> None:
    key = client.sample()["cells"]["key"][0]
    client.write(assign(key, "LYM"), base="")
    answer = serve("Bo", like=client).write(assign(key, "EOS"), base="")
    assert answer.status_code == 409
    body = answer.json()
    assert "Ada changed the same cell" in body["reason"]
    assert body["newer"][0]["cells"][0]["to"] == "LYM"
    assert len(read_journal(planted)) == 1
    assert client.write(assign(key, "EOS"), base="0" * 64).status_code == 409
    assert client.get("/api/samples/S1/entries?after=nonsense").status_code == 409


@pytest.mark.usefixtures("planted")
def test_script_in_names_and_comments_is_text(serve: Any, lab: Lab) -> None:
    name = "<img src=x onerror=alert(1)>"
    client = serve(name, lab=lab)
    key = client.sample()["cells"]["key"][0]
    answer = client.write(
        {"action": "comment", "cell": key, "text": SCRIPT},
        {"action": "comment", "cell": None, "text": SCRIPT},
        assign(key, "<i>SMUDGE</i>"),
    )
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    found = client.sample()
    assert found["reader"] == name
    assert [comment["text"] for comment in found["comments"][key]] == [SCRIPT]
    for path in ("/", "/samples/S1"):
        page = client.get(path).text
        assert name not in page
        assert "&lt;img" in page


@pytest.mark.parametrize(
    "name",
    [
        "<script>",
        "%2e%2e%2fS1",
        "..%2f..%2fetc%2fpasswd",
        "S1%00",
        "con",
        ".hidden",
        "a" * 65,
    ],
)
def test_a_name_that_no_sample_can_have_is_not_found(shared_client: Any, name: str) -> None:
    for path in (f"/api/samples/{name}", f"/samples/{name}", f"/api/samples/{name}/strips/0.webp"):
        answer = shared_client.get(path)
        assert answer.status_code == 404
        assert "<script>" not in answer.text or answer.headers["content-type"].startswith(
            ("text/plain", "application/json")
        )


def test_a_folder_outside_the_data_root_is_not_served(
    client: Any, planted: Sample, plant_sample: Any
) -> None:
    plant_sample(planted.path.parents[1] / "elsewhere", "S9")
    link = planted.path.parent / "S9"
    assert client.get("/api/samples/S9").status_code == 404
    assert not link.exists()


@pytest.mark.parametrize(
    "entry",
    [
        {"action": "assign", "cells": []},
        {"action": "assign", "cells": [{"cell": "f0y1x1", "from": "", "to": "NEU", "more": 1}]},
        {"action": "sign", "differential": "0" * 64, "counts": {}},
        {"action": "cells_replaced", "new": "0" * 64},
        {"action": "reading", "event": "start", "reading": "r1", "cells": ["f0y1x1"]},
        {"action": "comment", "text": ""},
        {"action": "comment", "text": "x" * 4001},
        {"action": "comment", "text": "\u202e"},
        {"action": "comment", "text": "x", "reader": "Bo"},
        {"action": "look", "cells": ["nonsense"]},
        {"action": "nonsense"},
        "nonsense",
        None,
    ],
)
def test_an_entry_that_is_none_is_refused(shared_client: Any, entry: Any) -> None:
    answer = shared_client.post("/api/samples/S1/entries", {"base": "", "entries": [entry]})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("entry 0")
    assert shared_client.sample()["head"] == ""


def test_a_class_or_cell_that_is_not_known_is_refused(client: Any, planted: Sample) -> None:
    key = client.sample()["cells"]["key"][0]
    assert "not known" in client.write(assign(key, "XYZ"), base="").json()["error"]
    answer = client.write(assign("f999y1x1", "NEU"), base="")
    assert (answer.status_code, "no cell f999y1x1" in answer.json()["error"]) == (409, True)
    assert (
        client.post(
            "/api/samples/S1/entries", {"base": 3, "entries": [assign(key, "NEU")]}
        ).status_code
        == 400
    )
    assert read_journal(planted) == ()


def test_a_sample_is_signed_amended_and_signed_again(serve: Any, planted: Sample, lab: Lab) -> None:
    client = serve(lab=lab)
    key = client.sample()["cells"]["key"][0]
    head = client.write(assign(key, "<i>SMUDGE</i>"), base="").json()["head"]
    signed = client.post("/api/samples/S1/sign", {"base": head, "comment": "counted twice"}).json()
    assert signed["state"] == "verified"
    assert signed["newer"][-1]["comment"] == "counted twice"
    assert read_document(planted).digest() == signed["newer"][-1]["differential"]
    refused = client.write(assign(key, "NEU"))
    assert (refused.status_code, "signed" in refused.json()["error"]) == (409, True)
    entry = client.get("/api/samples").json()[0]
    assert (entry["state"], entry["verified_by"], entry["changed"]) == ("verified", "Ada", 1)
    assert (
        client.post("/api/samples/S1/amend", {"base": signed["head"], "why": ""}).status_code == 400
    )
    amended = client.post(
        "/api/samples/S1/amend", {"base": signed["head"], "why": "a smudge was a cell"}
    ).json()
    assert amended["state"] == "preliminary"
    head = client.write(assign(key, "NEU")).json()["head"]
    assert (
        client.post("/api/samples/S1/sign", {"base": head, "comment": ""}).json()["state"]
        == "corrected"
    )
    head = client.get("/api/samples/S1/entries?after=").json()["head"]
    assert (
        client.post("/api/samples/S1/unsign", {"base": head, "why": "not yet"}).json()["state"]
        == "preliminary"
    )


def test_a_hard_check_forbids_to_sign(client: Any) -> None:
    answer = client.post("/api/samples/S1/sign", {"base": "", "comment": ""})
    assert answer.status_code == 409
    assert "unidentified" in {check["name"] for check in answer.json()["failed"]}
    assert client.sample()["state"] == "preliminary"


def test_a_sample_that_a_stage_holds_is_locked(
    serve: Any, planted: Sample, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wbcpipe.review.signing.sign.WAIT_S", 0.1)
    soft = serve(lab=lab)
    with planted.lock("segment"):
        answer = soft.post("/api/samples/S1/sign", {"base": "", "comment": ""})
    assert answer.status_code == 423


def test_cells_that_a_stage_replaces_are_locked_not_gone(client: Any, planted: Sample) -> None:
    """A page tries again on 423; any other answer would take its edits back."""
    key = client.sample()["cells"]["key"][0]
    aside = planted.path / "cells.zarr.old"
    with planted.lock("segment"):
        planted.cells_path.rename(aside)
        assert client.write(assign(key, "LYM"), base="").status_code == 423
        aside.rename(planted.cells_path)
    assert client.write(assign(key, "LYM"), base="").status_code == 200
    planted.cells_path.rename(aside)
    assert client.get("/api/samples/S1").status_code == 422


def test_a_blind_reader_sees_neither_the_model_nor_another_reader(client: Any, serve: Any) -> None:
    keys = client.sample()["cells"]["key"]
    client.write(assign(keys[0], "LYM"), base="")
    bo = serve("Bo", like=client)
    begun = bo.post("/api/samples/S1/readings", {"mode": "blind", "cells": 20, "seed": 1}).json()
    assert len(begun["reading"]["rows"]) == 20
    assert begun["rows"] == begun["reading"]["rows"]
    assert bo.post("/api/samples/S1/readings", {"mode": "blind", "cells": 20}).status_code == 409
    found = bo.sample()
    assert not {
        "machine",
        "confidence",
        "disagreement",
        "heads",
        "order3",
        "doubt",
        "now",
        "changed",
    } & set(found["cells"])
    assert not {"differential", "comments", "checks"} & set(found)
    client.write({"action": "comment", "cell": keys[1], "text": "Ada's"})
    seen = bo.get("/api/samples/S1/entries?after=").json()["newer"]
    assert {entry["reader"] for entry in seen} == {"Bo"}
    for path in ("similar?rows=0", "agreement?a=Ada&b=machine"):
        assert bo.get(f"/api/samples/S1/{path}").status_code == 409
    assert bo.write(assign(keys[1], "LYM")).status_code == 409
    row = begun["rows"][0]
    reading = begun["reading"]["reading"]
    called = bo.write({"action": "call", "reading": reading, "cell": keys[row], "to": "EOS"}).json()
    assert called["reading"]["calls"] == {keys[row]: "EOS"}
    bo.write({"action": "reading", "event": "finish", "reading": reading})
    assert "machine" in bo.sample()["cells"]
    agreement = bo.get("/api/samples/S1/agreement?a=Bo&b=machine").json()
    assert agreement["agreement"]["cells"] == 1
    assert bo.get("/api/samples/S1/agreement").json()["readers"] == ["Bo", "Ada"]
    assert bo.get("/api/samples/S1/agreement?a=Eve&b=machine").status_code == 422


def test_adjudicated_cells_come_into_the_library(client: Any) -> None:
    assert client.get("/api/library").json() == []
    keys = client.sample()["cells"]["key"]
    entry = {
        "action": "adjudicate",
        "cell": keys[3],
        "to": "BAS",
        "why": "granules",
        "between": ["Bo", "Cy"],
    }
    assert client.write(entry).status_code == 200
    library = client.get("/api/library").json()
    assert [(cell["class"], "adjudicated by Ada" in cell["source"]) for cell in library] == [
        ("BAS", True)
    ]
    assert client.get(library[0]["url"]).headers["content-type"] == "image/webp"


def test_the_library_tells_a_blind_reader_nothing_of_the_sample(client: Any, serve: Any) -> None:
    keys = client.sample()["cells"]["key"]
    entry = {
        "action": "adjudicate",
        "cell": keys[3],
        "to": "BAS",
        "why": "",
        "between": ["Bo", "Cy"],
    }
    client.write(entry)
    cat = serve("Cat", like=client)
    assert len(cat.get("/api/library").json()) == 1
    cat.post("/api/samples/S1/readings", {"mode": "blind", "cells": 20})
    assert cat.get("/api/library").json() == []
    assert len(client.get("/api/library").json()) == 1


def test_cells_that_are_classified_again_are_read_again(
    client: Any, planted: Sample, classify_again: Any
) -> None:
    from wbcpipe.samples.cell_store import CellStore

    key = client.sample()["cells"]["key"][0]
    client.write(assign(key, "LYM"), base="")
    classify_again(CellStore(planted.cells_path), ["LYM"] * 120)
    found = client.sample()
    assert found["cells"]["now"][1] == "LYM"
    assert found["cells"]["now"][0] == "LYM"


def test_the_worklist_names_failed_gates_by_their_titles(client: Any, planted: Sample) -> None:
    planted.write(planted.record().model_copy(update={"quality": {"accepted_percent": 100}}))
    write_report(planted)
    (found,) = client.get("/api/samples").json()
    assert found["gates_failed"] == ["Complete white cells of all objects found"]


def test_the_worklist_shows_every_sample_and_its_state(
    client: Any, plant_sample: Callable[..., Sample], planted: Sample
) -> None:
    from wbcpipe.samples.records import SampleRecord
    from wbcpipe.samples.sample import Sample as AnySample

    root = planted.path.parent
    ordered = AnySample.open(root, "S0")
    ordered.write(SampleRecord(sample="S0"))
    damaged = plant_sample(root, "S2")
    damaged.info_path.write_text("{")
    if os.name == "posix":
        (root / "<img src=x onerror=alert(1)>").mkdir()
        (root / "<img src=x onerror=alert(1)>" / "sample.json").write_text("{}")
    client.write({"action": "look", "cells": client.sample()["cells"]["key"][:3]}, base="")
    found = {entry["sample"]: entry for entry in client.get("/api/samples").json()}
    assert [(name, found[name]["state"]) for name in found] == [
        ("S0", "ordered"),
        ("S1", "preliminary"),
        ("S2", "damaged"),
    ]
    assert (found["S1"]["cells"], found["S1"]["looked"]) == (120, 3)
    assert "sample.json" in found["S2"]["problem"]
    keys = client.sample()["cells"]["key"]
    client.write({"action": "look", "cells": keys[:5]})
    client.write(assign(keys[7], "LYM"), assign(keys[8], "NEU"), assign(keys[9], "unidentified"))
    found = {entry["sample"]: entry for entry in client.get("/api/samples").json()}
    shown = {
        name: found["S1"][name]
        for name in ("looked", "changed", "counted", "unidentified", "state")
    }
    assert shown == {
        "looked": 8,
        "changed": 2,
        "counted": 114,
        "unidentified": 4,
        "state": "preliminary",
    }
