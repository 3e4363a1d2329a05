"""Worklists as laboratories make them: read right, or refused with every mistake at once."""

from __future__ import annotations

import random
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from wbcpipe.acquire.capture.sample_record import create_sample_record
from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.batch.row_request import row_request
from wbcpipe.batch.worklist import Worklist, inspect_worklist, read_worklist
from wbcpipe.batch.worklist.cells import check_spreadsheet_damage, parse_deadline, parse_precision
from wbcpipe.batch.worklist.columns import COLUMNS
from wbcpipe.batch.worklist.decode import MAX_BYTES
from wbcpipe.batch.worklist.read import new_row
from wbcpipe.batch.worklist.table import MAX_ROWS
from wbcpipe.errors import WorklistError
from wbcpipe.samples.sample import Sample

if TYPE_CHECKING:
    from wbcpipe.batch.records import WorklistRow

NOW: Final = datetime(2026, 11, 22, 19, 0).astimezone()

# The bytes that the programs write for the same table: a header, two slides with a decimal comma, a
# note with a line break and the separator, and an empty line at the end.
EXCEL_ENGLISH_UTF8: Final = (
    b"\xef\xbb\xbfSample ID,Slot,Slide,Cells,Precision,Deadline,Notes,,\r\n"
    b'S001,A,OT-17,,"NEU:2,5%",06:30,"thin film, M\xc3\xbcller\nsecond line",,\r\n'
    b"S002,B,OT-18,400,,23/11/2026 07:00 AM,,,\r\n"
    b",,,,,,,,\r\n"
).replace(b"23/11/2026 07:00 AM", b"2026-11-23 7:00 AM")
EXCEL_GERMAN_CP1252: Final = (
    b"Probe;Steckplatz;Objekttr\xe4ger;Zellen;Genauigkeit;Frist;Bemerkung;;\r\n"
    b'S001;A;OT-17;;NEU:2,5%;06:30;"thin film, M\xfcller\nsecond line";;\r\n'
    b"S002;B;OT-18;400;;23.11.2026 07:00;;;\r\n"
    b";;;;;;;;\r\n"
)
EXCEL_UNICODE_TEXT: Final = b"\xff\xfe" + (
    "Sample ID\tSlot\tSlide\tCells\tPrecision\tDeadline\tNotes\r\n"
    'S001\tA\tOT-17\t\tNEU:2,5%\t06:30:00\t"thin film, Müller\nsecond line"\r\n'
    "S002\tB\tOT-18\t400\t\t23.11.2026 07:00\t\r\n"
).encode("utf-16-le")
LIBREOFFICE_QUOTED: Final = (
    '"sample","slot","slide","cells","precision","deadline","notes"\n'
    '"S001","A","OT-17",,"NEU:2,5%","06:30:00","thin film, Müller\nsecond line"\n'
    '"S002","B","OT-18",400,,"2026-11-23 07:00:00",\n'
).encode()
WITH_SEP_LINE: Final = (
    "sep=;\r\nsample;slot;slide;cells;precision;deadline;notes\r\n\r\n"
    'S001;A;OT-17;;NEU:2,5%;06:30 Uhr;"thin film, Müller\nsecond line"\r\n'
    'S002;B;="OT-18";400,00;;23.11.26 7.00 Uhr;\r\n'
).encode("cp1252")
COPIED_IN_TEXT_MODE: Final = EXCEL_ENGLISH_UTF8.replace(b"\r\n", b"\r\r\n")
CLASSIC_MAC: Final = EXCEL_GERMAN_CP1252.replace(b"\r\n", b"\r")
FILES: Final = {
    "excel-english-utf8": EXCEL_ENGLISH_UTF8,
    "excel-german-cp1252": EXCEL_GERMAN_CP1252,
    "excel-unicode-text": EXCEL_UNICODE_TEXT,
    "utf-16-big-endian": EXCEL_UNICODE_TEXT.decode("utf-16")
    .encode("utf-16-be")
    .join([b"\xfe\xff", b""]),
    "utf-16-without-mark": EXCEL_UNICODE_TEXT[2:],
    "libreoffice-quoted": LIBREOFFICE_QUOTED,
    "sep-line": WITH_SEP_LINE,
    "copied-in-text-mode": COPIED_IN_TEXT_MODE,
    "classic-mac": CLASSIC_MAC,
}


