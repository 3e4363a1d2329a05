"""The models of the settings: each has a range, a unit and a benchmark; digests tell changes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from wbcpipe.samples.segment_settings.settings import SegmentSettings
from wbcpipe.samples.segment_settings.table import (
    SettingRow,
    setting_rows,
    settings_markdown,
    settings_toml,
)
from wbcpipe.system.toml_text import parse_toml
from wbcpipe.system.validation_messages import explain

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[3]
ROWS = setting_rows(SegmentSettings())


def tables(row: SettingRow, value: object) -> dict[str, Any]:
    """The nested tables that give one setting a value."""
    nested: dict[str, Any] = {row.name: value}
    for part in reversed(row.table.split(".")[1:]):
        nested = {part: nested}
    return nested


def findings(given: Mapping[str, object]) -> str:
    with pytest.raises(ValidationError) as caught:
        SegmentSettings.model_validate(given)
    return "; ".join(explain(item, SegmentSettings) for item in caught.value.errors())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.table}.{row.name}")
def test_each_setting_is_described_and_limited(row: SettingRow) -> None:
    assert row.description
    assert row.purpose
    for path in row.benchmark.split(", "):
        assert (ROOT / path).is_file(), path
    assert SegmentSettings.model_validate(tables(row, row.default)).digest() == (
        SegmentSettings().digest()
    )
    if row.lowest is None or row.highest is None:
        assert isinstance(row.default, list)
        return
    assert isinstance(row.default, float)
    assert row.lowest <= row.default <= row.highest
    for wrong in (row.lowest - 1, row.highest * 2 + 1, float("nan"), float("inf"), "1", True):
        assert f"key '{row.table.removeprefix('segment.')}.{row.name}'" in (
            findings({**tables(row, wrong)})
        )


@pytest.mark.parametrize("name", sorted({row.table for row in ROWS}))
def test_a_misspelt_key_of_a_table_is_named_with_the_nearest(name: str) -> None:
    row = next(row for row in ROWS if row.table == name)
    text = findings(_misspelt(row))
    assert f"{row.name}x' is not known, did you mean {row.name!r}?" in text
    assert "allowed: " in text


def _misspelt(row: SettingRow) -> dict[str, Any]:
    nested: dict[str, Any] = {f"{row.name}x": 1.0}
    for part in reversed(row.table.split(".")[1:]):
        nested = {part: nested}
    return nested


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"detection": {"fluorescence": {"lobe_min_um2": 20.0}}},
            "'lobe_min_um2' is 20, more than 'lobe_max_um2', 14",
        ),
        ({"detection": {"stained": {"body_fraction": 0.5}}}, "more than 'nucleus_fraction', 0.45"),
        ({"detection": {"stain": {"typical_red": 0.9}}}, "must sum to 1"),
        ({"detection": {"stain": {"searched_red": [0.9, 0.95]}}}, "must not exceed 1"),
        ({"detection": {"stain": {"searched_red": []}}}, "at least 1 item"),
        ({"detection": {"stain": {"score_coefficients": [1.0, 2.0]}}}, "at least 6 items"),
        ({"registration": {"field_search_um": 9.0}}, "more than 'field_wide_search_um', 8"),
        ({"quality": {"blurred_um": 2.5}}, "so no cell would be blurred"),
        ({"masks": {"surroundings": {"ring_inner_um": 2.0}}}, "must increase"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_that_contradict_each_other_are_refused(given: Any, words: str) -> None:
    assert words in findings(given)


@pytest.mark.parametrize(
    ("table", "statistics", "field"),
    [
        ("detection", True, True),
        ("registration", True, True),
        ("flatfield", True, True),
        ("masks", False, True),
        ("quality", False, True),
        ("debris", False, False),
        ("duplicates", False, False),
        ("channel_shift", False, False),
    ],
)
def test_a_digest_changes_with_the_tables_that_it_covers(
    table: str, statistics: bool, field: bool
) -> None:
    row = next(row for row in ROWS if row.table.split(".")[1] == table)
    assert isinstance(row.default, float)
    default = SegmentSettings()
    changed = SegmentSettings.model_validate(tables(row, row.default * 0.99 or 0.01))
    assert changed.digest() != default.digest()
    assert (changed.statistics_digest() != default.statistics_digest()) == statistics
    assert (changed.field_digest() != default.field_digest()) == field


def test_settings_survive_json_and_keep_what_was_given() -> None:
    given = {"detection": {"stain": {"searched_blue": [0.0, 0.1]}}, "masks": {"core_um": 1}}
    settings = SegmentSettings.model_validate(given)
    assert settings.overrides() == given
    read = SegmentSettings.model_validate(settings.model_dump(mode="json"))
    assert read.digest() == settings.digest()
    assert hash(read) == hash(settings)


def test_the_source_of_a_value_is_the_last_file_that_gives_it() -> None:
    low, high = {"masks": {"core_um": 1.0, "max_hole_um2": 4.0}}, {"masks": {"core_um": 0.5}}
    rows = setting_rows(
        SegmentSettings.model_validate({"masks": {"core_um": 0.5, "max_hole_um2": 4.0}}),
        {"scope.toml": low, "tuned.toml": high},
    )
    given = {row.name: (row.value, row.source) for row in rows if row.source != "default"}
    assert given == {"core_um": (0.5, "tuned.toml"), "max_hole_um2": (4.0, "scope.toml")}


def test_the_printed_file_is_read_as_the_same_settings() -> None:
    given = {"masks": {"core_um": 0.5}, "detection": {"stain": {"searched_red": [0.3]}}}
    settings = SegmentSettings.model_validate(given)
    text = settings_toml(setting_rows(settings, {"tuned.toml": given}))
    parsed = parse_toml(Path("printed.toml"), text.encode())["segment"]
    assert SegmentSettings.model_validate(parsed).overrides() == {
        **{table: {} for table in ("channel_shift", "debris", "duplicates", "flatfield")},
        **{table: {} for table in ("quality", "registration")},
        "masks": {"core_um": 0.5, "surroundings": {}},
        "detection": {
            "stain": {"searched_red": [0.3]},
            **{name: {} for name in ("clumps", "fluorescence", "light", "other", "stained")},
        },
    }


def test_the_reference_shows_every_setting_once() -> None:
    text = settings_markdown()
    assert text.count("\n| `") == len(ROWS)
    for row in ROWS:
        assert f"## `[{row.table}]`" in text
        assert f"| `{row.name}` | {row.default_text} |" in text
