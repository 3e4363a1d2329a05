"""The settings of one sample: its scope file's and those given for it, over the defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from wbcpipe.errors import ConfigError, SampleStateError
from wbcpipe.samples.records import SettingsFile
from wbcpipe.samples.review.signed import refuse_if_signed
from wbcpipe.samples.segment_settings.base import SettingsTable
from wbcpipe.samples.segment_settings.settings import SegmentSettings
from wbcpipe.system.toml_text import MAX_BYTES, parse_toml
from wbcpipe.system.user_files import UserFile
from wbcpipe.system.validation_messages import explain

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from wbcpipe.samples.records import SampleRecord
    from wbcpipe.samples.sample import Sample

__all__ = [
    "merge_settings",
    "read_settings_file",
    "record_scope_settings",
    "record_settings_file",
    "sample_settings",
    "settings_of",
    "with_settings_file",
]

#: A table that scope files have and files of settings have not.
_OF_SCOPES = "micromanager"


class _SettingsToml(SettingsTable):
    """A file of settings."""

    segment: SegmentSettings = SegmentSettings()


def read_settings_file(path: Path) -> SettingsFile:
    """Read the tables ``[segment...]`` of a file of settings, or of a scope file.

    Raises:
        ConfigError: it cannot be read, has an unknown key or a value out of range; the text names
            file, key and the allowed values.
    """
    content = UserFile(path, "a TOML file of settings", ConfigError).read(MAX_BYTES)
    tables: Mapping[str, object] = parse_toml(path, content)
    if _OF_SCOPES in tables:
        tables = {"segment": tables.get("segment", {})}
    try:
        found = _SettingsToml.model_validate(tables).segment
    except ValidationError as error:
        findings = "; ".join(explain(item, _SettingsToml) for item in error.errors())
        raise ConfigError(f"{path}: {findings}.") from error
    return SettingsFile(name=path.name, segment=found.overrides())


def merge_settings(*overrides: Mapping[str, Any]) -> SegmentSettings:
    """Return the settings of several nested tables; a later one goes before an earlier one.

    Raises:
        ValidationError: values that contradict each other, or are not allowed.
    """
    merged: dict[str, Any] = {}
    for tables in overrides:
        merged = _merged(merged, tables)
    return SegmentSettings.model_validate(merged)


def _merged(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(low)
    for key, value in high.items():
        inner = found.get(key)
        if isinstance(inner, dict) and isinstance(value, dict):
            found[key] = _merged(inner, value)
        else:
            found[key] = value
    return found


def settings_of(record: SampleRecord) -> SegmentSettings:
    """Return the settings of a sample's record: those of a file given for it go before.

    Raises:
        ValidationError: they contradict each other, or are not allowed.
    """
    given = {} if record.segment_file is None else record.segment_file.segment
    return merge_settings(record.segment, given)


def sample_settings(sample: Sample) -> SegmentSettings:
    """Return the settings with which a sample is segmented.

    Raises:
        SampleStateError: there is no ``sample.json``, or it holds settings that are not allowed.
    """
    try:
        return settings_of(sample.record())
    except ValidationError as error:
        findings = "; ".join(explain(item, SegmentSettings) for item in error.errors()[:3])
        raise SampleStateError(
            f"{sample.info_path}: settings of the segmentation: {findings}; give others with "
            f"`wbcpipe segment --settings FILE`, or forget them with --reset-settings."
        ) from error


def record_scope_settings(sample: Sample, settings: SegmentSettings) -> SegmentSettings:
    """Keep the settings of a scope file in ``sample.json``, where there is one.

    Args:
        sample: the caller holds its lock.
        settings: of the scope file as it is now.

    Returns:
        The settings with which the sample is segmented: a file given for it goes before.

    Raises:
        SampleStateError: the two contradict each other.
        DiskFullError: no space left.
    """
    if not sample.exists():
        return settings
    record, overrides = sample.record(), settings.overrides()
    if record.segment != overrides:
        sample.write(record.model_copy(update={"segment": overrides}))
        sample.log("segment_settings", scope="" if record.scope is None else record.scope.name)
    return sample_settings(sample)


def with_settings_file(record: SampleRecord, given: SettingsFile | None) -> SampleRecord:
    """Return a record with the settings of a file over those of its scope file; of none, if
    ``None``.

    Raises:
        ConfigError: the two contradict each other.
    """
    changed = record.model_copy(update={"segment_file": given})
    try:
        settings_of(changed)
    except ValidationError as error:
        findings = "; ".join(explain(item, SegmentSettings) for item in error.errors()[:3])
        name = "" if given is None else given.name
        raise ConfigError(
            f"{name}: together with the settings of the sample's scope file: {findings}."
        ) from error
    return changed


def record_settings_file(sample: Sample, given: SettingsFile | None) -> None:
    """Keep the settings of a file in ``sample.json``; ``None`` forgets those of an earlier one.

    Args:
        sample: the caller holds its lock.
        given: from `read_settings_file`.

    Raises:
        ConfigError: they contradict those of the scope file.
        SampleStateError: the sample is signed.
        DiskFullError: no space left.
    """
    record = sample.record()
    changed = with_settings_file(record, given)
    if changed != record:
        refuse_if_signed(sample.cells_path)
        sample.write(changed)
        sample.log("segment_settings", file=None if given is None else given.name)
