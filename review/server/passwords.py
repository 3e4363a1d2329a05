"""The file of the readers' passwords, as scrypt hashes, and a limit on guesses."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import stat
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wbcpipe.errors import ConfigError
from wbcpipe.samples.review.texts import MAX_NAME, check_text
from wbcpipe.system.files import write_atomic
from wbcpipe.system.user_files import UserFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["MIN_LENGTH", "LoginLimit", "PasswordFile", "set_password"]

MIN_LENGTH: Final = 10
"""Characters of a password."""
MAX_LENGTH: Final = 1024
#: Cost of a guess: 32 MB and about 0.2 s, the least that OWASP's password storage cheat sheet
#: allows for this n.
SCRYPT_N, _R, _P = 2**15, 8, 3
_MEMORY: Final = 2**26
_SALT_BYTES: Final = 16
_SCHEME: Final = "scrypt"


@dataclass(frozen=True)
class _Hash:
    """A password's hash with its parameters."""

    n: int
    r: int
    p: int
    salt: bytes
    value: bytes

    @classmethod
    def of(cls, password: str) -> _Hash:
        salt = secrets.token_bytes(_SALT_BYTES)
        return cls(SCRYPT_N, _R, _P, salt, _scrypt(password, salt, SCRYPT_N, _R, _P))

    @classmethod
    def parse(cls, text: str) -> _Hash:
        """Parse ``scrypt$n$r$p$salt$hash``.

        Raises:
            ValueError: it is not that, or costs more than a server can give.
        """
        scheme, *numbers, salt, value = text.split("$")
        if scheme != _SCHEME or len(numbers) != 3:
            raise ValueError("not a hash of this program")
        n, r, p = (int(number) for number in numbers)
        if not (
            2 <= n <= 2**20
            and n & (n - 1) == 0
            and 1 <= r <= 32
            and 1 <= p <= 16
            and 128 * n * r < _MEMORY
        ):
            raise ValueError("its cost is not allowed")
        return cls(
            n, r, p, base64.b64decode(salt, validate=True), base64.b64decode(value, validate=True)
        )

    def __str__(self) -> str:
        salt, value = (base64.b64encode(part).decode() for part in (self.salt, self.value))
        return "$".join((_SCHEME, str(self.n), str(self.r), str(self.p), salt, value))

    def matches(self, password: str) -> bool:
        return hmac.compare_digest(_scrypt(password, self.salt, self.n, self.r, self.p), self.value)


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=_MEMORY, dklen=32)


class PasswordFile:
    """Readers and their passwords: a line ``NAME:HASH`` each, written by `set_password`.

    Args:
        path: of the file; on Unix, nobody but its owner may read it.

    Raises:
        ConfigError: it is not there, others may read it, a line is not as above, or it has no
            reader.
    """

    def __init__(self, path: Path) -> None:
        self._hashes = _read(path)
        if not self._hashes:
            raise ConfigError(
                f"{path}: no reader; run `wbcpipe review --password-file {path} --add-reader NAME`."
            )
        self._nobody = _Hash.of(secrets.token_urlsafe(_SALT_BYTES))
        self._one_at_a_time = threading.Lock()

    @property
    def readers(self) -> tuple[str, ...]:
        """Names of the readers."""
        return tuple(self._hashes)

    def matches(self, reader: str, password: str) -> bool:
        """Return whether a password is the reader's.

        It takes as long for a reader that does not exist.
        """
        known = self._hashes.get(reader, self._nobody)
        with self._one_at_a_time:  # many guesses at once would take all memory
            right = known.matches(password[:MAX_LENGTH])
        return right and reader in self._hashes


def _read(path: Path) -> dict[str, _Hash]:
    text = UserFile(path, "a password file", ConfigError).read_text()
    if os.name == "posix" and (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
        raise ConfigError(f"{path}: others may read it (mode {mode:03o}); run `chmod 600 {path}`.")
    found: dict[str, _Hash] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, value = line.rpartition(":")
        try:
            found[_check_name(name)] = _Hash.parse(value.strip())
        except (ValueError, binascii.Error) as error:
            raise ConfigError(
                f"{path}, line {number}: {error}; a line is NAME:HASH, written by `wbcpipe review "
                f"--add-reader NAME`."
            ) from error
    return found


def _check_name(name: str) -> str:
    return check_text(name, max_length=MAX_NAME, empty=False)


def set_password(path: Path, reader: str, password: str) -> None:
    """Write a reader's password into the file, which is made with mode 600; the other readers stay.

    Raises:
        ConfigError: the name or the password is refused, or the file is not a password file.
    """
    try:
        _check_name(reader)
    except ValueError as error:
        raise ConfigError(f"reader {reader!r}: {error}.") from error
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise ConfigError(
            f"a password has {MIN_LENGTH} to {MAX_LENGTH} characters; this one has {len(password)}."
        )
    hashes = {**(_read(path) if path.exists() else {}), reader: _Hash.of(password)}
    lines = "".join(f"{name}:{value}\n" for name, value in hashes.items())
    before = os.umask(0o077)  # the file is never readable for others, not for a moment
    try:
        with write_atomic(path) as handle:
            handle.write(lines.encode())
    finally:
        os.umask(before)


class LoginLimit:
    """Limits guesses: after five wrong passwords a client waits, twice as long each time.

    Args:
        clock: in seconds.
    """

    _FREE: Final = 5
    _FIRST_S: Final = 2.0
    _LONGEST_S: Final = 900.0
    _MAX_CLIENTS: Final = 10_000

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()

    def wait_s(self, client: str) -> float:
        """Return the time for which a client may not try; 0 if it may."""
        with self._lock:
            failures, last_s = self._failures.get(client, (0, 0.0))
        if failures < self._FREE:
            return 0.0
        pause_s = min(self._FIRST_S * 2.0 ** min(failures - self._FREE, 20), self._LONGEST_S)
        return max(0.0, last_s + pause_s - self._clock())

    def failed(self, client: str) -> None:
        """Note a wrong password."""
        with self._lock:
            failures = self._failures.pop(client, (0, 0.0))[0]
            while len(self._failures) >= self._MAX_CLIENTS:
                self._failures.pop(
                    next(iter(self._failures))
                )  # the one that is quiet for the longest
            self._failures[client] = (failures + 1, self._clock())

    def succeeded(self, client: str) -> None:
        """Forget a client's wrong passwords."""
        with self._lock:
            self._failures.pop(client, None)
