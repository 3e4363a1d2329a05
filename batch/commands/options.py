"""Options that several commands of a batch share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from wbcpipe.batch.state.batch_folder import BatchFolder, list_batches
from wbcpipe.errors import WorklistError
from wbcpipe.samples.sample import data_root

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["batch_option", "find_batch", "rows_scope_option"]

batch_option: Final = click.option(
    "--batch", "batch_name", metavar="NAME", help="The batch [the one started last]."
)
rows_scope_option: Final = click.option(
    "--scope",
    "scope_name",
    metavar="NAME",
    default="demo",
    show_default="demo, the virtual microscope",
    help="Microscope of the rows that name none: its name, or the path of its .toml file.",
)


def find_batch(data: Path | None, name: str | None) -> BatchFolder:
    """Return the batch that the options name, by default the one that was started last.

    Args:
        data: ``--data``.
        name: ``--batch``.

    Raises:
        WorklistError: there is none; the text lists those there.
        SampleNameError: the name is refused.
    """
    root = data_root(data)
    if name is not None:
        folder = BatchFolder.open(root, name)
        folder.record()
        return folder
    batches = list_batches(root)
    if not batches:
        raise WorklistError(
            f"no batch in {root}; start one with `wbcpipe batch run NIGHT.csv`, or give --data."
        )
    return batches[0]
