"""The commands ``report``, ``evaluate`` and ``status``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from wbcpipe.cli.options import data_option, json_option, options_into, sample_option
from wbcpipe.errors import DamagedDataError
from wbcpipe.samples.sample import Sample, data_root

# Modules that read cells and images are imported when a command runs: zarr must not load for
# `--help`.

__all__ = ["evaluate", "report", "status"]


def _print_json(content: object) -> None:
    click.echo(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False))


@dataclass(frozen=True)
class ReportCommandOptions:
    """Options of `report`."""

    name: str
    data: Path | None
    reference: Path | None
    wbc: float | None
    lab: Path | None
    verify: bool
    as_json: bool


@click.command()
@sample_option
@data_option
@click.option(
    "--reference",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Reference intervals of your laboratory, TOML or JSON. Default: textbook intervals of "
    "adults.",
)
@click.option(
    "--wbc",
    type=float,
    metavar="N",
    help="White-cell concentration in 10^9/L, for absolute counts.",
)
@click.option(
    "--lab",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The laboratory's file, TOML (docs/how-to/review.md). Default: lab.toml in the data root, "
    "if it is there.",
)
@click.option(
    "--verify-journal",
    "verify",
    is_flag=True,
    help="Write nothing: replay the review journal and compare it with the signed differential, "
    "byte for byte.",
)
@json_option
@options_into(ReportCommandOptions)
def report(options: ReportCommandOptions) -> None:
    """Stage 4: count the classified cells and write the differential.

    Writes report.html (one page that needs no other file), differential.json (machine-readable; its
    JSON Schema comes with wbcpipe) and cells.csv (one line per cell) to the sample's folder.
    Unchanged documents are not written again.

    Percentages are of the identified cells, with exact 95 % (Clopper-Pearson) intervals. "high" and
    "low" mean that the interval lies outside the reference interval; "borderline" means that only
    the percentage does. Debris, cells cut by the edge, blurred cells and cells without a modality
    are rejected and listed by reason.

    What readers did to the cells with `wbcpipe review` is applied. The report of a signed sample is
    what was signed. --verify-journal ends with exit code 14 if the journal or a signed differential
    was changed.

    \b
    Examples:
      wbcpipe report --sample S001
      wbcpipe report --sample S001 --wbc 6.2
      wbcpipe report --sample S001 --reference our-lab.toml --json
      wbcpipe report --sample S001 --verify-journal

    \b
    our-lab.toml:
      source = "St Elsewhere, adults, 2026"
      [percent]
      NEU = [40, 75]
      LYM = [20, 45]

    Not for diagnostic use.
    """
    from rich.console import Console

    from wbcpipe.report.document import document_paths, read_document
    from wbcpipe.report.stage import write_report
    from wbcpipe.report.tables import print_differential

    sample = Sample.open(data_root(options.data), options.name)
    sample.record()
    if options.verify:
        _verify_journal(sample, as_json=options.as_json)
        return
    write_report(sample, reference=options.reference, wbc_1e9_per_l=options.wbc, lab=options.lab)
    document = read_document(sample)
    if options.as_json:
        _print_json(document.content())
    else:
        print_differential(document, document_paths(sample), Console(highlight=False))


def _verify_journal(sample: Sample, *, as_json: bool) -> None:
    from wbcpipe.report.verify_journal import verify_journal

    found = verify_journal(sample)
    if as_json:
        _print_json({**found.model_dump(mode="json"), "problems": list(found.problems)})
    else:
        click.echo(f"{sample.name}: {found.entries} entries, each with the hash of the one before")
        for signature in found.signatures:
            outcome = {
                True: "replayed, byte for byte",
                False: "NOT replayed",
                None: "of other cells, or by another version of wbcpipe: not replayed",
            }
            state = "in force" if signature.in_force else "not in force"
            click.echo(
                f"  entry {signature.entry}: signed by {signature.reader} at {signature.time}, "
                f"{state}: {outcome[signature.replayed]}"
            )
    if found.problems:
        raise DamagedDataError(
            f"{'; '.join(found.problems)}. Restore the files from a copy, or withdraw the "
            f"signature."
        )


@click.command()
@sample_option
@data_option
@click.option(
    "--reference-differential",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also compare the count with one of the same blood from elsewhere: flow cytometry, an "
    "analyser, two readers.",
)
@json_option
def evaluate(
    name: str, data: Path | None, reference_differential: Path | None, as_json: bool
) -> None:
    """Compare a sample with its ground truth, or with another count of the same blood.

    A sample of the virtual scope has a truth.csv. The result states how many cells were detected,
    how many predicted classes are right, and whether the intervals of the differential contain the
    true percentages. Imported cells are compared with their labels.

    FILE is TOML, JSON or CSV. Its class names are those of the model, or common ones as
    "neutrophils"; cells of no such class are "other". It gives percentages or counts. A difference
    is "by chance" where it is no larger than counting as many cells of one blood again makes it in
    95 of 100 cases. `wbcpipe review reference` writes such a file of two readers.

    \b
    Examples:
      wbcpipe evaluate --sample demo
      wbcpipe evaluate --sample demo --json
      wbcpipe evaluate --sample S001 --reference-differential S001-flow.toml

    \b
    S001-flow.toml:
      source = "flow cytometry, CD45 and side scatter, 2026-11-20"
      cells = 20000
      [percent]
      NEU = 58.2
      LYM = 30.1
      EOS = 2.9
      MO = 8.1
      BAS = 0.7

    \b
    The same as CSV:
      class,percent
      neutrophils,58.2
    """
    from rich.console import Console

    from wbcpipe.report.evaluate import evaluate_sample
    from wbcpipe.report.tables import print_evaluation

    result = evaluate_sample(Sample.open(data_root(data), name), reference_differential)
    if as_json:
        checks = result.model_checks
        _print_json(
            {**asdict(result), "model_checks": checks.model_dump(mode="json") if checks else None}
        )
    else:
        print_evaluation(result, Console(highlight=False))


@click.command()
@data_option
@json_option
def status(data: Path | None, as_json: bool) -> None:
    """List the samples and their progress.

    For each sample: the last finished stage, fields taken and planned (of two passes separately
    until they are equal), cells found, the model that classified them, cells counted, the result of
    the quality gates, and whether the count is preliminary, verified or corrected. The figures are
    of the current result; the number of further ones is added (`wbcpipe results list`). A stopped
    command continues when it is given again. Files and folders that are no samples are named.

    \b
    Examples:
      wbcpipe status
      wbcpipe status --data D:\\slides --json
    """
    from rich.console import Console

    from wbcpipe.report.status import list_samples, stray_entries
    from wbcpipe.report.tables import print_status

    root = data_root(data)
    samples, others = list_samples(root), stray_entries(root)
    if as_json:
        content = {
            "samples": [asdict(sample) for sample in samples],
            "others": [entry._asdict() for entry in others],
        }
        _print_json({"data": str(root), **content})
    else:
        print_status(root, samples, Console(highlight=False), others)
