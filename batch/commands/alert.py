"""The command ``batch test-alert``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from wbcpipe.cli.options import json_option
from wbcpipe.errors import ConfigError

__all__ = ["alerts_option", "test_alert"]

alerts_option = click.option(
    "--alerts",
    "alerts_path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.toml",
    help="Whom to tell what happens; default $WBCPIPE_ALERTS, else nobody. See "
    "docs/how-to/morning.md.",
)


@click.command("test-alert")
@alerts_option
@json_option
def test_alert(alerts_path: Path | None, as_json: bool) -> None:
    """Send a test to each address of an alerts file, and one sign of life.

    Ends with 0 if all were sent, and with 21 if one was not or the file is not valid. No address is
    shown, since it may hold a secret.

    \b
    Examples:
      wbcpipe batch test-alert --alerts alerts.toml
      WBCPIPE_ALERTS=alerts.toml wbcpipe batch test-alert --json
    """
    from wbcpipe.batch.alerts.alerts import Alerter

    alerter = Alerter.from_file(alerts_path)
    try:
        results = alerter.test()
    finally:
        alerter.close(in_order=False)
    if not results:
        raise ConfigError(
            "no alerts are configured; give a file with --alerts, or name it in WBCPIPE_ALERTS."
        )
    if as_json:
        click.echo(
            json.dumps(
                {"channels": [{"name": name, "problem": problem} for name, problem in results]}
            )
        )
    else:
        for name, problem in results:
            click.echo(f"{name}: {problem or 'sent'}")
    failed = [f"{name}: {problem}" for name, problem in results if problem]
    if failed:
        raise ConfigError(
            f"{len(failed)} of {len(results)} were not sent ({'; '.join(failed)}); check the "
            f"address, the password and the network."
        )
