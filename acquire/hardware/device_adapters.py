"""The folder of Micro-Manager's device adapters, and their device interface version."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from wbcpipe.acquire.config.scope import TEST_ADAPTERS
from wbcpipe.errors import HardwareError

if TYPE_CHECKING:
    from wbcpipe.acquire.config.scope import Scope

__all__ = ["adapter_folder", "check_interface", "interface_versions"]

_INSTALL: Final = "pip install 'pymmcore==12.5.1.75.*' 'mm-test-adapters==75.*' pycromanager"


def interface_versions() -> tuple[str, str]:
    """Return the device interface of pymmcore and that of mm-test-adapters; they must be equal to load a device.

    Raises:
        HardwareError: one of the packages is not installed.
    """
    try:
        core = importlib.metadata.version("pymmcore")
        adapters = importlib.metadata.version("mm-test-adapters")
    except importlib.metadata.PackageNotFoundError as error:
        raise HardwareError(f"package {error.name} is not installed: {_INSTALL}.") from error
    return core.split(".")[3], adapters.split(".")[0]


def check_interface(scope: Scope) -> str:
    """Return the core's device interface, before anything is loaded: a mismatch can crash the interpreter.

    Raises:
        HardwareError: the test adapters speak another interface than pymmcore.
    """
    core, adapters = interface_versions()
    if adapter_folder(scope) == _test_adapter_folder() and core != adapters:
        raise HardwareError(
            f"pymmcore speaks device interface {core}, mm-test-adapters {adapters}; they must be equal: {_INSTALL}."
        )
    return core


def _test_adapter_folder() -> Path:
    import mm_test_adapters

    return Path(mm_test_adapters.device_adapter_path())


def adapter_folder(scope: Scope) -> Path:
    """Return the folder of the device adapters: WBCPIPE_MICROMANAGER, else that of the scope file.

    Raises:
        HardwareError: the folder does not exist.
    """
    own = os.environ.get("WBCPIPE_MICROMANAGER")
    text = own if own and not scope.virtual else scope.micromanager.folder
    folder = _test_adapter_folder() if text == TEST_ADAPTERS else Path(text).expanduser()
    if not folder.is_dir():
        raise HardwareError(
            f"{folder}: no Micro-Manager there; correct 'micromanager.folder' in {scope.path} or WBCPIPE_MICROMANAGER."
        )
    return folder
