"""The command ``send``: nothing unsigned, nothing twice; corrections and withdrawals."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from wbcpipe.errors import ConfigError, DeliveryError, SampleStateError
from wbcpipe.exchange.cli import send
from wbcpipe.exchange.documents.formats import read_document
from wbcpipe.exchange.message.codes import ResultState
from wbcpipe.exchange.sending.outbox import Outbox, outbox_folder
from wbcpipe.laboratory.lab_file import load_lab
from wbcpipe.report.reviewed_cells import row_keys
from wbcpipe.report.rows import read_rows
from wbcpipe.report.stage import write_report
from wbcpipe.review.review_session import ReviewSession
from wbcpipe.samples.cell_attributes import CellAttributes
from wbcpipe.samples.cell_store import CellBlock, CellStore
from wbcpipe.samples.classification_record import Classification
from wbcpipe.samples.order_record import OrderRecord, order_path
from wbcpipe.samples.records import SampleRecord
from wbcpipe.samples.review.journal import Journal, journal_path
from wbcpipe.samples.sample import Sample
from wbcpipe.verify.check_sample import verify_sample

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.exchange.message.model import ResultMessage

CLASSES = ("NEU", "LYM", "EOS", "MO", "BAS")
MODALITIES = ("color1", "color2", "color3", "fluorescence")
CALLS = ["NEU"] * 60 + ["LYM"] * 30 + ["EOS"] * 4 + ["MO"] * 6
LAB = """version = "3"
laboratory = "St Elsewhere"
[sign]
unidentified = "off"
doubtful = "off"
gates = "off"
count = "off"
[reference]
source = "adults"
percent.NEU = [40, 75]
[[reference.group]]
age_years = [0, 18]
source = "children"
percent.NEU = [20, 50]
[[destination]]
name = "lis"
format = "oru"
folder = "{folder}"
"""


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    """A classified sample with a report, in a data folder with a laboratory's file."""
    root = tmp_path / "data"
    found = Sample.open(root, "S1")
    found.write(
        SampleRecord(sample="S1", created="2026-11-30T05:00:00+00:00", modalities=MODALITIES)
    )
    number = len(CALLS)
    zeros = np.zeros(number)
    names = ("y_px", "y_um", "area_um2", "nucleus_area_um2", "sharpness")
    columns = {name: zeros + 3 for name in names} | {
        "field_index": np.arange(number) // 4,
        "x_px": zeros + 4,
        "x_um": np.arange(number) * 20.0,
        "shift_px": np.zeros((number, 3, 2)),
        "shift_residual_px": np.zeros((number, 3)),
        "qc_flags": np.zeros(number, np.uint16),
    }
    images = np.zeros((number, 4, 16, 16), np.uint16)
    block = CellBlock(images, np.zeros((number, 16, 16), np.uint8), columns, [""] * number)
    store = CellStore.create(
        found.cells_path,
        [block],
        CellAttributes(modalities=MODALITIES, pixel_um=0.1, classes=CLASSES),
    )
    probability = np.full((number, 4, 5), 0.02, np.float32)
    for row, call in enumerate(CALLS):
        probability[row, :, CLASSES.index(call)] = 0.92
    store.write_predictions(
        probability,
        CALLS,
        probability.mean(axis=1).max(axis=1),
        np.zeros(number, np.float32),
        classification=Classification(
            bundle="planted", sha256="c" * 64, classes=CLASSES, heads=MODALITIES, threshold=0.5
        ),
    )
    (tmp_path / "drop").mkdir()
    (root / "lab.toml").write_text(LAB.format(folder=tmp_path / "drop"), encoding="utf-8")
    write_report(found)
    return found


def open_review(sample: Sample) -> ReviewSession:
    store = CellStore(sample.cells_path)
    rows = read_rows(store)
    lab = load_lab(sample.path.parent / "lab.toml")
    return ReviewSession(sample, store, rows, row_keys(rows), Journal(journal_path(sample)), lab)


def sign(sample: Sample, comment: str = "") -> None:
    session = open_review(sample)
    session.sign(reader="Ada", base=session.journal.head(), comment=comment)


