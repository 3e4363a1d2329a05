"""From a differential to a result: flags, critical values, rules, languages, codes."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from wbcpipe.errors import NoCellsError
from wbcpipe.exchange.documents.envelope import Envelope
from wbcpipe.exchange.documents.formats import DocumentFormat, read_document, write_document
from wbcpipe.exchange.message.model import ResultMessage

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.laboratory.lab_file import Lab


def test_codes_and_units(make_message: Callable[..., ResultMessage]) -> None:
    message = make_message(wbc=6.2)
    codes = {
        line.key: (line.percent.code.code, line.absolute and line.absolute.code.code)
        for line in message.classes
    }
    assert codes == {
        "NEU": ("26511-6", "26499-4"),
        "LYM": ("26478-8", "26474-7"),
        "MO": ("26485-3", "26484-6"),
        "EOS": ("26450-7", "26449-9"),
        "BAS": ("30180-4", "26444-0"),
    }
    absolute = message.classes[0].absolute
    assert absolute is not None
    assert (absolute.value, absolute.unit) == (Decimal("3.72"), "10*3/uL")
    assert all(line.absolute is None for line in make_message().classes)


@pytest.mark.parametrize(
    ("neutrophils", "flag", "borderline"),
    [(120, "N", False), (155, "H", True), (190, "H", False), (60, "L", False), (76, "L", True)],
)
def test_flags(
    make_message: Callable[..., ResultMessage], neutrophils: int, flag: str, borderline: bool
) -> None:
    figure = make_message({"NEU": neutrophils, "LYM": 200 - neutrophils}).classes[0].percent
    assert (figure.flag, figure.borderline) == (flag, borderline)


def test_critical_values_and_rules_in_three_languages(
    make_message: Callable[..., ResultMessage], make_lab: Callable[[str], Lab]
) -> None:
    text = (
        "[critical.NEU]\nabsolute_low = 0.5\npercent_high = 90\n[critical.BAS]\npercent_high = 5\n"
        '[[reflex]]\nfigure = "percent"\nclass = "BAS"\nabove = 2\naction = "second_reader"\n'
        '[[reflex]]\nfigure = "counted"\nbelow = 100\naction = "count_more"\n'
        '[[reflex]]\nfigure = "absolute"\nclass = "NEU"\nbelow = 0.5\naction = "call_physician"\n'
        '[result]\nlanguage = "LANGUAGE"\n'
    )
    texts = {
        "en": (
            "Basophils 10 % > 2 %: a second reader is needed",
            "Cells counted 50 < 100: count more cells",
        ),
        "de": (
            "Basophile 10 % > 2 %: Zweitbefundung nötig",
            "Gezählte Zellen 50 < 100: mehr Zellen zählen",
        ),
        "ar": (
            "القعدات 10 % > 2 %: يلزم قارئ ثانٍ",
            "الخلايا المعدودة 50 < 100: يجب عدّ المزيد من الخلايا",
        ),
    }
    for language, expected in texts.items():
        lab = make_lab(text.replace("LANGUAGE", language))
        message = make_message({"NEU": 10, "LYM": 35, "BAS": 5}, lab=lab, wbc=2.0)
        assert message.reflex[:2] == expected
        assert len(message.reflex) == 3
        assert [line.percent.flag for line in message.classes] == ["L", "H", "HH"]
        neutrophils = message.classes[0].absolute
        assert neutrophils is not None
        assert (neutrophils.value, neutrophils.flag) == (Decimal("0.40"), "LL")
        for kind in DocumentFormat:
            assert read_document(write_document(message, Envelope(), kind))[0] == message


def test_a_class_without_loinc_has_a_code_of_ours(
    make_message: Callable[..., ResultMessage], make_lab: Callable[[str], Lab]
) -> None:
    lab = make_lab(
        '[[extra_class]]\nname = "Hairy cell (?)"\nmeaning = "hairy cells"\nwhite_cell = true\n'
    )
    line = make_message({"NEU": 10, "Hairy cell (?)": 2}, lab=lab).classes[1]
    code = line.percent.code
    assert (line.key, code.code, code.system, code.name) == (
        "Hairy cell (?)",
        "Hairy-cell-PCT",
        "99WBC",
        "hairy cells",
    )


def test_the_version_of_the_file_is_in_the_message(
    make_message: Callable[..., ResultMessage], make_lab: Callable[[str], Lab]
) -> None:
    lab = make_lab("")
    message = make_message(lab=lab)
    assert lab.file is not None
    assert message.lab is not None
    assert (message.lab.version, message.lab.sha256) == ("7", lab.file.sha256)
    for kind in DocumentFormat:
        assert lab.file.sha256 in write_document(message, Envelope(), kind).decode()


def test_without_cells_there_is_nothing_to_send(make_message: Callable[..., ResultMessage]) -> None:
    with pytest.raises(NoCellsError, match="no cell was counted"):
        make_message({"NEU": 0, "LYM": 0})


def test_the_control_id_depends_on_the_content_alone(
    make_message: Callable[..., ResultMessage],
) -> None:
    first = make_message()
    assert first.control_id == make_message(created=first_day()).control_id
    assert len(first.control_id) == 20
    others = [
        make_message({"NEU": 121, "LYM": 57}),
        make_message(sequence=2),
        make_message(wbc=6.0),
    ]
    assert len({first.control_id, *(one.control_id for one in others)}) == 4


def first_day() -> object:
    from datetime import UTC, datetime

    return datetime(2027, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "change",
    [
        {"state": "bogus"},
        {"signature": None},
        {"counted": 3},
        {"language": "xx"},
        {"loinc_version": "new"},
        {"created": "today"},
        {"sample": "../S1"},
        {"sequence": 0},
        {"colour": "red"},
        {"state": "cancelled"},
        {"notes": ["a\x1b[0m"]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_result_that_contradicts_itself_is_none(
    make_message: Callable[..., ResultMessage], change: dict[str, object]
) -> None:
    content = make_message().model_dump()
    with pytest.raises(ValidationError):
        ResultMessage.model_validate(content | change)
