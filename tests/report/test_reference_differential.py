"""A differential from elsewhere is read from three formats, refused with its line, and compared at
its level.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from wbcpipe.errors import ConfigError
from wbcpipe.pipeline import cli
from wbcpipe.report.differential import Differential, Tally
from wbcpipe.report.reference_differential import (
    compare_with_reference,
    read_reference_differential,
)

if TYPE_CHECKING:
    from collections.abc import Callable

CLASSES = ("NEU", "LYM", "EOS", "MO", "BAS")
PERCENT = {"NEU": 60.0, "LYM": 28.0, "EOS": 3.0, "MO": 8.0, "BAS": 1.0}
TOML = 'source = "flow"\ncells = 2000\n[percent]\nNEU = 60\nLYM = 28\nEOS = 3.0\nMO = 8\nBAS = 1\n'


def _differential(**counts: int) -> Differential:
    return Differential.from_tally(
        Tally({name: counts.get(name, 0) for name in CLASSES}, 0, {}, {})
    )


@pytest.mark.parametrize(
    ("name", "text", "source", "cells"),
    [
        ("a.toml", TOML, "flow", 2000),
        ("a.json", json.dumps({"source": "flow", "cells": 2000, "percent": PERCENT}), "flow", 2000),
        (
            "a.csv",
            "class,percent\nneutrophils,60\nLymphocytes,28\nEo,3\nmono,8\nBaso,1\n",
            "a.csv",
            None,
        ),
        (
            "a.csv",
            "\ufeffClass;Percent\r\nNEU;60,0 %\r\nLYM;28,0\r\nEOS;3\r\nMO;8\r\nBAS;1\r\n",
            "a.csv",
            None,
        ),
        ("a.csv", "class,count\nNEU,120\nLYM,56\nEOS,6\nMO,16\nBAS,2\n", "a.csv", 200),
        (
            "a.toml",
            'source = "flow"\n[count]\nNEU = 120\nLYM = 56\nEOS = 6\nMO = 16\nBAS = 2\n',
            "flow",
            200,
        ),
    ],
)
def test_every_format(tmp_path: Path, name: str, text: str, source: str, cells: int | None) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    found = read_reference_differential(path, CLASSES)
    assert (found.source, found.cells, found.other_percent) == (source, cells, 0)
    assert found.percent == pytest.approx(PERCENT)


def test_cells_of_other_classes_are_left_out_of_the_shares(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("class,count\nNEU,60\nLYM,30\nother,10\n")
    found = read_reference_differential(path, CLASSES)
    assert (found.cells, found.other_percent) == (100, 10)
    assert found.percent == pytest.approx({"NEU": 200 / 3, "LYM": 100 / 3})
    compared = compare_with_reference(_differential(NEU=60, LYM=30), found, "a.csv")
    assert compared.classes[0].p_value == 1
    assert compared.classes[0].reference_interval_percent == compared.classes[0].interval_percent
    assert [share.compatible for share in compared.classes] == [True, True, None, None, None]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", TOML.replace("EOS", "EOZ"), "line 6: class 'EOZ' is none of the model's"),
        (
            "a.toml",
            TOML.replace("28", "128"),
            "line 5: key 'percent.LYM': input should be less than or equal to 100",
        ),
        (
            "a.toml",
            TOML.replace("28", '"28"'),
            "line 5: key 'percent.LYM': input should be a valid number",
        ),
        ("a.toml", TOML.replace("28", "18"), "the percentages add up to 90"),
        (
            "a.toml",
            TOML.replace("cells", "cell"),
            "line 2: key 'cell' is not known, did you mean 'cells'",
        ),
        ("a.toml", TOML.replace('source = "flow"\n', ""), "key 'source' is missing"),
        ("a.toml", TOML.replace("flow", "fl\\u001bow"), "line 1: key 'source'"),
        ("a.toml", TOML.replace("60", "nan"), "line 4: key 'percent.NEU'"),
        ("a.toml", TOML.replace("LYM", "neutrophil"), "line 5: class 'NEU' is given twice"),
        ("a.toml", 'source = "x"\n', "give either percent or count"),
        ("a.toml", 'source = "x"\n[count]\nNEU = 0\n', "all counts are 0"),
        (
            "a.toml",
            'source = "x"\ncells = 5\n[count]\nNEU = 4\n',
            "cells is 5, the counts add up to 4",
        ),
        ("a.toml", 'source = "x"\n[count]\nother = 4\n', "no cell is of the model's classes"),
        ("a.toml", "source = \n", "not readable as TOML"),
        (
            "a.json",
            '{\n"source": "x",\n"percent": {\n"NEU": 60,\n"blast": 40}}',
            "line 5: class 'blast'",
        ),
        (
            "a.csv",
            "name,percent\nNEU,60\n",
            "line 1: columns name, percent; needed are class, and percent or count",
        ),
        (
            "a.csv",
            "class,percent\nNEU,60\nLYM,forty\n",
            "line 3: percent is 'forty'; a number is needed",
        ),
        (
            "a.csv",
            "class,count\nNEU,60\nLYM,4.5\n",
            "line 3: count is '4.5'; a whole number is needed",
        ),
        ("a.csv", "class,percent\nNEU,60\n\nNEU,40\n", "line 4: class 'NEU' is given twice"),
        ("a.csv", "class,percent\nNEU,60,1\n", "line 2: 3 cells; the header names 2 columns"),
        ("a.csv", "class,percent\nNEU,inf\n", "line 2: key 'percent.NEU'"),
        ("a.csv", "", "line 1: columns none"),
    ],
)
def test_a_file_that_is_refused_gives_line_and_reason(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_reference_differential(path, CLASSES)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_difference_is_by_chance_or_not(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(TOML)
    reference = read_reference_differential(path, CLASSES)
    alike = compare_with_reference(
        _differential(NEU=122, LYM=53, EOS=7, MO=15, BAS=3), reference, path.name
    )
    assert all(share.compatible for share in alike.classes)
    other = compare_with_reference(
        _differential(NEU=90, LYM=83, EOS=7, MO=15, BAS=5), reference, path.name
    )
    assert [share.compatible for share in other.classes] == [False, False, True, True, True]
    assert other.classes[0].difference == pytest.approx(-15)
    none = compare_with_reference(_differential(), reference, path.name)
    assert [share.compatible for share in none.classes] == [None] * 5


def test_the_command_names_the_reference(
    create_sample: Callable[..., object], tmp_path: Path
) -> None:
    create_sample(["NEU"] * 12 + ["LYM"] * 6 + ["MO"] * 2)
    path = tmp_path / "flow.toml"
    path.write_text(TOML)
    command = [
        "evaluate",
        "--sample",
        "S1",
        "--data",
        str(tmp_path / "data"),
        "--reference-differential",
        str(path),
    ]
    shown = CliRunner().invoke(cli, command)
    assert shown.exit_code == 0, shown.output
    assert "S1 compared with flow.toml" in shown.output
    assert "Reference: flow; 2000 cells" in shown.output
    found = json.loads(CliRunner().invoke(cli, [*command, "--json"]).output)
    assert found["truth_source"] == ""
    assert found["differential"] is None
    assert (found["reference"]["source"], found["reference"]["cells"]) == ("flow", 2000)
    assert [share["compatible"] for share in found["reference"]["classes"]] == [True] * 5
    path.write_text("x")
    with pytest.raises(ConfigError, match="not readable as TOML"):
        CliRunner().invoke(cli, command, catch_exceptions=False)


_names = st.sampled_from(
    ["NEU", "neutrophils", "LYM", "other", "EOS", "x", "source", "percent", "count", "cells", ""]
)
_values = st.one_of(
    st.floats(),
    st.integers(-(10**30), 10**30),
    st.text(max_size=5),
    st.booleans(),
    st.none(),
    st.just([]),
    st.just({}),
)
_contents = st.recursive(
    _values, lambda inner: st.dictionaries(_names, inner, max_size=6), max_leaves=12
)


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.tuples(st.just(".json"), _contents.map(json.dumps)),
        st.tuples(st.sampled_from([".csv", ".toml", ".json"]), st.text(max_size=80)),
        st.tuples(
            st.just(".csv"),
            st.lists(st.lists(st.one_of(_names, st.text(max_size=4)), max_size=4), max_size=6).map(
                lambda rows: "class,percent\n" + "\n".join(",".join(row) for row in rows)
            ),
        ),
    )
)
def test_whatever_a_file_holds_is_read_or_refused_in_one_line(given_file: tuple[str, str]) -> None:
    suffix, text = given_file
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        refused, total = "", 100.0
        try:
            total = sum(read_reference_differential(path, CLASSES).percent.values())
        except ConfigError as error:
            refused = str(error)
        assert total == pytest.approx(100)
        assert "\n" not in refused
        assert not refused or refused.startswith(f"{path}: ")
