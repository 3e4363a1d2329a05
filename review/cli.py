"""The command ``wbcpipe review``."""

from __future__ import annotations

import getpass
import importlib.util
import os
import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from wbcpipe.cli.lazy_group import LazyGroup
from wbcpipe.cli.options import data_option, options_into
from wbcpipe.cli.progress import console
from wbcpipe.errors import ConfigError, MissingPackageError
from wbcpipe.samples.sample import Sample, data_root

if TYPE_CHECKING:
    from wbcpipe.review.server.options import ServerOptions
    from wbcpipe.review.server.serve import TlsFiles

__all__ = ["ReviewOptions", "review"]

#: Commands of people and the machine that need no browser.
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "agreement": (
        "wbcpipe.review.readers.cli:agreement",
        "Compare two readers, or a reader and the machine.",
    ),
    "reference": (
        "wbcpipe.review.readers.cli:reference",
        "Make the reference differential of two readers.",
    ),
    "location": (
        "wbcpipe.review.proficiency.cli:location",
        "Record a cell-location test, and show its trend.",
    ),
    "competence": (
        "wbcpipe.review.proficiency.cli:competence",
        "Test a reader on cells that others decided.",
    ),
    "library": ("wbcpipe.review.proficiency.cli:library", "List the laboratory's reference cells."),
}
_PACKAGES: Final = ("starlette", "uvicorn")
_IDLE_S: Final = 12 * 3600.0


@dataclass(frozen=True)
class ReviewOptions:
    """The options of ``review``, by their names on the command line; see its help."""

    name: str | None
    data: Path | None
    lab: Path | None
    reader: str | None
    no_browser: bool
    host: str
    port: int | None
    certificate: Path | None
    key: Path | None
    password_file: Path | None
    add_reader: str | None


@click.group("review", cls=LazyGroup, table=COMMANDS, invoke_without_command=True)
@click.option(
    "--sample",
    "name",
    metavar="NAME",
    help="Open the page of this sample [the worklist of all samples].",
)
@data_option
@click.option(
    "--lab",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Your laboratory's file: classes, keys, reference limits, sign checks [lab.toml in the "
    "data folder].",
)
@click.option(
    "--reader", metavar="NAME", help="Your name in the journal [the name of your account]."
)
@click.option("--no-browser", is_flag=True, help="Print the link; open no browser.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Name or address to listen on; see below.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port to listen on [8017, or a free one if it is in use].",
)
@click.option(
    "--certificate",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Certificate of this server, PEM; with --key.",
)
@click.option(
    "--key",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Private key of the certificate, PEM.",
)
@click.option(
    "--password-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Passwords of the readers, who then log in with their name.",
)
@click.option(
    "--add-reader",
    metavar="NAME",
    help="Ask for a reader's password, write it to --password-file, and end.",
)
@options_into(ReviewOptions)
def review(options: ReviewOptions) -> None:
    """Review the cells of samples in the browser, and sign the differential.

    Starts a server on this computer and opens its page. Each edit is written at once to the
    sample's review/journal.jsonl; what the model said stays in cells.zarr. Several tabs and several
    readers may work on one sample. Ctrl-C ends the server; nothing is lost, however it ends.

    The server answers this computer alone. The link that it prints works once, in one browser. For
    readers at other computers, give --host with the name or address by which they reach this one:
    it demands a certificate (HTTPS) and a password file. Or forward a port by SSH: ssh -L
    8017:127.0.0.1:8017 COMPUTER. Needs the extra: pip install 'wbcpipe[review]'.

    \b
    Examples:
      wbcpipe review
      wbcpipe review --sample S001 --lab our-lab.toml
      wbcpipe review --password-file readers.txt --add-reader anna
      wbcpipe review --host lab-pc.example.org --certificate lab.pem --key lab.key \\
        --password-file readers.txt

    Not for diagnostic use.
    """
    if click.get_current_context().invoked_subcommand is not None:
        return
    if options.add_reader is not None:
        _add_reader(options)
        return
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise MissingPackageError(
                f"the review page needs the package {package}, which is not installed; run `pip "
                f"install 'wbcpipe[review]'`."
            )
    _serve(options)


