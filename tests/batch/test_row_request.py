"""What a row of a worklist asks of the loader, and how its loading is reported."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from wbcpipe.acquire.config.scope import load_scope
from wbcpipe.batch.records import WorklistRow
from wbcpipe.batch.row_request import row_request
from wbcpipe.batch.sample_process.progress import SampleProgress
from wbcpipe.batch.sample_process.watchdog import phase_limits_s
from wbcpipe.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def row(slot: str, scope: str = "demo-loader") -> WorklistRow:
    return WorklistRow(sample="P1", slide="4711-3", slot=slot, scope=scope)


def test_the_slot_of_a_row_is_the_place_in_the_loader(tmp_path: Path) -> None:
    request = row_request(row("7"), load_scope("demo-loader"), tmp_path)
    assert request.load is not None
    assert (request.load.slide, request.load.number, request.load.data) == ("4711-3", 7, tmp_path)
    assert (request.slide, request.plan.slot) == ("4711-3", "A")
    without = row_request(row("B", "demo"), load_scope("demo"), tmp_path)
    assert (without.load, without.slide, without.plan.slot) == (None, "4711-3", "B")


@pytest.mark.parametrize(
    ("slot", "words"),
    [
        ("", "needs the place of slide '4711-3'"),
        ("B", "slot 'B' is no place in the loader"),
        ("13", "at place 13"),
    ],
)
def test_a_place_that_is_not_in_the_loader_is_refused(
    tmp_path: Path, slot: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        row_request(row(slot), load_scope("demo-loader"), tmp_path)


class Sent(list[object]):
    """Stands for the link to the supervisor."""

    def send(self, message: object) -> None:
        self.append(message)


def test_loading_is_a_phase_of_its_own_with_a_limit() -> None:
    sent, asked = Sent(), list[str]()
    progress = SampleProgress(sent, asked.append)
    progress.enter("opening")
    for line in (
        "unloading slide S1 by devices",
        "unloading step 1 of 1, Slide Hotel-Label = no slide",
    ):
        progress.say(line)
    progress.confirm("Put slide S2 into slot A.")
    progress.say("opening demo-loader")
    assert [message.phase for message in sent if hasattr(message, "phase")] == [
        "opening",
        *["loading the slide"] * 3,
        "opening",
    ]
    assert asked == ["Put slide S2 into slot A."]
    assert phase_limits_s(load_scope("demo-loader"))["loading the slide"] == 300.0 + 30.0 + 90.0
