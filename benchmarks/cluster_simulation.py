"""Simulate a day of slides on a cluster: workers, one shared link to the object store, failures.

    python benchmarks/cluster_simulation.py [--samples 1000] [--workers 64] [--seed 1] [--json]

A discrete-event model. A worker takes the next sample that was uploaded, stages it over a link that
all workers share equally, segments, classifies and reports it on one core, and uploads the result.
A worker that dies loses its sample, which another one takes, and comes back after a while. The
figures of one sample are those that docs/how-to/thousand-slides.md measures; each can be given. The
ratio is the time of one worker over that of `--workers`, divided by their number: what is left of a
perfect division of the work.

Prices are arguments too: list prices of a large provider by default, to be replaced by those of a
contract.
"""

from __future__ import annotations

import argparse
import heapq
import json
import platform
import random
import statistics
from collections import deque
from dataclasses import dataclass, field, replace

from wbcpipe import __version__

DAY_S = 86_400.0


@dataclass(frozen=True)
class SampleCost:
    """What one sample costs; times are of one core.

    Attributes:
        raw_gb, result_gb: bytes that are staged, and uploaded.
        requests: to the store, to stage the sample and to publish its result.
        objects: of the result, which are written with some of them.
        segment_s, classify_s, report_s: computing; without the start of a worker.
        spread: standard deviation of the logarithm of each time.
    """

    raw_gb: float
    result_gb: float
    requests: int
    objects: int
    segment_s: float
    classify_s: float
    report_s: float
    spread: float = 0.2


@dataclass(frozen=True)
class Site:
    """The cluster.

    Attributes:
        workers: each with one core.
        link_gbit_s: between all workers and the store.
        worker_gbit_s: the most that one worker gets.
        deaths_per_day: of each worker.
        back_after_s: until a dead worker has started again.
        arrivals_per_day: uploaded samples, evenly spread; 0: all are there at the start.
    """

    workers: int
    link_gbit_s: float
    worker_gbit_s: float = 2.0
    deaths_per_day: float = 1.0
    back_after_s: float = 60.0
    arrivals_per_day: float = 0.0


@dataclass
class Worker:
    """One worker: the sample it has, the steps that are left, and the bytes of its transfer."""

    sample: int | None = None
    steps: deque[tuple[str, float]] = field(default_factory=deque)
    bytes_left: float = 0.0
    sending: bool = False
    life: int = 0


@dataclass(frozen=True)
class Prices:
    """US dollars; of an object store in the region of the workers.

    Attributes:
        storage_gb_month, put_1000, get_1000: of the store.
        out_gb: of what leaves the region; 0 for workers inside it.
        core_hour: of a worker.
    """

    storage_gb_month: float = 0.023
    put_1000: float = 0.005
    get_1000: float = 0.0004
    out_gb: float = 0.0
    core_hour: float = 0.05


def day_of(cost: SampleCost, prices: Prices, samples: int, uploads: int) -> dict[str, float]:
    """What a day of so many samples takes: means over the day, and dollars.

    Args:
        cost: of one sample.
        prices: of the provider.
        samples: per day.
        uploads: requests that upload the raw files of one sample; they write an object each.
    """
    core_s = cost.segment_s + cost.classify_s + cost.report_s
    stored_gb = samples * (cost.raw_gb + cost.result_gb)
    writes, reads = uploads + cost.objects, cost.requests - cost.objects
    return {
        "raw_tb": round(samples * cost.raw_gb / 1000, 2),
        "results_tb": round(samples * cost.result_gb / 1000, 3),
        "mean_upload_mbit_s": round(8000 * stored_gb / DAY_S, 1),
        "mean_download_mbit_s": round(8000 * samples * cost.raw_gb / DAY_S, 1),
        "core_hours": round(samples * core_s / 3600, 2),
        "cores_that_never_rest": round(samples * core_s / DAY_S, 3),
        "requests": samples * (writes + reads),
        "requests_per_s": round(samples * (writes + reads) / DAY_S, 2),
        "dollars_requests": round(
            samples * (writes * prices.put_1000 + reads * prices.get_1000) / 1000, 2
        ),
        "dollars_computing": round(samples * core_s / 3600 * prices.core_hour, 2),
        "dollars_out": round(samples * cost.raw_gb * prices.out_gb, 2),
        "dollars_storage_of_a_day_kept_a_month": round(stored_gb * prices.storage_gb_month, 2),
    }


