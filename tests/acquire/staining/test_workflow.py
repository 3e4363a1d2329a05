"""Between the passes.

A slide is stained only for a bright field that is worth it, and never beyond the deadline.
"""

from __future__ import annotations

import io
import json
import re
import sys
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from wbcpipe.acquire import passes
from wbcpipe.acquire.capture.sample_record import create_sample_record
from wbcpipe.acquire.cli import acquire
from wbcpipe.acquire.config.cfg_reader import read_config
from wbcpipe.acquire.config.micromanager_cfg import configuration_problems
from wbcpipe.acquire.config.policies import Staining
from wbcpipe.acquire.open_microscope import open_for_staining
from wbcpipe.acquire.passes import PassResult
from wbcpipe.acquire.plan import AcquisitionPlan
from wbcpipe.acquire.procedures.checks import program_problem
from wbcpipe.acquire.request import AcquisitionRequest
from wbcpipe.acquire.staining.checks import check_staining
from wbcpipe.cli.progress import Reporter
from wbcpipe.errors import AcquisitionError, ConfigError, DiskFullError, SampleStateError
from wbcpipe.samples.field_status import write_missing, write_skipped
from wbcpipe.samples.fields import field_path, fields_on_disk
from wbcpipe.samples.records import StainingRecord
from wbcpipe.samples.scan_outcome import load_scan_outcome
from wbcpipe.samples.staining_record import write_staining
from wbcpipe.scan.loop import acquire_and_segment
from wbcpipe.scan.request import ScanRequest, check_request

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wbcpipe.acquire.config.scope import Scope
    from wbcpipe.acquire.simulation.specimen.plan import SpecimenPlan
    from wbcpipe.samples.fields import Pass
    from wbcpipe.samples.sample import Sample

Fate = dict[int, "str | float"]


def put(sample: Sample, name: Pass, n_fields: int, fate: Fate) -> PassResult:
    """Fields as a pass leaves them: those with a reason are missing, those with a figure empty, the
    rest on disk.
    """
    raw = sample.raw_path(name)
    raw.mkdir(parents=True, exist_ok=True)
    outcome = PassResult()
    for index in range(n_fields):
        what = fate.get(index)
        if what is None:
            field_path(raw, index).touch()
            outcome.taken.append(index)
        elif isinstance(what, str):
            outcome.missing[index] = what
        else:
            outcome.empty.append(index)
    write_missing(raw, outcome.missing)
    write_skipped(raw, {index: float(fate[index]) for index in outcome.empty})
    return outcome


def request_for(
    sample: Sample, scope: Scope, deadline_s: float | None = None
) -> AcquisitionRequest:
    return AcquisitionRequest(
        sample,
        scope,
        AcquisitionPlan.from_scope(scope, "A"),
        pass_name="fluorescence",
        deadline_s=deadline_s,
    )


class Bench:
    """Stands for microscope and pump: passes leave what is planted, and a stain is noted."""

    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        self.fate: Fate = {}
        #: Where the deadline falls in a pass, as the number of fields that are done by then.
        self.ends_at: int | None = None
        self.log: list[str] = []
        self.openers: list[object] = []

    def take_pass(
        self, request: AcquisitionRequest, n_fields: int, _reporter: Reporter, _begin: object = None
    ) -> PassResult:
        self.log.append(request.pass_name)
        self.openers.append(request.microscope)
        create_sample_record(
            AcquisitionRequest(
                self.sample,
                request.scope,
                request.plan,
                request.specimen,
                pass_name=request.pass_name,
                slide=request.slide,
            )
        )
        done = n_fields if self.ends_at is None else self.ends_at
        outcome = put(self.sample, request.pass_name, done, self.fate)
        outcome.in_time = self.ends_at is None
        return outcome

    def stain(self, sample: Sample, scope: Scope, **_: Any) -> None:
        self.log.append("stain")
        write_staining(sample, StainingRecord(method=scope.staining.method, done="now"))


