"""The settings of a scope file and its .cfg that affect images.

Recorded with a sample, and equal for all its fields.

The Micro-Manager folder and backend, time limits and retries, the focus search, frame checks and
comments are not among them: they may change while a sample is being taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wbcpipe.acquire.config.cfg_reader import read_config
from wbcpipe.acquire.config.micromanager_cfg import light_settings
from wbcpipe.samples.fields import MODALITIES, PASSES, fields_on_disk
from wbcpipe.samples.records import FocusSettings, ImagingSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.samples.sample import Sample

__all__ = ["SettingChange", "changed_settings", "flatten", "imaging_settings"]


@dataclass(frozen=True)
class SettingChange:
    """A setting that differs from that of a sample.

    Attributes:
        key: Key with its tables, such as ``exposure_ms.color1``.
        before, now: Its values; ``None`` if it is not set.
        in_use: Images on disk were taken with the value before.
    """

    key: str
    before: object
    now: object
    in_use: bool


def imaging_settings(scope: Scope) -> ImagingSettings:
    """Return the settings of a scope that affect images.

    Scopes with equal settings take the same images.

    Raises:
        ConfigError: The .cfg cannot be read, or lacks something that the scope names.
    """
    config, camera, focus = read_config(scope.config_path), scope.camera, scope.focus
    labels = {
        "camera": camera.device,
        "xy_stage": scope.stage.xy_device,
        "z_stage": scope.stage.z_device,
    }
    return ImagingSettings(
        camera=camera.model_dump(mode="json"),
        devices={role: [label, *config.devices.get(label, ())] for role, label in labels.items()},
        camera_settings={
            name: value for device, name, value in config.settings if device == camera.device
        },
        lights={
            name: {
                f"{device}-{key}": value
                for device, key, value in light_settings(scope, config, modality)
            }
            for name, modality in scope.modalities.items()
        },
        exposure_ms={name: modality.exposure_ms for name, modality in scope.modalities.items()},
        z_offset_um={name: modality.z_offset_um for name, modality in scope.modalities.items()},
        focus=FocusSettings(
            modality=focus.modality,
            offset_um=focus.offset_um,
            fixed_um=focus.fixed_um if focus.method == "fixed" else None,
        ),
    )


def flatten(content: object, table: str = "") -> Iterator[tuple[str, object]]:
    """Yield each value of nested tables with its key, such as ``("focus.offset_um", 0.2)``."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from flatten(value, f"{table}.{key}" if table else str(key))
    else:
        yield table, list(content) if isinstance(content, tuple) else content


def changed_settings(
    sample: Sample, before: ImagingSettings, now: ImagingSettings
) -> list[SettingChange]:
    """Return the settings that differ.

    A setting of one modality is in use from its first image on: a wrong fluorescence light can
    still be corrected once bright field is on disk and the slide is stained.
    """
    was, is_now = (dict(flatten(settings.model_dump(mode="json"))) for settings in (before, now))
    taken = [name for name in PASSES if fields_on_disk(sample.raw_path(name))]
    without_image = {*MODALITIES}.difference(*(PASSES[name] for name in taken))
    return [
        SettingChange(
            key,
            was.get(key),
            is_now.get(key),
            bool(taken) and not without_image.intersection(key.split(".")),
        )
        for key in {**was, **is_now}
        if was.get(key) != is_now.get(key)
    ]
