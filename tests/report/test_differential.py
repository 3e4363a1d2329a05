"""Counts, exact intervals and flags."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.stats import binomtest

from wbcpipe.errors import ConfigError, SampleStateError
from wbcpipe.report.differential import (
    ADULT,
    Differential,
    Tally,
    count_cells,
    exclusion_reasons,
    flag_percent,
    interval_percent,
)
from wbcpipe.report.reference import load_reference
from wbcpipe.samples.cell_columns import QcFlag

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = ("NEU", "LYM", "EOS", "MO", "BAS")


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [
        pytest.param(0, 10, 0.0, 30.8497, id="none: the rule 1 - 0.025^(1/n)"),
        pytest.param(5, 10, 18.7086, 81.2914, id="half"),
        pytest.param(10, 10, 69.1503, 100.0, id="all"),
        pytest.param(1, 100, 0.0253, 5.4459, id="one of a hundred"),
        pytest.param(0, 0, 0.0, 100.0, id="nothing counted"),
    ],
)
def test_interval_has_the_known_value(count: int, total: int, low: float, high: float) -> None:
    assert interval_percent(count, total) == pytest.approx((low, high), abs=2e-4)


@pytest.mark.parametrize(("count", "total"), [(3, 7), (20, 200), (64, 100), (129, 200), (1, 1000)])
def test_interval_equals_scipys_exact_one(count: int, total: int) -> None:
    exact = binomtest(count, total).proportion_ci(0.95, method="exact")
    assert interval_percent(count, total) == pytest.approx(
        (100 * exact.low, 100 * exact.high), abs=1e-6
    )


def test_interval_refuses_more_than_all() -> None:
    with pytest.raises(ValueError, match="11 of 10"):
        interval_percent(11, 10)


@pytest.mark.parametrize(
    ("percent", "interval", "flag"),
    [
        (30.0, (25.0, 39.9), "low"),
        (80.0, (75.1, 85.0), "high"),
        (38.0, (30.0, 45.0), "borderline"),
        (77.0, (70.0, 85.0), "borderline"),
        (41.0, (30.0, 50.0), "normal"),
        (40.0, (30.0, 50.0), "normal"),
    ],
)
def test_flag(percent: float, interval: tuple[float, float], flag: str) -> None:
    assert flag_percent(percent, interval, (40.0, 75.0)) == flag


def test_each_cell_is_left_out_for_the_first_reason_only() -> None:
    quality = np.array([0, 1, 2, 4, 8, 16, 32, 64, 1 | 64, 2 | 32, 8 | 2], dtype=np.uint16)
    assert exclusion_reasons(quality) == [
        *("", "border", "blurred", "", "", "", "missing_modality", "debris"),
        *("debris", "missing_modality", "blurred"),
    ]


def test_every_cell_is_counted_once() -> None:
    rng = np.random.default_rng(5)
    for number in (1, 17, 400):
        calls = rng.choice([*CLASSES, "unidentified"], number).tolist()
        quality = rng.choice([0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 65, 12], number).astype(np.uint16)
        tally = count_cells(calls, quality, CLASSES)
        assert tally.cells == number
        differential = Differential.from_tally(tally, wbc_1e9_per_l=5.0)
        assert sum(line.count for line in differential.classes) == tally.identified
        if tally.identified:
            assert sum(line.percent or 0 for line in differential.classes) == pytest.approx(100)
            assert sum(
                line.concentration_1e9_per_l or 0 for line in differential.classes
            ) == pytest.approx(5.0)
        for line in differential.classes:
            low, high = line.interval_percent
            assert 0 <= low <= (line.percent or 0) <= high <= 100


def test_cells_with_a_warning_are_counted_and_named() -> None:
    quality = np.array(
        [QcFlag.DOUBLET, QcFlag.SATURATED | QcFlag.DOUBLET, QcFlag.UNREGISTERED, QcFlag.BORDER]
    )
    tally = count_cells(["NEU", "LYM", "unidentified", "NEU"], quality.astype(np.uint16), CLASSES)
    assert tally.counts == {"NEU": 1, "LYM": 1, "EOS": 0, "MO": 0, "BAS": 0}
    assert tally.unidentified == 1
    assert tally.counted_with_warning == {"doublet": 2, "saturated": 1, "unregistered": 1}


def test_percentages_are_of_identified_cells() -> None:
    tally = Tally(
        {"NEU": 6, "LYM": 4}, unidentified=10, rejected={"border": 80}, counted_with_warning={}
    )
    differential = Differential.from_tally(tally, wbc_1e9_per_l=8.0)
    neu = differential.classes[0]
    assert neu.percent == 60.0
    assert neu.concentration_1e9_per_l == pytest.approx(4.8)
    assert neu.concentration_interval_1e9_per_l == pytest.approx(
        [8 * bound / 100 for bound in neu.interval_percent]
    )
    assert differential.unidentified_percent == 50.0


def test_nothing_identified_has_no_percentage() -> None:
    differential = Differential.from_tally(Tally({"NEU": 0}, 0, {}, {}), wbc_1e9_per_l=5.0)
    line = differential.classes[0]
    assert (line.percent, line.flag, line.concentration_1e9_per_l) == (None, None, None)
    assert line.interval_percent == (0.0, 100.0)
    assert differential.unidentified_percent is None


def test_class_without_reference_has_no_flag() -> None:
    differential = Differential.from_tally(
        Tally({"NEU": 5, "blast": 5}, 0, {}, {}), reference=ADULT
    )
    assert [line.flag for line in differential.classes] == ["normal", None]


def test_strange_call_is_refused() -> None:
    with pytest.raises(SampleStateError, match=r"predicted classes \['XYZ'\] are not classes"):
        count_cells(["XYZ"], np.zeros(1, dtype=np.uint16), CLASSES)


TOML = 'source = "Our lab"\n[percent]\nNEU = [50, 70.5]\n'
JSON = '{"source": "Our lab", "percent": {"NEU": [50, 70.5]}}'


@pytest.mark.parametrize(("name", "text"), [("lab.toml", TOML), ("lab.json", JSON)])
def test_reference_file(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    reference = load_reference(path, CLASSES)
    assert (reference.source, reference.percent) == ("Our lab", {"NEU": (50.0, 70.5)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sauce = 1\n[percent]\nNEU = [1, 2]", "key 'sauce' is not known, did you mean 'source'"),
        ("source = 'x'", "key 'percent' is missing"),
        ("source = 1\n[percent]\nNEU = [1, 2]", r"key 'source': .*\(got 1\)"),
        ("[percent]\nNUE = [1, 2]", "unknown class 'NUE'; the cells were classified as NEU, LYM"),
        ("[percent]\nNEU = [75, 40]", r"NEU is \[75, 40\]; the lower limit comes first"),
        (
            "[percent]\nNEU = [0, 101]",
            r"key 'percent\.NEU\.1': .*less than or equal to 100 \(got 101\)",
        ),
        ("[percent]\nNEU = 40", r"key 'percent\.NEU': .*valid tuple"),
        ("[percent", "not readable as TOML"),
    ],
)
def test_reference_file_that_does_not_hold(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "lab.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_reference(path, CLASSES)


def test_reference_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        load_reference(tmp_path / "none.toml", CLASSES)
