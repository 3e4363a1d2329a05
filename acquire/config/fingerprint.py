"""What of a scope file and its .cfg shapes pictures: noted with a sample, and the same for all of its fields.

Where Micro-Manager lies and how it is reached, deadlines and retries, how the focus is sought, limits that only turn
frames away, and comments are no part of it: they may be put right while a sample is under way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wbcpipe.acquire.config.micromanager_cfg import light_settings, read_config
from wbcpipe.samples.fields import MODALITIES, PASSES, fields_on_disk
from wbcpipe.samples.records import FocusSetup, PictureSetup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.samples.sample import Sample

__all__ = ["changes", "flat", "imaging_settings"]


def imaging_settings(scope: Scope) -> PictureSetup:
    """Return the settings that shape the pictures of a scope; scopes that agree in them take the same pictures.

    Raises:
        ConfigError: the .cfg cannot be read, or lacks what the scope names.
    """
    config, camera, focus = read_config(scope.config_path), scope.camera, scope.focus
    labels = {"camera": camera.device, "xy_stage": scope.stage.xy_device, "z_stage": scope.stage.z_device}
    return PictureSetup(
        camera=camera.model_dump(mode="json"),
        devices={role: [label, *config.devices.get(label, ())] for role, label in labels.items()},
        camera_settings={name: value for device, name, value in config.settings if device == camera.device},
        lights={
            name: {f"{device}-{key}": value for device, key, value in light_settings(scope, config, modality)}
            for name, modality in scope.modalities.items()
        },
        exposure_ms={name: modality.exposure_ms for name, modality in scope.modalities.items()},
        z_offset_um={name: modality.z_offset_um for name, modality in scope.modalities.items()},
        focus=FocusSetup(
            modality=focus.modality,
            offset_um=focus.offset_um,
            fixed_um=focus.fixed_um if focus.method == "fixed" else None,
        ),
    )


def flat(content: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Nested tables as (key with its tables before it, value)."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from flat(value, f"{place}.{key}" if place else str(key))
    else:
        yield place, list(content) if isinstance(content, tuple) else content


def changes(
    sample: Sample, before: PictureSetup, now: PictureSetup
) -> tuple[dict[str, tuple[Any, Any]], dict[str, tuple[Any, Any]]]:
    """Where two setups differ: what pictures on disk were taken by, and what none was taken by yet.

    Each as the key to its values before and now. What belongs to one modality counts from its first picture on: so a
    wrong fluorescence light can still be put right once bright field is on disk and the slide is stained.
    """
    was, is_now = (dict(flat(setup.model_dump(mode="json"))) for setup in (before, now))
    differing = {key: (was.get(key), is_now.get(key)) for key in {**was, **is_now} if was.get(key) != is_now.get(key)}
    taken = [name for name in PASSES if fields_on_disk(sample.raw_path(name))]
    without_picture = {*MODALITIES}.difference(*(PASSES[name] for name in taken))
    free = {key for key in differing if not taken or without_picture.intersection(key.split("."))}
    return (
        {key: pair for key, pair in differing.items() if key not in free},
        {key: pair for key, pair in differing.items() if key in free},
    )
