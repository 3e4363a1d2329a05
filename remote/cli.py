"""The command ``sync``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from wbcpipe.cli.options import data_option, json_option, options_into
from wbcpipe.errors import ConfigError
from wbcpipe.samples.sample import Sample, data_root

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from wbcpipe.cli.progress import Reporter
    from wbcpipe.errors import WbcpipeError
    from wbcpipe.remote.object_store import ObjectStore

# obstore is an extra, and zarr must not load for `--help`: both are imported when a command runs.

__all__ = ["sync"]


@dataclass(frozen=True)
class SyncCommand:
    """The options of ``sync``, by their names on the command line; see its help."""

    names: tuple[str, ...]
    every: bool
    to: str | None
    origin: str | None
    watch: bool
    free_local: bool
    yes: bool
    read_back: bool
    limit_mb_per_s: float | None
    data: Path | None
    as_json: bool


@click.command()
@click.argument("names", nargs=-1, metavar="[SAMPLE]...")
@click.option("--all", "every", is_flag=True, help="Every sample of the data folder.")
@click.option("--to", metavar="URL", help="Push to s3://BUCKET/PREFIX, gs://... or file:///FOLDER.")
@click.option(
    "--from", "origin", metavar="URL", help="Bring samples back from there instead; verified."
)
@click.option(
    "--watch",
    is_flag=True,
    help="Go on while the samples are scanned: until the named ones are complete; with --all, "
    "until stopped (Ctrl-C).",
)
@click.option(
    "--free-local",
    is_flag=True,
    help="Remove local raw fields that are verified in the bucket and not needed here any more.",
)
@click.option("--yes", is_flag=True, help="Do not ask before fields are removed.")
@click.option(
    "--read-back",
    is_flag=True,
    help="Verify by reading every object, also where the store's checksum tells.",
)
@click.option(
    "--limit",
    "limit_mb_per_s",
    type=click.FloatRange(min=0.001),
    metavar="MB/S",
    help="Upload no faster than this on average, in megabytes per second.",
)
@data_option
@json_option
@options_into(SyncCommand)
def sync(options: SyncCommand) -> None:
    """Push the raw files of samples to a bucket, also while they are scanned.

    Runs beside a scan at low priority and never takes a sample's lock to push. Only files that are
    complete on the disk are pushed; records that still change follow when the scan has ended, and a
    manifest after the files it names. Killed at any moment, the same command goes on, and sends
    nothing twice.

    An upload counts as verified when the store's ETag is the MD5 of the file, or when the object
    was read back. --free-local removes nothing else: it keeps the records, the results and the
    first field, and every field that is not verified. `wbcpipe status` and `wbcpipe verify` say
    which samples were freed; --from brings their fields back.

    Credentials come from the environment or the usual files alone. Needs the extra: pip install
    'wbcpipe[objects]'.

    \b
    Examples:
      wbcpipe sync S001 S002 --to s3://archive/lab-1
      wbcpipe sync --all --to s3://archive/lab-1 --watch --limit 20
      wbcpipe sync --all --to s3://archive/lab-1 --free-local --yes
      wbcpipe sync S001 --from s3://archive/lab-1
    """
    _check(options)
    from wbcpipe.cli.progress import Reporter
    from wbcpipe.system.process_limits import set_background_priority

    set_background_priority()
    store = _open(options)
    root = data_root(options.data)
    # Between two pushes nothing is to be reported, all night.
    with Reporter(quiet=options.as_json or options.watch) as reporter:
        if options.origin is not None:
            _restore(store, root, options, reporter)
        else:
            _push(store, root, options, reporter)


def _check(options: SyncCommand) -> None:
    if (options.to is None) == (options.origin is None):
        raise click.UsageError("give either --to URL or --from URL.")
    if bool(options.names) == options.every:
        raise click.UsageError("give the names of samples, or --all.")
    if options.origin is not None and (options.watch or options.free_local):
        raise click.UsageError("--watch and --free-local belong to --to.")
    if options.free_local and not options.yes and (options.as_json or options.watch):
        raise click.UsageError(
            "--free-local asks before it removes fields; with --json or --watch give --yes."
        )


def _open(options: SyncCommand) -> ObjectStore:
    """Open the store of --to or --from.

    Raises:
        ConfigError: the location is not valid, or obstore is missing.
    """
    from wbcpipe.remote.locations import LocalLocation, parse_location

    text = options.to or options.origin or ""
    location = parse_location(text)
    if isinstance(location, LocalLocation):
        raise ConfigError(
            f"{location} is a folder; give s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, or "
            f"file:///FOLDER for a folder in the layout of a bucket."
        )
    try:
        from wbcpipe.remote.object_store import open_store
    except ModuleNotFoundError as error:
        if error.name != "obstore":
            raise
        raise ConfigError(
            "object storage needs the package obstore; run `pip install 'wbcpipe[objects]'`."
        ) from error
    return open_store(location, read_back=options.read_back)


def _samples(root: Path, options: SyncCommand) -> Callable[[], Sequence[Sample]]:
    from wbcpipe.report.status import sample_names

    if options.every:
        return lambda: [
            sample
            for sample in (Sample.open(root, name) for name in sample_names(root))
            if sample.exists()
        ]
    named = [Sample.open(root, name) for name in options.names]
    if not options.watch:
        for sample in named:
            sample.record()
    # With --watch a sample may be named before its scan begins.
    return lambda: [sample for sample in named if sample.exists()]


def _push(store: ObjectStore, root: Path, options: SyncCommand, reporter: Reporter) -> None:
    from wbcpipe.remote.push import Throttle
    from wbcpipe.remote.sync import SyncOptions, sync_samples

    samples = _samples(root, options)
    if options.free_local and not options.yes:
        _ask(samples(), store, reporter)
    found = sync_samples(
        store,
        samples,
        SyncOptions(
            watch=options.watch,
            endless=options.every,
            expected=len(set(options.names)),
            free_local=options.free_local,
            read_back=options.read_back,
            throttle=Throttle((options.limit_mb_per_s or 0) * 1e6),
        ),
        say=_say_with_time if options.watch and not options.as_json else reporter.say,
        progress=reporter.update,
    )
    if options.as_json:
        _print(store, [one.as_dict() for one in found])
    errors = {one.push.sample: one.error for one in found if one.error is not None}
    _fail(errors, len(found), "pushed")


def _say_with_time(text: str) -> None:
    click.echo(f"{datetime.now():%H:%M:%S} {text}", err=True)


def _ask(samples: Sequence[Sample], store: ObjectStore, reporter: Reporter) -> None:
    """Ask before fields are removed; end the command if the answer is no."""
    from wbcpipe.remote.free import freeable_fields

    files = [file for sample in samples for file in freeable_fields(sample)]
    if not files:
        return
    size = sum(file.size for file in files)
    with reporter.paused():
        click.confirm(
            f"Up to {len(files)} raw fields ({size / 1e9:.2f} GB) of {len(samples)} samples will "
            f"be removed here once they are verified in {store}. Go on?",
            abort=True,
            err=True,
        )


def _fail(errors: dict[str, WbcpipeError], total: int, action: str) -> None:
    """End the command with the error of the first sample that was not pushed or brought back."""
    if not errors:
        return
    first = next(iter(errors.values()))
    if total == 1:
        raise first
    names = f"{', '.join(list(errors)[:5])}{', ...' if len(errors) > 5 else ''}"
    raise type(first)(f"{len(errors)} of {total} samples were not {action}: {names}; {first}")


def _restore(store: ObjectStore, root: Path, options: SyncCommand, reporter: Reporter) -> None:
    from wbcpipe.remote.restore import restore_sample
    from wbcpipe.remote.store_errors import OF_ONE_SAMPLE

    names = options.names or _complete_samples(store, reporter)
    reports: list[dict[str, Any]] = []
    errors: dict[str, WbcpipeError] = {}
    for name in dict.fromkeys(names):
        try:
            report = restore_sample(store, Sample.open(root, name), progress=reporter.update)
        except OF_ONE_SAMPLE as error:
            errors[name] = error
            reports.append({"sample": name, "error": str(error)})
            if len(names) > 1:
                reporter.say(f"{name}: {error}")
            continue
        reports.append({"sample": name, **asdict(report), "error": ""})
        kept = f"; kept as they are here: {', '.join(report.kept)}" if report.kept else ""
        reporter.say(f"{name}: {report.files} files brought back, {report.size / 1e6:.1f} MB{kept}")
    if options.as_json:
        _print(store, reports)
    _fail(errors, len(reports), "brought back")


def _complete_samples(store: ObjectStore, reporter: Reporter) -> list[str]:
    """Return the samples to bring back; those that are still uploaded are left out."""
    from wbcpipe.remote.samples import list_samples

    names = []
    for one in list_samples(store):
        if one.state == "incomplete":
            reporter.say(f"{one.name}: left out: it is not complete yet")
        else:
            names.append(one.name)
    return names


def _print(store: ObjectStore, samples: Sequence[dict[str, Any]]) -> None:
    content = {"location": str(store), "samples": samples, "requests": store.counts.as_dict()}
    click.echo(json.dumps(content, indent=2, ensure_ascii=False))
