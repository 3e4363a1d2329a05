"""The folder of Micro-Manager's device adapters, and their device interface version."""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from wbcpipe.acquire.config.scope import TEST_ADAPTERS
from wbcpipe.errors import HardwareError, MissingPackageError
from wbcpipe.system.packages import BRIDGE, CORE, require

if TYPE_CHECKING:
    from wbcpipe.acquire.config.scope import Scope

__all__ = [
    "adapter_folder",
    "check_interface",
    "find_libraries_in",
    "interface_versions",
    "load_advice",
    "path_for_core",
    "require_core",
]


def require_core(scope: Scope) -> None:
    """Check that the packages that drive a microscope are installed, before anything is loaded.

    Raises:
        MissingPackageError: one is not installed; the text says how to install it.
    """
    headless = scope.micromanager.backend == "headless"
    require(CORE if headless else BRIDGE, f"the microscope of scope {scope.name!r}")


def interface_versions() -> tuple[str, str]:
    """Return the device interface of pymmcore and that of mm-test-adapters.

    They must be equal to load a device.

    Raises:
        MissingPackageError: one of the packages is not installed.
    """
    try:
        core = importlib.metadata.version("pymmcore")
        adapters = importlib.metadata.version("mm-test-adapters")
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingPackageError(
            f"the package {error.name} is not installed here: {CORE.install}."
        ) from error
    return core.split(".")[3], adapters.split(".")[0]


def check_interface(scope: Scope) -> str:
    """Return the core's device interface, before anything is loaded: a mismatch can crash the
    interpreter.

    Raises:
        HardwareError: the test adapters speak another interface than pymmcore.
    """
    core, adapters = interface_versions()
    if adapter_folder(scope) == _test_adapter_folder() and core != adapters:
        raise HardwareError(
            f"pymmcore speaks device interface {core}, mm-test-adapters {adapters}; they must be "
            f"equal: {CORE.install}."
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
            f"{folder}: no Micro-Manager there; correct 'micromanager.folder' in {scope.path} or "
            f"WBCPIPE_MICROMANAGER."
        )
    return folder


def find_libraries_in(folder: Path) -> None:
    """Let Windows find in Micro-Manager's folder the libraries that its adapters need.

    Elsewhere nothing is needed.

    Micro-Manager starts in its folder, so that Windows finds there the vendors' libraries that
    adapters are linked to. In another program it looks for them in the folders given here, and, for
    libraries loaded by name, along PATH.
    """
    add_folder = getattr(os, "add_dll_directory", None)
    if add_folder is None or str(folder) in os.environ.get("PATH", "").split(os.pathsep):
        return
    add_folder(str(folder))  # for the life of the process: what it returns is not needed
    os.environ["PATH"] = os.pathsep.join((str(folder), os.environ.get("PATH", "")))


def path_for_core(path: Path) -> str:
    """Return a path as the core can open it.

    On Windows the core takes paths in the system's code page, and pymmcore hands them over in
    UTF-8: for a path with an umlaut the short name (8.3) is given, which is ASCII. A drive without
    short names keeps the path as it is.
    """
    text = str(path)
    if sys.platform == "win32" and not text.isascii():
        import ctypes

        short = ctypes.create_unicode_buffer(32_768)
        if (
            ctypes.windll.kernel32.GetShortPathNameW(text, short, len(short))
            and short.value.isascii()
        ):
            return short.value
    return text


def load_advice(reason: str, folder: Path, interface: str) -> str:
    """Return what to do about a .cfg that the core could not load, as sentences.

    Args:
        reason: the core's message.
        folder: of the device adapters.
        interface: device interface that the core speaks.
    """
    library = re.search(r'(?i)failed to load (?:device adapter|module) "([^"]+)"', reason)
    if library is not None:
        name = re.sub(r"^(lib)?mmgr_dal_|(\.so\.0|\.dll)$", "", library[1])
        plain = (
            "" if str(folder).isascii() else " Install Micro-Manager in a folder without umlauts."
        )
        return (
            f"The adapter library of {name!r} is not in {folder}, or lacks a library that it "
            f"needs: install the vendor's driver, and look whether Micro-Manager itself finds the "
            "device. An adapter of another device "
            f"interface than {interface}, that of this core, needs the pymmcore with that fourth "
            f"version number.{plain}"
        )
    if re.search(r"Line \d+: ", reason) and re.search(
        r"(?i)wrong number of tokens|no device with label", reason
    ):
        return "Correct that line of the .cfg; `wbcpipe doctor --offline` checks all of them."
    return "Check power and cables; `wbcpipe doctor` checks each device."
