"""The alerts file: whom to tell what, and where the secrets are.

None of them enters an error, a log or an argument.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import tomllib
from typing import TYPE_CHECKING, Annotated, Final, Literal, get_args
from urllib.parse import urlsplit

from pydantic import Field, ValidationError

from wbcpipe.errors import ConfigError
from wbcpipe.samples.records import Part
from wbcpipe.system.user_files import UserFile
from wbcpipe.system.validation_messages import explain

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["ALERT_KINDS", "AlertKind", "AlertSettings", "AliveSettings", "load_alert_settings"]

#: ``first_failure``: the first sample that failed or was quarantined.
AlertKind = Literal[
    "first_failure",
    "microscope_stopped",
    "waiting_for_operator",
    "check_failed",
    "qc_rule_broken",
    "disk_low",
    "clock_or_sleep",
    "finished",
]
ALERT_KINDS: Final[tuple[AlertKind, ...]] = get_args(AlertKind)
_PLACEHOLDER: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


class AliveSettings(Part):
    """A sign of life, so that its absence raises the alarm: a dead computer sends no alert.

    Attributes:
        url: fetched with GET; https, or http on this computer.
        end_url: fetched once when the batch ends in order, for example to pause the monitor.
        file: touched, and removed when the batch ends in order.
        every_min: between two signs of life.
    """

    url: Annotated[str, Field(repr=False)] = ""
    end_url: Annotated[str, Field(repr=False)] = ""
    file: str = ""
    every_min: Annotated[float, Field(gt=0, le=1440)] = 5.0


class AlertSettings(Part):
    """Table ``[alerts]``.

    Attributes:
        urls: of services, as apprise writes them, such as ``mailto://`` or ``ntfys://``.
        command: program and arguments, started without a shell. It finds the alert in the
            environment (``WBCPIPE_ALERT_KIND``, ``_TITLE``, ``_BODY``) and the text on its standard
            input.
        kinds: which alerts to send; all by default.
        timeout_s: of one attempt to send.
        alive: see `AliveSettings`.
    """

    urls: Annotated[tuple[str, ...], Field(repr=False)] = ()
    command: tuple[str, ...] = ()
    kinds: tuple[AlertKind, ...] = ALERT_KINDS
    timeout_s: Annotated[float, Field(gt=0, le=300)] = 20.0
    alive: AliveSettings = AliveSettings()


class _AlertsFile(Part):
    """The file."""

    alerts: AlertSettings


def load_alert_settings(path: Path, environment: Mapping[str, str] = os.environ) -> AlertSettings:
    """Read an alerts file; ``${NAME}`` in a URL becomes the environment's variable NAME.

    Raises:
        ConfigError: the file is not there or not valid, a variable is not set, or a URL is written
            out in a file that other users can read. The text shows no URL.
    """
    try:
        raw = tomllib.loads(UserFile(path, "an alerts file (--alerts)", ConfigError).read_text())
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path}: not TOML ({type(error).__name__}); see docs/how-to/morning.md for an example."
        ) from None
    try:
        settings = _AlertsFile.model_validate(raw).alerts
    except ValidationError as error:
        # `from None`: pydantic's own text shows the values that it refused.
        findings = "; ".join(
            explain(item, _AlertsFile, show_values=False) for item in error.errors()
        )
        raise ConfigError(f"{path}: {findings}.") from None
    _check_command(path, settings)
    alive = settings.alive
    urls = [*settings.urls, *filter(None, (alive.url, alive.end_url))]
    if any(not _PLACEHOLDER.search(url) for url in urls):
        _check_private(path)
    alive = alive.model_copy(
        update={
            name: _fill(path, f"alive.{name}", getattr(alive, name), environment)
            for name in ("url", "end_url")
        }
    )
    for name in ("url", "end_url"):
        _check_ping_url(path, f"alive.{name}", getattr(alive, name))
    filled = tuple(
        _fill(path, f"urls[{number}]", url, environment) for number, url in enumerate(settings.urls)
    )
    return settings.model_copy(update={"urls": filled, "alive": alive})


def _check_command(path: Path, settings: AlertSettings) -> None:
    if any(_PLACEHOLDER.search(word) for word in settings.command):
        raise ConfigError(
            f"{path}: key 'alerts.command' has a ${{NAME}}: other users can read the arguments of "
            f"a process. The command inherits the environment: let it read the variable there."
        )


def _check_private(path: Path) -> None:
    if sys.platform == "win32":
        # Mode bits say nothing on Windows: `os.stat` derives them from the read-only flag. Access
        # is decided by the file's ACL, and a file below the user's profile inherits one that only
        # the user, SYSTEM and administrators pass; to read an ACL takes pywin32, which this project
        # does without. docs/how-to/morning.md shows the `icacls` line.
        return
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(
            f"{path}: it holds a URL without ${{NAME}}, which may be secret, and other users can "
            f"read the file (mode {mode:o}); run `chmod 600 {path}`, or take the secret from the "
            f"environment with "
            f"${{NAME}}."
        )


def _fill(path: Path, key: str, text: str, environment: Mapping[str, str]) -> str:
    missing = [name for name in _PLACEHOLDER.findall(text) if not environment.get(name)]
    if missing:
        raise ConfigError(
            f"{path}: key 'alerts.{key}' needs the environment variable {missing[0]}, which is "
            f"not set; set it for the user who runs the batch."
        )
    return _PLACEHOLDER.sub(lambda match: environment[match[1]], text)


def _check_ping_url(path: Path, key: str, url: str) -> None:
    if not url:
        return
    try:
        parts = urlsplit(url)
        allowed = bool(parts.hostname) and (
            parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
        )
    except ValueError:
        allowed = False
    if not allowed:
        raise ConfigError(
            f"{path}: key 'alerts.{key}': only https:// is allowed, or http:// on this computer."
        )