def listed(path: Path, content: bytes | str, **more: Any) -> Worklist:
    path.mkdir(exist_ok=True)
    file = path / "NIGHT.csv"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return inspect_worklist(file, data=path / "data", now=NOW, **more)


def mistakes_of(path: Path, content: bytes | str, **more: Any) -> list[str]:
    return [str(mistake) for mistake in listed(path, content, **more).mistakes]


@pytest.mark.parametrize("name", FILES)
def test_the_same_table_reads_the_same_from_every_program(name: str, tmp_path: Path) -> None:
    worklist = listed(tmp_path, FILES[name])
    assert [str(mistake) for mistake in worklist.mistakes] == []
    first, second = worklist.rows
    assert (first.sample, first.slot, first.slide, first.precision) == (
        "S001",
        "A",
        "OT-17",
        ("NEU:2.5%",),
    )
    assert first.notes == "thin film, Müller\nsecond line"
    assert first.deadline == datetime(2026, 11, 23, 6, 30).astimezone()
    assert (second.sample, second.slot, second.slide, second.cells) == ("S002", "B", "OT-18", 400)
    assert second.deadline == datetime(2026, 11, 23, 7, 0).astimezone()
    assert (first.scope, first.bundle, first.protocol) == ("demo", "auto", "one-pass")
    file = tmp_path / "NIGHT.csv"
    assert (worklist.content, file.read_bytes()) == (FILES[name], FILES[name])
    assert sorted(tmp_path.iterdir()) == [file]


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    text = 'sep=;\r\n\r\nsample;slot;notes\r\nS1;A;"two\nlines"\r\n\r\nS2;B;\r\n'
    assert [row.line for row in listed(tmp_path, text).rows] == [4, 7]


TEN_MISTAKES: Final = """\
Sample;Slot;Scope;Cells;Precision;Fields;Bundle;Deadline;Control
S001;A;demo;200;;;;;
S001;B;demo;200;;;;;
S003;A;demo;200;;;;;
S004;F;demo;200;;;;;
S005;B;scope-9;200;;;;;
1,23457E+11;;demo;200;;;;;
../S007;;demo;200;;;;;
S008;;demo;;NEU:99%;;;;
S009;;demo;;;;my-bundle;;
S010;;demo;;EOS:2%;20;;;
S011;;demo;lots;;;;;
S012;;demo;;;;;21.11.2026 06:30;
S013;;demo;;;;;;perhaps
"""


