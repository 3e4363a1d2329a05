"""The commands ``bundles list``, ``show``, ``verify`` and ``export``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wbcpipe.cli.options import OutputFile, json_option
from wbcpipe.system.packages import CLASSIFICATION, require

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["bundles"]


class _ShowsByName(click.Group):
    """``bundles`` without arguments lists, ``bundles NAME`` shows."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, with_command(args, tuple(self.commands)))


def with_command(args: Sequence[str], commands: Sequence[str]) -> list[str]:
    """Return the words after ``bundles`` with the command that they omit.

    >>> with_command(["--json"], ("list", "show"))
    ['list', '--json']
    >>> with_command(["--json", "mine"], ("list", "show"))
    ['show', '--json', 'mine']
    """
    words = [word for word in args if not word.startswith("-")]
    if (words and words[0] in commands) or (not words and {"--help", "-h"} & set(args)):
        return list(args)
    return ["show" if words else "list", *args]


@click.group(cls=_ShowsByName, context_settings={"help_option_names": ["-h", "--help"]})
def bundles() -> None:
    """List, show, verify and export trained models.

    Without arguments it lists; with a name or folder it shows one.

    \b
    Examples:
      wbcpipe bundles
      wbcpipe bundles virtual-shufflenet --json
      wbcpipe bundles verify models/my-scope/my-scope
      wbcpipe bundles export smear-shufflenet --out smear.onnx
    """


@bundles.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the bundles that come with wbcpipe.

    \b
    Example:
      wbcpipe bundles list --json
    """
    from wbcpipe.classify.models.bundle import load_bundle, shipped_bundles

    found = [load_bundle(path) for path in shipped_bundles().values()]
    if as_json:
        click.echo(
            json.dumps(
                {
                    "bundles": [
                        {"path": str(b.path), **b.info.model_dump(mode="json")} for b in found
                    ]
                }
            )
        )
        return
    for bundle in found:
        info = bundle.info
        click.echo(
            f"{info.name}: {info.method} on {info.backbone}, kind {info.kind}, "
            f"{', '.join(info.classes)}"
        )
    if not found:
        click.echo("No bundle comes with this wbcpipe; `wbcpipe train` makes one.")


@bundles.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Verify the weights of a bundle, given by name or folder, and show its model card.

    \b
    Example:
      wbcpipe bundles show virtual-shufflenet
    """
    from wbcpipe.classify.models.bundle import CARD, load_bundle

    bundle = load_bundle(name)
    content = {"path": str(bundle.path), "verified": True, **bundle.info.model_dump(mode="json")}
    click.echo(json.dumps(content) if as_json else (bundle.path / CARD).read_text(encoding="utf-8"))


@bundles.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--onnx",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Also compare this export with the bundle; needs one NAME.",
)
@json_option
def verify(names: tuple[str, ...], onnx: Path | None, as_json: bool) -> None:
    """Check weights, network and model card of bundles.

    Without a name, of all that come with wbcpipe.

    The first bundle that fails ends the command with exit code 40.

    \b
    Examples:
      wbcpipe bundles verify
      wbcpipe bundles verify smear-shufflenet --onnx smear.onnx --json
    """
    if onnx is not None and len(names) != 1:
        raise click.UsageError("--onnx is compared with one bundle; give its NAME.")
    require(CLASSIFICATION, "verifying a bundle")
    from wbcpipe.classify.inference.verify import verify_bundle
    from wbcpipe.classify.models.bundle import load_bundle, shipped_bundles

    found = []
    for bundle in [load_bundle(name) for name in names or shipped_bundles().values()]:
        check, compared = verify_bundle(bundle), None
        if onnx is not None:
            from wbcpipe.classify.inference.export import check_onnx

            compared = check_onnx(bundle, onnx.read_bytes(), str(onnx))
        found.append({**asdict(check), **({} if compared is None else {"onnx": asdict(compared)})})
        if not as_json:
            agrees = "" if compared is None else f"; {onnx} agrees with it"
            click.echo(
                f"{check.name}: valid (SHA-256 {check.sha256[:12]}, {check.parameters:,} "
                f"parameters){agrees}"
            )
    if as_json:
        click.echo(json.dumps({"bundles": found}))


@bundles.command()
@click.argument("name")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["onnx"]),
    default="onnx",
    show_default=True,
    help="Format of the file.",
)
@click.option(
    "--out", type=OutputFile(), required=True, help="The file to write; it must not exist."
)
@json_option
def export(name: str, kind: str, out: Path, as_json: bool) -> None:
    """Export a bundle for other programs, after comparing the file with torch.

    The network in the file takes batches of any size. Its metadata state the normalisation of the
    input, the meaning of the output and its calibration. Needs the extra: pip install
    'wbcpipe[export]'.

    \b
    Example:
      wbcpipe bundles export smear-shufflenet --format onnx --out smear.onnx
    """
    from wbcpipe.classify.models.bundle import load_bundle

    require(CLASSIFICATION, "exporting a bundle")
    bundle = load_bundle(name)  # before torch, which takes seconds to load
    from wbcpipe.classify.inference.export import export_onnx

    found = export_onnx(bundle, out)
    if as_json:
        click.echo(json.dumps({"format": kind, **asdict(found)}))
        return
    click.echo(
        f"{out}: {found.bundle} as {kind}, {found.bytes / 1e6:.1f} MB; logits within "
        f"{found.check.max_difference:.1g} of torch's on {found.check.trial_images} trial images"
    )
