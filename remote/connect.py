"""Connect to a store: its address, and credentials from the environment or the usual files."""

from __future__ import annotations

import configparser
import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypedDict
from urllib.parse import urlsplit

from obstore.store import GCSStore, LocalStore, S3Store

from wbcpipe.errors import BucketNotFoundError, ConfigError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig
    from obstore.store import ObjectStore as Backend

    from wbcpipe.remote.locations import ObjectLocation

__all__ = ["connect"]

#: Of one request, by obstore itself: of an error of the server, the network or the time.
MAX_RETRIES: Final = 6
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
#: Of the environment; where one is set, the files of AWS are not read.
_AWS_SOURCES: Final = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
)
_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


class _AwsFiles(TypedDict, total=False):
    """What the files of AWS say for a profile, by the names of obstore."""

    access_key_id: str
    secret_access_key: str
    session_token: str
    region: str
    endpoint: str


def connect(location: ObjectLocation) -> Backend:
    """Return obstore's store of a location; nothing is asked of it yet.

    Raises:
        BucketNotFoundError: the folder of a ``file://`` location is not there.
        ConfigError: the settings of the environment contradict each other.
    """
    if location.scheme == "file":
        if not Path(location.prefix).is_dir():
            raise BucketNotFoundError(
                f"{location}: there is no such folder; correct its name, or create it."
            )
        return LocalStore(location.prefix)
    retry: RetryConfig = {
        "max_retries": MAX_RETRIES,
        "retry_timeout": timedelta(seconds=60),
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=5),
            "base": 2,
        },
    }
    client: ClientConfig = {
        "connect_timeout": timedelta(seconds=5),
        # Of one request with its body, which is at most `object_store.SINGLE_PUT_BYTES` long.
        "timeout": timedelta(minutes=5),
    }
    prefix = location.prefix or None
    if location.scheme == "gs":
        return GCSStore(location.bucket, prefix=prefix, client_options=client, retry_config=retry)
    given = _aws_files()
    endpoint = next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), None)
    if _http_is_allowed(endpoint or given.get("endpoint", "")):
        client["allow_http"] = True
    if endpoint:
        given.pop("endpoint", None)
    return S3Store(
        location.bucket, prefix=prefix, client_options=client, retry_config=retry, **given
    )


def _http_is_allowed(endpoint: str) -> bool:
    """Return whether requests may go without encryption: to this computer, or as set.

    Raises:
        ConfigError: the address holds credentials.
    """
    parts = urlsplit(endpoint)
    if "@" in parts.netloc:
        raise ConfigError(
            "the store's address (AWS_ENDPOINT_URL) holds credentials; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY instead."
        )
    allowed = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true")
    return allowed or (parts.scheme == "http" and parts.hostname in _LOOPBACK)


def _aws_files() -> _AwsFiles:
    """Read a profile of ``~/.aws/credentials`` and ``~/.aws/config``, which obstore does not read.

    Only keys that are written there; what a role, a single sign-on or a process gives, a laboratory
    exports to the environment.
    """
    profile = os.environ.get("AWS_PROFILE") or "default"
    home = Path.home() / ".aws"
    secrets = _section(
        Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or home / "credentials"), profile
    )
    config = _section(
        Path(os.environ.get("AWS_CONFIG_FILE") or home / "config"),
        profile if profile == "default" else f"profile {profile}",
    )
    found: _AwsFiles = {}
    if not any(os.environ.get(name) for name in _AWS_SOURCES):
        keys = {**config, **secrets}
        if "aws_access_key_id" in keys and "aws_secret_access_key" in keys:
            found["access_key_id"] = keys["aws_access_key_id"]
            found["secret_access_key"] = keys["aws_secret_access_key"]
            if "aws_session_token" in keys:
                found["session_token"] = keys["aws_session_token"]
    if "region" in config and not (
        os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    ):
        found["region"] = config["region"]
    if "endpoint_url" in config:
        found["endpoint"] = config["endpoint_url"]
    return found


def _section(path: Path, name: str) -> dict[str, str]:
    """Return a section of an INI file; none where it cannot be read, which is not an error here."""
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
    except (OSError, configparser.Error, UnicodeDecodeError):
        return {}
    return dict(parser[name]) if parser.has_section(name) else {}
