"""Taking fields until enough is counted: the same fields whatever the timing or the breaks."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pytest

from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.request import earliest_deadline_s
from wbcpipe.acquire.supervise.messages import DeadlinePassed, FieldMissing, FieldTaken
from wbcpipe.errors import ConfigError, HardwareError, SampleStateError
from wbcpipe.samples.field_status import read_missing, write_missing, write_skipped
from wbcpipe.samples.fields import field_path
from wbcpipe.samples.sample import Sample
from wbcpipe.samples.scan_outcome import ScanOutcome, load_scan_outcome
from wbcpipe.scan.loop import SlideFields, scan_until, unmet_targets
from wbcpipe.scan.request import STATISTICS_FIELDS, ScanRequest, check_request, next_field_count
from wbcpipe.scan.targets import PrecisionTarget, half_width_percent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from wbcpipe.acquire.request import AcquisitionRequest

CELLS = [3, 0, 5, 4, 2, 6, 0, 0] * 40
SHIPPED = Path(__file__).parents[2] / "hardware_configs"


class Slide:
    """A planted slide whose field ``i`` holds ``CELLS[i]`` cells.

    Those in ``missing`` cannot be taken.

    From field ``ends_at`` on the deadline has passed.
    """

    def __init__(self, missing: frozenset[int] = frozenset(), ends_at: int | None = None) -> None:
        self.missing = missing
        self.ends_at = ends_at
        self.on_disk = 0
        self.deadline_passed = False
        self.estimated: list[int] | None = None
        self.kept = True
        self.processed: list[int] = []

    def take(self, wanted: int) -> Iterator[int | None]:
        for index in range(wanted):
            self.deadline_passed |= index == self.ends_at
            yield None if index in self.missing or self.deadline_passed else index

    def settled(self, wanted: int) -> int:
        return wanted if self.ends_at is None else min(wanted, self.ends_at)

    def tried(self) -> int:
        return self.on_disk

    def estimate_statistics(self, indices: Sequence[int], *, keep: bool = True) -> None:
        assert self.estimated is None, "estimated twice"
        self.estimated, self.kept = list(indices), keep

    def segment_field(self, index: int) -> None:
        assert self.estimated is not None, "segmented before the statistics were estimated"
        self.processed.append(index)

    def count(self) -> int:
        return sum(CELLS[index] for index in self.processed)

    def counts(self) -> dict[str, int]:
        """Two of three cells are neutrophils, one in twenty-five an eosinophil."""
        number = np.arange(self.count())
        eos = number % 25 == 7
        neu = (number % 3 != 0) & ~eos
        return {"NEU": int(neu.sum()), "LYM": int((~neu & ~eos).sum()), "EOS": int(eos.sum())}


def scan(
    slide: Slide,
    cells: int,
    available: int = len(CELLS),
    progress: Callable[[int, int], None] = lambda _done, _wanted: None,
) -> list[int]:
    def decide(taken: int) -> int:
        return next_field_count(
            taken=taken,
            cells=slide.count(),
            wanted_cells=cells,
            expected_per_field=4.0,
            available=available,
        )

    return scan_until(slide, slide, next_target=decide, progress=progress)


@pytest.mark.parametrize("cells", [1, 50, 200, 600])
def test_stops_with_enough_cells_and_few_to_spare(cells: int) -> None:
    slide = Slide()
    taken = scan(slide, cells)
    assert taken == slide.processed == list(range(len(taken)))
    assert slide.count() >= cells
    assert slide.count() <= max(cells * 1.2, sum(CELLS[:STATISTICS_FIELDS])) + 8


def test_missing_fields_are_made_up_for() -> None:
    slide = Slide(missing=frozenset({0, 3, 20}))
    taken = scan(slide, 200)
    assert slide.count() >= 200
    assert not set(taken) & slide.missing
    assert (
        slide.estimated
        == [index for index in range(30) if index not in slide.missing][:STATISTICS_FIELDS]
    )


def test_the_area_ends_the_scan() -> None:
    slide = Slide()
    assert scan(slide, 10_000, available=30) == list(range(30))


def test_fewer_fields_than_the_statistics_want() -> None:
    slide = Slide()
    assert scan(slide, 10_000, available=5) == list(range(5))
    assert slide.estimated == list(range(5))


@pytest.mark.parametrize("ends_at", [0, 5, 20, 33])
def test_the_deadline_ends_the_scan_with_what_is_there(ends_at: int) -> None:
    slide = Slide(missing=frozenset({2}), ends_at=ends_at)
    expected = [index for index in range(ends_at) if index != 2]
    shown: list[int] = []
    assert (
        scan(slide, 200, progress=lambda done, _: shown.append(done)) == slide.processed == expected
    )
    assert shown[-1] == ends_at, "fields that were never come to are counted as taken"
    # Statistics from fewer fields than a complete run has must not stay: the run that goes on makes
    # its own.
    assert slide.kept is (ends_at == 0 or len(expected) >= STATISTICS_FIELDS)


@pytest.fixture(scope="module")
def request_of() -> Any:
    scope = load_scope(SHIPPED / "demo.toml")
    plan = AcquisitionPlan.from_scope(scope, "A")
    return lambda **more: ScanRequest(scope, plan, None, **more)


def scanned(request: ScanRequest, slide: Slide) -> tuple[list[int], ScanOutcome]:
    asked = 0

    def decide(taken: int) -> int:
        nonlocal asked
        asked = min(request.next_target(taken, slide.counts()), len(CELLS))
        return asked

    done = scan_until(slide, slide, next_target=decide, progress=lambda *_: None)
    return done, request.outcome(
        len(done), asked, slide.counts(), in_time=not slide.deadline_passed
    )


@pytest.mark.parametrize(
    ("targets", "cells"),
    [
        ({"NEU": 5.0}, None),
        ({"NEU": 8.0, "EOS": 3.0}, None),
        ({"EOS": 5.0}, 250),
        ({"NEU": 20.0}, None),
    ],
    ids=["one class", "two classes", "and a number of cells", "wide"],
)
def test_counts_until_every_share_is_precise(
    request_of: Any, targets: dict[str, float], cells: int | None
) -> None:
    request = request_of(
        cells=cells, precision=tuple(PrecisionTarget(*item) for item in targets.items())
    )
    slide = Slide()
    done, end = scanned(request, slide)
    counts = slide.counts()
    total = sum(counts.values())
    assert end.reason == "precision"
    assert total >= (cells or 0)
    for reached in end.precision:
        assert reached.half_width_percent <= targets[reached.name]
        assert reached.half_width_percent == pytest.approx(
            half_width_percent(counts[reached.name], total), abs=1e-4
        )
    # Few fields to spare: with a tenth fewer cells a target is missed, unless the first look was
    # enough already.
    fewer = {name: round(0.88 * count) for name, count in counts.items()}
    narrow = any(
        half_width_percent(fewer[name], sum(fewer.values())) > width
        for name, width in targets.items()
    )
    assert narrow or sum(fewer.values()) < (cells or 0) or len(done) <= 25
    assert scanned(request, Slide())[0] == done


def test_an_area_that_is_too_small_says_how_far_it_came(request_of: Any) -> None:
    slide = Slide()
    done, end = scanned(request_of(cells=None, precision=(PrecisionTarget("NEU", 0.5),)), slide)
    assert done == list(range(len(CELLS)))
    assert end.reason == "area"
    assert "the scan area was used up after 320 fields: 800 cells, NEU" in end.text
    assert end.text.endswith("(target 0.5)")


@pytest.mark.parametrize(
    ("targets", "cells", "fields"),
    [
        ((), 200, 72),
        ((), 10, STATISTICS_FIELDS),
        (("NEU", 5.0), None, 144),  # 402 cells if the share is a half
        (("EOS", 2.0), 100, 380),  # 1063 cells if it is 12 %
        (("blast", 5.0), None, 144),
        (("NEU", 1.0), None, 729),  # the area holds no more
    ],
)
def test_a_bright_field_pass_is_long_enough_for_the_targets(
    request_of: Any, targets: tuple[str, float], cells: int | None, fields: int
) -> None:
    precision = (PrecisionTarget(*targets),) if targets else ()
    assert request_of(cells=cells, precision=precision, two_pass=True).estimated_fields() == fields


def test_a_precision_target_is_reached_within_the_bright_field_pass(request_of: Any) -> None:
    request = request_of(cells=None, precision=(PrecisionTarget("NEU", 5.0),), two_pass=True)
    held = sum(CELLS) / len(CELLS)
    request = replace(
        request, scope=request.scope.model_copy(update={"expected_cells_per_field": held})
    )
    request = replace(request, available=request.estimated_fields())
    done, end = scanned(request, Slide())
    assert end.reason == "precision"
    assert len(done) < request.max_fields


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"cells": 200}, ": 92 cells of 200"),
        ({"fields": 50}, ""),
        ({"cells": None, "precision": (PrecisionTarget("NEU", 5.0),)}, ": 92 cells, NEU"),
    ],
    ids=["cells", "fields", "precision"],
)
def test_a_bright_field_pass_that_was_too_short_is_named_not_the_area(
    request_of: Any, more: dict[str, Any], says: str
) -> None:
    end = scanned(request_of(**more, two_pass=True, available=36), Slide())[1]
    assert end.reason == "brightfield"
    used_up = "the bright-field pass was used up after 36 fields, and a stained slide gives no more"
    assert end.text.startswith(used_up + says)
    whole = scanned(request_of(**more, two_pass=True, available=729), Slide())[1]
    assert whole.reason in ("cells", "fields", "precision")


def test_a_scan_ended_by_the_deadline_says_so_loudly(request_of: Any) -> None:
    end = scanned(request_of(cells=200), Slide(ends_at=12))[1]
    assert end.text == "STOPPED BY THE DEADLINE after 12 of 46 fields: 32 cells of 200"
    # The target reached with the last field before it: nothing was cut short.
    assert request_of(cells=30).outcome(12, 46, {"NEU": 32}, in_time=False).reason == "cells"


def test_why_a_scan_ended_is_written_once(request_of: Any, tmp_path: Path) -> None:
    sample = Sample.open(tmp_path, "S1")
    sample.path.mkdir()
    assert load_scan_outcome(sample) is None
    _, end = scanned(request_of(precision=(PrecisionTarget("NEU", 9.0),)), Slide())
    end.save(sample)
    end.save(sample)
    assert load_scan_outcome(sample) == end
    assert (sample.path / "log.jsonl").read_text(encoding="utf-8").count("scan_ended") == 1
    (sample.path / "scan.json").write_text(
        '{"format_version": 1, "reason": "whim"}', encoding="utf-8"
    )
    with pytest.raises(SampleStateError, match=r"scan\.json: key 'reason'.*run the command again"):
        load_scan_outcome(sample)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (
            {"fields": 5, "precision": (PrecisionTarget("NEU", 5.0),)},
            "--fields or --precision, not both",
        ),
        ({"cells": None}, "the scan has no target"),
    ],
)
def test_contradicting_targets_are_refused(
    request_of: Any, tmp_path: Path, more: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        check_request(Sample.open(tmp_path, "S1"), request_of(**more))
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_unmet_targets_is_noticed(
    request_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_of(cells=None, precision=(PrecisionTarget("NEU", 7.0),))
    end = request.outcome(50, 50, {"NEU": 120, "LYM": 80}, in_time=True)
    assert end.reason == "precision"
    rows = SimpleNamespace(
        classes=("NEU", "LYM"),
        predicted_class=["NEU"] * 120 + ["LYM"] * 80,
        qc_flags=np.zeros(200, np.uint16),
    )
    monkeypatch.setattr("wbcpipe.samples.cell_store.CellStore", lambda path: path)
    monkeypatch.setattr("wbcpipe.report.rows.read_rows", lambda _store: rows)
    sample = Sample.open(tmp_path, "S1")
    assert unmet_targets(sample, request, end) == ""
    rows.qc_flags[:10] = 2  # ten of them are blurred beside the others
    assert "NEU 57.9 % +- 7.2 (target 7)" in unmet_targets(sample, request, end)
    assert unmet_targets(sample, request, request.outcome(50, 50, {"NEU": 12}, in_time=True)) == ""


@pytest.mark.parametrize(
    ("limit_s", "asked_s", "expected"), [(0, None, None), (120, None, 220.0), (120, 150.0, 150.0)]
)
def test_the_earlier_deadline_holds(
    request_of: Any, limit_s: float, asked_s: float | None, expected: float | None
) -> None:
    scope = request_of().scope
    policy = scope.reliability.model_copy(update={"slide_time_limit_s": limit_s})
    assert (
        earliest_deadline_s(scope.model_copy(update={"reliability": policy}), asked_s, 100.0)
        == expected
    )


class Worker:
    """Stands for the acquisition worker and its child: takes what it can, notes and tells what
    became of each field.

    Attributes:
        bad: fields that cannot be taken.
        starts: how many there were.
        breaks_at: the field at which it breaks off, with ``error``.
    """

    bad: ClassVar[set[int]] = set()
    starts: ClassVar[int] = 0
    breaks_at: ClassVar[int | None] = None
    error: ClassVar[BaseException] = KeyboardInterrupt()

    def __init__(self, request: AcquisitionRequest) -> None:
        self.raw = request.sample.raw_path(request.pass_name)
        self.in_time = request.in_time
        self.tried: set[int] = set()
        self.wanted = 0

    def set_deadline(self, deadline_s: float | None) -> None:
        pass

    def __enter__(self) -> Self:
        Worker.starts += 1
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def request_fields(self, n_fields: int) -> None:
        self.wanted = n_fields

    def events(self) -> Iterator[Any]:
        self.raw.mkdir(parents=True, exist_ok=True)
        for index in range(self.wanted):
            if index == Worker.breaks_at:
                raise Worker.error
            if not self.in_time():
                yield DeadlinePassed(self.wanted)
                return
            if index not in self.tried:
                self.tried.add(index)
                yield self.try_field(index)

    def try_field(self, index: int) -> FieldTaken | FieldMissing:
        missing = read_missing(self.raw)
        there = field_path(self.raw, index).exists()
        if index in Worker.bad:
            missing[index] = "the lamp was dark."
        else:
            field_path(self.raw, index).touch()
            missing.pop(index, None)
        write_missing(self.raw, missing)
        return FieldMissing(index, missing[index]) if index in missing else FieldTaken(index, there)


class Bench:
    """Scans a sample with that worker; the fields hold what `CELLS` says."""

    def __init__(self, sample: Sample, request: ScanRequest) -> None:
        self.sample, self.request, self.said = sample, request, list[str]()

    def scan(self, *, retry_missing: bool = True, **changes: Any) -> list[int]:
        request = replace(self.request, **changes)
        segmented = Slide()
        with SlideFields(
            self.sample, request, self.said.append, retry_missing=retry_missing
        ) as fields:
            done = scan_until(
                fields,
                segmented,
                next_target=lambda taken: min(
                    request.next_target(taken, segmented.counts()), len(CELLS)
                ),
                progress=lambda *_: None,
            )
            self.ended, self.tried = fields.deadline_passed, fields.tried()
        return done


@pytest.fixture
def bench(request_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr("wbcpipe.acquire.supervise.worker.AcquisitionWorker", Worker)
    monkeypatch.setattr("wbcpipe.scan.loop.read_info", lambda path: path)
    monkeypatch.setattr("os.fsync", lambda _handle: None)
    Worker.bad, Worker.starts, Worker.breaks_at, Worker.error = set(), 0, None, KeyboardInterrupt()
    return Bench(Sample.open(tmp_path, "S1"), request_of(cells=None, fields=20))


def test_a_field_that_was_missing_is_tried_again_once_a_start(bench: Bench) -> None:
    Worker.bad = {3, 19}
    whole = list(range(20))
    without = [index for index in whole if index not in Worker.bad]
    assert (bench.scan(), Worker.starts) == (without, 1)
    assert (bench.scan(), Worker.starts) == (without, 2)  # in vain
    assert (bench.scan(retry_missing=False), Worker.starts) == (
        without,
        2,
    )  # a second round of the same start
    Worker.bad = {19}
    assert (bench.scan(), Worker.starts) == ([*without[:3], 3, *without[3:]], 3)
    Worker.bad = set()
    assert (bench.scan(), Worker.starts) == (whole, 4)
    assert (bench.scan(), Worker.starts) == (whole, 4)  # nothing left to try


@pytest.mark.parametrize("breaks_at", [2, 3, 4, 17, 40])
def test_a_broken_scan_with_missing_fields_ends_in_the_same_fields(
    bench: Bench, breaks_at: int, tmp_path: Path
) -> None:
    Worker.bad = {0, 3, 20}
    unbroken = bench.scan(cells=200, fields=None)
    assert not Worker.bad.intersection(unbroken)
    other = Bench(Sample.open(tmp_path, "S2"), bench.request)
    Worker.breaks_at = breaks_at
    with pytest.raises(KeyboardInterrupt):
        other.scan(cells=200, fields=None)
    Worker.breaks_at = None
    assert other.scan(cells=200, fields=None) == unbroken


def test_after_the_deadline_what_was_missing_ends_no_scan(bench: Bench) -> None:
    Worker.bad = {3}
    target: dict[str, Any] = {"cells": 200, "fields": None}
    before = bench.scan(**target)
    assert bench.scan(**target, deadline_s=time.time() - 1) == before
    assert (bench.ended, bench.said[1:]) == (False, [])
    # One field more is asked for than is there: now the deadline ends it, and is told.
    assert bench.scan(cells=None, fields=before[-1] + 2, deadline_s=time.time() - 1) == before
    assert bench.ended
    assert [text for text in bench.said if "has passed: no further field is taken" in text]


def test_a_microscope_that_is_away_hides_no_result(bench: Bench) -> None:
    Worker.bad = {3}
    before = bench.scan()
    Worker.breaks_at, Worker.error = 0, HardwareError("the microscope is switched off.")
    assert bench.scan() == before
    assert bench.said[-1] == "the missing fields stay missing: the microscope is switched off."
    with pytest.raises(HardwareError, match="switched off"):
        bench.scan(fields=21)


@pytest.mark.parametrize(
    "target", [{"fields": 2}, {"fields": None, "cells": 5}], ids=["fields", "cells"]
)
def test_what_an_earlier_scan_took_beyond_the_target_is_counted_too(
    bench: Bench, target: dict[str, Any]
) -> None:
    Worker.bad = {3}
    before = bench.scan()
    write_skipped(bench.sample.raw_path("single"), {20: 0.0, 21: 1.0})
    assert bench.scan(**target, retry_missing=False) == before
    assert bench.scan(**target, deadline_s=time.time() - 1) == before
    assert (Worker.starts, bench.ended) == (1, False)
    assert bench.tried == 22


def test_a_scan_cut_off_beyond_its_first_target_goes_on_as_it_would_have(bench: Bench) -> None:
    target: dict[str, Any] = {"fields": None, "cells": 200}
    unbroken = bench.scan(**target)
    for index in unbroken[-2:]:
        field_path(bench.sample.raw_path("single"), index).unlink()
    assert bench.scan(**target) == unbroken


def test_more_fields_than_were_asked_for_are_told(request_of: Any) -> None:
    end = request_of(fields=2).outcome(6, 6, None, in_time=True)
    assert (end.fields_done, end.fields_wanted) == (6, 2)
    assert end.text == "6 fields, more than the 2 asked for"
    assert request_of(fields=6).outcome(6, 6, None, in_time=True).text == "6 fields, as asked for"


def test_a_field_without_bright_field_is_not_asked_for_after_the_stain(bench: Bench) -> None:
    raw = bench.sample.raw_path("brightfield")
    raw.mkdir(parents=True)
    for index in (0, 1, 3):
        field_path(raw, index).touch()
    write_missing(raw, {2: "the lamp was dark."})
    assert bench.scan(two_pass=True, available=4, fields=4) == [0, 1, 3]