def test_all_mistakes_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "NIGHT.csv"
    file.write_text(TEN_MISTAKES)
    with pytest.raises(WorklistError) as refused:
        read_worklist(file, data=tmp_path / "data", now=NOW)
    text = str(refused.value)
    print(text)
    expected = {
        3: r"sample 'S001' is given twice: line 2 has it too",
        4: r"slot 'A' is given twice: line 2 has it too",
        5: r"scope 'demo' has no slot 'F'; its slots: A, B\.",
        6: r"no scope 'scope-9'; known scopes: demo, ",
        7: r"'1,23457E\+11' is a number that a spreadsheet program made of a code.*format the "
        r"column as text",
        8: r"sample name '\.\./S007' is refused: use 1 to 64 letters",
        9: r"precision: 'NEU:99': a half-width of 99 % is out of range; give 0\.5 to 49",
        10: r"no bundle 'my-bundle'",
        11: r"both fields and precision are given",
        12: r"cells: 'lots' is not a whole number",
        13: r"deadline: the deadline '21\.11\.2026 06:30' is past: it is 2026-11-22 19:00 now",
        14: r"control: 'perhaps' is neither yes nor no",
    }
    for line, pattern in expected.items():
        assert re.search(rf"^  line {line}: .*{pattern}", text, re.MULTILINE), (line, pattern)
    assert re.search(r"^  lines 7, 8, .* and 14: no slot is given", text, re.MULTILINE)
    assert text.startswith(f"{file}: 13 mistakes; correct them all:\n")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the file is empty"),
        (b"\xef\xbb\xbf\r\n\r\n", "the file is empty"),
        (b";;;\r\n;;;\r\n", "the file is empty"),
        ("sample,slot\n", "there is no row below the header"),
        ("S1,A\nS2,B\n", "line 1: this is no header, it begins with 'S1,A'"),
        ("slot,cells\nA,200\n", "line 1: the header has no column 'sample'; it has: slot, cells"),
        (
            "sample,slod\nS1,A\n",
            "line 1: there is no column 'slod'; did you mean 'slot'? The columns are sample,",
        ),
        (
            "sample,slot,Probe\nS1,A,S1\n",
            "line 1: two columns are 'sample' (the second is headed 'Probe')",
        ),
        ("sample,slot\nS1,A\n\0\0\n", "line 3 has a NUL byte: the file is damaged"),
        (
            b"PK\x03\x04rest",
            "this is a spreadsheet file (.xlsx, .ods or .numbers), not CSV; open it",
        ),
        (b"\xd0\xcf\x11\xe0rest", "this is a spreadsheet file (.xls), not CSV; open it"),
        (b"<html><table>", "this is an HTML or XML file, not CSV"),
        (
            b"sample,notes\nS1,\x81\n",
            "line 2 has bytes that are not CP1252 text; save the file as 'CSV UTF-8'",
        ),
        (b"\xff\xfes\0a\0m", "line 1 has bytes that are not UTF-16-LE text"),
        (
            'sample,notes\nS1,"open\nS2,x\n',
            "line 2: a quotation mark opens a cell and none closes it",
        ),
        ('sample,notes\nS1,"a"b\nS2,x\n', "line 2: the quotation marks do not match"),
        (
            "sample,precision\nS1,NEU:2,5%\n",
            "line 2: '5%' stands in column 3, which the header does not name. A cell",
        ),
        (f"sample,notes\nS1,{'x' * 1001}\n", "line 2: a cell has 1001 characters; at most 1000"),
        (
            "sample\n" + "".join(f"S{i}\n" for i in range(2001)),
            "line 2002: a worklist has at most 2000 rows",
        ),
        (
            "sample,slot\nCON,A\n",
            "line 2: sample: sample name 'CON' is refused: Windows reserves it",
        ),
        ("sample,slot\nbatches,A\n", "line 2: sample: sample name 'batches' is refused"),
        ("sample,slot\ns1,A\nS1,B\n", "line 3: sample 'S1' is given twice: line 2 has it too"),
        (
            "sample,slot,slide\nS1,A,X\nS2,B,X\n",
            "line 3: slide 'X' is given twice: line 2 has it too",
        ),
        ("sample,slot,cells,fields\nS1,A,200,20\n", "line 2: both fields and cells are given"),
        (
            "sample,slot,precision\nS1,A,NUE:5%\n",
            "line 2: precision NUE: the bundle 'virtual-shufflenet' has",
        ),
        (
            "sample,slot,pass\nS1,A,triple\n",
            "line 2: protocol: 'triple' is no protocol; give one-pass, two-pass",
        ),
        (
            "sample,slot,specimen_preparation\nS1,Z,urine\n",
            "line 2: specimen_preparation: 'urine' is no preparation; give blood-film or ",
        ),
        (
            "sample,slot,scope\nS1,Z,squid-daheng\n",
            "line 2: scope 'squid-daheng' has no slot 'Z'; its slots: ",
        ),
        ("sample,cells\nS1,1.000\n", "line 2: cells: '1.000' is not a whole number"),
        ("sample,cells\nS1,0\n", "line 2: cells: 0 is out of range; give 1 to 1000000"),
    ],
)
def test_a_mistake_says_where_and_what_to_do(
    content: bytes | str, expected: str, tmp_path: Path
) -> None:
    found = mistakes_of(tmp_path, content)
    assert any(expected in text for text in found), found


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(WorklistError, match=r"there is no such file|this is a folder"):
            inspect_worklist(path, data=tmp_path)
    (tmp_path / "long.csv").write_bytes(b"x" * (MAX_BYTES + 1))
    with pytest.raises(WorklistError, match=r"has at most 2\.1 MB"):
        inspect_worklist(tmp_path / "long.csv", data=tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "1.23E+11",
        "1,23457E+11",
        "1E+11",
        "4.0123E+15",
        "03. Jan",
        "3-Jan",
        "Mrz 12",
        "12-Mär",
        "#NAME?",
        "########",
    ],
)
def test_a_code_that_a_spreadsheet_changed_is_never_guessed(text: str) -> None:
    with pytest.raises(ValueError, match="format the column as text"):
        check_spreadsheet_damage(text)


