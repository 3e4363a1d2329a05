"""The table of commands; each module loads only when its command is used."""

from __future__ import annotations

import logging
from typing import Final

import click

from wbcpipe.cli.lazy_group import LazyGroup
from wbcpipe.system.logs import show_log
from wbcpipe.system.version import VERSION

__all__ = ["COMMANDS", "cli"]

#: Name of a level on the command line to that of `logging`.
LOG_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
#: Command name to (module:attribute, one line of help).
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "run": (
        "wbcpipe.pipeline:run_command",
        "Go from slide to differential in one command; resumes.",
    ),
    "acquire": ("wbcpipe.acquire.cli:acquire", "Stage 1: scan a slide, one OME-TIFF per field."),
    "segment": ("wbcpipe.segment.cli:segment", "Stage 2: find, register and crop the white cells."),
    "classify": ("wbcpipe.classify.cli:classify", "Stage 3: predict the class of every cell."),
    "report": (
        "wbcpipe.report.cli:report",
        "Stage 4: write the differential, for people and machines.",
    ),
    "batch": ("wbcpipe.batch.cli:batch", "Run a worklist of slides, unattended; resumes."),
    "review": (
        "wbcpipe.review.cli:review",
        "Review cells in the browser and sign the differential (an extra).",
    ),
    "import": (
        "wbcpipe.segment.cli:import_",
        "Import images made elsewhere, as fields or as cells.",
    ),
    "view": ("wbcpipe.segment.cli:view", "Show fields, masks and classes in napari (an extra)."),
    "labels": ("wbcpipe.labels.cli:labels", "Export cells for labelling, and import their labels."),
    "train": (
        "wbcpipe.classify.training.cli:train",
        "Train a network on labelled cells and write a bundle.",
    ),
    "study": (
        "wbcpipe.classify.study.cli:study",
        "Compare ways to fuse the modalities, by cross-validation.",
    ),
    "process": (
        "wbcpipe.cluster.cli:process",
        "Process many samples on several cores or a cluster (an extra).",
    ),
    "results": (
        "wbcpipe.cluster.results_cli:results",
        "List, compare, fetch and promote further results.",
    ),
    "send": ("wbcpipe.exchange.cli:send", "Send results to the laboratory system; resumes."),
    "export": ("wbcpipe.exchange.export_cli:export", "Give fields and cells to other programs."),
    "evaluate": ("wbcpipe.report.cli:evaluate", "Compare a sample with its ground truth."),
    "doctor": (
        "wbcpipe.acquire.cli:doctor",
        "Check a scope file, offline and against the live core.",
    ),
    "calibrate": (
        "wbcpipe.acquire.calibration.cli:calibrate",
        "Measure a scope: dark, flat-field, geometry, focus.",
    ),
    "loader": (
        "wbcpipe.acquire.loader.cli:loader",
        "Bring slides to the stage by a scope's loader.",
    ),
    "scopes": ("wbcpipe.acquire.cli:scopes", "List the microscopes that have a scope file."),
    "settings": (
        "wbcpipe.acquire.settings_cli:settings",
        "Show the numbers of the segmentation, and what gives each.",
    ),
    "bundles": (
        "wbcpipe.classify.bundles_cli:bundles",
        "List, show, verify and export trained models.",
    ),
    "qc": ("wbcpipe.batch.qc.cli:qc", "Show control charts of the microscope, and check it now."),
    "sync": (
        "wbcpipe.remote.cli:sync",
        "Push samples to a bucket while they are scanned, or bring them back (an extra).",
    ),
    "status": ("wbcpipe.report.cli:status", "List the samples and the state of each."),
    "verify": ("wbcpipe.verify.cli:verify", "Check every file of a sample for damage."),
}


@click.group(
    cls=LazyGroup,
    table=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(VERSION, prog_name="wbcpipe")
@click.option(
    "--debug", is_flag=True, envvar="WBCPIPE_DEBUG", help="Show the traceback of an error."
)
@click.option(
    "-v",
    "--verbose",
    count=True,
    help="Show what the stages do, on standard error; -vv shows more.",
)
@click.option(
    "--log-level",
    type=click.Choice(list(LOG_LEVELS), case_sensitive=False),
    envvar="WBCPIPE_LOG_LEVEL",
    help="The same by name [warning].",
)
def cli(
    debug: bool,  # noqa: ARG001 - `main` reads it
    verbose: int,
    log_level: str | None,
) -> None:
    """From a slide under the microscope to a white-cell differential.

    \b
    Try it without a microscope (a real Micro-Manager core, a virtual specimen):
      wbcpipe run --sample demo

    Samples are stored in --data, else $WBCPIPE_DATA, else ./wbc-data. Every command resumes where
    it stopped. Research software: not for diagnostic use.
    """
    named = LOG_LEVELS[(log_level or "warning").lower()]
    show_log(min(named, logging.WARNING - 10 * min(verbose, 2)) if verbose else named)
