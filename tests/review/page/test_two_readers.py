"""Two readers, and two windows of one reader, at the same time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Page

    from wbcpipe.samples.sample import Sample

    MakeSample = Callable[..., Sample]
    OpenReview = Callable[..., Page]

NOW = "() => wbcpipeReview.review.cells.now"


def saved(page: Page) -> None:
    page.wait_for_function(
        "() => !wbcpipeReview.journal.unsaved && !wbcpipeReview.review.estimated"
    )


def still(page: Page) -> None:
    """Let a page not ask for the entries of others, as one that is slow."""
    page.evaluate("wbcpipeReview.journal.poll = async () => undefined")


def assign(page: Page, row: int, key: str) -> None:
    page.evaluate(f"wbcpipeReview.gallery.moveToRow({row})")
    page.keyboard.press(key)


def entries(sample: Sample) -> list[dict[str, Any]]:
    lines = (sample.path / "review" / "journal.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["action"] == "assign"]


def test_edits_of_different_cells_merge(make_sample: MakeSample, open_review: OpenReview) -> None:
    sample = make_sample(40)
    anna, ben = open_review(reader="anna"), open_review(reader="ben")
    still(ben)
    assign(anna, 3, "e")
    saved(anna)
    assign(ben, 5, "m")
    saved(ben)
    assert [ben.evaluate(NOW)[row] for row in (3, 5)] == ["EOS", "MO"]
    assert "anna changed 1 cell; merged" in ben.locator(".notices").inner_text()
    anna.wait_for_function("() => wbcpipeReview.review.cells.now[5] === 'MO'")
    assert [entry["reader"] for entry in entries(sample)] == ["anna", "ben"]


def test_an_edit_of_the_same_cell_is_not_written_and_both_are_shown(
    make_sample: MakeSample, open_review: OpenReview
) -> None:
    sample = make_sample(40)
    anna, ben = open_review(reader="anna"), open_review(reader="ben")
    still(ben)
    assign(anna, 3, "e")
    saved(anna)
    assign(ben, 3, "m")
    notice = ben.locator(".notice.bad")
    notice.wait_for()
    assert "Not written" in notice.inner_text()
    assert "anna" in notice.inner_text()
    assert ben.evaluate(NOW)[3] == "EOS"
    assert len(entries(sample)) == 1
    notice.get_by_role("button", name="Write mine after all").click()
    saved(ben)
    assert ben.evaluate(NOW)[3] == "MO"
    assert [(change["from"], change["to"]) for change in entries(sample)[-1]["cells"]] == [
        ("EOS", "MO")
    ]
    anna.wait_for_function("() => wbcpipeReview.review.cells.now[3] === 'MO'")


def test_a_reader_undoes_the_own_edits_alone(
    make_sample: MakeSample, open_review: OpenReview
) -> None:
    make_sample(40)
    anna = open_review(reader="anna")
    assign(anna, 3, "e")
    saved(anna)
    ben = open_review(reader="ben")
    assign(ben, 5, "m")
    saved(ben)
    ben.keyboard.press("Control+z")
    saved(ben)
    ben.keyboard.press("Control+z")
    assert ben.evaluate(NOW)[3] == "EOS"
    assert ben.evaluate(NOW)[5] != "MO"


def test_two_windows_of_one_reader_show_the_same(
    make_sample: MakeSample, open_review: OpenReview, site: Any, browser: Any
) -> None:
    make_sample(40)
    context = site.login(browser, "anna")
    first, second = open_review(context=context), open_review(context=context)
    first.bring_to_front()
    assign(first, 3, "e")
    saved(first)
    second.bring_to_front()
    second.wait_for_function("() => wbcpipeReview.review.cells.now[3] === 'EOS'")
    second.keyboard.press("Control+z")
    saved(second)
    first.bring_to_front()
    first.wait_for_function("() => wbcpipeReview.review.cells.now[3] !== 'EOS'")


def test_a_blind_reading_hides_the_model_in_every_window_of_the_reader(
    make_sample: MakeSample, open_review: OpenReview, site: Any, browser: Any
) -> None:
    make_sample(30)
    context = site.login(browser, "anna")
    first, second = open_review(context=context), open_review(context=context)
    first.bring_to_front()
    first.click(".menu summary")
    first.click("#blind")
    first.fill("#blind-cells", "5")
    first.click("dialog .primary")
    first.wait_for_selector("#state[data-state=blind]")
    second.bring_to_front()
    second.wait_for_selector("#state[data-state=blind]")
    assert second.evaluate("wbcpipeReview.review.cells.machine") is None
    assert second.locator(".tile:not([hidden])").count() == 5
