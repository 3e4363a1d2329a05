"""``batch``: the table of its commands; each module loads only when its command is used."""

from __future__ import annotations

from typing import Final

import click

from wbcpipe.cli.lazy_group import LazyGroup

__all__ = ["BATCH_COMMANDS", "batch"]

#: Command name to (module:attribute, one line of help).
BATCH_COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "run": ("wbcpipe.batch.run_cli:run", "Run a worklist; the same command resumes it."),
    "check": ("wbcpipe.batch.check_cli:check", "Check a worklist; estimate its time and disk space."),
    "status": ("wbcpipe.batch.status_cli:status", "Show the state of every sample, also while the batch runs."),
    "add": ("wbcpipe.batch.command_cli:add", "Add a slide to a batch."),
    "hold": ("wbcpipe.batch.command_cli:hold", "Do not start samples until they are released."),
    "release": ("wbcpipe.batch.command_cli:release", "Release samples that are on hold."),
    "skip": ("wbcpipe.batch.command_cli:skip", "Leave samples out."),
    "retry": ("wbcpipe.batch.command_cli:retry", "Try quarantined or skipped samples again."),
    "stop": ("wbcpipe.batch.command_cli:stop", "Stop a batch after the sample that is scanned, or at once."),
    "confirm": ("wbcpipe.batch.command_cli:confirm", "Say that what the batch waits for is done."),
    "report": ("wbcpipe.batch.report_cli:report", "Write the morning page again, and print it."),
    "metrics": ("wbcpipe.batch.metrics_cli:metrics", "Print the figures of a batch as Prometheus text."),
    "install": ("wbcpipe.batch.install_cli:install", "Print what starts a batch every night: systemd, Task Scheduler."),
    "test-alert": ("wbcpipe.batch.alerts_cli:test_alert", "Send a test to each address of an alerts file."),
}


@click.group("batch", cls=LazyGroup, table=BATCH_COMMANDS)
def batch() -> None:
    """Run a worklist of slides, one after the other, without an operator.

    A batch is a folder, <data>/batches/<name>/. Its state is its files: `batch run` resumes after any interruption, and
    the other commands work from another terminal while it runs. --batch names the batch; by default the one that
    was started last.
    """