class Simulation:
    """Runs until every sample has a result."""

    def __init__(self, cost: SampleCost, site: Site, samples: int, seed: int) -> None:
        self.cost, self.site, self.samples = cost, site, samples
        self.random = random.Random(seed)
        self.now_s, self.number = 0.0, 0
        self.events: list[tuple[float, int, str, int, int]] = []
        self.workers = [Worker() for _ in range(site.workers)]
        self.idle = deque(range(site.workers))
        self.waiting: deque[int] = deque()
        self.arrived_s: dict[int, float] = {}
        self.latency_s: list[float] = []
        self.busy_s = self.moved_bytes = 0.0
        self.lost = self.done = 0

    def run(self) -> dict[str, float]:
        gap_s = DAY_S / self.site.arrivals_per_day if self.site.arrivals_per_day else 0.0
        for sample in range(self.samples):
            self.push(sample * gap_s, "arrives", sample, 0)
        for index in range(self.site.workers):
            self.plan_death(index)
        while self.done < self.samples:
            self.step()
        span_s = self.now_s
        rate = self.site.link_gbit_s * 1e9 / 8
        requests = self.cost.requests * (self.samples + self.lost)
        return {
            "workers": self.site.workers,
            "link_gbit_s": self.site.link_gbit_s,
            "hours": round(span_s / 3600, 2),
            "samples_per_day": round(self.samples / span_s * DAY_S),
            "computing_percent": round(100 * self.busy_s / (self.site.workers * span_s), 1),
            "link_percent": round(100 * self.moved_bytes / (rate * span_s), 1),
            "requests_per_s": round(requests / span_s, 1),
            "restarted": self.lost,
            "median_latency_s": round(statistics.median(self.latency_s), 1),
            "p95_latency_s": round(statistics.quantiles(self.latency_s, n=20)[-1], 1),
        }

    def push(self, at_s: float, what: str, subject: int, life: int) -> None:
        self.number += 1
        heapq.heappush(self.events, (at_s, self.number, what, subject, life))

    def plan_death(self, index: int) -> None:
        if self.site.deaths_per_day:
            after_s = self.random.expovariate(self.site.deaths_per_day / DAY_S)
            self.push(self.now_s + after_s, "dies", index, self.workers[index].life)

    def rate(self) -> float:
        """Bytes a second of each transfer now: the link is shared equally."""
        active = sum(worker.sending for worker in self.workers)
        each = self.site.link_gbit_s / max(active, 1)
        return min(each, self.site.worker_gbit_s) * 1e9 / 8

    def step(self) -> None:
        """Go on to the next event, or to the end of the next transfer if that comes first."""
        rate = self.rate()
        sending = [worker for worker in self.workers if worker.sending]
        until_s = self.events[0][0] if self.events else float("inf")
        first = min(sending, key=lambda worker: worker.bytes_left, default=None)
        ends_s = self.now_s + first.bytes_left / rate if first else float("inf")
        next_s = min(until_s, ends_s)
        moved = (next_s - self.now_s) * rate
        for worker in sending:
            worker.bytes_left -= moved
            self.moved_bytes += moved
        self.now_s = next_s
        if first is not None and ends_s <= until_s:
            first.sending = False
            self.go_on(self.workers.index(first))
        else:
            _, _, what, subject, life = heapq.heappop(self.events)
            self.handle(what, subject, life)

    def handle(self, what: str, subject: int, life: int) -> None:
        if what == "arrives":
            self.arrived_s[subject] = self.now_s
            self.waiting.append(subject)
        else:
            worker = self.workers[subject]
            if worker.life != life:
                return  # of a life that has ended
            if what == "computed":
                self.go_on(subject)
            elif what == "dies":
                self.die(subject)
            elif what == "is back":
                self.idle.append(subject)
                self.plan_death(subject)
        self.hand_out()

    def die(self, index: int) -> None:
        worker = self.workers[index]
        if worker.sample is not None:
            self.waiting.appendleft(worker.sample)
            self.lost += 1
        elif index in self.idle:
            self.idle.remove(index)
        self.workers[index] = Worker(life=worker.life + 1)
        self.push(self.now_s + self.site.back_after_s, "is back", index, worker.life + 1)

    def hand_out(self) -> None:
        while self.waiting and self.idle:
            index = self.idle.popleft()
            worker, cost = self.workers[index], self.cost
            worker.sample = self.waiting.popleft()
            worker.steps = deque(
                [
                    ("move", cost.raw_gb * 1e9),
                    ("compute", self.time(cost.segment_s)),
                    ("compute", self.time(cost.classify_s)),
                    ("compute", self.time(cost.report_s)),
                    ("move", cost.result_gb * 1e9),
                ]
            )
            self.go_on(index)

    def time(self, mean_s: float) -> float:
        spread = self.cost.spread
        return mean_s * self.random.lognormvariate(-(spread**2) / 2, spread)

    def go_on(self, index: int) -> None:
        worker = self.workers[index]
        if not worker.steps:
            assert worker.sample is not None
            self.latency_s.append(self.now_s - self.arrived_s[worker.sample])
            self.done += 1
            worker.sample = None
            self.idle.append(index)
            self.hand_out()
            return
        what, amount = worker.steps.popleft()
        if what == "move":
            worker.bytes_left, worker.sending = amount, True
        else:
            self.busy_s += amount
            self.push(self.now_s + amount, "computed", index, worker.life)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--raw-gb", type=float, default=2.01, help="bytes staged per sample")
    parser.add_argument("--result-gb", type=float, default=0.13)
    parser.add_argument("--requests", type=int, default=177)
    parser.add_argument("--segment-s", type=float, default=25.2, help="of one core, with staging")
    parser.add_argument("--classify-s", type=float, default=0.65)
    parser.add_argument("--report-s", type=float, default=2.5, help="with publishing")
    parser.add_argument("--objects", type=int, default=93, help="of a result, with its marker")
    parser.add_argument("--uploads", type=int, default=67, help="to upload the raw files")
    parser.add_argument("--price-storage", type=float, default=Prices.storage_gb_month)
    parser.add_argument("--price-put", type=float, default=Prices.put_1000, help="of 1,000")
    parser.add_argument("--price-get", type=float, default=Prices.get_1000, help="of 1,000")
    parser.add_argument("--price-out", type=float, default=Prices.out_gb, help="of 1 GB")
    parser.add_argument("--price-core", type=float, default=Prices.core_hour, help="of an hour")
    parser.add_argument("--deaths-per-day", type=float, default=1.0, help="of each worker")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    cost = SampleCost(
        options.raw_gb,
        options.result_gb,
        options.requests,
        options.objects,
        options.segment_s,
        options.classify_s,
        options.report_s,
    )
    prices = Prices(
        options.price_storage,
        options.price_put,
        options.price_get,
        options.price_out,
        options.price_core,
    )
    daily = day_of(cost, prices, 1000, options.uploads)
    rows = []
    for link_gbit_s in (1.0, 10.0, 25.0):
        for workers in sorted({1, 4, 16, options.workers}):
            site = Site(workers, link_gbit_s, deaths_per_day=options.deaths_per_day)
            rows.append(Simulation(cost, site, options.samples, options.seed).run())
    day = Site(options.workers, 10.0, arrivals_per_day=1000, deaths_per_day=options.deaths_per_day)
    arriving = [
        Simulation(cost, replace(day, workers=workers), options.samples, options.seed).run()
        for workers in (1, 2, 4, options.workers)
    ]
    at_25 = {row["workers"]: row["hours"] for row in rows if row["link_gbit_s"] == 25.0}
    result = {
        "name": "cluster_simulation",
        "ratio": round(at_25[1] / at_25[options.workers] / options.workers, 3),
        "cost": vars(cost),
        "samples": options.samples,
        "seed": options.seed,
        "a_day": daily,
        "rows": rows,
        "a_thousand_a_day": arriving,
        "versions": {"wbcpipe": __version__, "python": platform.python_version()},
        "cpu": platform.processor() or platform.machine(),
    }
    if options.json:
        print(json.dumps(result))
        return
    print("a day of 1,000 samples")
    for name, value in daily.items():
        print(f"  {name:<40} {value:>12,}")
    for title, table in (
        (f"{options.samples} samples that are all uploaded", rows),
        ("1,000 samples uploaded over a day, 10 Gbit/s", arriving),
    ):
        print(title)
        print("  " + "  ".join(f"{name:>17}" for name in table[0]))
        for row in table:
            print("  " + "  ".join(f"{value:>17}" for value in row.values()))
    print(f"of a perfect division of the work on 25 Gbit/s: {100 * result['ratio']:.0f} %")


if __name__ == "__main__":
    main()
