"""What a store's answer means for the user, in words that never repeat the answer.

An answer may hold what must not be shown: S3 repeats the key's id and the text that was signed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from obstore import exceptions

from wbcpipe.errors import (
    BucketNotFoundError,
    CorruptObjectError,
    CredentialsError,
    DiskFullError,
    IncompleteUploadError,
    RemotePermissionError,
    RemoteStorageError,
    SampleBusyError,
    SampleNameError,
    SampleStateError,
    StorageError,
)

if TYPE_CHECKING:
    from wbcpipe.remote.locations import ObjectLocation

__all__ = ["OF_ONE_SAMPLE", "may_pass", "meaning"]

#: What one sample is refused for; the others go on.
OF_ONE_SAMPLE: Final = (
    CorruptObjectError,
    DiskFullError,
    IncompleteUploadError,
    SampleBusyError,
    SampleNameError,
    SampleStateError,
    StorageError,
)

_STATUS: Final = re.compile(r"status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")
_BAD_CREDENTIALS: Final = {
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidSecurity",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
#: Where a cloud's computers get credentials; asked where the environment and the files have none.
_METADATA: Final = ("169.254.169.254", "metadata.google", "latest/api/token", "fetching token")
#: Part of the text of an error, to its meaning; the first that is found.
_NETWORK: Final = (
    ("dns error", "the host name is not known"),
    ("Connection refused", "the connection was refused"),
    ("timed out", "no answer in time"),
    ("TimedOut", "no answer in time"),
    ("certificate", "the certificate is not trusted"),
    ("UnrecognisedScheme", "http is not allowed; see docs/how-to/objects.md"),
    ("error sending request", "the connection failed"),
    ("decoding response body", "the answer was cut short"),
)
_ENVIRONMENT: Final = (
    "they come from the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, "
    "GOOGLE_APPLICATION_CREDENTIALS) or the usual files; docs/how-to/objects.md"
)


def _facts(error: BaseException) -> tuple[int, str, str]:
    """Return the HTTP status, or 0; the store's code, or nothing; and the text."""
    text = str(error)
    status, code = _STATUS.search(text), _CODE.search(text)
    return int(status[1]) if status else 0, code[1] if code else "", text


def may_pass(error: BaseException) -> bool:
    """Return whether the same request may succeed a moment later."""
    status, _, text = _facts(error)
    if isinstance(error, (FileNotFoundError, PermissionError)) or not isinstance(
        error, (exceptions.GenericError, exceptions.JoinError, OSError)
    ):
        return False
    return (status == 0 or status in (408, 429) or status >= 500) and not any(
        word in text for word in (*_METADATA, "LocalFileSystem", "builder error")
    )


def meaning(error: BaseException, location: ObjectLocation, action: str) -> Exception:
    """Return the error for the user, without the text of the store.

    Args:
        error: of obstore.
        location: of the store.
        action: what was tried, such as ``write s3://bucket/key``.
    """
    status, code, text = _facts(error)
    if code == "NoSuchBucket":
        return BucketNotFoundError(
            f"{location}: there is no such bucket; correct its name, or create it."
        )
    missing = any(word in text for word in _METADATA)
    # obstore has classes for some requests alone: of a refused list it gives the status.
    unknown = status == 401 or isinstance(error, exceptions.UnauthenticatedError)
    if missing or code in _BAD_CREDENTIALS or unknown:
        found = "no credentials were found" if missing else f"the credentials are refused ({code})"
        return CredentialsError(f"{location}: {found.replace(' ()', '')}; {_ENVIRONMENT}.")
    if status == 403 or isinstance(error, (exceptions.PermissionDeniedError, PermissionError)):
        return RemotePermissionError(
            f"{location}: the credentials do not allow to {action}; docs/how-to/objects.md lists "
            f"the permissions that are needed."
        )
    if "No space left" in text or "StorageFull" in text:
        return DiskFullError(f"{location}: no space left on the disk; free space and run again.")
    if status in (301, 307):
        return RemoteStorageError(
            f"{location}: the bucket is in another region; set AWS_REGION to it."
        )
    if isinstance(error, exceptions.NotSupportedError) or status == 501:
        return RemoteStorageError(
            f"{location}: the store does not support a request that is needed ({action}); "
            f"docs/how-to/objects.md lists them."
        )
    reason = " ".join([f"HTTP {status}" if status else "", code]).strip() or next(
        (words for part, words in _NETWORK if part in text), "the request failed"
    )
    return RemoteStorageError(
        f"{location}: could not {action} ({reason}); check the network and the store's address, "
        f"and run the same command again: what was uploaded is kept."
    )