@pytest.fixture
def bench(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(sample)
    monkeypatch.setattr("wbcpipe.acquire.passes.take_pass", made.take_pass)
    monkeypatch.setattr("wbcpipe.acquire.passes.stain", made.stain)
    monkeypatch.setattr("os.fsync", lambda _handle: None)
    return made


@pytest.fixture
def both(sample: Sample, small_scope: Scope) -> Callable[..., dict[str, Any]]:
    """`acquire --protocol two-pass` over some fields; gives its JSON."""

    def call(*more: str, choice: str = "", fields: int = 12) -> dict[str, Any]:
        words = [
            "--slide",
            sample.name,
            "--scope",
            str(small_scope.path),
            "--data",
            str(sample.path.parent),
        ]
        words += ["--pass", choice] if choice else ["--protocol", "two-pass"]
        words += ["--fields", str(fields), "--json", *more]
        result = CliRunner().invoke(acquire, words, catch_exceptions=False)
        content = json.loads(result.stdout)
        assert isinstance(content, dict)
        return content

    return call


def test_a_whole_bright_field_is_stained(bench: Bench, both: Callable[..., dict[str, Any]]) -> None:
    bench.fate = {
        3: "the lamp was dark.",
        4: "the stage was busy.",
        5: 0.2,
    }  # 2 of the 11 that are not empty
    assert both()["passes"] == {"brightfield": 9, "fluorescence": 9}
    assert bench.log == ["brightfield", "stain", "fluorescence"]
    assert bench.openers == [open_for_staining, None]


@pytest.mark.parametrize(
    ("fate", "words"),
    [
        (
            dict.fromkeys(range(12), "the lamp was dark."),
            "12 of 12 bright fields are missing.*field 0: the lamp was",
        ),
        (
            {1: "busy", 4: "busy", 7: "busy"},
            "3 of 12 bright fields are missing.* allows 20 %.*go on with .*--already-stained",
        ),
        (dict.fromkeys(range(12), 0.2), "all 12 bright fields show bare glass"),
    ],
    ids=["all missing", "too many missing", "bare glass"],
)
def test_a_bright_field_that_is_not_worth_it_is_not_stained(
    bench: Bench, both: Callable[..., dict[str, Any]], fate: Fate, words: str
) -> None:
    bench.fate = fate
    for _ in range(2):  # the same command tries again
        with pytest.raises(AcquisitionError, match=f"the slide is not stained: {words}"):
            both()
    assert bench.log == ["brightfield"] * 2
    bench.fate = {}
    assert both()["fields_taken"] == 12


def test_a_bright_field_cut_short_is_not_stained(
    bench: Bench, sample: Sample, small_scope: Scope
) -> None:
    put(sample, "brightfield", 5, {})
    with pytest.raises(AcquisitionError, match="7 of 12 bright fields were not taken yet"):
        passes.stain_between_passes(
            request_for(sample, small_scope),
            12,
            already_stained=False,
            reporter=Reporter(quiet=True),
        )
    assert bench.log == []


@pytest.mark.parametrize("done", [0, 5])
def test_acquire_stains_nothing_after_the_deadline(
    bench: Bench,
    both: Callable[..., dict[str, Any]],
    sample: Sample,
    done: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench.ends_at = done
    monkeypatch.setattr("wbcpipe.acquire.request.earliest_deadline_s", lambda *_: time.time() - 1)
    if done:
        outcome = both()
        assert (outcome["stopped_by_deadline"], outcome["passes"]) == (
            True,
            {"brightfield": 5, "fluorescence": 0},
        )
    else:
        with pytest.raises(
            AcquisitionError, match="the deadline passed before any field was taken"
        ):
            both()
    assert bench.log == ["brightfield"]
    end = load_scan_outcome(sample)
    assert end is not None
    assert (end.reason, end.fields_done, end.fields_wanted) == ("deadline", 0, 12)


def test_run_stains_nothing_after_the_deadline(
    bench: Bench, sample: Sample, small_scope: Scope, specimen: SpecimenPlan
) -> None:
    plan = AcquisitionPlan.from_scope(small_scope, "A")
    bench.ends_at = 5
    request = ScanRequest(
        small_scope, plan, specimen, fields=12, deadline_s=time.time() - 1, two_pass=True
    )
    for _ in range(2):
        with pytest.raises(
            AcquisitionError, match=r"not stained: the deadline .* 5 of 12 bright fields are done"
        ):
            acquire_and_segment(sample, request, None, reporter=Reporter(quiet=True))  # type: ignore[arg-type]
    assert bench.log == ["brightfield"] * 2
    end = load_scan_outcome(sample)
    assert end is not None
    assert (end.reason, end.fields_done, end.fields_wanted) == ("deadline", 0, 12)


def test_run_tries_missing_bright_fields_again_before_the_stain(
    bench: Bench, sample: Sample, small_scope: Scope, specimen: SpecimenPlan
) -> None:
    plan = AcquisitionPlan.from_scope(small_scope, "A")
    request = ScanRequest(small_scope, plan, specimen, fields=12, two_pass=True)
    for number in (4, 3):
        bench.fate = dict.fromkeys(range(number), "the lamp was dark.")
        with pytest.raises(AcquisitionError, match=f"{number} of 12 bright fields are missing"):
            acquire_and_segment(sample, request, None, reporter=Reporter(quiet=True))  # type: ignore[arg-type]
    assert bench.log == ["brightfield"] * 2


def test_no_stain_is_begun_that_the_deadline_would_waste(
    bench: Bench, sample: Sample, small_scope: Scope
) -> None:
    put(sample, "brightfield", 2, {})
    slow = small_scope.staining.model_copy(update={"incubate_s": 300.0})
    scope = small_scope.model_copy(update={"staining": slow})
    silent = Reporter(quiet=True)
    soon = time.time() + 299
    assert "leaves no time" in passes.stain_between_passes(
        request_for(sample, scope, soon), 2, already_stained=False, reporter=silent
    )
    assert bench.log == []
    assert not passes.stain_between_passes(
        request_for(sample, scope, soon + 60), 2, already_stained=False, reporter=silent
    )
    assert bench.log == ["stain"]


def test_a_stained_slide_without_bright_field_is_no_circle(
    sample: Sample, both: Callable[..., dict[str, Any]]
) -> None:
    write_staining(sample, StainingRecord(method="devices", done="2026-01-01T00:00:00+00:00"))
    for choice in ("", "brightfield", "fluorescence"):
        with pytest.raises(
            SampleStateError, match=r"no bright field of it was taken.*If it is not stained.*delete"
        ):
            both(choice=choice)
    with pytest.raises(SampleStateError, match="leave --already-stained out"):
        both("--already-stained", "--sample", "S2")
    assert fields_on_disk(sample.raw_path("brightfield")) == {}


def test_the_operators_word_goes_on_after_a_staining_that_did_not_end(
    bench: Bench,
    both: Callable[..., dict[str, Any]],
    sample: Sample,
    small_scope: Scope,
    specimen: SpecimenPlan,
) -> None:
    both(choice="brightfield")
    write_staining(sample, StainingRecord(method="devices", started="2026-01-01T00:00:00+00:00"))
    plan = AcquisitionPlan.from_scope(small_scope, "A")
    request = ScanRequest(small_scope, plan, specimen, fields=12, two_pass=True)
    for refused in (both, lambda: check_request(sample, request)):
        with pytest.raises(
            SampleStateError,
            match=r"did not end: the process was stopped.*go on with --already-stained",
        ):
            refused()
    check_request(sample, replace(request, already_stained=True))
    assert both("--already-stained")["passes"] == {"fluorescence": 12}
    assert bench.log == ["brightfield", "fluorescence"]
    assert both()["passes"] == {"fluorescence": 12}


@pytest.mark.parametrize("choice", ["single", "brightfield", "fluorescence"])
def test_stained_is_refused_where_it_says_nothing(
    both: Callable[..., dict[str, Any]],
    sample: Sample,
    small_scope: Scope,
    specimen: SpecimenPlan,
    choice: str,
) -> None:
    with pytest.raises(
        ConfigError,
        match=f"--already-stained is for --protocol two-pass, and the {choice} pass is requested",
    ):
        both("--already-stained", choice=choice)
    request = ScanRequest(
        small_scope, AcquisitionPlan.from_scope(small_scope, "A"), specimen, already_stained=True
    )
    with pytest.raises(ConfigError, match="--already-stained is for --protocol two-pass"):
        check_request(sample, request)
    assert not sample.path.exists()


def test_the_bars_are_away_while_the_operator_is_asked(
    sample: Sample, small_scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(sample, "brightfield", 2, {})
    monkeypatch.setattr(
        "wbcpipe.cli.progress.console", lambda: Console(file=io.StringIO(), force_terminal=True)
    )
    asked: list[str] = []

    def answer(text: str) -> str:
        assert sys.stderr is before, "what is asked goes through the bars"
        asked.append(text)
        return "y"

    monkeypatch.setattr("click.termui.visible_prompt_func", answer)
    before = sys.stderr
    scope = small_scope.model_copy(
        update={"staining": Staining(method="prompt", message="Stain it.")}
    )
    with Reporter() as reporter:
        reporter.update("fields", 2, 2)
        assert sys.stderr is not before
        passes.stain_between_passes(
            request_for(sample, scope), 2, already_stained=False, reporter=reporter
        )
        reporter.update("fields", 1, 2)
        assert sys.stderr is not before
    assert len(asked) == 1


VALVE = '{ device = "Stain Valve", property = "Label", value = "closed" },\n]\nsafe_state'


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            'value = "acridine orange"',
            'value = "acridine orang"',
            "staining.steps[0].value 'acridine orang' is not in",
        ),
        (
            VALVE,
            VALVE.replace("Valve", "Vlave"),
            "staining.steps[1].device 'Stain Vlave' is not in the .cfg; did you",
        ),
        (
            'value = "closed" },\n]\ninc',
            'value = "shut" },\n]\ninc',
            "staining.safe_state[0].value 'shut' is not in",
        ),
    ],
    ids=["value", "device", "safe_state"],
)
def test_a_step_that_the_cfg_does_not_have_is_refused_before_anything_is_taken(
    make_scope: Callable[..., Scope],
    both: Callable[..., dict[str, Any]],
    sample: Sample,
    old: str,
    new: str,
    words: str,
) -> None:
    scope = make_scope((old, new))
    assert [
        problem
        for problem in configuration_problems(scope, read_config(scope.config_path))
        if words in problem
    ]
    with pytest.raises(ConfigError, match=re.escape(words)):
        both()
    assert not sample.path.exists()


