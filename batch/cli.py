"""``batch``: the table of its commands; each module loads only when its command is used."""

from __future__ import annotations

from typing import Final

import click

from wbcpipe.cli.lazy_group import LazyGroup

__all__ = ["BATCH_COMMANDS", "batch"]

#: Command name to (module:attribute, one line of help).
BATCH_COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "run": ("wbcpipe.batch.commands.run:run", "Run a worklist; the same command resumes it."),
    "check": (
        "wbcpipe.batch.commands.check:check",
        "Check a worklist; estimate its time and disk space.",
    ),
    "status": (
        "wbcpipe.batch.commands.status:status",
        "Show the state of every sample, also while the batch runs.",
    ),
    "add": ("wbcpipe.batch.commands.operate:add", "Add a slide to a batch."),
    "hold": (
        "wbcpipe.batch.commands.operate:hold",
        "Do not start samples until they are released.",
    ),
    "release": ("wbcpipe.batch.commands.operate:release", "Release samples that are on hold."),
    "skip": ("wbcpipe.batch.commands.operate:skip", "Leave samples out."),
    "retry": ("wbcpipe.batch.commands.operate:retry", "Try quarantined or skipped samples again."),
    "stop": (
        "wbcpipe.batch.commands.operate:stop",
        "Stop a batch after the sample that is scanned, or at once.",
    ),
    "confirm": (
        "wbcpipe.batch.commands.operate:confirm",
        "Say that what the batch waits for is done.",
    ),
    "report": (
        "wbcpipe.batch.commands.report:report",
        "Write the morning page again, and print it.",
    ),
    "metrics": (
        "wbcpipe.batch.commands.metrics:metrics",
        "Print the figures of a batch as Prometheus text.",
    ),
    "install": (
        "wbcpipe.batch.commands.install:install",
        "Print a systemd or Task Scheduler unit for every night.",
    ),
    "test-alert": (
        "wbcpipe.batch.commands.alert:test_alert",
        "Send a test to each address of an alerts file.",
    ),
}


@click.group("batch", cls=LazyGroup, table=BATCH_COMMANDS)
def batch() -> None:
    """Run a worklist of slides, one after the other, without an operator.

    A batch is a folder, <data>/batches/<name>/. Its state is its files: `batch run` resumes after
    any interruption, and the other commands work from another terminal while it runs. --batch names
    the batch; by default the one that was started last.
    """
