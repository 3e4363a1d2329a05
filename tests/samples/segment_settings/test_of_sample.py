"""Settings of a sample: scope file and given file over the defaults, refused in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from wbcpipe.errors import ConfigError, SampleStateError
from wbcpipe.samples.records import SampleRecord, SettingsFile
from wbcpipe.samples.sample import Sample
from wbcpipe.samples.segment_settings.of_sample import (
    read_settings_file,
    record_scope_settings,
    record_settings_file,
    sample_settings,
)
from wbcpipe.samples.segment_settings.settings import SegmentSettings

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import JsonValue

TUNED = SettingsFile(name="tuned.toml", segment={"masks": {"core_um": 0.5}})


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    sample = Sample.open(tmp_path, "S1")
    scope: dict[str, JsonValue] = {"masks": {"core_um": 0.7, "max_hole_um2": 4.0}}
    sample.write(SampleRecord(sample="S1", segment=scope))
    return sample


def masks(settings: SegmentSettings) -> tuple[float, float, float]:
    return settings.masks.core_um, settings.masks.max_hole_um2, settings.masks.min_lobe_um2


def test_a_given_file_goes_before_the_scope_file_and_is_forgotten_again(sample: Sample) -> None:
    assert masks(sample_settings(sample)) == (0.7, 4.0, 1.5)
    record_settings_file(sample, TUNED)
    assert masks(sample_settings(sample)) == (0.5, 4.0, 1.5)
    record_settings_file(sample, None)
    assert masks(sample_settings(sample)) == (0.7, 4.0, 1.5)


def test_a_changed_scope_file_is_taken_over_below_the_given_file(sample: Sample) -> None:
    record_settings_file(sample, TUNED)
    scope = SegmentSettings.model_validate({"masks": {"min_lobe_um2": 2.0}})
    assert masks(record_scope_settings(sample, scope)) == (0.5, 3.0, 2.0)
    assert masks(sample_settings(sample)) == (0.5, 3.0, 2.0)
    written = sample.info_path.read_bytes()
    record_scope_settings(sample, scope)
    assert sample.info_path.read_bytes() == written


def test_a_sample_that_is_not_taken_yet_has_the_settings_of_its_scope_file(tmp_path: Path) -> None:
    scope = SegmentSettings.model_validate({"masks": {"core_um": 0.6}})
    sample = Sample.open(tmp_path, "new")
    assert record_scope_settings(sample, scope) == scope
    assert not sample.path.exists()


def test_a_file_is_read_and_a_scope_file_for_its_tables_alone(tmp_path: Path) -> None:
    path = tmp_path / "tuned.toml"
    path.write_text("[segment.masks]\ncore_um = 0.5\n")
    assert read_settings_file(path) == TUNED
    path.write_text("title = 'x'\n[micromanager]\nport = 1\n[segment.masks]\ncore_um = 0.5\n")
    assert read_settings_file(path) == TUNED
    path.write_text("")
    assert read_settings_file(path).segment == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[masks]\ncore_um = 0.5\n", "key 'masks' is not known .allowed: segment."),
        (
            "[segment.masks]\ncore_mu = 0.5\n",
            "key 'segment.masks.core_mu' is not known, did you mean 'core_um'",
        ),
        (
            "[segment.masks]\ncore_um = -1\n",
            "key 'segment.masks.core_um': must be .*um .got -1",
        ),
        ("[segment.masks]\ncore_um = nan\n", "'segment.masks.core_um': must be 0 to 10 um"),
        ("[segment.masks]\ncore_um = '0.5'\n", "'segment.masks.core_um': .*valid number"),
        ("[segment.masks]\ncore_um = 0,5\n", "decimal comma: write a point"),
        ("segment = 1\n", "key 'segment': input should be a valid dictionary"),
        (
            "[segment.registration]\nfield_search_um = 9.0\n",
            "key 'segment.registration': 'field_search_um' is 9, more than",
        ),
    ],
    ids=range(8),
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "tuned.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        read_settings_file(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    for path, words in ((tmp_path, "this is a folder"), (tmp_path / "no.toml", "no such file")):
        with pytest.raises(ConfigError, match=words):
            read_settings_file(path)


def test_a_file_that_contradicts_the_scope_file_is_refused_and_not_kept(sample: Sample) -> None:
    scope: dict[str, JsonValue] = {"registration": {"field_wide_search_um": 4.0}}
    sample.write(SampleRecord(sample="S1", segment=scope))
    given = SettingsFile(name="tuned.toml", segment={"registration": {"field_search_um": 5.0}})
    with pytest.raises(ConfigError, match=r"^tuned.toml: together with .*more than") as caught:
        record_settings_file(sample, given)
    assert "\n" not in str(caught.value)
    assert sample.record().segment_file is None


def test_settings_in_a_record_that_are_not_allowed_name_the_way_out(sample: Sample) -> None:
    sample.write(SampleRecord(sample="S1", segment={"masks": {"core": 1.0}}))
    with pytest.raises(
        SampleStateError, match=r"sample.json: .*'masks.core' is not known"
    ) as found:
        sample_settings(sample)
    assert "--reset-settings" in str(found.value)
