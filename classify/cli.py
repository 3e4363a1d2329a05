"""The command ``classify``."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import TYPE_CHECKING, Any

import click

from wbcpipe.cli.options import data_option, device_option, engine_option, json_option
from wbcpipe.cli.progress import Reporter
from wbcpipe.samples.sample import Sample, data_root

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["classify"]


@click.command()
@click.option("--sample", "name", required=True, metavar="NAME", help="Sample to classify.")
@click.option(
    "--bundle",
    default="auto",
    show_default=True,
    help="Name or folder of a bundle; auto fits the sample.",
)
@engine_option
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Cells per call of the network. Default: by engine.",
)
@click.option(
    "--exclude-modality",
    "excluded_modalities",
    multiple=True,
    metavar="MODALITY",
    help="Classify without this modality, for example because its lamp failed; may be repeated.",
)
@click.option(
    "--max-error",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Accept only as many calls as keep their error below this limit, as the bundle "
    "guarantees. Example: 0.05.",
)
@device_option
@data_option
@json_option
def classify(name: str, bundle: str, data: Path | None, *, as_json: bool, **options: Any) -> None:
    """Classify every cell of a sample.

    Each cell gets a probability per head, a class or `unidentified`, a confidence, and the
    disagreement of the heads. They are written into the sample's cells.zarr. A sample that this
    bundle has classified already stays as it is. With --bundle auto, samples from a microscope use
    virtual-shufflenet, stained smears use smear-shufflenet.

    A modality that shows nothing in most cells is excluded automatically. --max-error selects the
    threshold at which the bundle's error bounds hold; the model card says for which cells they
    hold.

    \b
    Examples:
      wbcpipe classify --sample S1
      wbcpipe classify --sample smears --bundle models/my-scope/my-scope --device cuda --json
      wbcpipe classify --sample S1 --exclude-modality color2
      wbcpipe classify --sample S1 --max-error 0.05
    """
    # Threads that sleep at barriers lose little on an idle machine, and are many times faster on a
    # busy one.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sample = Sample.open(data_root(data), name)
    with Reporter(quiet=as_json) as reporter:
        reporter.start_phase("loading the model")
        from wbcpipe.classify.stage import ClassifyOptions, classify_sample

        summary = classify_sample(
            sample, bundle, ClassifyOptions(**options), progress=reporter.update
        )
    if as_json:
        content = dataclasses.asdict(summary)
        if summary.risk_control is not None:
            content["risk_control"] = summary.risk_control.model_dump(mode="json")
        click.echo(json.dumps(content))
        return
    counts = ", ".join(f"{name} {count}" for name, count in summary.counts.items())
    state = (
        "classified before"
        if summary.already_classified
        else f"{summary.seconds:.1f} s on {summary.engine}"
    )
    click.echo(f"{summary.sample}: {summary.cells} cells by {summary.bundle} ({state}): {counts}")
    if summary.excluded_modalities:
        click.echo(f"excluded: {', '.join(summary.excluded_modalities)}")
    for doubt in summary.doubts:
        click.echo(f"warning: {doubt}")
    if summary.doubts:
        click.echo(f"no error bound is given. {summary.remedy}")
    if (bound := summary.risk_control) is not None:
        click.echo(
            f"at most {100 * bound.error_bound:.1f} % of the accepted calls are wrong, with "
            f"{100 * bound.confidence:g} % confidence ({bound.assumption})"
        )
