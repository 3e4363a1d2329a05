"""Where the server listens, and under which names browsers may ask for it."""

from __future__ import annotations

import ipaddress
import socket
import sys
from dataclasses import dataclass
from typing import Final

from wbcpipe.errors import ConfigError

__all__ = ["DEFAULT_HOST", "DEFAULT_PORT", "ServerAddress", "is_loopback", "listen"]

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8017
_LOOPBACK_NAMES: Final = ("127.0.0.1", "localhost", "[::1]")
_WILDCARDS: Final = {"", "*", "0.0.0.0", "::", "[::]"}
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_BACKLOG: Final = 128


@dataclass(frozen=True)
class ServerAddress:
    """The address of a server.

    Attributes:
        host: name or address under which it is reached.
        port: TCP port.
        tls: whether it speaks HTTPS.
    """

    host: str
    port: int
    tls: bool = False

    @property
    def scheme(self) -> str:
        """``https`` or ``http``."""
        return "https" if self.tls else "http"

    @property
    def hosts(self) -> frozenset[str]:
        """Values of the header ``Host`` that mean this server: others are another site's name for
        it.
        """
        names = {_bracketed(self.host).lower()}
        if is_loopback(self.host):
            names |= set(_LOOPBACK_NAMES)
        found = {f"{name}:{self.port}" for name in names}
        return frozenset(found | names if self.port == _DEFAULT_PORTS[self.scheme] else found)

    @property
    def origins(self) -> frozenset[str]:
        """Values of the header ``Origin`` of this server's own pages."""
        return frozenset(f"{self.scheme}://{host}" for host in self.hosts)

    @property
    def url(self) -> str:
        """The address without a path."""
        suffix = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{_bracketed(self.host)}{suffix}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def is_loopback(host: str) -> bool:
    """Return whether every address of a name is of this computer's loopback.

    Raises:
        ConfigError: the name has no address, or stands for all of a computer's addresses.
    """
    return all(
        ipaddress.ip_address(address.partition("%")[0]).is_loopback
        for _, address in _addresses(host)
    )


def _addresses(host: str) -> list[tuple[socket.AddressFamily, str]]:
    if host.strip() in _WILDCARDS:
        raise ConfigError(
            f"--host {host!r} stands for every address of this computer, so that the server could "
            f"not tell its own name from another site's; give the name or the address by which "
            "readers reach it."
        )
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"--host {host!r}: no address is known for it ({error}); give a name or an address."
        ) from None
    return [(family, str(address[0])) for family, _, _, _, address in found]


def listen(host: str, port: int | None) -> socket.socket:
    """Open the socket of a server.

    Args:
        host: name or address of this computer.
        port: TCP port, 0 for any that is free; ``None`` for `DEFAULT_PORT`, or any if that is in
            use.

    Raises:
        ConfigError: the port is in use or not allowed, or the address is not of this computer.
    """
    family, address = _addresses(host)[0]
    for wanted in (DEFAULT_PORT, 0) if port is None else (port,):
        # With its protocol named, asyncio sends small answers at once; else each waits 40 ms for
        # Nagle's algorithm.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        if (
            sys.platform == "win32"
        ):  # there, SO_REUSEADDR would let another program take the port as well
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((address, wanted))
            listening.listen(_BACKLOG)
        except (OSError, OverflowError) as error:
            listening.close()
            reason = getattr(error, "strerror", None) or str(error)
        else:
            return listening
    raise ConfigError(
        f"cannot listen on port {wanted} of {host} ({reason}); give another --port, or another "
        f"--host."
    )
