"""The commands ``loader status``, ``load``, ``unload`` and ``state``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from wbcpipe.cli.options import data_option, json_option, place_option, scope_option

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["loader"]


@click.group()
def loader() -> None:
    """Bring slides to the stage by the [loader] of a scope file, and say what lies there.

    `run`, `acquire` and `batch run` load each slide themselves. These commands try the loader out,
    and put its record right after it was interrupted: <data>/loader/<scope>.json.

    \b
    Examples:
      wbcpipe loader status --scope mylab
      wbcpipe loader load --scope mylab --slide S42 --place 7
      wbcpipe loader state --scope mylab --empty    after a fault: say what lies on the stage
    """


@loader.command()
@scope_option
@data_option
@json_option
def status(scope_name: str, data: Path | None, as_json: bool) -> None:
    """Say what lies on the stage, as far as it was recorded; nothing moves."""
    from wbcpipe.acquire.config.scope import load_scope
    from wbcpipe.acquire.loader.record import read_loader
    from wbcpipe.samples.sample import data_root

    scope = load_scope(scope_name)
    record = read_loader(scope, data_root(data))
    if as_json:
        click.echo(
            json.dumps(
                {"scope": scope.name, "method": scope.loader.method, **record.content()}, indent=2
            )
        )
        return
    slide = (
        "" if record.place is None else f": slide {record.place.slide} in slot {record.place.slot}"
    )
    more = "".join(f"; {text}" for text in (record.step, record.reason) if text)
    click.echo(f"{record.state}{slide}, since {record.since:%Y-%m-%d %H:%M:%S} UTC{more}")


@loader.command()
@scope_option
@click.option("--slide", required=True, help="Id of the slide.")
@place_option
@data_option
def load(scope_name: str, slide: str, place: int | None, data: Path | None) -> None:
    """Bring a slide to the stage; another one that lies there is taken away first."""
    from wbcpipe.acquire.config.scope import load_scope
    from wbcpipe.acquire.loader.checks import check_loader
    from wbcpipe.acquire.loader.workflow import LoadRequest, load_slide
    from wbcpipe.cli.progress import Reporter
    from wbcpipe.samples.sample import data_root

    scope = load_scope(scope_name)
    check_loader(scope)
    with Reporter() as reporter:
        request = LoadRequest(scope, data_root(data), slide, place or 0)
        load_slide(request, ask=reporter.confirm, say=reporter.say)
    click.echo(f"slide {slide} is in slot {scope.loader_slot}")


@loader.command()
@scope_option
@data_option
def unload(scope_name: str, data: Path | None) -> None:
    """Take the slide on the stage away."""
    from wbcpipe.acquire.config.scope import load_scope
    from wbcpipe.acquire.loader.checks import check_loader
    from wbcpipe.acquire.loader.workflow import unload_slide
    from wbcpipe.cli.progress import Reporter
    from wbcpipe.samples.sample import data_root

    scope = load_scope(scope_name)
    check_loader(scope)
    with Reporter() as reporter:
        unload_slide(scope, data_root(data), ask=reporter.confirm, say=reporter.say)


@loader.command()
@scope_option
@click.option("--slide", help="This slide lies on the stage.")
@place_option
@click.option("--empty", is_flag=True, help="No slide lies on the stage.")
@data_option
def state(
    scope_name: str, slide: str | None, place: int | None, empty: bool, data: Path | None
) -> None:
    """Record what you see on the stage, after the loader was interrupted; nothing moves."""
    from wbcpipe.acquire.config.scope import load_scope
    from wbcpipe.acquire.loader.checks import check_loader
    from wbcpipe.acquire.loader.workflow import LoadRequest, state_slide
    from wbcpipe.samples.sample import data_root

    if empty == (slide is not None):
        raise click.UsageError("give either --slide ID or --empty.")
    scope = load_scope(scope_name)
    check_loader(scope, operator=False)
    root = data_root(data)
    state_slide(
        scope, root, None if slide is None else LoadRequest(scope, root, slide, place or 0).place()
    )
