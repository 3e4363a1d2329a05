"""The command ``export``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

import click

from wbcpipe.cli.options import OutputPath, data_option, json_option, sample_option
from wbcpipe.cli.progress import Reporter
from wbcpipe.samples.sample import Sample, data_root

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["export"]


@click.command()
@click.argument("kind", type=click.Choice(["ome-zarr", "anndata", "qupath"]))
@sample_option
@click.option("--out", type=OutputPath(), required=True, help="Folder, or .h5ad file, to write.")
@data_option
@json_option
def export(
    kind: Literal["ome-zarr", "anndata", "qupath"],
    name: str,
    out: Path,
    data: Path | None,
    as_json: bool,
) -> None:
    """Give fields and cells to other programs.

    \b
    ome-zarr  fields as image pyramids, cells as labels (NGFF 0.5): napari, Fiji, QuPath
    anndata   cells as one .h5ad file (extra: pip install 'wbcpipe[anndata]')
    qupath    outlines of the cells as GeoJSON, one file for each field

    \b
    Examples:
      wbcpipe export ome-zarr --sample S001 --out S001.ome.zarr
      wbcpipe export anndata --sample S001 --out S001.h5ad
      wbcpipe export qupath --sample S001 --out S001-cells
    """
    sample = Sample.open(data_root(data), name)
    sample.record()
    with Reporter(quiet=as_json) as reporter:
        if kind == "ome-zarr":
            from wbcpipe.exchange.images.ngff import export_ngff

            count, what = export_ngff(sample, out, reporter.update), "fields"
        elif kind == "anndata":
            from wbcpipe.exchange.images.anndata_file import export_anndata

            count, what = export_anndata(sample, out), "cells"
        else:
            from wbcpipe.exchange.images.qupath import export_geojson

            count, what = export_geojson(sample, out), "cells"
    if as_json:
        click.echo(json.dumps({"sample": sample.name, "path": str(out), what: count}))
    else:
        click.echo(f"{sample.name}: {count} {what} in {out}")
