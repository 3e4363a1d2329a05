"""The commands ``wbcpipe review location``, ``competence`` and ``library``."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from wbcpipe.cli.options import data_option, json_option, options_into, sample_option
from wbcpipe.errors import WbcpipeError
from wbcpipe.samples.sample import Sample, data_root

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wbcpipe.review.proficiency.records import CompetenceResult, LocationResult
    from wbcpipe.review.proficiency.trend import Trend
    from wbcpipe.review.readers.calls import ReadSample

__all__ = ["competence", "library", "location"]

_SEEDS: Final = 2**31
_reader_option: Final = click.option("--reader", required=True, metavar="NAME", help="Who.")
_limit_option: Final = click.option(
    "--limit",
    "limit_percent",
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    help="From which the test is passed.",
)


@dataclass(frozen=True)
class LocationOptions:
    """Options of `review location`."""

    name: str
    reader: str
    draw: bool
    count: int
    fields: str | None
    limit_percent: float | None
    data: Path | None
    as_json: bool


@click.command()
@sample_option
@_reader_option
@click.option("--draw", is_flag=True, help="Print the fields to look through today, and end.")
@click.option(
    "--count",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="How many fields are drawn.",
)
@click.option(
    "--fields", metavar="N,N,...", help="Fields that the reader looked through [those drawn today]."
)
@_limit_option
@data_option
@json_option
@options_into(LocationOptions)
def location(options: LocationOptions) -> None:
    """Record a cell-location test: did the machine find all white cells of a slide?

    Draw fields, look through them on the review page and mark each white cell that is not outlined;
    then give the command again without --draw. The result, found of found and missed, is kept in
    proficiency/location.jsonl of the data root, and shown with its trend over the days. Run it
    daily, and after a change of stain or reagents.

    \b
    Examples:
      wbcpipe review location --sample S001 --reader anna --draw
      wbcpipe review location --sample S001 --reader anna
    """
    from wbcpipe.review.proficiency.cell_location import (
        LIMIT_PERCENT,
        draw_fields,
        score_cell_location,
    )
    from wbcpipe.review.proficiency.records import LocationResult, append_result, read_results
    from wbcpipe.samples.fields import complete_fields

    root = data_root(options.data)
    sample = Sample.open(root, options.name)
    sample.record()
    chosen = draw_fields(
        sample.name,
        complete_fields(sample.path / "raw"),
        options.count,
        day=datetime.now(UTC).date().isoformat(),
    )
    if options.draw:
        shown = ",".join(map(str, chosen))
        text = f"fields to look through: {shown}"
        click.echo(json.dumps({"fields": chosen}) if options.as_json else text)
        return
    given = chosen if options.fields is None else _numbers(options.fields)
    limit = LIMIT_PERCENT if options.limit_percent is None else options.limit_percent
    result = score_cell_location(sample, options.reader, given, limit_percent=limit)
    append_result(root, result)
    earlier = [item for item in read_results(root, LocationResult) if item.scope == result.scope]
    _show(result, earlier, _location_line, options.as_json)


@dataclass(frozen=True)
class CompetenceOptions:
    """Options of `review competence`."""

    reader: str
    begin: str | None
    cells: int
    seed: int | None
    limit_percent: float | None
    data: Path | None
    as_json: bool


@click.command()
@_reader_option
@click.option(
    "--begin",
    "begin",
    metavar="SAMPLE",
    help="Begin a test on this sample's reference cells, and end.",
)
@click.option(
    "--cells",
    type=click.IntRange(1, 5000),
    default=50,
    show_default=True,
    help="With --begin: how many.",
)
@click.option(
    "--seed", type=click.IntRange(0, _SEEDS), help="With --begin: of the draw [at random]."
)
@_limit_option
@data_option
@json_option
@options_into(CompetenceOptions)
def competence(options: CompetenceOptions) -> None:
    """Test a reader on cells whose class others have decided.

    --begin draws cells that other readers adjudicated or called alike, every class alike often, and
    begins a blind
    reading: the reader calls them on the review page. Without --begin, the finished tests are
    scored; the result is kept in proficiency/competence.jsonl of the data root, and shown with its
    trend. What a reader calls in a test changes nothing about the cells.

    \b
    Examples:
      wbcpipe review competence --reader cat --begin S001 --cells 50
      wbcpipe review competence --reader cat
    """
    from wbcpipe.review.proficiency.competence import (
        LIMIT_PERCENT,
        begin_competence,
        score_competence,
    )
    from wbcpipe.review.proficiency.records import CompetenceResult, append_result, read_results
    from wbcpipe.review.readers.calls import open_read_sample
    from wbcpipe.samples.review.journal import Journal, journal_path

    root, reader = data_root(options.data), options.reader
    if options.begin is not None:
        sample = Sample.open(root, options.begin)
        drawn = secrets.randbelow(_SEEDS) if options.seed is None else options.seed
        read_sample = open_read_sample(sample)
        entry = begin_competence(read_sample, reader, cells=options.cells, seed=drawn)
        journal = Journal(journal_path(sample))
        journal.append([entry], reader=reader, base=journal.head())
        next_step = f"wbcpipe review --sample {sample.name} --reader {reader}"
        text = f"{sample.name}: {len(entry.cells)} cells; {reader} reads them: {next_step}"
        content = {"reading": entry.reading, "cells": entry.cells}
        click.echo(json.dumps(content) if options.as_json else text)
        return
    own = [item for item in read_results(root, CompetenceResult) if item.reader == reader]
    scored = [reading for item in own for reading in item.readings]
    limit = LIMIT_PERCENT if options.limit_percent is None else options.limit_percent
    result = score_competence(_read_samples(root), reader, limit_percent=limit, skip=scored)
    append_result(root, result)
    _show(result, [*own, result], _competence_line, options.as_json)


@click.command()
@data_option
@json_option
def library(data: Path | None, as_json: bool) -> None:
    """List the laboratory's reference cells: adjudicated, or called alike by blind readers.

    \b
    Example:
      wbcpipe review library --json
    """
    from wbcpipe.review.proficiency.competence import reference_cells

    found = reference_cells(_read_samples(data_root(data)))
    if as_json:
        click.echo(json.dumps({"cells": [asdict(item) for item in found]}, ensure_ascii=False))
        return
    counts = Counter(item.label for item in found)
    how = Counter(item.how for item in found)
    shown = ", ".join(f"{label} {count}" for label, count in sorted(counts.items()))
    ways = ", ".join(f"{count} {name}" for name, count in how.items())
    samples = len({item.sample for item in found})
    click.echo(
        f"{len(found)} reference cells of {samples} samples: {shown or 'none'}"
        + (f" ({ways})" if ways else "")
    )


def _read_samples(root: Path) -> list[ReadSample]:
    """Read the samples that have a journal; a damaged one is told and left out."""
    from wbcpipe.report.status import sample_names
    from wbcpipe.review.readers.calls import open_read_sample
    from wbcpipe.samples.review.journal import journal_path

    found = []
    for name in sample_names(root):
        sample = Sample.open(root, name)
        if journal_path(sample).exists():
            try:
                found.append(open_read_sample(sample))
            except WbcpipeError as error:
                click.echo(f"left out: {error}", err=True)
    return found


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise click.UsageError(
            f"--fields {text!r}: give numbers separated by commas, such as 3,17,40."
        ) from error


def _location_line(result: LocationResult) -> str:
    low, high = result.interval_percent
    return (
        f"{result.date[:10]}  {result.sample}  {result.reader}: {result.found} of "
        f"{result.found + result.missed} white "
        f"cells found in {result.fields} fields, {result.percent:.1f} % ({low:.1f} - {high:.1f})"
    )


def _competence_line(result: CompetenceResult) -> str:
    low, high = result.interval_percent
    kappa = "" if result.kappa is None else "; kappa {:.2f} ({:.2f} - {:.2f})".format(*result.kappa)
    classes = ", ".join(
        f"{name} {entry.right}/{entry.cells}" for name, entry in result.classes.items()
    )
    share = (
        f"{result.right} of {result.cells} cells right, {result.percent:.1f} % ({low:.1f} - "
        f"{high:.1f})"
    )
    return f"{result.date[:10]}  {result.reader}: {share}{kappa}; {classes}"


def _show(result: Any, history: Sequence[Any], line: Any, as_json: bool) -> None:
    """Print the results, the latest last, with the trend."""
    from wbcpipe.review.proficiency.trend import find_trend

    trend = find_trend([item.date for item in history], [item.percent for item in history])
    if as_json:
        click.echo(
            json.dumps(
                {"result": result.model_dump(mode="json"), "trend": asdict(trend)},
                ensure_ascii=False,
            )
        )
        return
    for item in history[-10:]:
        click.echo(line(item))
    click.echo(
        f"{'passed' if result.passed else 'FAILED'} (limit {result.limit_percent:g} %); "
        f"{_words(trend)}"
    )


def _words(trend: Trend) -> str:
    if trend.p_value is None:
        return f"no trend can be told from {trend.tests} tests"
    slope = "" if trend.percent_per_day is None else f", {trend.percent_per_day:+.2f} % a day"
    return f"trend over {trend.tests} tests: {trend.direction} (p {trend.p_value:.3f}{slope})"
