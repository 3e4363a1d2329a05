"""What this computer's own settings would do to a night: sleep, restarts for updates, battery."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "IdleTimes",
    "PowerFinding",
    "active_hours_finding",
    "parse_automatic_reboot",
    "parse_idle_times",
    "parse_logind_idle",
    "parse_sleep_states",
    "power_findings",
]

#: Settings of the subgroup "sleep" of a Windows power plan.
_SLEEP_AFTER: Final = "29f6c1db-86da-48c5-9fdb-f2b67b1f44da"
_HIBERNATE_AFTER: Final = "9d7815a6-7ee4-497e-8888-515a05f02364"
_STATE: Final = re.compile(r"\((S[0-4])\b")
_NEGATIONS: Final = ("not available", "nicht verfügbar")
_INDEX: Final = re.compile(r":\s*0x([0-9a-fA-F]{8})\s*$")
_SLEEP_TARGETS: Final = (
    "sleep.target",
    "suspend.target",
    "hibernate.target",
    "hybrid-sleep.target",
)
_QUERY_S: Final = 10.0


@dataclass(frozen=True)
class PowerFinding:
    """One finding.

    Attributes:
        status: ``warn`` if it can end a night.
        detail: what was found and, for a warning, what to do.
    """

    status: Literal["ok", "warn"]
    detail: str


@dataclass(frozen=True)
class IdleTimes:
    """After how many seconds without input a Windows power plan acts; 0 for never."""

    sleep_ac_s: int = 0
    sleep_battery_s: int = 0
    hibernate_ac_s: int = 0
    hibernate_battery_s: int = 0


def power_findings() -> list[PowerFinding]:
    """Return what this computer's settings mean for a night.

    One that cannot be read is left out.
    """
    findings = list(_windows_findings() if sys.platform == "win32" else _linux_findings())
    findings += _battery_findings()
    if not any(finding.status == "warn" for finding in findings):
        findings.append(PowerFinding("ok", "no setting was found that would end a night"))
    return findings


def parse_sleep_states(text: str) -> set[str]:
    """Return the available sleep states, such as ``S0`` and ``S3``, from ``powercfg /a``.

    The text is in the system's language, but its form is not: a line that is not indented opens a
    block, the first block lists the available states, and states bear their numbers.
    """
    states: set[str] = set()
    blocks = 0
    for line in text.splitlines():
        if line.strip() and not line[0].isspace():
            blocks += 1
            if blocks > 1 or any(words in line.lower() for words in _NEGATIONS):
                break
        elif found := _STATE.search(line):
            states.add(found[1])
    return states


def parse_idle_times(text: str) -> IdleTimes:
    """Return the idle times from ``powercfg /q SCHEME_CURRENT SUB_SLEEP``, in whatever language.

    Each setting is named by its GUID; its last two numbers are the seconds on mains and on battery.
    """
    found: dict[str, list[int]] = {}
    setting = ""
    for line in text.splitlines():
        lowered = line.lower()
        if guid := re.search(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", lowered):
            setting = guid[0]
        elif index := _INDEX.search(line):
            found.setdefault(setting, []).append(int(index[1], 16))

    def last_two(guid: str) -> tuple[int, int]:
        numbers = found.get(guid, [])
        return (numbers[-2], numbers[-1]) if len(numbers) >= 2 else (0, 0)

    return IdleTimes(*last_two(_SLEEP_AFTER), *last_two(_HIBERNATE_AFTER))


def parse_logind_idle(text: str) -> str:
    """Return what logind does when nobody is there, from its configuration files; ``ignore`` by
    default.
    """
    found = re.findall(r"^\s*IdleAction\s*=\s*(\S*)", text, re.MULTILINE)
    return found[-1] if found and found[-1] else "ignore"


def parse_automatic_reboot(text: str) -> str | None:
    """Return when unattended-upgrades restarts, ``now`` or a time of day, from ``apt-config dump``;
    ``None``: never.
    """

    def value(name: str) -> str:
        found = re.findall(rf'^Unattended-Upgrade::{name} "([^"]*)";', text, re.MULTILINE)
        return found[-1] if found else ""

    if value("Automatic-Reboot").lower() not in ("true", "1", "yes"):
        return None
    return value("Automatic-Reboot-Time") or "now"


def active_hours_finding(start: int | None, end: int | None) -> PowerFinding:
    """Return what Windows's active hours mean: outside of them it may restart for updates.

    Args:
        start: hour of the day at which they begin; ``None`` where Windows sets them by itself.
        end: hour at which they end.
    """
    hours = "set by Windows itself" if start is None or end is None else f"{start}:00 to {end}:00"
    return PowerFinding(
        "warn",
        f"Windows may restart for updates outside of the active hours ({hours}), which cannot "
        f"cover a whole day: pause updates (Settings, Windows Update) before a night, or have the "
        "policy 'No auto-restart with logged on users' "
        "set",
    )


def _windows_findings() -> Iterator[PowerFinding]:
    if sys.platform != "win32":
        yield from ()
        return
    states = parse_sleep_states(_output("powercfg", "/a"))
    if "S0" in states:
        yield PowerFinding(
            "warn",
            "this computer has Modern Standby (S0): staying awake holds on mains only, and a "
            "closed lid or the power button still ends the night; keep it on mains with the lid "
            "open",
        )
    times = parse_idle_times(_output("powercfg", "/q", "SCHEME_CURRENT", "SUB_SLEEP"))
    for what, seconds in (("sleeps", times.sleep_ac_s), ("hibernates", times.hibernate_ac_s)):
        if seconds:
            yield PowerFinding(
                "warn",
                f"the power plan {what} after {seconds // 60} min without input, on mains: set it "
                f"to never with `powercfg /change "
                f"{'standby' if what == 'sleeps' else 'hibernate'}-timeout-ac 0`",
            )
    if pending := _pending_windows_restart():
        yield PowerFinding(
            "warn", f"a restart is pending ({pending}): restart the computer before the night"
        )
    start, end = _active_hours()
    yield active_hours_finding(start, end)


def _pending_windows_restart() -> str:
    if sys.platform == "win32":
        import winreg

        current = r"SOFTWARE\Microsoft\Windows\CurrentVersion"
        for key, reason in (
            (rf"{current}\WindowsUpdate\Auto Update\RebootRequired", "of Windows Update"),
            (rf"{current}\Component Based Servicing\RebootPending", "of a Windows component"),
        ):
            with contextlib.suppress(OSError), winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, key):
                return reason
    return ""


def _active_hours() -> tuple[int | None, int | None]:
    if sys.platform == "win32":
        import winreg

        settings = r"SOFTWARE\Microsoft\WindowsUpdate\UX\Settings"
        with (
            contextlib.suppress(OSError),
            winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, settings) as key,
        ):
            hours = [
                int(winreg.QueryValueEx(key, name)[0])
                for name in ("ActiveHoursStart", "ActiveHoursEnd")
            ]
            return hours[0], hours[1]
    return None, None


def _linux_findings() -> Iterator[PowerFinding]:
    action = parse_logind_idle(_output("systemd-analyze", "cat-config", "systemd/logind.conf"))
    if action != "ignore":
        yield PowerFinding(
            "warn",
            f"logind does '{action}' when nobody is there: set 'IdleAction=ignore' in "
            f"/etc/systemd/logind.conf.d/",
        )
    answers = _output("systemctl", "is-enabled", *_SLEEP_TARGETS).split()
    open_targets = [
        name for name, state in zip(_SLEEP_TARGETS, answers, strict=False) if state != "masked"
    ]
    if len(answers) == len(_SLEEP_TARGETS) and not open_targets:
        yield PowerFinding("ok", "this computer cannot sleep: its sleep targets are masked")
    elif answers and psutil.sensors_battery() is not None:
        yield PowerFinding(
            "warn",
            "a closed lid or an idle desktop session makes this laptop sleep: `sudo systemctl mask "
            f"{' '.join(open_targets)}` prevents it",
        )
    if Path("/var/run/reboot-required").exists():
        yield PowerFinding(
            "warn", "a restart is pending (/var/run/reboot-required): restart before the night"
        )
    if when := parse_automatic_reboot(_output("apt-config", "dump", "Unattended-Upgrade")):
        yield PowerFinding(
            "warn",
            f"unattended-upgrades restarts this computer ({when}): in /etc/apt/apt.conf.d/ set "
            "'Unattended-Upgrade::Automatic-Reboot \"false\";'",
        )


def _battery_findings() -> Iterator[PowerFinding]:
    battery = psutil.sensors_battery()
    if battery is not None and battery.power_plugged is False:
        yield PowerFinding(
            "warn", f"this computer runs on battery ({battery.percent:.0f} %): connect it to mains"
        )


def _output(*command: str) -> str:
    """Return what a program of the system prints.

    Empty if it is not there, fails to answer, or is not allowed.
    """
    # The code page of a Windows console is not the one that Python expects; the names that are
    # looked for are ASCII.
    try:
        run = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=_QUERY_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    encoding = "oem" if sys.platform == "win32" else "utf-8"
    return run.stdout.decode(encoding, errors="replace")
