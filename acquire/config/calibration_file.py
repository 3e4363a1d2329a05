"""The calibration file of a scope: one JSON file.

An earlier one is kept beside it under its date.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from wbcpipe.acquire.config.calibration_record import CalibrationParts, CalibrationRecord
from wbcpipe.acquire.config.cfg_reader import read_config
from wbcpipe.acquire.config.micromanager_cfg import light_settings
from wbcpipe.errors import SampleStateError
from wbcpipe.samples.records import CalibrationReference
from wbcpipe.system.files import make_folder, write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.acquire.config.calibration_record import LightDose
    from wbcpipe.acquire.config.scope import Scope

__all__ = [
    "PARTS",
    "calibration_path",
    "calibration_reference",
    "new_record",
    "save_calibration",
    "setup_sha256",
]

#: The parts that can be measured by themselves; each carries its own date.
PARTS: Final = tuple(CalibrationParts.model_fields)
_PACKAGES: Final = (
    "wbcpipe",
    "pycromanager",
    "pymmcore",
    "mm-test-adapters",
    "numpy",
    "scipy",
    "scikit-image",
)


def calibration_path(scope: Scope, data: Path) -> Path:
    """Return the path of a scope's calibration below the data root ``data``."""
    return data / "calibration" / f"{scope.name}.json"


def setup_sha256(scope: Scope) -> str:
    """Return the SHA-256 of the settings that a calibration depends on: devices, camera, lights and
    objective.

    Settings that a calibration corrects (``pixel_um``, ``stage_affine``, exposures, offsets) or
    that it does not concern (slots, time limits, comments) are left out, so that following its
    advice does not make it out of date.

    Raises:
        ConfigError: The .cfg cannot be read, or lacks something that the scope names.
    """
    config = read_config(scope.config_path)
    camera = scope.camera
    setup = {
        "camera": [
            camera.device,
            camera.sensor_px,
            camera.region_px,
            camera.binning,
            camera.pixel_type,
            camera.bits,
        ],
        "devices": sorted((label, *kind) for label, kind in config.devices.items()),
        "stage": [scope.stage.xy_device, scope.stage.z_device],
        "shutter": scope.light.shutter_device,
        "lights": {
            name: light_settings(scope, config, item) for name, item in scope.modalities.items()
        },
        "focus": scope.focus.modality,
        "objective": scope.calibration.objective,
    }
    return hashlib.sha256(json.dumps(setup, sort_keys=True).encode()).hexdigest()


def new_record(
    scope: Scope,
    slot: str,
    parts: CalibrationParts,
    light: dict[str, LightDose],
    seconds: float,
    earlier: CalibrationRecord | None,
) -> CalibrationRecord:
    """Return the content of a calibration file.

    Args:
        scope, slot: Microscope and slot of the measurement.
        parts: Parts measured now.
        light: Light used in each modality.
        seconds: Duration of the measurement.
        earlier: Earlier content; its parts that were not measured now are kept with their dates.
    """
    date, setup = datetime.now(UTC).isoformat(timespec="seconds"), setup_sha256(scope)
    stamp = {"date": date, "scope_sha256": scope.sha256, "setup_sha256": setup}
    kept = {} if earlier is None else earlier.parts.measured()
    measured = {name: part.model_copy(update=stamp) for name, part in parts.measured().items()}
    return CalibrationRecord(
        scope=scope.name,
        scope_path=str(scope.path),
        date=date,
        scope_sha256=scope.sha256,
        setup_sha256=setup,
        objective=scope.calibration.objective,
        virtual=scope.virtual,
        slot=slot,
        software={package: importlib.metadata.version(package) for package in _PACKAGES},
        light=light,
        seconds=seconds,
        parts=CalibrationParts().model_copy(update={**kept, **measured}),
    )


def save_calibration(path: Path, record: CalibrationRecord) -> Path | None:
    """Write a calibration, and return the path of the earlier one if there was one.

    Raises:
        DiskFullError: Not enough space; the earlier file is not changed.
    """
    make_folder(path.parent)
    kept = None
    if earlier := CalibrationRecord.read_if_present(path):
        kept = _keep(path, earlier)
    record.write(path)
    return kept


def _keep(path: Path, earlier: CalibrationRecord) -> Path:
    """Copy the file at ``path`` to a name with its date.

    The file stays until the new one is complete.
    """
    content = path.read_bytes()
    date = earlier.date.replace(":", "").replace("+0000", "Z")
    for number in range(1, 10_000):
        beside = path.with_name(f"{path.stem}.{date}{'' if number == 1 else f'.{number}'}.json")
        if not beside.exists():
            with write_atomic(beside) as handle:
                handle.write(content)
            return beside
        if beside.read_bytes() == content:
            return beside
    raise SampleStateError(f"{path.parent}: too many calibrations of {date}; move some away.")


def calibration_reference(scope: Scope, data: Path) -> CalibrationReference | None:
    """Return the date and the SHA-256 of the calibration below ``data``; ``None`` without one, or a
    damaged one.
    """
    path = calibration_path(scope, data)
    try:
        record = CalibrationRecord.read_if_present(path)
    except SampleStateError:
        return None
    if record is None:
        return None
    return CalibrationReference(
        date=record.date, sha256=hashlib.sha256(path.read_bytes()).hexdigest()
    )