def _add_reader(options: ReviewOptions) -> None:
    from wbcpipe.review.server.passwords import set_password

    if options.password_file is None:
        raise ConfigError("--add-reader writes to a password file; give --password-file FILE.")
    password = click.prompt(
        f"Password of {options.add_reader}", hide_input=True, confirmation_prompt=True
    )
    set_password(options.password_file, str(options.add_reader), password)
    click.echo(f"{options.password_file}: the password of {options.add_reader} is set")


def _serve(options: ReviewOptions) -> None:
    from wbcpipe.laboratory.lab_file import find_lab
    from wbcpipe.review.server.address import ServerAddress, listen
    from wbcpipe.review.server.app import ReviewApp
    from wbcpipe.review.server.options import ServerOptions
    from wbcpipe.review.server.passwords import PasswordFile
    from wbcpipe.review.server.serve import serve
    from wbcpipe.review.server.sessions import Sessions
    from wbcpipe.samples.cell_store import CellStore

    root = data_root(options.data)
    lab = find_lab(root, options.lab)
    if options.name is not None:
        sample = Sample.open(root, options.name)
        sample.record()
        CellStore(
            sample.cells_path
        ).classification()  # before a page opens that has nothing to show
    tls = _check_host(options)
    passwords = None if options.password_file is None else PasswordFile(options.password_file)
    reader = "" if passwords else _reader_name(options)
    with listen(options.host, options.port) as listening:
        address = ServerAddress(options.host, listening.getsockname()[1], tls is not None)
        sessions = Sessions(idle_s=None if passwords is None else _IDLE_S)
        server = ServerOptions(
            root=root, address=address, passwords=passwords, sessions=sessions, lab=lab
        )
        app = ReviewApp(server)
        try:
            app.read_ahead()
            serve(app.asgi, listening, tls, started=lambda: _announce(server, options, reader))
        finally:
            app.close()
    console().print("review ended")


def _check_host(options: ReviewOptions) -> TlsFiles | None:
    """Return the files for HTTPS.

    Refuse to answer other computers without it and without passwords.
    """
    from wbcpipe.review.server.address import is_loopback
    from wbcpipe.review.server.serve import TlsFiles

    if (options.certificate is None) != (options.key is None):
        raise ConfigError("--certificate and --key belong together; give both.")
    tls = (
        TlsFiles(options.certificate, options.key) if options.certificate and options.key else None
    )
    if not is_loopback(options.host) and (tls is None or options.password_file is None):
        missing = " and ".join(
            text
            for text, given in (
                (
                    "--certificate and --key (without HTTPS, everyone on the network reads the "
                    "passwords)",
                    tls,
                ),
                (
                    "--password-file (without passwords, everyone on the network could sign)",
                    options.password_file,
                ),
            )
            if given is None
        )
        raise ConfigError(
            f"--host {options.host} lets other computers reach the page; give {missing}. Or leave "
            f"--host out and forward the port by SSH."
        )
    if options.password_file is not None and options.reader is not None:
        raise ConfigError(
            "--reader is for a server without passwords: with --password-file, each reader logs in."
        )
    if tls is not None:
        tls.check()
    return tls


def _reader_name(options: ReviewOptions) -> str:
    from wbcpipe.samples.review.texts import MAX_NAME, check_text

    try:
        return check_text(options.reader or getpass.getuser(), max_length=MAX_NAME, empty=False)
    except (
        ValueError,
        OSError,
        KeyError,
        ImportError,
    ) as error:  # an account without a name raises what its system has
        raise ConfigError(f"the reader's name: {error}; give another one with --reader.") from error


def _announce(server: ServerOptions, options: ReviewOptions, reader: str) -> None:
    """Print the address; open it in a browser."""
    target = f"/samples/{options.name}" if options.name else "/"
    link = f"{server.address.url}{target}"
    if server.passwords is None:
        link = f"{server.address.url}/login?token={server.sessions.new_token(reader)}&to={target}"
    click.echo(f"review: {link}")
    if not options.no_browser and _has_screen():
        webbrowser.open(link)
    console().print(f"Samples in {server.root}. Ctrl-C ends the server.", soft_wrap=True)


def _has_screen() -> bool:
    """Return whether a browser can open: without a display, Python would start one that fills the
    terminal.
    """
    return sys.platform in ("win32", "darwin") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
