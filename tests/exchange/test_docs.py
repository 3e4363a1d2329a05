"""The examples of docs/how-to/lis.md are what the software reads and writes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from wbcpipe.exchange.documents.envelope import Envelope
from wbcpipe.exchange.documents.formats import DocumentFormat, write_document
from wbcpipe.laboratory.lab_file import load_lab
from wbcpipe.samples.order_record import OrderRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.exchange.message.model import ResultMessage

TEXT = (Path(__file__).parents[2] / "docs" / "how-to" / "lis.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, re.DOTALL)


def without_id(text: str) -> str:
    return re.sub(r"\|[0-9A-F]{20}\|", "|ID|", text)


def test_the_file_of_the_example_is_read(tmp_path: Path) -> None:
    lab, order = [content for kind, content in BLOCKS if kind == "toml"]
    path = tmp_path / "lab.toml"
    path.write_text(lab, encoding="utf-8")
    found = load_lab(path)
    assert [target.format for target in found.destinations] == ["oru", "fhir"]
    assert len(found.reflex) == 2
    assert OrderRecord.model_validate(tomllib.loads(order)).patient == "P-1"


@pytest.mark.parametrize(("number", "kind"), [(0, DocumentFormat.ORU), (1, DocumentFormat.OUL)])
def test_the_messages_of_the_example_are_written(
    make_message: Callable[..., ResultMessage], number: int, kind: DocumentFormat
) -> None:
    message = make_message(wbc=6.2)
    signed = message.signature
    assert signed is not None
    changed = message.model_copy(
        update={
            "order": message.order.model_copy(update={"specimen": None}),
            "signature": signed.model_copy(update={"reader": "A. Mueller"}),
        }
    )
    envelope = Envelope(receiving_application="LIS", patient_authority="HIS")
    written = without_id(write_document(changed, envelope, kind).decode()).split("\r")
    shown = [content for _, content in BLOCKS if content.startswith("MSH")][number]
    for line in without_id(shown).splitlines():
        assert line in written