@pytest.mark.parametrize(
    "text", ["1E5", "E11", "S-12", "Mark-12", "2026-01-03", "00123", "4012345678901", "Mar12"]
)
def test_an_intact_code_passes(text: str) -> None:
    check_spreadsheet_damage(text)


def test_a_rounded_number_is_a_warning(tmp_path: Path) -> None:
    worklist = listed(tmp_path, "sample;slot\n4012345678901230000;A\n")
    assert not worklist.mistakes
    assert "did a spreadsheet program round it?" in str(worklist.warnings[0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("06:30", datetime(2026, 11, 23, 6, 30)),
        ("6:30 AM", datetime(2026, 11, 23, 6, 30)),
        ("11:30:00 PM", datetime(2026, 11, 22, 23, 30)),
        ("6.30 Uhr", datetime(2026, 11, 23, 6, 30)),
        ("8h", datetime(2026, 11, 23, 3, 0)),
        ("2026-11-23T06:30", datetime(2026, 11, 23, 6, 30)),
        ("23.11.2026", datetime(2026, 11, 23, 23, 59)),
        ("2026-11-23", datetime(2026, 11, 23, 23, 59)),
        ("23.11.26, 6:30 Uhr", datetime(2026, 11, 23, 6, 30)),
    ],
)
def test_deadlines_of_every_kind(text: str, expected: datetime) -> None:
    assert parse_deadline(text, NOW) == expected.astimezone()


@pytest.mark.parametrize(
    "text",
    [
        "soon",
        "11/12/2026",
        "45984,27",
        "31.02.2027",
        "25:00",
        "13:00 PM",
        "6.30",
        "01.01.2026",
        "01.01.2999",
    ],
)
def test_a_deadline_that_is_not_clear_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"give |is past|more than a year ahead"):
        parse_deadline(text, NOW)


def test_a_deadline_keeps_to_the_clock_of_its_zone() -> None:
    now = datetime(2026, 11, 22, 19, 0, tzinfo=timezone(timedelta(hours=5)))
    at = parse_deadline("2h", now)
    assert at == now + timedelta(hours=2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NEU:5%", ("NEU:5%",)),
        ("NEU:2,5% EOS:2", ("NEU:2.5%", "EOS:2%")),
        ("NEU:5,LYM:5", ("NEU:5%", "LYM:5%")),
        ("NEU: 5 % | eos:1.5%", ("NEU:5%", "eos:1.5%")),
    ],
)
def test_precisions_with_any_separator(text: str, expected: tuple[str, ...]) -> None:
    assert parse_precision(text) == expected


def test_paths_are_relative_to_the_worklist(tmp_path: Path) -> None:
    scope = load_scope("demo")
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "own.toml").write_text(scope.path.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "demo.cfg").write_text(
        scope.config_path.read_text(encoding="utf-8"), encoding="utf-8"
    )
    worklist = listed(folder, "sample,scope\nS1,own.toml\n")
    assert not worklist.mistakes
    assert worklist.rows[0].scope == str(folder / "own.toml")
    assert worklist.rows[0].slot == "A"


def test_a_sample_on_disk_with_other_settings_is_told(tmp_path: Path) -> None:
    worklist = listed(tmp_path, "sample,slot\nS1,A\n")
    row, scope = worklist.rows[0], worklist.scopes["demo"]
    sample = Sample.open(tmp_path / "data", "S1")
    create_sample_record(row_request(row, scope, sample.path.parent).acquisition(sample, "single"))
    assert mistakes_of(tmp_path, "sample,slot\nS1,A\n") == []
    (other,) = mistakes_of(tmp_path, "sample,slot\nS1,B\n")
    assert "line 2: sample 'S1' was created with slot = 'A', this call says 'B'" in other
    (passes,) = mistakes_of(tmp_path, "sample,slot,pass\nS1,A,one-pass\nS2,B,both\n") or [""]
    assert passes == ""


