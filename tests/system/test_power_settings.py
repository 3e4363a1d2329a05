"""What Windows and Linux say about sleep and restarts, as they print it."""

from __future__ import annotations

import pytest

from wbcpipe.system.awake import keep_awake
from wbcpipe.system.power_settings import (
    IdleTimes,
    active_hours_finding,
    parse_automatic_reboot,
    parse_idle_times,
    parse_logind_idle,
    parse_sleep_states,
    power_findings,
)

_STATES_EN = """\
The following sleep states are available on this system:
    Standby (S0 Low Power Idle) Network Connected
    Hibernate
    Fast Startup

The following sleep states are not available on this system:
    Standby (S1)
\tThe system firmware does not support this standby state.
    Standby (S3)
\tThis standby state is disabled when S0 low power idle is supported.
"""
_STATES_DE = """\
Die folgenden Standbymodusfunktionen sind auf diesem System verfügbar:
    Standby (S3)
    Ruhezustand
    Schnellstart

Die folgenden Standbymodusfunktionen sind auf diesem System nicht verfügbar:
    Standby (S1)
        Die Systemfirmware unterstützt diesen Standbystatus nicht.
    Standby (S0-Modus mit niedrigem Energieverbrauch)
        Die Systemfirmware unterstützt diesen Standbystatus nicht.
"""
_STATES_NONE = """\
The following sleep states are not available on this system:
    Standby (S3)
        The hypervisor does not support this standby state.
"""
_PLAN_EN = """\
Power Scheme GUID: 381b4222-f694-41f0-9685-ff5bb260df2e  (Balanced)
  GUID Alias: SCHEME_BALANCED
  Subgroup GUID: 238c9fa8-0aad-41ed-83f4-97be242c8f20  (Sleep)
    GUID Alias: SUB_SLEEP
    Power Setting GUID: 29f6c1db-86da-48c5-9fdb-f2b67b1f44da  (Sleep after)
      GUID Alias: STANDBYIDLE
      Minimum Possible Setting: 0x00000000
      Maximum Possible Setting: 0xffffffff
      Possible Settings increment: 0x00000001
      Possible Settings units: Seconds
    Current AC Power Setting Index: 0x00000708
    Current DC Power Setting Index: 0x00000384

    Power Setting GUID: 9d7815a6-7ee4-497e-8888-515a05f02364  (Hibernate after)
      GUID Alias: HIBERNATEIDLE
      Minimum Possible Setting: 0x00000000
      Maximum Possible Setting: 0xffffffff
      Possible Settings increment: 0x00000001
      Possible Settings units: Seconds
    Current AC Power Setting Index: 0x00000000
    Current DC Power Setting Index: 0x00002a30
"""
_PLAN_DE = """\
GUID des Energieschemas: 381b4222-f694-41f0-9685-ff5bb260df2e  (Ausbalanciert)
  GUID-Alias: SCHEME_BALANCED
  GUID der Untergruppe: 238c9fa8-0aad-41ed-83f4-97be242c8f20  (Energie sparen)
    GUID-Alias: SUB_SLEEP
    GUID der Energieeinstellung: 29f6c1db-86da-48c5-9fdb-f2b67b1f44da  (Deaktivierung nach)
      GUID-Alias: STANDBYIDLE
      Minimal mögliche Einstellung: 0x00000000
      Maximal mögliche Einstellung: 0xffffffff
      Mögliche Einstellungsinkremente: 0x00000001
      Mögliche Einstellungseinheiten: Sekunden
    Index der aktuellen Wechselstromeinstellung: 0x00000000
    Index der aktuellen Gleichstromeinstellung: 0x00000258
"""


@pytest.mark.parametrize(
    ("text", "states"),
    [(_STATES_EN, {"S0"}), (_STATES_DE, {"S3"}), (_STATES_NONE, set()), ("", set())],
)
def test_sleep_states_are_read_in_english_and_german(text: str, states: set[str]) -> None:
    assert parse_sleep_states(text) == states
    assert parse_sleep_states(text.replace("\n", "\r\n")) == states


@pytest.mark.parametrize(
    ("text", "times"),
    [
        (_PLAN_EN, IdleTimes(1800, 900, 0, 10800)),
        (_PLAN_DE, IdleTimes(0, 600, 0, 0)),
        ("", IdleTimes()),
    ],
)
def test_idle_times_are_read_in_english_and_german(text: str, times: IdleTimes) -> None:
    assert parse_idle_times(text) == times


def test_the_idle_action_of_logind_is_the_last_one_set() -> None:
    assert parse_logind_idle("[Login]\n#IdleAction=suspend\n") == "ignore"
    assert (
        parse_logind_idle(
            "[Login]\nIdleAction=suspend\n# /etc/x.conf\n[Login]\nIdleAction = lock\n"
        )
        == "lock"
    )


@pytest.mark.parametrize(
    ("text", "when"),
    [
        (
            "Unattended-Upgrade::Automatic-Reboot "
            '"true";\nUnattended-Upgrade::Automatic-Reboot-Time "02:00";\n',
            "02:00",
        ),
        ('Unattended-Upgrade::Automatic-Reboot "true";\n', "now"),
        (
            "Unattended-Upgrade::Automatic-Reboot "
            '"false";\nUnattended-Upgrade::Automatic-Reboot-Time "02:00";\n',
            None,
        ),
        ('Unattended-Upgrade::Automatic-Reboot-WithUsers "true";\n', None),
    ],
)
def test_the_time_of_an_automatic_restart_is_read(text: str, when: str | None) -> None:
    assert parse_automatic_reboot(text) == when


def test_active_hours_name_what_to_do() -> None:
    assert "8:00 to 17:00" in active_hours_finding(8, 17).detail
    assert "set by Windows itself" in active_hours_finding(None, None).detail


def test_this_computer_is_described() -> None:
    findings = power_findings()
    assert findings
    assert all(finding.detail for finding in findings)


def test_a_computer_that_cannot_be_kept_awake_says_why() -> None:
    with keep_awake() as refused:
        assert refused == "" or "awake" in refused or "wakepy" in refused
