"""Options that several commands share, so that they mean and say the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "data_option",
    "device_option",
    "json_option",
    "pass_option",
    "sample_option",
    "scope_option",
    "specimen_options",
]

data_option: Final = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder that holds the samples; else $WBCPIPE_DATA, else ./wbc-data.",
)
json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
sample_option: Final = click.option("--sample", "name", required=True, metavar="NAME", help="The sample.")
scope_option: Final = click.option(
    "--scope", "scope_name", default="demo", show_default=True, help="Name of a scope, or path of its .toml file."
)
pass_option: Final = click.option(
    "--pass",
    "passes",
    type=click.Choice(["single", "brightfield", "fluorescence", "both"]),
    default="single",
    show_default=True,
    help="All four frames at once; or bright field before the stain, fluorescence after it, or both in one go.",
)
device_option: Final = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Where to compute."
)


def specimen_options(command: Callable[..., None]) -> Callable[..., None]:
    """``--specimen-seed`` and ``--specimen-preparation``."""
    seed = click.option("--specimen-seed", type=click.IntRange(min=0), help="Virtual scope only: which specimen [7].")
    preparation = click.option(
        "--specimen-preparation",
        type=click.Choice(["blood-film", "buffy-coat"]),
        help="Virtual scope only: a healthy blood film, or white cells enriched, all classes alike [blood-film].",
    )
    return seed(preparation(command))
