"""What a batch does next, as a table of situations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from wbcpipe.batch.records import WorklistRow
from wbcpipe.batch.supervise.schedule import (
    AskForStain,
    BatchView,
    Decision,
    End,
    Finish,
    Grant,
    ProcessView,
    Quarantine,
    RowView,
    Start,
    decide,
    is_over,
)

if TYPE_CHECKING:
    from wbcpipe.batch.state.completion import RowStage


def row(
    sample: str, stage: RowStage = "new", protocol: str = "one-pass", priority: int = 0, **more: Any
) -> RowView:
    asked = WorklistRow.model_validate(
        {
            "sample": sample,
            "slide": sample,
            "slot": "A",
            "scope": "demo",
            "protocol": protocol,
            "priority": priority,
        }
    )
    return RowView(asked, more.pop("state", "waiting"), stage, **more)


def of_list(sample: str, stage: RowStage = "new", **more: Any) -> RowView:
    return row(sample, stage, "two-pass-list", **more)


A, B, C = row("a", order=0), row("b", order=1), row("c", order=2)
USING, WAITING = ProcessView("a", "using"), ProcessView("b", "waiting")

TABLE: dict[str, tuple[BatchView, list[Decision]]] = {
    "the first row is started": (BatchView([A, B]), [Start("a", "slide")]),
    "a process that waits gets the free microscope": (
        BatchView([A, B], [ProcessView("a", "waiting")]),
        [Grant("a")],
    ),
    "a row that was finished by hand is not started": (
        BatchView([row("a", "finished"), B]),
        [Finish("a"), Start("b", "slide")],
    ),
    "also where nothing may be scanned": (
        BatchView([row("a", "finished"), B], scanning_stopped=True),
        [Finish("a")],
    ),
    "while one scans the next is warmed": (BatchView([A, B, C], [USING]), [Start("b", "slide")]),
    "and only one of them": (BatchView([A, B, C], [USING, ProcessView("b", "loading")]), []),
    "a warm one waits for its turn": (BatchView([A, B, C], [USING, WAITING]), []),
    "and has it when the other is processed": (
        BatchView([A, B, C], [ProcessView("a", "done"), WAITING]),
        [Grant("b")],
    ),
    "no scan begins while too many are processed": (
        BatchView([A, B, C], [ProcessView("a", "done"), WAITING], max_processing=1),
        [],
    ),
    "nor is one warmed": (BatchView([A, B, C], [ProcessView("a", "done")], max_processing=1), []),
    "the highest priority first": (
        BatchView([A, row("b", priority=5, order=1)]),
        [Start("b", "slide")],
    ),
    "a failed attempt goes behind the others": (
        BatchView([row("a", attempts=1), B]),
        [Start("b", "slide")],
    ),
    "but not behind lower priorities": (
        BatchView([row("a", attempts=1, priority=1), B]),
        [Start("a", "slide")],
    ),
    "a held row is left": (BatchView([row("a", state="held"), B]), [Start("b", "slide")]),
    "a delayed row is left": (
        BatchView([row("a", not_before_s=9.0), B], now_s=8.0),
        [Start("b", "slide")],
    ),
    "a late row without a field is given up": (
        BatchView([row("a", late=True), B]),
        [Quarantine("a", "its deadline passed before a field was taken"), Start("b", "slide")],
    ),
    "one with fields is processed": (
        BatchView([row("a", "started", late=True)]),
        [Start("a", "slide")],
    ),
    "a scanned row is processed beside a scan": (
        BatchView([A, row("b", "scanned", order=1)], [USING]),
        [Start("b", "slide")],
    ),
    "a stopped microscope scans no more but processes": (
        BatchView([A, B, row("c", "scanned")], [WAITING], scanning_stopped=True),
        [End("b"), Start("c", "slide")],
    ),
    "after the last sample nothing starts": (
        BatchView([A, B, C], [USING, WAITING], stopping=True),
        [End("b")],
    ),
    "a full disk starts nothing": (
        BatchView([A, row("b", "scanned")], [WAITING], disk_is_full=True),
        [],
    ),
    "bright field of the whole list first": (
        BatchView([of_list("a", "brightfield"), of_list("b", order=1)]),
        [Start("b", "brightfield")],
    ),
    "then each is stained by its device": (
        BatchView([of_list("a", "brightfield"), of_list("b", "brightfield", order=1)]),
        [Start("a", "stain")],
    ),
    "or all of them by the operator, at once": (
        BatchView(
            [
                of_list("a", "brightfield", prompts=True),
                of_list("b", "brightfield", prompts=True, order=1),
            ]
        ),
        [AskForStain(("a", "b"))],
    ),
    "who is asked when nothing is scanned": (
        BatchView([of_list("a", "brightfield", prompts=True), B], [ProcessView("b", "using")]),
        [],
    ),
    "and other slides are scanned before": (
        BatchView([of_list("a", "brightfield", prompts=True), row("b", order=1)]),
        [Start("b", "slide")],
    ),
    "nothing moves until the operator confirms": (
        BatchView([of_list("a", "brightfield", prompts=True), B], [WAITING], asked=True),
        [],
    ),
    "no fluorescence before the incubation": (
        BatchView([of_list("a", "stained", not_before_s=100.0), B], now_s=0.0),
        [Start("b", "slide")],
    ),
    "a stained slide is warmed shortly before": (
        BatchView([of_list("a", "stained", not_before_s=100.0)], now_s=50.0),
        [Start("a", "slide")],
    ),
    "but has no turn yet": (
        BatchView(
            [of_list("a", "stained", not_before_s=100.0)], [ProcessView("a", "waiting")], now_s=99.0
        ),
        [],
    ),
    "a stained slide that is ready goes first": (
        BatchView([row("a", priority=9), of_list("b", "stained", order=1)]),
        [Start("b", "slide")],
    ),
    "a held slide does not hold up the stain": (
        BatchView([of_list("a", state="held"), of_list("b", "brightfield", order=1)]),
        [Start("b", "stain")],
    ),
}


@pytest.mark.parametrize(("view", "decisions"), TABLE.values(), ids=TABLE.keys())
def test_what_is_done_next(view: BatchView, decisions: list[Decision]) -> None:
    assert decide(view) == decisions


@pytest.mark.parametrize(
    ("view", "over"),
    [
        (BatchView([]), True),
        (BatchView([A]), False),
        (BatchView([], [USING]), False),
        (BatchView([row("a", state="held")]), True),
        (BatchView([A, B], stopping=True), True),
        (BatchView([A], scanning_stopped=True), True),
        (BatchView([A, row("b", "scanned")], scanning_stopped=True), False),
    ],
    ids=["no row", "a row", "a process", "held only", "stopping", "stopped", "stopped, to process"],
)
def test_when_a_batch_is_over(view: BatchView, over: bool) -> None:
    assert is_over(view) is over
