"""``batch``: the table of its commands; each module loads only when its command is used."""

from __future__ import annotations

from typing import Final

import click

from wbcpipe.cli.lazy_group import LazyGroup

__all__ = ["BATCH_COMMANDS", "batch"]

#: Command name to (module:attribute, one line of help).
BATCH_COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "report": ("wbcpipe.batch.report_cli:report", "Write the morning page again, and print it."),
    "test-alert": ("wbcpipe.batch.alerts_cli:test_alert", "Send a test to each address of an alerts file."),
}


@click.group("batch", cls=LazyGroup, table=BATCH_COMMANDS)
def batch() -> None:
    """Run a worklist of slides, one after the other, without an operator.

    A batch is a folder, <data>/batches/<name>/. Its state is its files: `batch run` resumes after any interruption, and
    the other commands work from another terminal while it runs. --batch names the batch; by default the one that
    was started last.
    """
