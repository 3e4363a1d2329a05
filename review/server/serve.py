"""Run the server in a thread until a signal stops the command."""

from __future__ import annotations

import ssl
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import uvicorn

from wbcpipe.errors import ConfigError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.review.server.guard import App

__all__ = ["TlsFiles", "serve"]

_START_S: Final = 10.0
_POLL_S: Final = 0.2
_STOP_S: Final = 3
_KEEP_ALIVE_S: Final = 75
_MAX_CONNECTIONS: Final = 256


@dataclass(frozen=True)
class TlsFiles:
    """The certificate of a server and its private key, PEM."""

    certificate: Path
    key: Path

    def check(self) -> None:
        """Load both files.

        Raises:
            ConfigError: they cannot be read or do not belong together, or the key has a passphrase.
        """

        def no_passphrase() -> str:
            raise ConfigError(
                f"{self.key}: the key has a passphrase; give a key without one that only you can "
                f"read."
            )

        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
                self.certificate, self.key, no_passphrase
            )
        except (OSError, ValueError) as error:  # SSLError is an OSError
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigError(
                f"--certificate {self.certificate}, --key {self.key}: not a PEM certificate and "
                f"its key ({reason})."
            ) from error


def serve(
    app: App, listening: socket.socket, tls: TlsFiles | None, *, started: Callable[[], None]
) -> None:
    """Answer requests until a signal stops the command, then end open requests and return.

    Args:
        app: the application.
        listening: its socket, which is closed.
        tls: for HTTPS.
        started: called when requests are answered.
    """
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nobody else may say who asks
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_STOP_S,
        ssl_certfile=None if tls is None else tls.certificate,
        ssl_keyfile=None if tls is None else tls.key,
    )
    server = uvicorn.Server(config)
    failure: list[BaseException] = []
    # Not the thread's own `join`: before Python 3.13 a thread counts as ended once a signal has
    # interrupted its join, and the socket would be closed while it still accepts connections.
    ended = threading.Event()

    def run() -> None:
        try:
            server.run(sockets=[listening])
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            failure.append(error)
        finally:
            ended.set()

    # In a thread of its own, uvicorn leaves the signals to this program.
    threading.Thread(target=run, name="wbcpipe-review", daemon=True).start()
    try:
        _wait_for_start(server, ended)
        if not ended.is_set():
            started()
        while not ended.wait(_POLL_S):
            pass
    except KeyboardInterrupt:
        pass  # the way to end it
    finally:
        server.should_exit = True
        ended.wait(_STOP_S + _START_S)
        listening.close()
    if failure:
        raise failure[0]


def _wait_for_start(server: uvicorn.Server, ended: threading.Event) -> None:
    end_s = time.monotonic() + _START_S
    while not server.started and not ended.is_set() and time.monotonic() < end_s:
        time.sleep(0.01)
