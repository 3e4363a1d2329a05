"""`wbcpipe process` against a local run: equal bytes, workers, kills, memory, an object store.

    python benchmarks/cluster.py [--samples 6] [--parts equal scale kill memory s3] [--json]

Samples of a small virtual scope are scanned once (`--keep FOLDER` keeps them for the next time) and
copied for each part. `--samples 24` is the full size.

- equal: every file of every result against the same stages called in this process. Left out are the
  times: `created` and `sha256` of differential.json, report.html (made from it), log.jsonl.
- scale: the time of two workers against one, with and without the start of the workers.
- kill: a worker, then the scheduler, killed (kill -9) in the middle; the same command goes on.
- memory: resident memory of one worker after each sample, and its slope from the second sample on
  (the first one loads the libraries) and in the second half.
- s3: uploaded with `wbcpipe sync` to moto's server behind a proxy that fails 5 % of the requests
  (faulty_s3.py), processed from there, fetched, compared; and what cannot be processed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import obstore
import psutil
from faulty_s3 import BUCKET, Faults, faulty_s3
from obstore.store import S3Store

from wbcpipe import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from faulty_s3 import Server

PARTS = ("equal", "scale", "kill", "memory", "s3")
LEFT_OUT = ("created", "sha256", "report.html", "log.jsonl")
SIDE_PX, FIELDS = 768, 3
SHIPPED = Path(__file__).parents[1] / "hardware_configs"
CommandResult = tuple[float, int, dict[str, Any], str]


def write_scope(folder: Path) -> Path:
    toml = (SHIPPED / "demo.toml").read_text(encoding="utf-8")
    cfg = (SHIPPED / "demo.cfg").read_text(encoding="utf-8")
    for old, new in (
        ("[2048, 2048]", f"[{SIDE_PX}, {SIDE_PX}]"),
        ("Size,2048", f"Size,{SIDE_PX}"),
        ("[-2500.0, 2500.0]", "[-600.0, 600.0]"),
        ('config = "demo.cfg"', 'config = "small.cfg"'),
    ):
        assert old in toml + cfg, old
        toml, cfg = toml.replace(old, new), cfg.replace(old, new)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "small.toml").write_text(toml, encoding="utf-8")
    (folder / "small.cfg").write_text(cfg, encoding="utf-8")
    return folder / "small.toml"


def scan(folder: Path, count: int) -> Path:
    """Scan the samples that are not there yet; return their data folder."""
    scope, data = write_scope(folder / "scope"), folder / "scanned"

    def one(number: int) -> None:
        name = f"S{number:02d}"
        if (data / name / "scan.json").exists():
            return
        words = ["acquire", "--slide", name, "--scope", str(scope), "--data", str(data)]
        words += ["--fields", str(FIELDS), "--specimen-seed", str(number)]
        command([*words, "--specimen-preparation", "buffy-coat"])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, range(1, count + 1)))
    return data


def command(words: list[str], *, check: bool = True) -> tuple[float, int, str, str]:
    """Run wbcpipe; return seconds, exit code, standard output and standard error."""
    began_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "wbcpipe", *words], capture_output=True, text=True, check=False
    )
    if check and done.returncode:
        raise SystemExit(f"wbcpipe {' '.join(words)}: {done.returncode}: {done.stderr[-600:]}")
    return time.monotonic() - began_s, done.returncode, done.stdout, done.stderr


def process(data: Path | str, *more: str, check: bool = True) -> CommandResult:
    words = ["process", "--all", "--data", str(data), "--json", *more]
    seconds, code, out, error = command(words, check=check)
    return seconds, code, json.loads(out) if out.strip() else {}, error


def copied(scanned: Path, target: Path, count: int) -> Path:
    for name in names(count):
        # A lock is held by its file: copies of a sample must not share one.
        locks = shutil.ignore_patterns(".*")
        shutil.copytree(scanned / name, target / name, copy_function=os.link, ignore=locks)
        (target / name / "log.jsonl").unlink(missing_ok=True)
    return target


def names(count: int) -> list[str]:
    return [f"S{number:02d}" for number in range(1, count + 1)]


def run_locally(data: Path, count: int) -> Path:
    """The stages as the commands call them, one sample after the other, in this process."""
    from wbcpipe.classify.models.bundle import find_bundle
    from wbcpipe.classify.stage import classify_sample
    from wbcpipe.report.stage import write_report
    from wbcpipe.samples.sample import Sample
    from wbcpipe.segment.run import segment_sample

    bundle = find_bundle("auto", kind="scope")
    for name in names(count):
        sample = Sample.open(data, name)
        segment_sample(sample, pixel_um=bundle.info.pixel_um)
        classify_sample(sample, bundle)
        write_report(sample)
    return data


def files_of(folder: Path) -> dict[str, Any]:
    """Every file of a result by its path, what is of the time of writing left out."""
    found: dict[str, Any] = {}
    for part in ("cells.zarr", "cells.csv", "differential.json"):
        paths = sorted((folder / part).rglob("*")) if part == "cells.zarr" else [folder / part]
        for path in paths:
            if path.name == "differential.json":
                content = json.loads(path.read_bytes())
                found[part] = {key: content[key] for key in content if key not in LEFT_OUT}
            elif path.is_file():
                found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def differences(first: Path, second: Path, count: int) -> list[str]:
    return [name for name in names(count) if files_of(first / name) != files_of(second / name)]


def part_equal(work: Path, scanned: Path, local: Path, count: int) -> dict[str, Any]:
    data = copied(scanned, work / "equal", count)
    seconds, _, _, _ = process(data, "--workers", "2")
    found = differences(local, data, count)
    size = sum(len(value) for name in names(count) for value in files_of(local / name).values())
    return {"samples": count, "seconds": round(seconds, 1), "bytes": size, "different": found}


def part_scale(work: Path, scanned: Path, count: int) -> dict[str, Any]:
    seconds, start = {}, {}
    for workers in ("1", "2"):
        data = copied(scanned, work / f"scale{workers}", count)
        seconds[workers] = process(data, "--workers", workers)[0]
        start[workers] = process(data, "--workers", workers)[0]  # all is complete: the start alone
    net = {one: seconds[one] - start[one] for one in seconds}
    return {
        "seconds": {one: round(value, 1) for one, value in seconds.items()},
        "start_s": {one: round(value, 1) for one, value in start.items()},
        "ratio_with_start": round(seconds["1"] / seconds["2"], 2),
        "ratio": round(net["1"] / net["2"], 2) if net["2"] > 0 else None,
    }


def part_memory(work: Path, scanned: Path, count: int) -> dict[str, Any]:
    data = copied(scanned, work / "memory", count)
    _, _, answer, _ = process(data, "--workers", "1")
    resident = [one["stages"][-1]["resident_mib"] for one in answer["samples"]]
    peak = max(stage["peak_mib"] for one in answer["samples"] for stage in one["stages"])
    parts = {"all but the first": resident[1:], "second half": resident[count // 2 :]}
    return {
        "resident_mib": [round(one) for one in resident],
        "slope_mib_per_sample": {
            name: round(float(np.polyfit(range(len(part)), part, 1)[0]), 2)
            for name, part in parts.items()
            if len(part) > 1
        },
        "peak_mib": peak,
    }


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def cluster(work: Path, workers: int) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A scheduler and its workers, each in processes of their own."""
    address = f"tcp://127.0.0.1:{free_port()}"
    host, port = address.rpartition(":")[0].removeprefix("tcp://"), address.rpartition(":")[2]
    base = [sys.executable, "-m"]
    scheduler = subprocess.Popen(
        [*base, "distributed.cli.dask_scheduler", "--host", host, "--port", port, "--no-dashboard"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    pool = subprocess.Popen(
        [
            *(*base, "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"),
            *("--nworkers", str(workers), "--memory-limit", "2GiB", "--death-timeout", "30"),
            *("--local-directory", str(work / "dask")),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_workers(address, workers)
        yield address, scheduler
    finally:
        for one in (pool, scheduler):
            end_tree(one)


def wait_for_workers(address: str, workers: int) -> None:
    from distributed import Client

    with Client(address, timeout=60, set_as_default=False) as client:
        client.wait_for_workers(workers, timeout=120)


def end_tree(process: subprocess.Popen[bytes]) -> None:
    """End a process that this script started, and its children."""
    children = []
    with contextlib.suppress(psutil.Error):
        children = psutil.Process(process.pid).children(recursive=True)
    for one in children:
        with contextlib.suppress(psutil.Error):
            one.kill()
    process.kill()
    process.wait()


def processing(data: Path, address: str) -> subprocess.Popen[str]:
    words = ["process", "--all", "--data", str(data), "--json", "--scheduler", address]
    return subprocess.Popen(
        [sys.executable, "-m", "wbcpipe", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_result(data: Path, number: int, running: subprocess.Popen[str]) -> None:
    """Wait until some samples have their cells: the middle of the work."""
    while running.poll() is None:
        if len(list(data.glob("*/cells.zarr"))) >= number:
            return
        time.sleep(0.05)


def kill_worker(scheduler: subprocess.Popen[bytes]) -> int:
    """Kill one worker process (not its nanny), with SIGKILL."""
    from distributed import Client

    address = next(
        word for word in psutil.Process(scheduler.pid).cmdline() if word.isdigit()
    )  # its port
    with Client(f"tcp://127.0.0.1:{address}", timeout=30, set_as_default=False) as client:
        pid = int(next(iter(client.run(os.getpid).values())))
    os.kill(pid, signal.SIGKILL)
    return pid


def part_kill(work: Path, scanned: Path, local: Path, count: int) -> dict[str, Any]:
    data = copied(scanned, work / "kill", count)
    with cluster(work, 2) as (address, scheduler):
        running = processing(data, address)
        wait_for_result(data, 1, running)
        kill_worker(scheduler)
        wait_for_result(data, max(2, count // 2), running)
        scheduler.send_signal(signal.SIGKILL)
        _, error = running.communicate()
        lost_code, lost_text = running.returncode, error.strip().splitlines()[-1:]
    visible = sum((data / name / "differential.json").exists() for name in names(count))
    with cluster(work, 2) as (address, _):
        _, code, answer, error = process(data, "--scheduler", address, check=False)
    states = [one["state"] for one in answer.get("samples", [])]
    return {
        "exit_code_when_the_scheduler_died": lost_code,
        "message": lost_text,
        "reports_when_it_died": visible,
        "exit_code_of_the_same_command": code,
        "error": error.strip()[-300:] if code else "",
        "complete_before": states.count("already"),
        "done_then": states.count("done"),
        "different": differences(local, data, count),
    }


def part_s3(work: Path, scanned: Path, local: Path, count: int) -> dict[str, Any]:
    data = copied(scanned, work / "uploaded", count)
    with faulty_s3(Faults(percent=5, seed=1)) as server:
        os.environ.update(server.environment)
        url = f"s3://{BUCKET}/archive"
        for name in names(count):
            command(["sync", name, "--data", str(data), "--to", url])
        server.counts.clear()
        seconds, code, answer, error = process(url, "--workers", "2", check=False)
        wire = dict(server.counts)
        results = fetch(url, names(count), work / "fetched")
        refused = bad_input(server, url, data, work)
    traffic = [one["traffic"] for one in answer.get("samples", [])]

    def mean(key: str) -> float:
        return float(np.mean([one[key] for one in traffic]))

    return {
        "seconds": round(seconds, 1),
        "exit_code": code,
        "error": error.strip()[-300:] if code else "",
        "results_per_sample": sorted(set(results)),
        "requests_per_sample": round(mean("requests"), 1),
        "mb_down_per_sample": round(mean("bytes_down") / 1e6, 2),
        "mb_up_per_sample": round(mean("bytes_up") / 1e6, 2),
        "on_the_wire": wire,
        "bad_input": refused,
        "different": differences(local, work / "fetched", count),
    }


def fetch(url: str, samples: list[str], folder: Path) -> list[int]:
    """Copy the first result of each sample; return the number of results of each."""
    from wbcpipe.remote.locations import ObjectLocation, parse_location
    from wbcpipe.remote.object_store import open_store
    from wbcpipe.remote.results import completed_results, fetch_result

    location = parse_location(url)
    assert isinstance(location, ObjectLocation)
    store = open_store(location)
    found = []
    for name in samples:
        records = completed_results(store, name)
        found.append(len(records))
        if records:
            fetch_result(store, records[0], folder / name)
    return found


def bad_input(server: Server, url: str, data: Path, work: Path) -> dict[str, Any]:
    """Exit code and message of what cannot be processed, on a server that checks signatures."""
    name = next(path.name for path in sorted(data.iterdir()))
    half = {prefix: f"s3://{BUCKET}/{prefix}" for prefix in ("scanning", "cut")}
    for prefix, to in half.items():
        unfinished = shutil.ignore_patterns("scan.json", "sync.jsonl")
        shutil.copytree(data / name, work / prefix / name, ignore=unfinished)
        command(["sync", name, "--data", str(work / prefix), "--to", to])
    allowed = server.require_credentials()
    # As sync leaves it that ends before its manifest.
    obstore.delete(backend(server, allowed), f"cut/{name}/manifests/raw-1.json")
    here = ["process", name, "--data", url]
    sync = ["sync", name, "--data", str(data)]
    wrong, unknown = {"AWS_SECRET_ACCESS_KEY": "wrong"}, {"AWS_ACCESS_KEY_ID": "AKIAUNKNOWN"}
    nowhere = "s3://no-such-bucket/archive"
    cases: dict[str, tuple[list[str], dict[str, str]]] = {
        "right credentials, complete before": (here, {}),
        "unknown bucket": (["process", name, "--data", nowhere], {}),
        "unknown bucket, sync": ([*sync, "--to", nowhere], {}),
        "wrong secret": (here, wrong),
        "wrong secret, sync": ([*sync, "--to", url], wrong),
        "unknown key": (here, unknown),
        "unknown key, sync --from": ([*sync, "--from", url], unknown),
        "not uploaded": (["process", "S99", "--data", url], {}),
        "half uploaded": (["process", name, "--data", half["scanning"]], {}),
        "half uploaded, no manifest": (["process", name, "--data", half["cut"]], {}),
        "bundle that fits no sample": ([*here, "--bundle", str(unfit_bundle(work))], {}),
    }
    before, found = keys(server, allowed), {}
    for what, (words, changed) in cases.items():
        environment = {**os.environ, **allowed, **changed}
        done = subprocess.run(
            [sys.executable, "-m", "wbcpipe", *words],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        shown = done.stdout + done.stderr
        secret = [
            value for key, value in environment.items() if "ACCESS_KEY" in key and value in shown
        ]
        if secret or "Traceback" in shown:
            raise SystemExit(f"{what}: a credential or a traceback is shown: {shown}")
        found[what] = (
            done.returncode,
            [line for line in done.stderr.splitlines() if line.startswith("wbcpipe: ")],
        )
    if keys(server, allowed) != before:
        raise SystemExit("something was written to the bucket")
    return found


def unfit_bundle(work: Path) -> Path:
    """The shipped bundle, made for other modalities."""
    from wbcpipe.classify.models.bundle import find_bundle

    shutil.copytree(find_bundle("auto", kind="scope").path, work / "infrared")
    path = work / "infrared" / "bundle.json"
    info = json.loads(path.read_text(encoding="utf-8"))
    info |= {"modalities": ["red", "green", "blue", "infrared"]}
    info |= {"missing_modality": {}, "derived": []}
    path.write_text(json.dumps(info), encoding="utf-8")
    return path.parent


def backend(server: Server, allowed: dict[str, str]) -> S3Store:
    return S3Store(
        BUCKET,
        access_key_id=allowed["AWS_ACCESS_KEY_ID"],
        secret_access_key=allowed["AWS_SECRET_ACCESS_KEY"],
        region=allowed["AWS_REGION"],
        endpoint=server.direct["AWS_ENDPOINT_URL"],
        client_options={"allow_http": True},
    )


def keys(server: Server, allowed: dict[str, str]) -> list[str]:
    pages = obstore.list(backend(server, allowed))
    return sorted(one["path"] for page in pages for one in page)


def show(name: str, values: dict[str, Any]) -> None:
    print(f"{name}:")
    for key, value in values.items():
        print(f"  {key:<36} {value}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=6)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["equal", "scale", "kill"])
    parser.add_argument("--keep", type=Path, help="folder for the scanned samples")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    count = options.samples
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        scanned = scan(options.keep or work / "kept", count)
        found: dict[str, Any] = {}
        local = work / "local"
        if {"equal", "kill", "s3"} & set(options.parts):
            run_locally(copied(scanned, local, count), count)
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "equal": lambda: part_equal(work, scanned, local, count),
            "scale": lambda: part_scale(work, scanned, count),
            "memory": lambda: part_memory(work, scanned, count),
            "kill": lambda: part_kill(work, scanned, local, count),
            "s3": lambda: part_s3(work, scanned, local, count),
        }
        for name in options.parts:
            found[name] = parts[name]()
            if not options.json:
                show(name, found[name])
    result = {
        "name": "cluster",
        "ratio": found.get("scale", {}).get("ratio"),
        "samples": count,
        "left_out": LEFT_OUT,
        "rows": [{"part": name, **values} for name, values in found.items()],
        "versions": {"wbcpipe": __version__, "python": platform.python_version()},
        "cpu": platform.processor() or platform.machine(),
    }
    if options.json:
        print(json.dumps(result))
    return int(any(values.get("different") for values in found.values()))


if __name__ == "__main__":
    sys.exit(main())
