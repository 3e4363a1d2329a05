"""``wbcpipe settings``: values, sources, a file to edit, and mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from wbcpipe.acquire.settings_cli import settings
from wbcpipe.errors import ConfigError
from wbcpipe.samples.records import SampleRecord, ScopeReference, SettingsFile
from wbcpipe.samples.sample import Sample
from wbcpipe.samples.segment_settings.of_sample import read_settings_file
from wbcpipe.samples.segment_settings.settings import SegmentSettings

SHIPPED = Path(__file__).parents[2] / "hardware_configs"
TUNED = "[segment.masks]\ncore_um = 0.6\n"


def call(*arguments: object) -> str:
    runner = CliRunner(env={"COLUMNS": "200"})
    result = runner.invoke(settings, [*map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def changed(*arguments: object) -> dict[str, Any]:
    rows = json.loads(call("--changed", "--json", *arguments))["settings"]
    return {f"{row['table']}.{row['name']}": (row["value"], row["source"]) for row in rows}


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    path = tmp_path / "tuned.toml"
    path.write_text(TUNED)
    return path


def test_every_value_is_shown_with_its_unit_source_and_purpose(tuned: Path) -> None:
    text = " ".join(call("masks", "--settings", tuned).split())
    assert "[segment.masks] Outline of nucleus and cell in a crop" in text
    assert "core_um 0.6 um tuned.toml (default 0.4)" in text
    assert "min_lobe_um2 1.5 um2 default" in text
    assert "[segment.registration]" not in text


def test_a_file_goes_before_the_scope_file(tmp_path: Path, tuned: Path) -> None:
    scope = tmp_path / "mine.toml"
    demo = (SHIPPED / "demo.toml").read_text(encoding="utf-8")
    both = "[segment.masks]\ncore_um = 0.7\n[segment.quality]\nblurred_um = 1.0\n"
    scope.write_text(f"{demo}\n{both}", encoding="utf-8")
    assert changed("--scope", scope, "--settings", tuned) == {
        "segment.masks.core_um": (0.6, "tuned.toml"),
        "segment.quality.blurred_um": (1.0, "mine.toml"),
    }
    assert call("--scope", "demo", "--changed") == "all settings are default\n"


def test_the_settings_of_a_sample_are_those_of_its_record(tmp_path: Path) -> None:
    sample = Sample.open(tmp_path, "S1")
    sample.write(
        SampleRecord(
            sample="S1",
            scope=ScopeReference(name="mine", sha256="0", virtual=False),
            segment={"masks": {"core_um": 0.7}},
            segment_file=SettingsFile(name="tuned.toml", segment={"debris": {"dim_fraction": 0.4}}),
        )
    )
    assert changed("--sample", "S1", "--data", tmp_path) == {
        "segment.masks.core_um": (0.7, "mine"),
        "segment.debris.dim_fraction": (0.4, "tuned.toml"),
    }


def test_the_printed_file_is_a_file_of_settings(tmp_path: Path, tuned: Path) -> None:
    printed = tmp_path / "printed.toml"
    printed.write_text(call("--toml", "--settings", tuned))
    given = read_settings_file(printed).segment
    assert SegmentSettings.model_validate(given).masks.core_um == 0.6
    assert changed("--settings", printed) == {"segment.masks.core_um": (0.6, "printed.toml")}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mask", "nothing"], "no table 'nothing'; the tables: segment.channel_shift, "),
        (["--sample", "S1", "--scope", "demo"], "give --sample, or --scope and --settings"),
        (["--settings", "none.toml"], "no such file; give the path of a TOML file of settings"),
    ],
)
def test_a_mistake_is_told_in_one_line(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
