"""The commands ``wbcpipe labels export`` and ``wbcpipe labels import``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wbcpipe.cli.options import OutputFolder, data_option, json_option, options_into, sample_option
from wbcpipe.cli.progress import Reporter
from wbcpipe.samples.sample import Sample, data_root

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["labels"]

_SHOWN = 5


@click.group()
def labels() -> None:
    """Label the cells of a sample, to train a model of your own.

    \b
    export  pictures of the cells, in one folder per class, or a training set of reviewed cells
    import  the labels back: by folder, by table, or as boxes around cells

    \b
    Examples:
      wbcpipe labels export --sample S1 --out S1-labels
      wbcpipe labels import S1-labels --sample S1
      wbcpipe train S1 --init-from smear-shufflenet --out models/mine
    """


@dataclass(frozen=True)
class ExportOptions:
    """Options of `labels export`."""

    samples: tuple[str, ...]
    name: str | None
    out: Path
    verified: bool
    target: int | None
    data: Path | None
    as_json: bool


@labels.command("export")
@click.argument("samples", nargs=-1, metavar="[SAMPLE]...")
@click.option("--sample", "name", metavar="NAME", help="The sample.")
@click.option("--out", type=OutputFolder(), required=True, help="Folder to write to.")
@click.option(
    "--verified", is_flag=True, help="Write a training set of the cells whose class a person gave."
)
@click.option(
    "--target",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --verified: cells wanted of each class [25].",
)
@data_option
@json_option
@options_into(ExportOptions)
def export(options: ExportOptions) -> None:
    """Write a picture of each cell and labels.csv, or a training set.

    Pictures lie in `unlabelled`, or in the folder of their label; each class has a folder. A
    picture's name begins with the most probable class, if the sample is classified: sorted by name,
    cells of one kind lie side by side. Move pictures into the folder of their class, make folders
    for other classes, or write into the column `label` of labels.csv; then run `wbcpipe labels
    import`. Cells that you do not touch keep what they have.

    With --verified the folder is a training set for `wbcpipe train` and `study`, of one or more
    samples: the cells that a reader gave a class on the review page or adjudicated, on which blind
    readers agree, or, in a signed sample, looked at and left as they were. It prints what each
    class still lacks.

    Cells cut by the border and debris are left out: training does not use them.

    \b
    Examples:
      wbcpipe labels export --sample S1 --out S1-labels
      wbcpipe labels export S1 S2 S3 --out our-cells --verified
      wbcpipe train our-cells --init-from virtual-shufflenet --out models/ours
    """
    names = list(dict.fromkeys([*options.samples, *([options.name] if options.name else [])]))
    if not names:
        raise click.UsageError("name a sample: --sample NAME.")
    if len(names) > 1 and not options.verified:
        raise click.UsageError("pictures are of one sample; several samples need --verified.")
    if options.target is not None and not options.verified:
        raise click.UsageError("--target needs --verified.")
    root = data_root(options.data)
    if options.verified:
        opened = [Sample.open(root, each) for each in names]
        _export_verified(opened, options.out, options.target, options.as_json)
    else:
        _export_pictures(Sample.open(root, names[0]), options.out, options.as_json)


def _export_verified(
    samples: Sequence[Sample], out: Path, target: int | None, as_json: bool
) -> None:
    from wbcpipe.labels.export_verified import TARGET_CELLS, export_verified

    with Reporter(quiet=as_json) as reporter:
        found = export_verified(
            samples, out, target=target or TARGET_CELLS, progress=reporter.update
        )
    if as_json:
        click.echo(
            json.dumps(
                {
                    "path": str(out),
                    **found.content(),
                    "classes": found.classes,
                    "lacks": found.lacks,
                }
            )
        )
        return
    for entry in found.samples:
        given = ", ".join(f"{count} {source}" for source, count in entry.sources.items())
        left = "".join(f"; {count} left out: {reason}" for reason, count in entry.left_out.items())
        click.echo(
            f"{entry.sample} ({entry.state}): {sum(entry.classes.values())} cells "
            f"({given or 'none'}){left}"
        )
    counts = ", ".join(f"{label} {count}" for label, count in found.classes.items())
    click.echo(f"{sum(found.classes.values())} verified cells in {out}: {counts}")
    lacking = ", ".join(f"{label} {count}" for label, count in found.lacks.items() if count)
    click.echo(f"lacking of {found.target} cells of each class: {lacking or 'none'}")
    click.echo(f"next: wbcpipe train {out} --init-from BUNDLE --out MODEL")


def _export_pictures(sample: Sample, out: Path, as_json: bool) -> None:
    from wbcpipe.labels.export import export_labels

    sample.record()
    with Reporter(quiet=as_json) as reporter:
        found = export_labels(sample, out, progress=reporter.update)
    if as_json:
        click.echo(json.dumps({"sample": sample.name, "path": str(out), **found._asdict()}))
        return
    click.echo(f"{sample.name}: {found.cells} cells in {out}, {found.labelled} of them labelled")
    click.echo(
        f"next: move them into the folders of their classes; wbcpipe labels import {out} --sample "
        f"{sample.name}"
    )


@labels.command("import")
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@sample_option
@data_option
@json_option
def import_(path: Path, name: str, data: Path | None, as_json: bool) -> None:
    """Bring labels back into a sample's cells.zarr.

    PATH is a folder of `wbcpipe labels export`, its labels.csv, or a CSV of boxes that another
    program drew on fields: columns file (as imported) or field (its index), label, xmin, ymin,
    xmax, ymax in pixels of the field. The cell whose centre lies in a box gets its label; boxes
    without a cell are listed. neutrophil, lymphocyte and other common names become NEU, LYM, EOS,
    MO, BAS; any other name is a class of its own. Classes that the sample and its bundle did not
    have are named.

    The same command again changes nothing. Labels stay when the sample is segmented again.

    \b
    Examples:
      wbcpipe labels import S1-labels --sample S1
      wbcpipe labels import boxes.csv --sample S1 --json
    """
    from wbcpipe.labels.apply import import_labels

    sample = Sample.open(data_root(data), name)
    sample.record()
    with sample.lock("labels import"):
        found = import_labels(sample, path)
    if as_json:
        click.echo(json.dumps(asdict(found)))
        return
    counts = ", ".join(f"{label} {count}" for label, count in found.classes.items())
    click.echo(
        f"{found.sample}: {found.changed} labels changed; {found.labelled} cells labelled: "
        f"{counts or 'none'}"
    )
    for label, near in found.new_classes.items():
        click.echo(f"new class: {label}{f'; did you mean {near}?' if near else ''}")
    if found.rejected:
        click.echo(f"{found.rejected} labelled cells are rejected by a quality flag")
    if found.unmatched:
        some = "; ".join(found.unmatched[:_SHOWN])
        more = (
            f"; and {len(found.unmatched) - _SHOWN} more" if len(found.unmatched) > _SHOWN else ""
        )
        click.echo(f"no cell was found for {len(found.unmatched)} labels: {some}{more}")