def test_a_property_that_only_the_devices_know_is_refused_on_opening(
    make_scope: Callable[..., Scope], specimen: SpecimenPlan
) -> None:
    gain = VALVE.replace("Stain Valve", "Camera").replace("Label", "Gain").replace("closed", "9")
    for new, words in (
        (
            VALVE.replace("Label", "Lable"),
            r"steps\[1\]: 'Stain Valve' has no property 'Lable'; it has .*Label",
        ),
        (
            VALVE.replace("Stain Valve", "LED").replace("Label", "Sequence"),
            "LED-Sequence does not accept 'closed'; it accepts",
        ),
        (gain, "Camera-Gain = 9 is outside -5 to 8"),
    ):
        with pytest.raises(ConfigError, match=words):
            open_for_staining(make_scope((VALVE, new)), specimen)
    open_for_staining(make_scope(), specimen).close()


def test_a_staining_program_that_is_not_there_is_refused(
    small_scope: Scope, tmp_path: Path
) -> None:
    for name, there in (
        (sys.executable, True),
        (str(tmp_path / "pumpctl"), False),
        ("no-such-pumpctl", False),
    ):
        policy = Staining(method="command", command=(name, "--ao"))
        scope = small_scope.model_copy(update={"staining": policy})
        assert bool(program_problem("staining.command", scope.staining.command)) != there
        if not there:
            with pytest.raises(
                ConfigError, match=r"staining\.command: there is no program .*pumpctl"
            ):
                check_staining(scope)


@pytest.mark.usefixtures("bench")
def test_the_room_of_both_passes_is_there_before_the_first(
    both: Callable[..., dict[str, Any]],
    sample: Sample,
    small_scope: Scope,
    specimen: SpecimenPlan,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spare, frame = 64 * 2**20, 2 * 256 * 256
    free = spare + 12 * (3 * frame + 8192) + 12 * frame  # enough for each by itself
    monkeypatch.setattr(
        "wbcpipe.acquire.capture.sample_record.shutil.disk_usage",
        lambda _: SimpleNamespace(free=free),
    )
    words = r"the fields of all passes \(12 of brightfield, 12 of fluorescence\) need 0\.07"
    with pytest.raises(DiskFullError, match=words):
        both()
    plan = AcquisitionPlan.from_scope(small_scope, "A")
    request = ScanRequest(small_scope, plan, specimen, fields=12, two_pass=True)
    with pytest.raises(DiskFullError, match=words):
        check_request(sample, request)
    assert not sample.path.exists()
    for name in ("brightfield", "fluorescence"):
        both(choice=name)
    check_request(sample, request)
    free = 0
    check_request(sample, request)  # all is there
