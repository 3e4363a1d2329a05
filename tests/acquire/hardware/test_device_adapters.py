"""Where adapters and their libraries are looked for, and what is said when one is missing.

The core's own log.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from wbcpipe.acquire.hardware import core_log
from wbcpipe.acquire.hardware.core_link import CoreLink
from wbcpipe.acquire.hardware.device_adapters import find_libraries_in, load_advice, path_for_core
from wbcpipe.errors import ConfigError, HardwareError

if TYPE_CHECKING:
    from collections.abc import Callable

    from wbcpipe.acquire.config.scope import Scope


def test_windows_looks_in_the_folder_of_micro_manager(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, added = tmp_path / "Micro-Manager 2.0 für alle", list[str]()
    monkeypatch.setenv("PATH", "before")
    find_libraries_in(folder)
    assert os.environ["PATH"] == "before"  # not on this system
    monkeypatch.setattr(os, "add_dll_directory", added.append, raising=False)
    for _ in range(2):
        find_libraries_in(folder)
    assert added == [str(folder)]
    assert os.environ["PATH"].split(os.pathsep) == [str(folder), "before"]
    assert path_for_core(folder) == str(folder)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (
            'Failed to load device adapter "Hamamatsu" from "mmgr_dal_Hamamatsu.dll"',
            "adapter library of 'Hamamatsu' is not",
        ),
        (
            'Line 9: Failed to load module "mmgr_dal_PVCAM.dll" [ not found ]',
            "adapter library of 'PVCAM' is not in",
        ),
        ('Failed to load module "libmmgr_dal_ASI.so.0"', "adapter library of 'ASI' is not in"),
        (
            "Line 70: Wrong number of tokens for the current context",
            "Correct that line of the .cfg",
        ),
        ('Error in device "COM3": timeout', "Check power and cables"),
    ],
    ids=range(5),
)
def test_what_failed_decides_the_advice(reason: str, words: str) -> None:
    assert words in load_advice(reason, Path("C:/Program Files/Micro-Manager-2.0"), "75")


def test_a_missing_library_is_named_when_it_is_loaded(make_scope: Callable[..., Scope]) -> None:
    scope = make_scope(("# Devices\n", "# Devices\nDevice,Orca,HamamatsuHam,HamamatsuHam_DCAM\n"))
    with pytest.raises(
        HardwareError,
        match=r"The adapter library of 'HamamatsuHam' is not in .* install the vendor's",
    ):
        CoreLink(scope)
    CoreLink(make_scope()).close()  # the core that failed is gone


def test_the_cores_log_is_bounded_and_named_in_errors(
    make_scope: Callable[..., Scope], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_log, "MAX_LOG_BYTES", 20_000)
    path = tmp_path / "for the author" / "core.log"
    link = CoreLink(make_scope().with_core_log(path))
    try:
        for _ in range(300):
            link.call("set_position", 1.0)
        with pytest.raises(HardwareError, match=r"Gone.* The core's log: .*core\.log\."):
            link.set_property("LED", "Label", "Gone")
    finally:
        link.close()
    parts = list(path.parent.iterdir())
    assert len(parts) > 1
    assert sum(part.stat().st_size for part in parts) < 5 * 20_000
    assert any(
        "DemoCamera" in part.read_text(errors="replace") or "LED" in part.read_text()
        for part in parts
    )


def test_no_log_is_written_unasked(make_scope: Callable[..., Scope], tmp_path: Path) -> None:
    link = CoreLink(make_scope())
    try:
        with pytest.raises(HardwareError) as caught:
            link.set_property("LED", "Label", "Gone")
    finally:
        link.close()
    assert "log" not in str(caught.value)
    assert not list(tmp_path.glob("*.log"))


def test_a_log_that_cannot_be_written_is_refused(
    make_scope: Callable[..., Scope], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        ConfigError, match=r"the core's log cannot be written there .*; give another file"
    ):
        CoreLink(make_scope().with_core_log(tmp_path / "file" / "core.log"))
    bridge = make_scope(('backend = "headless"', 'backend = "bridge"'))
    with pytest.raises(ConfigError, match="a running Micro-Manager, which keeps the log"):
        bridge.with_core_log(tmp_path / "core.log")