def call(sample: Sample, *words: str) -> str:
    arguments = ["--data", str(sample.path.parent), *words]
    done = CliRunner().invoke(send, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def dropped(sample: Sample) -> list[ResultMessage]:
    """Return the results in the drop folder, in the order of their number."""
    found = [
        read_document(path.read_bytes())[0]
        for path in (sample.path.parents[1] / "drop").glob("*.hl7")
    ]
    return sorted(found, key=lambda message: message.sequence)


def test_nothing_unsigned_is_sent(sample: Sample) -> None:
    with pytest.raises(SampleStateError, match="nobody signed the result, so it is not sent"):
        call(sample, "--sample", "S1")
    assert dropped(sample) == []
    path = sample.path.parent / "lab.toml"
    path.write_text(path.read_text() + "[send]\nunsigned = true\n", encoding="utf-8")
    call(sample, "--sample", "S1")
    (message,) = dropped(sample)
    assert (message.state, message.signature) == (ResultState.PRELIMINARY, None)
    assert message.notes == ("Preliminary: counted by a model, not verified by a person.",)


def test_a_signed_result_is_sent_once(sample: Sample) -> None:
    sign(sample, "two lines\nof comment")
    assert "final" in call(sample, "--sample", "S1")
    assert "was queued before" in call(sample, "--sample", "S1")
    (message,) = dropped(sample)
    assert message.state is ResultState.FINAL
    assert {line.key: line.count for line in message.classes} == {
        "NEU": 60,
        "LYM": 30,
        "EOS": 4,
        "MO": 6,
        "BAS": 0,
    }
    assert message.signature is not None
    assert (message.signature.reader, message.signature.comment) == (
        "Ada",
        "two lines / of comment",
    )
    assert message.lab is not None
    assert message.lab.version == "3"
    listing = json.loads(call(sample, "--list", "--json"))
    assert (listing["lis"]["delivered"], listing["lis"]["answers"][0]["code"]) == (1, "AA")


def test_corrected_amended_withdrawn(sample: Sample) -> None:
    sign(sample)
    call(sample, "--sample", "S1")
    session = open_review(sample)
    session.amend(reader="Ada", base=session.journal.head(), why="second look")
    with pytest.raises(SampleStateError, match="nobody signed"):
        call(sample, "--sample", "S1")
    session.sign(reader="Ada", base=session.journal.head())
    call(sample, "--sample", "S1")
    session.amend(reader="Ada", base=session.journal.head(), why="one neutrophil is a basophil")
    change = {"cell": session.keys[0], "from": "NEU", "to": "BAS"}
    session.append(
        [{"action": "assign", "cells": [change]}], reader="Ada", base=session.journal.head()
    )
    session.sign(reader="Ada", base=session.journal.head())
    call(sample, "--sample", "S1")
    call(sample, "--sample", "S1")
    call(sample, "--sample", "S1", "--cancel", "slides exchanged")
    call(sample, "--sample", "S1", "--cancel", "slides exchanged")
    found = dropped(sample)
    assert [message.state.value for message in found] == [
        "final",
        "amended",
        "corrected",
        "withdrawn",
    ]
    assert [message.sequence for message in found] == [1, 2, 3, 4]
    assert found[2].signature is not None
    assert found[2].signature.correction == "one neutrophil is a basophil"
    assert {line.key: line.count for line in found[2].classes}["BAS"] == 1


def test_the_order_selects_the_intervals(sample: Sample, tmp_path: Path) -> None:
    order = tmp_path / "order.toml"
    order.write_text(
        'format_version = 1\norder = "O1"\npatient = "P1"\nbirth_date = "2020-05-01"\nsex = '
        '"male"\n'
        'collected = "2026-11-29T21:00:00+00:00"\n',
        encoding="utf-8",
    )
    call(sample, "--sample", "S1", "--order", str(order), "--list")
    write_report(sample)
    sign(sample)
    call(sample, "--sample", "S1")
    (message,) = dropped(sample)
    neutrophils = message.classes[0].percent
    assert neutrophils.reference is not None
    assert [str(limit) for limit in neutrophils.reference] == ["20.0", "50.0"]
    assert neutrophils.flag == "H"
    assert (message.order.patient, message.order.sex) == ("P1", "male")


def test_an_order_copied_from_another_sample_is_refused(sample: Sample, tmp_path: Path) -> None:
    order = tmp_path / "order.json"
    order.write_text('{"patient": "P1"}')
    call(sample, "--sample", "S1", "--order", str(order), "--list")
    other = Sample.open(sample.path.parent, "S2")
    other.write(SampleRecord(sample="S2", created="2026-11-30T05:00:01+00:00"))
    order_path(other).write_bytes(order_path(sample).read_bytes())
    with pytest.raises(SampleStateError, match="belongs to another sample"):
        OrderRecord.read(order_path(other))
    assert OrderRecord.read(order_path(sample)).patient == "P1"
    damaged = order_path(sample).read_bytes().replace(b"P1", b"P2")
    order_path(sample).write_bytes(damaged)
    found = verify_sample(sample)
    assert any("order.json" in str(entry) for entry in found.damages)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"patint": "P1"}', "key 'patint' is not known, did you mean 'patient'"),
        ('{"birth_date": "30.02.1980"}', "birth_date"),
        ('{"birth_date": "1980-13-01"}', "birth_date"),
        ('{"sex": "F"}', "'female', 'male', 'other' or 'unknown'"),
        ('{"collected": "2026-11-29T21:00:00"}', "with its zone"),
        ('{"order": "a\\u0007"}', r"U\+0007"),
        ("[]", "order.json"),
    ],
)
def test_what_is_no_order(sample: Sample, tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "order.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=reason):
        call(sample, "--sample", "S1", "--order", str(path), "--list")
    assert not order_path(sample).exists()


def test_a_rule_holds_a_result_until_a_second_reader(sample: Sample) -> None:
    path = sample.path.parent / "lab.toml"
    path.write_text(
        path.read_text()
        + '[[reflex]]\nfigure = "counted"\nbelow = 200\naction = "second_reader"\nhold = true\n',
        encoding="utf-8",
    )
    session = open_review(sample)
    look = {"action": "look", "cells": [session.keys[0]]}
    session.append([look], reader="Ada", base=session.journal.head())
    sign(sample)
    with pytest.raises(SampleStateError, match="a second reader is needed, and 1 read it"):
        call(sample, "--sample", "S1")
    session = open_review(sample)
    session.amend(reader="Ada", base=session.journal.head(), why="second reader")
    session.append([look], reader="Bo", base=session.journal.head())
    sign(sample)
    call(sample, "--sample", "S1")
    assert dropped(sample)[0].reflex == ("Cells counted 100 < 200: a second reader is needed",)


def test_a_document_is_shown(sample: Sample) -> None:
    sign(sample)
    shown = call(sample, "--sample", "S1", "--show", "oul")
    assert shown.startswith("MSH|")
    assert "LAB-29^IHE\nSPM|" in shown
    assert json.loads(call(sample, "--sample", "S1", "--show", "fhir"))["resourceType"] == "Bundle"


def test_what_waits_is_an_error(sample: Sample, tmp_path: Path) -> None:
    sign(sample)
    (tmp_path / "drop").rmdir()
    with pytest.raises(DeliveryError, match="messages wait"):
        call(sample, "--sample", "S1")
    (tmp_path / "drop").mkdir()
    assert "0 waiting, 1 accepted" in call(sample)


def test_a_running_sender_takes_what_is_queued(sample: Sample) -> None:
    sign(sample)
    outbox = Outbox(outbox_folder(sample.path.parent) / "lis")
    with outbox.held_for_sending():
        assert "lis: 1 waiting, 0 accepted" in call(sample, "--sample", "S1")
        assert dropped(sample) == []
    call(sample)
    assert len(dropped(sample)) == 1


def test_each_destination_has_ids_of_its_own(sample: Sample, tmp_path: Path) -> None:
    path = sample.path.parent / "lab.toml"
    text = path.read_text(encoding="utf-8")
    for kind in ("oul", "fhir"):
        text += (
            f'[[destination]]\nname = "{kind}"\nformat = "{kind}"\nfolder = "{tmp_path / "drop"}"\n'
        )
    path.write_text(text, encoding="utf-8")
    sign(sample)
    call(sample, "--sample", "S1")
    found = [read_document(file.read_bytes())[0] for file in (tmp_path / "drop").iterdir()]
    assert sorted(message.destination for message in found) == ["fhir", "lis", "oul"]
    assert len({message.control_id for message in found}) == 3
    assert (
        len(
            {
                message.model_copy(update={"destination": "", "created": found[0].created})
                for message in found
            }
        )
        == 1
    )


def test_an_edited_differential_is_not_sent(sample: Sample) -> None:
    sign(sample)
    path = sample.path / "differential.json"
    content = json.loads(path.read_text())
    content["wbc_1e9_per_l"] = 6.0
    del content["sha256"]
    path.write_text(json.dumps(content))
    with pytest.raises(SampleStateError, match=r"differential\.json is not what was signed"):
        call(sample, "--sample", "S1")


def test_without_a_destination(sample: Sample) -> None:
    (sample.path.parent / "lab.toml").write_text('version = "1"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="no destination is given"):
        call(sample, "--list")


@pytest.mark.parametrize(("package", "kind"), [("hl7apy", "oru"), ("fhir", "fhir")])
def test_without_the_extra(
    sample: Sample, monkeypatch: pytest.MonkeyPatch, package: str, kind: str
) -> None:
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=r"pip install 'wbcpipe\[lis\]'"):
        call(sample, "--sample", "S1", "--show", kind)
