"""The calibration file: one JSON a scope, written atomically; an earlier one is kept beside it under its date."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from wbcpipe.acquire.config.micromanager_cfg import light_settings, read_config
from wbcpipe.errors import SampleStateError
from wbcpipe.system.files import disk_errors, read_json, write_atomic, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope

__all__ = [
    "FORMAT_VERSION",
    "PARTS",
    "calibration_path",
    "calibration_reference",
    "load_calibration",
    "new_document",
    "save_calibration",
    "setup_sha256",
]

FORMAT_VERSION: Final = 1
#: What can be measured by itself; each part of a file carries its own date.
PARTS: Final = ("dark", "flat", "geometry", "offsets")
_PACKAGES: Final = ("wbcpipe", "pycromanager", "pymmcore", "mm-test-adapters", "numpy", "scipy", "scikit-image")


def calibration_path(scope: Scope, data: Path) -> Path:
    """Where a scope's calibration lies below the data root ``data``: with the samples, not in the installation."""
    return data / "calibration" / f"{scope.name}.json"


def setup_sha256(scope: Scope) -> str:
    """SHA-256 of what a calibration depends on: devices, camera, lights and objective.

    What a calibration corrects (``pixel_um``, ``stage_affine``, exposures, offsets) and what it does not touch (slots,
    deadlines, comments) is left out, so that following its advice does not make it out of date.

    Raises:
        ConfigError: the .cfg cannot be read, or lacks what the scope names.
    """
    config = read_config(scope.config_path)
    camera = scope.camera
    setup = {
        "camera": [camera.device, camera.sensor_px, camera.region_px, camera.binning, camera.pixel_type, camera.bits],
        "devices": sorted((label, *kind) for label, kind in config.devices.items()),
        "stage": [scope.stage.xy_device, scope.stage.z_device],
        "shutter": scope.light.shutter_device,
        "lights": {name: light_settings(scope, config, item) for name, item in scope.modalities.items()},
        "focus": scope.focus.modality,
        "objective": scope.calibration.objective,
    }
    return hashlib.sha256(json.dumps(setup, sort_keys=True).encode()).hexdigest()


def new_document(
    scope: Scope, slot: str, parts: dict[str, dict[str, Any]], light: dict[str, Any], earlier: dict[str, Any] | None
) -> dict[str, Any]:
    """A calibration file's content.

    Args:
        scope, slot: what was measured, and where.
        parts: name of each part measured now to its figures.
        light: exposures and milliseconds of each modality that it took.
        earlier: the file there was; its parts that were not measured now, and their dates, are taken over.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    stamp = {"date": now, "scope_sha256": scope.sha256, "setup_sha256": setup_sha256(scope)}
    kept = dict(earlier["parts"]) if earlier else {}
    measured = {name: {**stamp, **figures} for name, figures in parts.items()}
    return {
        "format_version": FORMAT_VERSION,
        "scope": scope.name,
        "scope_path": str(scope.path),
        **stamp,
        "objective": scope.calibration.objective,
        "virtual": scope.virtual,
        "slot": slot,
        "software": {package: importlib.metadata.version(package) for package in _PACKAGES},
        "light": light,
        "parts": {name: {**kept, **measured}[name] for name in PARTS if name in kept or name in measured},
    }


def load_calibration(path: Path) -> dict[str, Any] | None:
    """The calibration at ``path``, or ``None`` if there is no such file.

    Raises:
        SampleStateError: it is damaged, or of another format.
    """
    if not path.is_file():
        return None
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
        raise SampleStateError(
            f"{path}: not a calibration of format {FORMAT_VERSION}; move it away and calibrate anew."
        )
    if not isinstance(content.get("parts"), dict) or not isinstance(content.get("date"), str):
        raise SampleStateError(f"{path}: a calibration without its parts; move it away and calibrate anew.")
    return content


def save_calibration(path: Path, document: dict[str, Any]) -> Path | None:
    """Write a calibration; gives back where the one before it is kept now, if there was one.

    Raises:
        DiskFullError: no space left; the file there was stays.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    kept = _keep(path)
    write_json(path, document)
    return kept


def _keep(path: Path) -> Path | None:
    """Copy the file at ``path`` beside itself under its own date; it stays where it is until the new one is whole."""
    if not path.is_file():
        return None
    content = path.read_bytes()
    earlier = load_calibration(path)
    assert earlier is not None
    date = earlier["date"].replace(":", "").replace("+0000", "Z")
    for number in range(1, 10_000):
        beside = path.with_name(f"{path.stem}.{date}{'' if number == 1 else f'.{number}'}.json")
        if not beside.exists():
            with write_atomic(beside) as handle:
                handle.write(content)
            return beside
        if beside.read_bytes() == content:
            return beside
    raise SampleStateError(f"{path.parent}: too many calibrations of {date}; move some away.")


def calibration_reference(scope: Scope, data: Path) -> dict[str, str] | None:
    """What to note of the calibration in force: its ``date`` and the file's ``sha256``; ``None`` if there is none.

    Args:
        scope: loaded.
        data: the data root.
    """
    path = calibration_path(scope, data)
    if not path.is_file():
        return None
    content = path.read_bytes()
    try:
        date = json.loads(content)["date"]
    except (ValueError, KeyError, TypeError):
        return None
    return {"date": str(date), "sha256": hashlib.sha256(content).hexdigest()}
