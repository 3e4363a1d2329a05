"""Upload, stage and publish samples through a faulty S3 server, while the clients are killed.

    python benchmarks/object_storage.py [--samples 4] [--fields 10] [--faults 5] [--seed 1]

1. Without faults: one `wbcpipe sync`, and one worker that stages each sample and publishes a
   result. The proxy counts requests and bytes; these are the figures of the cost model.
2. With faults: a new prefix; the same commands, killed after random numbers of requests and
   started again until they end by themselves; two workers at a time take the same samples.
Then every object is read without the proxy and compared, byte for byte, with the local files, and
each result with the one that a run without a bucket makes. Exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from faulty_s3 import BUCKET, Faults, Server, faulty_s3

from wbcpipe.remote.locations import ObjectLocation
from wbcpipe.remote.object_store import ObjectStore
from wbcpipe.remote.results import completed_results, publish_result, result_record
from wbcpipe.remote.samples import list_samples, require_manifest, stage_sample
from wbcpipe.remote.scratch import scratch_folder
from wbcpipe.samples.fields import MODALITIES, FieldInfo, FrameInfo, field_path, write_field
from wbcpipe.samples.records import SampleRecord
from wbcpipe.samples.sample import Sample
from wbcpipe.samples.scan_outcome import ScanOutcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--fields", type=int, default=10, help="of 4 x 384 x 384 pixels, 1.2 MB")
    parser.add_argument("--faults", type=float, default=5.0, help="percent of the requests")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--worker", nargs=2, metavar=("PREFIX", "SCRATCH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _worker(options.worker[0], Path(options.worker[1]))
        return
    with tempfile.TemporaryDirectory() as folder, faulty_s3(Faults(0, options.seed)) as server:
        root = Path(folder)
        for number in range(options.samples):
            _write_sample(root / "data", f"S{number + 1}", options.fields, options.seed + number)
        print(
            f"{options.samples} samples of {options.fields} fields, {_size(root / 'data'):.1f} MB"
        )
        problems = _without_faults(server, root, options.samples)
        server.faults.percent = options.faults
        problems += _with_faults(server, root, options)
    print(*(problems or ["every byte is as it must be: nothing lost, nothing wrong"]), sep="\n")
    sys.exit(bool(problems))


def _write_sample(root: Path, name: str, fields: int, seed: int) -> None:
    noise = np.random.default_rng(seed)
    sample = Sample.open(root, name)
    sample.write(SampleRecord(sample=name, created=f"2026-11-30T{seed:06d}", modalities=MODALITIES))
    sample.raw_path().mkdir(parents=True)
    frames = tuple(FrameInfo(modality) for modality in MODALITIES)
    for index in range(fields):
        images = noise.integers(0, 4096, (4, 384, 384), np.uint16)
        write_field(
            field_path(sample.raw_path(), index), images, FieldInfo(index, 0, 0, 0.1, frames)
        )
    ScanOutcome(reason="fields", fields_done=fields, fields_wanted=fields).save(sample)


def _size(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def _result_of(sample: Sample, folder: Path) -> None:
    """Write a result that rests on every byte of the raw files, of many small files as a store."""
    for path in sorted(sample.raw_path().glob("field_*")):
        content = path.read_bytes()
        target = folder / "cells.zarr" / "images" / f"c.{path.name[6:11]}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(hashlib.sha256(content).digest() + content[:: len(content) // 50_000])
    text = json.dumps({"sample": sample.record().sample}) + "\n"
    (folder / "differential.json").write_text(text, encoding="utf-8")


def _worker(prefix: str, scratch: Path) -> None:
    """Stage and publish what has no result yet, as a worker of a cluster does."""
    store = ObjectStore(ObjectLocation("s3", BUCKET, prefix))
    for remote in list_samples(store):
        if "result" in remote.results:
            continue
        with scratch_folder(scratch) as folder:
            sample = stage_sample(store, remote.name, folder)
            result = folder / "result"
            _result_of(sample, result)
            publish_result(store, remote.name, "result", result)


def _commands(root: Path, prefix: str) -> tuple[list[str], list[str]]:
    to = f"s3://{BUCKET}/{prefix}"
    sync = ["-m", "wbcpipe", "sync", "--all", "--to", to, "--data", str(root / "data")]
    worker = [__file__, "--worker", prefix, str(root / "scratch")]
    return [sys.executable, *sync], [sys.executable, *worker]


def _without_faults(server: Server, root: Path, samples: int) -> list[str]:
    environment = {**os.environ, **server.environment}
    for what, command in zip(
        ("upload", "stage and publish"), _commands(root, "plain"), strict=True
    ):
        before = Counter(server.counts)
        started_s = time.monotonic()
        subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)
        seconds = time.monotonic() - started_s
        _print_counts(what, Counter(server.counts) - before, samples, seconds)
    for path in (root / "data").glob("*/sync.jsonl"):
        path.unlink()
    return _compare(server, root, "plain")


def _print_counts(what: str, counts: Counter[str], samples: int, seconds: float) -> None:
    requests = {name: counts[name] for name in sorted(counts) if name.isupper()}
    per_sample = ", ".join(f"{number / samples:.1f} {name}" for name, number in requests.items())
    print(
        f"{what}, per sample: {sum(requests.values()) / samples:.1f} requests ({per_sample}); "
        f"{counts['bytes in'] / samples / 1e6:.2f} MB up, "
        f"{counts['bytes out'] / samples / 1e6:.2f} MB down; {seconds / samples:.2f} s"
    )


def _with_faults(server: Server, root: Path, options: argparse.Namespace) -> list[str]:
    before, chance = Counter(server.counts), random.Random(options.seed)
    sync, worker = _commands(root, "faulty")
    started_s = time.monotonic()
    kills = _until_it_ends(server, [sync], chance) + _until_it_ends(
        server, [worker, worker], chance
    )
    counts = Counter(server.counts) - before
    _print_counts("with faults and kills", counts, options.samples, time.monotonic() - started_s)
    faults = {name: number for name, number in counts.items() if name.startswith("fault")}
    print(f"faults: {faults}; clients killed: {kills}")
    left = [path.name for path in (root / "scratch").glob("wbcpipe-stage-*") if path.is_dir()]
    problems = [f"scratch is not clean: {left}"] if left else []
    if options.faults and not (faults and kills):
        problems.append("no fault or no kill happened: this run shows nothing")
    return problems + _compare(server, root, "faulty")


def _until_it_ends(server: Server, commands: list[list[str]], chance: random.Random) -> int:
    """Start clients together, kill them after random numbers of requests; at last let them end."""
    environment, kills, longest = {**os.environ, **server.environment}, 0, 8
    while True:
        clients = [
            subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
            for command in commands
        ]
        killed = 0
        for client in clients:
            stop_at = _requests(server) + chance.randint(1, longest)
            while client.poll() is None and _requests(server) < stop_at:
                time.sleep(0.002)
            if client.poll() is None:
                client.kill()
                killed += 1
        errors = [(client.communicate()[1], client.returncode) for client in clients]
        kills += killed
        longest += 8  # each try may do more, so that the work ends
        failed = [text for text, code in errors if code > 0]
        if failed:
            print(f"a client gave up, and is started again: {failed[0].strip()[-300:]}")
        elif not killed:
            return kills


def _requests(server: Server) -> int:
    return sum(number for name, number in server.counts.items() if name.isupper())


def _compare(server: Server, root: Path, prefix: str) -> list[str]:
    """Read everything without the proxy; return what is not as it must be."""
    os.environ.update(server.direct)
    store = ObjectStore(ObjectLocation("s3", BUCKET, prefix))
    problems = []
    for folder in sorted((root / "data").iterdir()):
        sample = Sample.open(root / "data", folder.name)
        manifest = require_manifest(store, sample.name)
        named = {file.path: store.read(f"{sample.name}/{file.key}") for file in manifest.files}
        here = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and path.name[0] != "." and path.name != "sync.jsonl"
        }
        if named != here:
            wrong = [path for path in named.keys() | here if named.get(path) != here.get(path)]
            problems.append(f"{prefix}/{sample.name}: raw files differ: {sorted(wrong)}")
        with tempfile.TemporaryDirectory() as made:
            _result_of(sample, Path(made))
            expected = {
                path.relative_to(made).as_posix(): path.read_bytes()
                for path in Path(made).rglob("*")
                if path.is_file()
            }
        record = result_record(store, sample.name, "result")
        found = {
            file.path: store.read(f"{sample.name}/{file.key}")
            for file in (record.files if record else ())
        }
        if found != expected or len(completed_results(store, sample.name)) != 1:
            problems.append(f"{prefix}/{sample.name}: the result differs, or is missing")
    return problems


if __name__ == "__main__":
    main()
