"""A review from the first look to a corrected report, and what is refused on the way."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner

from wbcpipe.errors import ConfigError, DamagedDataError, SampleBusyError, SampleStateError
from wbcpipe.laboratory.lab_file import ExtraClass, Lab, SignRules, load_lab
from wbcpipe.report.cli import report, status
from wbcpipe.report.document import document_paths, read_document
from wbcpipe.report.gates import LIMITS
from wbcpipe.report.signed_document import signed_path
from wbcpipe.report.stage import write_report
from wbcpipe.report.status import sample_status
from wbcpipe.report.verify_journal import verify_journal
from wbcpipe.review.signing.sign import SignRefusedError
from wbcpipe.samples.cell_columns import UNIDENTIFIED
from wbcpipe.samples.cell_store import CellStore
from wbcpipe.samples.differential_record import differential_schema
from wbcpipe.samples.review.journal import JournalConflictError, journal_path
from wbcpipe.verify.check_sample import verify_sample

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.review.review_session import ReviewSession
    from wbcpipe.samples.sample import Sample

    Open = Callable[..., ReviewSession]

SOFT = SignRules(unidentified="soft", doubtful="soft")
LAB = Lab(
    extra_classes=(
        ExtraClass(name="SMUDGE", meaning="smudge cell"),
        ExtraClass(name="BLAST", meaning="blast", white_cell=True),
    ),
    sign=SOFT,
)


def assign(session: ReviewSession, rows: list[int], to: str, reader: str = "Ada") -> None:
    cells = [
        {"cell": session.keys[row], "from": "whatever the page says", "to": to} for row in rows
    ]
    session.append(
        [{"action": "assign", "cells": cells}], reader=reader, base=session.journal.head()
    )


def look(session: ReviewSession, rows: list[int], reader: str = "Ada") -> None:
    content = {"action": "look", "cells": [session.keys[row] for row in rows]}
    session.append([content], reader=reader, base=session.journal.head())


def counts(found: dict[str, Any], when: str = "after") -> dict[str, int]:
    return {line["name"]: line["count"] for line in found[when]}


def test_the_machines_count_before_anything_is_done(planted: Sample, review: Open) -> None:
    session = review(planted)
    found = session.differential()
    assert (
        counts(found)
        == counts(found, "before")
        == {"NEU": 70, "LYM": 36, "EOS": 3, "MO": 5, "BAS": 1}
    )
    assert (found["counted"], found["unidentified"]) == (115, 3)
    assert found["stop"]["unreviewed"] == 118
    assert found["stop"]["decisive"] == 3, (
        "the unidentified cells alone: the model is sure of all others"
    )
    assert set(found["stop"]["next"]) == {115, 116, 117}
    assert found["stop"]["sentence"].startswith("3 more cells, and the differential cannot change")
    assert not journal_path(planted).exists(), "opening a sample writes nothing"
    json.dumps(
        [found, session.columns(), session.checks(), session.describe_classes()], allow_nan=False
    )


def test_each_way_to_leave_the_count_is_counted_apart(planted: Sample, review: Open) -> None:
    session = review(planted, LAB)
    assign(session, [0], "LYM")
    assign(session, [1], "not_classed")
    assign(session, [2], "artefact")
    assign(session, [3, 4], "SMUDGE")
    assign(session, [5], "BLAST")
    assign(session, [6], UNIDENTIFIED)
    assign(session, [115], "MO")
    assign(session, [118], "NEU")  # blurred, but a person can tell
    found = session.differential()
    assert counts(found) == {"NEU": 64, "LYM": 37, "EOS": 3, "MO": 6, "BAS": 1, "BLAST": 1}
    assert (found["counted"], found["unidentified"], found["not_classed"], found["artefact"]) == (
        112,
        3,
        1,
        1,
    )
    assert found["extra"] == [
        {"name": "SMUDGE", "count": 2, "per_100_wbc": pytest.approx(200 / 112, abs=1e-4)}
    ]
    assert counts(found, "before")["NEU"] == 70
    columns = session.columns()
    assert [columns["now"][row] for row in range(7)] == [
        "LYM",
        "not_classed",
        "artefact",
        "SMUDGE",
        "SMUDGE",
        "BLAST",
        UNIDENTIFIED,
    ]
    assert (columns["excluded"][3], columns["excluded"][118], columns["excluded"][119]) == (
        "SMUDGE",
        "",
        "debris",
    )
    assert sum(columns["changed"]) == sum(columns["looked"]) == 9


def test_the_report_knows_what_readers_did(planted: Sample, review: Open, tmp_path: Path) -> None:
    (tmp_path / "data" / "lab.toml").write_text(
        'version = "7"\n[[extra_class]]\nname = "SMUDGE"\n[reference.percent]\nNEU = [30, 60]\n',
        encoding="utf-8",
    )
    write_report(planted)
    assert read_document(planted).verification.journal is None
    session = review(planted, Lab(extra_classes=(ExtraClass(name="SMUDGE"),)))
    assign(session, [0], "SMUDGE")
    assign(session, [1], "not_classed", "Émile <b>")
    look(session, [10, 11, 12])
    remark = {"action": "comment", "cell": None, "text": "two lines\n<script>alert(1)</script>"}
    session.append([remark], reader="Ada", base=session.journal.head())
    write_report(planted)
    document = read_document(planted)
    jsonschema.Draft202012Validator(differential_schema()).validate(json.loads(document.to_bytes()))
    found = document.verification
    assert (found.state, found.looked, found.changed) == ("preliminary", 5, 2)
    assert found.readers == ("Ada", "Émile <b>")
    assert found.journal is not None
    assert (found.journal.entries, found.journal.head) == (4, session.journal.head())
    assert found.extra[0].count == 1
    assert {line.name: line.count for line in found.machine}["NEU"] == 70
    assert found.lab is not None
    assert found.lab.version == "7"
    assert (
        document.cells.excluded_by_reader.not_white_cells
        == document.cells.excluded_by_reader.not_classed
        == 1
    )
    rejected = sum(count for _, count in document.cells.rejected)
    assert (
        document.cells.found
        == document.cells.counted + document.cells.unidentified.count + rejected + 2
        == 120
    )
    assert document.classes[0].reference_percent == (30, 60)
    page = document_paths(planted)[2].read_text(encoding="utf-8")
    assert "<b>preliminary</b>" in page
    assert "Preliminary: the review is not signed. Looked at 5 cells, changed 2." in page
    assert "Émile <b>" not in page
    assert "<script>" not in page
    assert "Ada, " in page
    assert "two lines\n&lt;script&gt;" in page
    assert found.comments[0].text == "two lines\n<script>alert(1)</script>"
    assert '<th scope="col" class="n">Model</th>' in page
    rows = document_paths(planted)[1].read_text(encoding="utf-8").splitlines()
    head = rows[0].split(",")
    second = dict(zip(head, rows[2].split(","), strict=True))
    assert (second["counted"], second["exclusion_reason"], second["reviewed_class"]) == (
        "false",
        "not_classed",
        "not_classed",
    )
    assert verify_sample(planted).sound


def finish(session: ReviewSession, reader: str = "Ada") -> None:
    for row, to in ((115, "MO"), (116, "NEU"), (117, "not_classed")):
        assign(session, [row], to, reader)


def test_hard_checks_forbid_to_sign_and_soft_ones_are_noted(planted: Sample, review: Open) -> None:
    session = review(planted)
    with pytest.raises(
        SignRefusedError, match="3 cells unidentified; 3 cells left to look at"
    ) as caught:
        session.sign(reader="Ada", base="")
    assert [check.name for check in caught.value.failed] == ["unidentified", "doubtful"]
    assert not session.journal.entries()
    soft = review(planted, Lab(sign=dataclasses.replace(Lab(), sign=SOFT).sign))
    soft.sign(reader="Ada", base="", comment="a preliminary count")
    found = read_document(planted).verification
    assert (found.state, found.signed_by, found.comment) == (
        "verified",
        "Ada",
        "a preliminary count",
    )
    page = document_paths(planted)[2].read_text(encoding="utf-8")
    assert "Signed although these checks were not met" in page
    assert "<li>3 cells unidentified</li>" in page
    assert [(check.name, check.passed, check.hard) for check in found.checks] == [
        ("unidentified", False, False),
        ("doubtful", False, False),
        ("gates", True, False),
        ("count", True, False),
    ]


def test_sign_amend_and_sign_again(planted: Sample, review: Open) -> None:
    write_report(planted, wbc_1e9_per_l=6.2)
    session = review(planted)
    finish(session)
    assert [check["passed"] for check in session.checks()] == [True, True, True, True]
    session.sign(reader="Ada", base=session.journal.head())
    path = document_paths(planted)[0]
    first = path.read_bytes()
    document = read_document(planted)
    assert (document.verification.state, document.verification.signed_by) == ("verified", "Ada")
    assert document.wbc_1e9_per_l == 6.2, "the concentration of the last report"
    assert signed_path(planted, 4).read_bytes() == first
    write_report(planted)
    assert path.read_bytes() == first
    with pytest.raises(JournalConflictError, match="the sample is signed"):
        assign(session, [0], "LYM")
    with pytest.raises(JournalConflictError, match="the sample is signed"):
        session.sign(reader="Ada", base=session.journal.head())
    with pytest.raises(ConfigError, match="signed by Ada with its own reference"):
        write_report(planted, wbc_1e9_per_l=7.0)
    with pytest.raises(ValueError, match="why"):
        session.amend(reader="Bob", base=session.journal.head(), why="")
    session.amend(reader="Bob", base=session.journal.head(), why="cell 0 is a lymphocyte")
    document = read_document(planted)
    assert (document.verification.state, document.wbc_1e9_per_l) == ("preliminary", 6.2)
    assign(session, [0], "LYM", "Bob")
    session.sign(reader="Bob", base=session.journal.head())
    document = read_document(planted)
    assert (document.verification.state, document.verification.correction) == (
        "corrected",
        "cell 0 is a lymphocyte",
    )
    replaced = document.verification.corrects
    assert replaced is not None
    assert (replaced.entry, replaced.signed_by) == (4, "Ada")
    assert replaced.sha256 == json.loads(first)["sha256"]
    assert signed_path(planted, 4).read_bytes() == first, "what was signed first is kept"
    found = verify_journal(planted)
    assert not found.problems
    assert [(one.entry, one.reader, one.in_force, one.replayed) for one in found.signatures] == [
        (4, "Ada", False, True),
        (7, "Bob", True, True),
    ]
    assert verify_sample(planted).sound
    page = document_paths(planted)[2].read_text(encoding="utf-8")
    assert "Corrected by Bob at" in page
    assert "It replaces the report signed by Ada at" in page
    session.unsign(reader="Bob", base=session.journal.head(), why="wait for the second reader")
    assert read_document(planted).verification.state == "preliminary"
    assert not verify_journal(planted).problems


def _edit(path: Path, before: bytes, after: bytes) -> None:
    content = path.read_bytes()
    assert before in content
    path.write_bytes(content.replace(before, after, 1))


def test_what_was_signed_cannot_be_changed_unseen(planted: Sample, review: Open) -> None:
    session = review(planted)
    finish(session)
    session.sign(reader="Ada", base=session.journal.head())
    path, signed = document_paths(planted)[0], signed_path(planted, 4)
    clean = {file: file.read_bytes() for file in (path, signed, journal_path(planted))}

    def problems() -> str:
        found = [f"{damage.file}: {damage.problem}" for damage in verify_sample(planted).damages]
        for file, content in clean.items():
            file.write_bytes(content)
        return "; ".join(found)

    assert not problems()
    _edit(path, b'"count": 71', b'"count": 72')
    assert "differential.json" in problems()
    _edit(signed, b"\n", b" \n")  # a blank: the same JSON, but not the same bytes
    assert "byte for byte" in problems()
    signed.unlink()
    assert "signed_4.json" in problems()
    forged = json.loads(clean[path])
    forged["classes"][0]["count"] += 1
    record = read_document(planted).model_validate(
        {key: forged[key] for key in forged if key != "sha256"}
    )
    record.write(path)  # with a right checksum of its own
    assert "not the differential that Ada signed" in problems()
    _edit(journal_path(planted), b'"to":"MO"', b'"to":"NEU"')
    assert "line 1: changed since it was written" in problems()
    assert not problems()


@pytest.mark.parametrize(
    "kept", [0, 2, 3], ids=["no journal", "the first lines", "all but the signature"]
)
def test_a_report_is_not_replaced_when_its_journal_is_gone(
    planted: Sample, review: Open, kept: int
) -> None:
    session = review(planted)
    finish(session)
    session.sign(reader="Ada", base=session.journal.head())
    path = journal_path(planted)
    lines = path.read_bytes().splitlines(keepends=True)
    documents = {file: file.read_bytes() for file in document_paths(planted)}
    path.write_bytes(b"".join(lines[:kept]))
    if not kept:
        path.unlink()
    assert any(damage.file == "review/journal.jsonl" for damage in verify_sample(planted).damages)
    with pytest.raises(
        SampleStateError, match=r"journal\.jsonl: does not have the .*restore it from a copy"
    ):
        write_report(planted)
    assert {file: file.read_bytes() for file in documents} == documents
    path.write_bytes(b"".join(lines))
    assert verify_sample(planted).sound


def test_what_another_version_signed_stays_as_it_is(
    planted: Sample, review: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("wbcpipe.report.reviewed_sample.VERSION", "0.0.9")
        session = review(planted)
        finish(session)
        session.sign(reader="Ada", base=session.journal.head())
    first = document_paths(planted)[0].read_bytes()
    assert verify_journal(planted).signatures[0].replayed is True, (
        "this version still gives the same"
    )
    document_paths(planted)[0].unlink()
    monkeypatch.setattr("wbcpipe.report.gates.LIMITS", dict(list(LIMITS.items())[:5]))
    write_report(planted)
    assert document_paths(planted)[0].read_bytes() == first
    found = verify_journal(planted)
    assert (found.signatures[0].replayed, found.problems) == (None, ())
    document_paths(planted)[0].unlink()
    signed_path(planted, 4).unlink()
    with pytest.raises(
        SampleStateError, match="gives another differential than the one that Ada signed"
    ):
        write_report(planted)


def test_verify_journal_on_the_command_line(planted: Sample, review: Open) -> None:
    session = review(planted)
    finish(session)
    session.sign(reader="Ada", base=session.journal.head())
    command = ["--sample", "S1", "--data", str(planted.path.parent), "--verify-journal"]
    done = CliRunner().invoke(report, command)
    assert done.exit_code == 0, done.output
    assert "entry 4: signed by Ada" in done.output
    assert "in force: replayed, byte for byte" in done.output
    _edit(signed_path(planted, 4), b"\n", b" \n")
    done = CliRunner().invoke(report, [*command, "--json"])
    assert isinstance(done.exception, DamagedDataError)
    assert json.loads(done.output)["problems"] == [
        f"{signed_path(planted, 4)}: not the replay of the journal, byte for byte"
    ]


def test_a_crash_between_signature_and_documents(
    planted: Sample, review: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = review(planted)
    finish(session)

    def crash(_sample: Sample) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("wbcpipe.review.signing.sign.write_documents", crash)
    with pytest.raises(KeyboardInterrupt):
        session.sign(reader="Ada", base=session.journal.head())
    assert not document_paths(planted)[0].exists()
    write_report(planted)
    assert not verify_journal(planted).problems
    assert read_document(planted).verification.signed_by == "Ada"


def test_what_is_signed_is_that_of_the_last_report(
    planted: Sample, review: Open, tmp_path: Path
) -> None:
    session = review(planted)
    finish(session)
    assert {line["name"]: line["flag"] for line in session.differential()["after"]}[
        "NEU"
    ] == "normal"
    reference = tmp_path / "ours.toml"
    reference.write_text('source = "ours"\n[percent]\nNEU = [1, 2]\n', encoding="utf-8")
    write_report(planted, reference=reference, wbc_1e9_per_l=5.5)  # while the page is open
    assert {line["name"]: line["flag"] for line in session.differential()["after"]}["NEU"] == "high"
    session.sign(reader="Ada", base=session.journal.head())
    document = read_document(planted)
    assert (document.reference_source, document.wbc_1e9_per_l, document.classes[0].flag) == (
        "ours",
        5.5,
        "high",
    )


def test_a_signature_rests_on_what_the_reader_saw(planted: Sample, review: Open) -> None:
    session, other = review(planted), review(planted)
    finish(session)
    base = session.journal.head()
    assign(other, [0], "LYM", "Bob")
    with pytest.raises(JournalConflictError, match="Bob changed the sample meanwhile"):
        session.sign(reader="Ada", base=base)
    assert counts(session.differential())["LYM"] == 37, "it has read what the other wrote"
    session.sign(reader="Ada", base=session.journal.head())


def test_other_classes_void_a_signature_and_looks_at_them(
    planted: Sample,
    review: Open,
    classify_again: Callable[..., None],
    plant_sample: Callable[..., Sample],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = review(planted)
    look(session, [0, 1])
    finish(session)
    session.sign(reader="Ada", base=session.journal.head())
    calls = ["LYM", *session.rows.predicted_class[1:]]
    for change in (
        lambda: classify_again(CellStore(planted.cells_path), calls),
        lambda: plant_sample(planted.path.parent),
        lambda: CellStore(planted.cells_path).write_labels([""] * 120, (), None),  # type: ignore[arg-type]
    ):
        with pytest.raises(
            SampleStateError,
            match=r"not changed: Ada signed sample 'S1' .*amend the signature first",
        ):
            change()
    monkeypatch.setattr(
        "wbcpipe.samples.cell_store.refuse_if_signed", lambda _path: None
    )  # as another program
    classify_again(CellStore(planted.cells_path), calls)
    assert any(
        "not the cells and classes that Ada signed" in item.problem
        for item in verify_sample(planted).damages
    )
    write_report(planted)
    found = read_document(planted).verification
    assert found.state == "preliminary"
    assert "after Ada had signed" in found.voided
    assert found.looked == 4, (
        "cell 0 was seen as a neutrophil, and the three were given their class"
    )
    assert verify_journal(planted).signatures[0].replayed is None
    again = review(planted)
    assert counts(again.differential())["LYM"] == 37
    assert again.columns()["looked"][:2] == [0, 1]


def test_a_new_segmentation_keeps_the_review_of_the_cells_it_finds_again(
    planted: Sample, review: Open, plant_sample: Callable[..., Sample]
) -> None:
    session = review(planted)
    assign(session, [5, 6], "MO")
    gone = session.keys[6]
    comment = {"action": "comment", "cell": gone, "text": "folded"}
    session.append([comment], reader="Ada", base=session.journal.head())
    plant_sample(planted.path.parent)  # the same cells again
    assert len(review(planted).journal.entries()) == 2
    store = CellStore(planted.cells_path)
    fields, x_um = store.column("field_index"), store.column("x_um")
    assert fields[6] == 1
    shifted = x_um + np.where(np.arange(120) == 6, 50.0, 1.0)
    _replace_column(store, "x_um", shifted)
    again = review(planted)
    entry = again.journal.entries()[-1]
    assert (entry.reader, entry.action.action) == ("wbcpipe", "cells_replaced")
    assert again.columns()["now"][5] == "MO"
    assert again.columns()["now"][6] == "NEU"
    edit, remark = again.journal.entries()[:2]
    assert again.journal.state().lost() == {edit.id: (gone,), remark.id: (gone,)}
    write_report(planted)
    assert read_document(planted).verification.lost == 1
    assert len(review(planted).journal.entries()) == 3, "noted once"


def _replace_column(store: CellStore, name: str, values: np.ndarray) -> None:
    """Write a column, as a new segmentation would: the store is made again from its own blocks."""
    from wbcpipe.samples.cell_columns import COLUMNS
    from wbcpipe.samples.cell_store import PREDICTIONS, CellBlock

    kept = {column: store.column(column) for column in PREDICTIONS}
    columns = {column: store.column(column) for column in COLUMNS} | {name: values}
    block = CellBlock(store.images(), store.masks(), columns, store.labels())
    classification = store.classification()
    new = CellStore.create(store.path, [block], store.attributes)
    new.write_predictions(
        kept["probability"],
        [str(text) for text in kept["predicted_class"]],
        kept["confidence"],
        kept["disagreement"],
        classification=classification,
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            {"action": "assign", "cells": [{"cell": "f0y123x-1000", "from": "", "to": "CAT"}]},
            "'CAT' is not known",
        ),
        (
            {"action": "assign", "cells": [{"cell": "f9y9x9", "from": "", "to": "NEU"}]},
            "no cell f9y9x9",
        ),
        ({"action": "look", "cells": ["f9y9x9"]}, "no cell f9y9x9"),
        (
            {"action": "adjudicate", "cell": "f0y123x-1000", "to": "CAT", "between": ["a", "b"]},
            "'CAT' is not known",
        ),
        ({"action": "rm"}, "action 'rm' is not known"),
    ],
    ids=["class", "cell", "look", "adjudicate", "action"],
)
def test_what_is_not_known_is_refused(
    planted: Sample, review: Open, content: Any, words: str
) -> None:
    session = review(planted)
    with pytest.raises(ValueError, match=words):
        session.append([content], reader="Ada", base="")
    assert not session.journal.entries()


def test_the_journal_holds_the_class_that_the_cell_had(planted: Sample, review: Open) -> None:
    session = review(planted)
    assign(session, [0], "LYM")
    assign(session, [0], "MO")
    look(session, [0, 1])
    contents = [entry.content() for entry in session.journal.entries()]
    assert [one["cells"][0]["from"] for one in contents[:2]] == ["NEU", "LYM"]
    assert contents[2]["seen"] == ["MO", "NEU"]


def test_a_class_that_left_the_laboratorys_file_is_no_silent_loss(
    planted: Sample, review: Open
) -> None:
    assign(review(planted, LAB), [0], "SMUDGE")
    with pytest.raises(SampleStateError, match="'SMUDGE', which is neither the model's nor one of"):
        write_report(planted)


def test_a_sample_that_a_stage_works_on_is_not_signed(
    planted: Sample, review: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = review(planted)
    finish(session)
    monkeypatch.setattr("wbcpipe.review.signing.sign.WAIT_S", 0.1)
    with planted.lock("classify"), pytest.raises(SampleBusyError, match="classify"):
        session.sign(reader="Ada", base=session.journal.head())
    assert session.journal.state().signed is None


def test_a_model_whose_error_is_not_known_asks_for_all_cells(
    tmp_path: Path, plant_sample: Callable[..., Sample], review: Open
) -> None:
    calls = ["NEU"] * 60 + [UNIDENTIFIED] * 40  # far more than any validation showed
    sample = plant_sample(tmp_path / "data", "S2", calls, [0] * 100)
    found = review(sample).differential()["stop"]
    assert found["decisive"] == found["unreviewed"] == 100
    assert (
        found["sentence"]
        == "The model's error is not known for this sample: look at every cell (100 left)."
    )


def test_the_status_names_what_is_signed(planted: Sample, review: Open) -> None:
    write_report(planted)
    found = sample_status(planted)
    assert (found.state, found.verification, found.verified_by) == ("reported", "preliminary", "")
    session = review(planted)
    finish(session)
    session.sign(reader="Ada", base=session.journal.head())
    found = sample_status(planted)
    assert (found.state, found.verification, found.verified_by) == ("reported", "verified", "Ada")
    done = CliRunner().invoke(status, ["--data", str(planted.path.parent)])
    assert " verified " in done.output


def test_the_example_of_the_documentation_is_valid(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "how-to" / "review.md").read_text(encoding="utf-8")
    path = tmp_path / "lab.toml"
    path.write_text(text.partition("```toml\n")[2].partition("```")[0], encoding="utf-8")
    assert load_lab(path).per_100_white_cells() == {"SMUDGE": True, "BLAST": False}
