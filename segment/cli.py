"""``wbcpipe segment`` and ``wbcpipe import``."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wbcpipe.cli.options import data_option, json_option, sample_option
from wbcpipe.cli.progress import Reporter
from wbcpipe.samples.sample import Sample, data_root
from wbcpipe.system.files import write_atomic

if TYPE_CHECKING:
    from wbcpipe.samples.cell_store import CellStore
    from wbcpipe.samples.records import ImportKind

__all__ = ["import_", "segment"]

_PATHS = click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
_PIXEL = click.option("--pixel-um", type=float, required=True, help="Size of the pictures' pixels on the slide, in um.")


@click.command()
@sample_option
@data_option
@click.option("--pixel-um", type=float, default=0.1, show_default=True, help="Pixel size of the crops, in um.")
@click.option("--preview", type=click.IntRange(min=0), metavar="FIELD", help="Only draw this field, as a PNG.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), metavar="PNG", help="Where to [SAMPLE_field_00042.png]."
)
@click.option("--jobs", type=click.IntRange(1, 64), metavar="N", help="Processes [one a core, fewer for few fields].")
@click.option(
    "--detector", default="own", show_default=True, metavar="NAME", help="own, cellpose, stardist or MODULE:FUNCTION."
)
@json_option
def segment(
    name: str,
    data: Path | None,
    pixel_um: float,
    preview: int | None,
    out: Path | None,
    jobs: int | None,
    detector: str,
    as_json: bool,
) -> None:
    """Stage 2: find the white cells in every field on disk, register the four frames, and cut out the cells.

    \b
    In:   raw/single/field_*.ome.tif, from `wbcpipe acquire` or `wbcpipe import fields`
    Out:  cells.zarr, one row a cell; a cell that two fields show is one row

    Stopped half way, the same command goes on and ends in the same cells. `--pixel-um` must be the pixel size that the
    model expects (`wbcpipe bundles` shows it).

    `--detector` takes another way to find nuclei: `cellpose` or `stardist` if you have installed them (they fetch their
    weights themselves), or your own function of (channel as float32, um a pixel) that gives a label image, such as
    `mylab.nuclei:find`. Go on with `wbcpipe classify` and `wbcpipe report`: `wbcpipe run` segments with our own.

    With `--preview` nothing of the sample is changed: one field is drawn with its channels registered, outlines of
    nuclei and cells, flags, and calls if there are; also before the sample is segmented.

    \b
    Examples:
      wbcpipe segment --sample demo
      wbcpipe segment --sample demo --preview 3 --out look.png
    """
    sample = Sample.open(data_root(data), name)
    sample.record()  # refuses a sample that is not there, before a lock would make its folder
    if preview is not None:
        _preview(sample, preview, out or Path(f"{sample.name}_field_{preview:05d}.png"), pixel_um, as_json=as_json)
        return
    if out is not None:
        raise click.UsageError("--out is the picture of --preview; give that too.")
    from wbcpipe.segment.run import segment_sample

    with sample.lock("segment"), Reporter(quiet=as_json) as reporter:
        store = segment_sample(
            sample,
            pixel_um=pixel_um,
            progress=reporter.update,
            jobs=jobs or 0,
            detector=detector,
        )
    _show(sample, store, as_json=as_json)


@click.command()
@sample_option
@data_option
@click.option("--field", "index", type=click.IntRange(min=0), metavar="N", help="Field to begin with [the first].")
@click.option("--pixel-um", type=float, default=0.1, show_default=True, help="Of the masks before segmentation, in um.")
def view(name: str, data: Path | None, index: int | None, pixel_um: float) -> None:
    """Look at a sample's fields in napari: registered channels, cells, nuclei, calls.

    N and P go to the next and the previous field. Nothing of the sample is changed. Needs the extra: pip install
    'wbcpipe[view]'; without it, `wbcpipe segment --preview` draws a field as a PNG.

    \b
    Examples:
      wbcpipe view --sample demo
      wbcpipe view --sample demo --field 12
    """
    from wbcpipe.segment.view.field_view import FieldViewer
    from wbcpipe.segment.view.layers import open_viewer

    sample = Sample.open(data_root(data), name)
    looker = FieldViewer(sample, pixel_um=pixel_um)
    open_viewer(looker, looker.fields[0] if index is None else index, title=sample.name)


@click.group("import")
def import_() -> None:
    """Bring in pictures made elsewhere.

    \b
    fields  whole fields of view: cells are then found by `wbcpipe segment`
    cells   one cell a picture, in the middle: nothing is left to find

    The R, G and B planes of a stained smear become color1 to color3; a nuclear density computed from them stands in for
    fluorescence and is marked as derived everywhere.

    \b
    Examples:
      wbcpipe import cells photographs/ --sample lab1 --kind stained-rgb --pixel-um 0.1
      wbcpipe import fields smear/*.jpg --sample lab2 --kind stained-rgb --pixel-um 0.075
      wbcpipe import cells flow.npz --sample flow --kind stack --pixel-um 0.5 --crop-pixel-um 0.5
    """


@import_.command("cells")
@_PATHS
@sample_option
@click.option("--kind", type=click.Choice(["stained-rgb", "stack"]), required=True, help="What the pictures are.")
@_PIXEL
@click.option("--crop-pixel-um", type=float, default=0.1, show_default=True, help="Pixel size of the crops, in um.")
@click.option("--side-px", type=click.IntRange(16, 2048), default=224, show_default=True, help="Side of the crops.")
@click.option("--labels/--no-labels", default=True, help="Take labels from manifest.csv, folder names or the stack.")
@click.option("--label-array", metavar="NAME", help="Label array of a .npz [label, labels or the only text].")
@click.option(
    "--modality", "modalities", multiple=True, metavar="NAME", help="Channel name of a stack, once a channel."
)
@data_option
@json_option
def cells(
    paths: tuple[Path, ...],
    name: str,
    kind: ImportKind,
    pixel_um: float,
    crop_pixel_um: float,
    side_px: int,
    labels: bool,
    label_array: str | None,
    modalities: tuple[str, ...],
    data: Path | None,
    as_json: bool,
) -> None:
    """Import pictures that show one cell each, in the middle, straight to cells.zarr.

    PATHS are files and folders. `stained-rgb` takes colour pictures (JPEG, PNG, TIFF, BMP); `stack` takes ready
    channels: .tif, .npy or .npz with an array `images` of shape (cells, channels, y, x).

    Labels come from a manifest.csv (columns file, label) in the folder given, else from the names of its
    sub-folders: neutrophil, lymphocyte, eosinophil, monocyte, basophil and their usual short forms become NEU, LYM,
    EOS, MO, BAS; any other name is kept as a class of its own.

    \b
    Example:
      wbcpipe import cells pbc5/ --sample pbc5 --kind stained-rgb --pixel-um 0.1
    """
    from wbcpipe.segment.importers.cells import import_cells

    sample = Sample.open(data_root(data), name)
    with Reporter(quiet=as_json) as reporter:
        store = import_cells(
            paths,
            sample,
            pixel_um,
            kind,
            crop_pixel_um,
            labels,
            modalities=modalities or None,
            label_array=label_array,
            side_px=side_px,
            progress=lambda done, total: reporter.update("cells imported", done, total),
        )
    _show(sample, store, as_json=as_json)


@import_.command("fields")
@_PATHS
@sample_option
@click.option("--kind", type=click.Choice(["stained-rgb", "stack"]), required=True, help="What the pictures are.")
@_PIXEL
@click.option("--modality", "modalities", multiple=True, metavar="NAME", help="Channel name of a stack, once each.")
@data_option
@json_option
def fields(
    paths: tuple[Path, ...],
    name: str,
    kind: ImportKind,
    pixel_um: float,
    modalities: tuple[str, ...],
    data: Path | None,
    as_json: bool,
) -> None:
    """Import whole fields of view: one OME-TIFF each in raw/single, ready for `wbcpipe segment`.

    `--pixel-um` decides what counts as a cell, so measure it: a red cell is about 7.5 um wide. Pictures of one sample
    may differ in width and height but not in pixel size.

    \b
    Example:
      wbcpipe import fields smear/ --sample lab2 --kind stained-rgb --pixel-um 0.075
      wbcpipe segment --sample lab2
    """
    from wbcpipe.segment.importers.fields import import_fields

    sample = Sample.open(data_root(data), name)
    with Reporter(quiet=as_json) as reporter:
        count = import_fields(
            paths,
            sample,
            pixel_um,
            kind,
            modalities=modalities or None,
            progress=lambda done, total: reporter.update("fields imported", done, total),
        )
    if as_json:
        click.echo(json.dumps({"sample": sample.name, "fields": count, "path": str(sample.raw_path()), "kind": kind}))
    else:
        click.echo(
            f"{sample.name}: {count} fields in {sample.raw_path()}; next: wbcpipe segment --sample {sample.name}"
        )


def _preview(sample: Sample, index: int, out: Path, pixel_um: float, *, as_json: bool) -> None:
    from wbcpipe.segment.view.field_view import FieldViewer
    from wbcpipe.segment.view.preview import preview_png

    view = FieldViewer(sample, pixel_um=pixel_um).load(index)
    out.parent.mkdir(parents=True, exist_ok=True)
    with write_atomic(out) as handle:
        handle.write(preview_png(view, title=f"{sample.name}, field {index}"))
    if as_json:
        click.echo(json.dumps({"sample": sample.name, "field": index, "cells": len(view.cells), "path": str(out)}))
    else:
        click.echo(f"{sample.name}, field {index}: {len(view.cells)} cells drawn in {out}")


def _show(sample: Sample, store: CellStore, *, as_json: bool) -> None:
    counts = Counter(store.labels())
    result: dict[str, Any] = {
        "sample": sample.name,
        "cells": len(store),
        "path": str(store.path),
        "modalities": list(store.modalities),
        "derived": store.attributes.get("derived", []),
        "pixel_um": store.pixel_um,
        "labels": {label: counts[label] for label in store.attributes.get("classes", []) if counts[label]},
    }
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo(f"{sample.name}: {len(store)} cells in {store.path}")
    if result["labels"]:
        click.echo("labels: " + ", ".join(f"{label} {count}" for label, count in result["labels"].items()))
    if result["derived"]:
        click.echo(f"derived, not seen by a camera: {', '.join(result['derived'])}")
