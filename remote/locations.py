"""Where samples and results are: a folder, or a prefix of a bucket."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

from wbcpipe.errors import ConfigError

__all__ = ["LocalLocation", "Location", "ObjectLocation", "parse_location", "redact"]

Scheme = Literal["s3", "gs", "file"]
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):[/\\]")
#: The rules of S3; Google's also allow an underscore.
_BUCKET: Final = {
    "s3": re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"),
    "gs": re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"),
}
_PREFIX_PART: Final = re.compile(r"[A-Za-z0-9_=+][A-Za-z0-9._=+-]{0,127}")
_MAX_PREFIX: Final = 512
_ALLOWED: Final = (
    "give s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, file:///FOLDER or the path of a folder"
)


@dataclass(frozen=True)
class LocalLocation:
    """A data folder with samples in the layout of docs/reference/files.md.

    Attributes:
        path: of the folder.
    """

    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class ObjectLocation:
    """A prefix of a bucket, or a folder in the layout of a bucket (``file://``).

    Attributes:
        scheme: ``s3``, ``gs`` or ``file``.
        bucket: name of the bucket; empty for ``file``.
        prefix: keys begin with it, without slashes at its ends; of ``file``, the folder.
    """

    scheme: Scheme
    bucket: str
    prefix: str

    def below(self, path: str) -> ObjectLocation:
        """Return the location of a path below this one."""
        return replace(self, prefix=f"{self.prefix}/{path}".lstrip("/" if self.bucket else ""))

    def __str__(self) -> str:
        if self.scheme == "file":
            return Path(self.prefix).as_uri()
        return f"{self.scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")


Location = LocalLocation | ObjectLocation


def redact(text: str) -> str:
    """Return a location as it can be shown: user names, passwords and queries are left out.

    >>> redact("s3://key:secret@bucket/prefix?token=1")
    's3://***@bucket/prefix?***'
    """
    shown = re.sub(r"(?<=:)([/\\]*)[^/\\]*@", r"\1***@", text.strip(), count=1)
    return re.sub(r"[?#].*", lambda found: f"{found[0][0]}***", shown, flags=re.DOTALL)


def parse_location(text: str) -> Location:
    """Return the location that a text names.

    Args:
        text: ``s3://BUCKET/PREFIX``, ``gs://BUCKET/PREFIX``, ``file:///FOLDER``, or a path.

    Raises:
        ConfigError: it names nothing of these, or holds credentials.

    >>> parse_location("s3://archive/laboratory-1")
    ObjectLocation(scheme='s3', bucket='archive', prefix='laboratory-1')
    """
    found = _SCHEME.match(text.strip())
    if found is None:
        if not text.strip() or "\0" in text:
            raise _refused(text, "it is empty" if not text.strip() else "it holds a NUL character")
        return LocalLocation(Path(text))
    scheme = found[1]
    if scheme not in ("s3", "gs", "file") or "://" not in text:
        raise _refused(text, "its scheme is not known" if "://" in text else "'//' is missing")
    try:
        parts = urlsplit(text.strip())
    except ValueError:
        raise _refused(text, "it is no URL") from None
    if "@" in parts.netloc or parts.query or parts.fragment or set("?#") & set(text):
        raise _refused(
            text, "it holds credentials or a query; credentials come from the environment alone"
        )
    if scheme == "file":
        return _parse_file(text, parts.netloc, parts.path)
    return _parse_bucket(text, "s3" if scheme == "s3" else "gs", parts.netloc, parts.path)


def _parse_file(text: str, host: str, path: str) -> ObjectLocation:
    if host not in ("", "localhost"):
        raise _refused(text, f"a file is on this computer, not on {host!r}: file:///FOLDER")
    folder = Path(url2pathname(path))
    if not folder.is_absolute() or folder == Path(folder.anchor) or ".." in folder.parts:
        raise _refused(text, "it must name a folder below the root, without '..'")
    return ObjectLocation("file", "", str(folder))


def _parse_bucket(text: str, scheme: Literal["s3", "gs"], bucket: str, path: str) -> ObjectLocation:
    if not _BUCKET[scheme].fullmatch(bucket) or ".." in bucket:
        raise _refused(text, f"{bucket!r} is no name of a bucket")
    prefix = path.removeprefix("/").removesuffix("/")
    if len(prefix) > _MAX_PREFIX:
        raise _refused(text, f"its prefix is longer than {_MAX_PREFIX} characters")
    for part in prefix.split("/") if prefix else ():
        if not _PREFIX_PART.fullmatch(part):
            raise _refused(
                text,
                "parts of its prefix are letters, digits and '._=+-', with no dot or dash first",
            )
    return ObjectLocation(scheme, bucket, prefix)


def _refused(text: str, reason: str) -> ConfigError:
    return ConfigError(f"location {redact(text)!r} is refused: {reason}; {_ALLOWED}.")
