"""All settings of the segmentation, and the digests by which a change is noticed."""

from __future__ import annotations

from typing import Any, Final

from wbcpipe.samples.records import json_digest
from wbcpipe.samples.segment_settings.base import SettingsTable
from wbcpipe.samples.segment_settings.detection import DetectionSettings
from wbcpipe.samples.segment_settings.masks import MaskSettings
from wbcpipe.samples.segment_settings.quality import (
    DebrisSettings,
    DuplicateSettings,
    QualitySettings,
)
from wbcpipe.samples.segment_settings.registration import (
    ChannelShiftSettings,
    FlatfieldSettings,
    RegistrationSettings,
)

__all__ = ["SegmentSettings"]

#: Tables on which the statistics of a slide rest, and those on which a field's cells do not.
_OF_STATISTICS: Final = {"detection", "registration", "flatfield"}
_NOT_OF_FIELDS: Final = {"debris", "duplicates", "channel_shift"}


class SegmentSettings(SettingsTable):
    """The tables ``[segment...]`` of a scope file or a file of settings."""

    detection: DetectionSettings = DetectionSettings()
    masks: MaskSettings = MaskSettings()
    registration: RegistrationSettings = RegistrationSettings()
    flatfield: FlatfieldSettings = FlatfieldSettings()
    quality: QualitySettings = QualitySettings()
    debris: DebrisSettings = DebrisSettings()
    duplicates: DuplicateSettings = DuplicateSettings()
    channel_shift: ChannelShiftSettings = ChannelShiftSettings()

    def overrides(self) -> dict[str, Any]:
        """Return what a file gives, as nested tables; nothing that is left at its default."""
        return self.model_dump(mode="json", exclude_unset=True)

    def digest(self) -> str:
        """Return the SHA-256 of all values, given or default."""
        return json_digest(self.model_dump(mode="json"))

    def statistics_digest(self) -> str:
        """Return the SHA-256 of the values on which the statistics of a slide rest."""
        return json_digest(self.model_dump(mode="json", include=_OF_STATISTICS))

    def field_digest(self) -> str:
        """Return the SHA-256 of the values on which the cells of one field rest."""
        return json_digest(self.model_dump(mode="json", exclude=_NOT_OF_FIELDS))