def test_a_new_row_is_checked_like_one_of_the_file(tmp_path: Path) -> None:
    rows = listed(tmp_path, "sample,slot\nS1,A\n").rows

    def add(**cells: str) -> WorklistRow:
        return new_row(cells, data=tmp_path / "data", scope="demo", others=rows, now=NOW)

    row = add(sample="S2", slot="b", precision="neu:2,5%")
    assert (row.line, row.slot, row.precision) == (0, "B", ("NEU:2.5%",))
    with pytest.raises(
        WorklistError,
        match="sample 'S1' is not added: sample 'S1' is given twice: line 2 has it too",
    ):
        add(sample="S1", slot="B")
    with pytest.raises(
        WorklistError, match=r"(?s)2 mistakes.*cells: 'x' is not.*slot 'A' is given twice"
    ):
        add(sample="S3", slot="A", cells="x")


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Return the file after one to four changes such as editors, mail programs and disks make."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(data) + 1)
        kind = draw.randrange(7)
        if kind == 0:
            del data[at : at + draw.randint(1, 12)]
        elif kind == 1:
            data[at:at] = bytes(draw.randrange(256) for _ in range(draw.randint(1, 3)))
        elif kind == 2:
            data[at:at] = draw.choice(
                [b'"', b";", b",", b"\t", b"\r", b"\n", b"\0", b"=", b"\xef\xbb\xbf", b"\xff\xfe"]
            )
        elif kind == 3:
            data[at:at] = draw.choice(
                ["9" * 400, "٣", "1E+400", "nan", "-0", "𝔖", "../..", "31.02.", "\u2028"]
            ).encode()
        elif kind == 4:
            data = data[:at]
        elif kind == 5:
            data += data[at:]
        elif data:
            at = draw.randrange(len(data))
            data[at] ^= 1 << draw.randrange(8)
    return bytes(data)


def test_mutated_worklists_are_read_or_refused_but_never_a_defect(tmp_path: Path) -> None:
    draw = random.Random(15)
    sources = [*FILES.values(), TEN_MISTAKES.encode()]
    refused = 0
    for _ in range(300):
        worklist = listed(tmp_path, mutated(draw.choice(sources), draw))
        refused += bool(worklist.mistakes)
        assert all(len(str(mistake).splitlines()) == 1 for mistake in worklist.mistakes)
        for row in worklist.rows:
            assert worklist.mistakes or row.sample
    assert 100 < refused < 300


def test_the_worklists_of_the_documentation_have_no_mistakes(tmp_path: Path) -> None:
    page = Path(__file__).parents[3] / "docs" / "reference" / "worklist.md"
    text = page.read_text(encoding="utf-8")
    short, german, loader = re.findall(r"```text\n(.*?)```", text, re.DOTALL)[:3]
    assert mistakes_of(tmp_path, short) == []
    assert mistakes_of(tmp_path, german.encode("cp1252")) == []
    scope = load_scope("demo")
    own = re.sub(
        r"(?m)^\[loader\].*\nmethod = .*",
        '[loader]\nmethod = "prompt"\ncapacity = 2',
        scope.path.read_text(encoding="utf-8"),
    )
    (tmp_path / "own.toml").write_text(own, encoding="utf-8")
    (tmp_path / "demo.cfg").write_text(
        scope.config_path.read_text(encoding="utf-8"), encoding="utf-8"
    )
    worklist = listed(tmp_path, loader.replace("LOADER", "own.toml"))
    assert worklist.mistakes == ()
    first = worklist.rows[0]
    assert (first.slot, first.slide, first.control) == ("", "CONTROL-7", True)
    assert "3 slides, and the loader holds 2" in str(worklist.warnings[0])
    assert f"at most {MAX_ROWS} lines" in text
    for column in COLUMNS:
        assert f"`{column}`" in text
    places = mistakes_of(
        tmp_path, "sample,slot,scope\nS1,1,own.toml\nS2,1,own.toml\nS3,x,own.toml\n"
    )
    assert "line 3: slot '1' is given twice" in places[0]
    assert "line 4: slot 'x' is no place in the loader" in places[1]
