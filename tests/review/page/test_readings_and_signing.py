"""Blind readings, agreement and adjudication, the library; signing, amending, withdrawing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from wbcpipe.report.verify_journal import verify_journal

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Page

    from wbcpipe.samples.sample import Sample

    MakeSample = Callable[..., Sample]
    OpenReview = Callable[..., Page]


def saved(page: Page) -> None:
    page.wait_for_function(
        "() => !wbcpipeReview.journal.unsaved && !wbcpipeReview.review.estimated"
    )


def journal(sample: Sample, action: str) -> list[dict[str, Any]]:
    lines = (sample.path / "review" / "journal.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["action"] == action]


def menu(page: Page, item: str) -> None:
    page.click(".menu summary")
    page.click(item)


def read_blind(page: Page, keys: str) -> None:
    menu(page, "#blind")
    page.fill("#blind-cells", str(len(keys)))
    page.click("dialog .primary")
    page.wait_for_selector("#state[data-state=blind]")
    page.locator(".tiles").focus()
    page.mouse.move(5, 5)
    page.keyboard.type(keys)
    page.wait_for_function("() => !wbcpipeReview.journal.unsaved")
    assert page.evaluate(
        "wbcpipeReview.review.reading.rows.every((row) => wbcpipeReview.review.cells.now[row])"
    )


def finish_blind(page: Page) -> None:
    menu(page, "#blind")
    page.wait_for_selector("#state[data-state=preliminary]")


def test_a_blind_reading_hides_the_model_and_the_other_reader(
    make_sample: MakeSample, open_review: OpenReview
) -> None:
    sample = make_sample(30)
    other = open_review(reader="ben")
    other.keyboard.press("b")
    saved(other)
    page = open_review(reader="anna")
    read_blind(page, "nle")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.evaluate("wbcpipeReview.review.reading.rows.length") == 3
    known = page.evaluate("Object.keys(wbcpipeReview.review.cells)")
    assert not {"machine", "confidence", "heads", "order3", "disagreement", "doubt"} & set(known)
    assert page.evaluate(
        "[...new Set(wbcpipeReview.review.edits.recorded.values())].map((one) => one.entry.action)"
    ) == [
        "reading",
        "call",
        "call",
        "call",
    ]
    assert sorted(page.locator(".tile:not([hidden]) .call").all_inner_texts()) == [
        "EOS",
        "LYM",
        "NEU",
    ]
    assert page.locator(".total").inner_text() == "3 cells counted"
    assert page.locator(".head-call").count() == 0
    page.locator(".tiles").focus()
    page.keyboard.press("m")  # a later call replaces the earlier one
    page.wait_for_function("() => !wbcpipeReview.journal.unsaved")
    finish_blind(page)
    assert [entry["to"] for entry in journal(sample, "call")] == ["NEU", "LYM", "EOS", "MO"]
    assert page.evaluate("wbcpipeReview.review.cells.machine.length") == 30


def test_two_readings_agreement_and_adjudication(
    make_sample: MakeSample, open_review: OpenReview, site: Any
) -> None:
    sample = make_sample(30)
    anna, ben = open_review(reader="anna"), open_review(reader="ben")
    for page, keys in ((anna, "nnnllleee"), (ben, "nnnllleee")):
        read_blind(page, keys)
        finish_blind(page)
    calls = [
        {entry["cell"]: entry["to"] for entry in journal(sample, "call") if entry["reader"] == who}
        for who in ("anna", "ben")
    ]
    assert calls[0].keys() == calls[1].keys()
    differ = [cell for cell, to in calls[0].items() if calls[1][cell] != to]
    assert differ
    judge = open_review(reader="chris")
    menu(judge, "#agreement")
    judge.wait_for_selector("dialog .figures")
    text = judge.locator("dialog").inner_text()
    assert "Cohen's kappa" in text
    assert "Reference differential" in text
    assert f"differ on {len(differ)} cell" in text
    judge.get_by_role("button", name="Adjudicate").click()
    assert len(judge.evaluate("wbcpipeReview.gallery.layout.rows")) == len(differ)
    first = judge.evaluate("wbcpipeReview.review.cells.key[wbcpipeReview.gallery.active]")
    assert (
        f"anna: {calls[0][first]} · ben: {calls[1][first]}"
        in judge.locator(".between").first.inner_text()
    )
    judge.fill("#mode input", "granules under AO")
    judge.locator(".tiles").focus()
    judge.keyboard.press("e")
    saved(judge)
    (entry,) = journal(sample, "adjudicate")
    assert (entry["cell"], entry["to"], entry["between"], entry["why"]) == (
        first,
        "EOS",
        ["anna", "ben"],
        "granules under AO",
    )
    judge.get_by_role("button", name="End", exact=True).click()
    assert len(judge.evaluate("wbcpipeReview.gallery.layout.rows")) == 30
    judge.keyboard.press("Control+z")
    saved(judge)
    assert len(journal(sample, "undo")) == 1
    assert judge.locator("#announcements").inner_text() == "Undone: a decision for EOS."
    menu(judge, "#show-library")
    judge.wait_for_selector("dialog .library figure")
    assert site.samples[-1] in judge.locator("dialog .library figcaption").first.inner_text()


def test_sign_amend_and_sign_again(make_sample: MakeSample, open_review: OpenReview) -> None:
    sample = make_sample(40)
    page = open_review()
    page.click("#sign")
    page.wait_for_selector("dialog .checks .bad")
    assert page.get_by_role("button", name="Sign", exact=True).is_disabled()
    page.keyboard.press("Escape")
    unidentified = page.evaluate(
        "wbcpipeReview.review.cells.now.filter((one) => one === 'unidentified').length"
    )
    if unidentified:
        page.locator(".others [data-answer=unidentified] button").click()
        page.keyboard.press("Control+a")
        page.keyboard.press("n")
        saved(page)
    page.evaluate("wbcpipeReview.gallery.arrange({ classes: [], grouped: false })")
    page.locator(".tiles").focus()
    page.keyboard.press("Home")
    page.keyboard.press("Shift+End")
    page.keyboard.press(" ")
    page.evaluate("wbcpipeReview.commands.writeLooks()")
    saved(page)
    page.click("#sign")
    page.fill("#sign-comment", "smear of good quality")
    page.get_by_role("button", name="Sign", exact=True).click()
    page.wait_for_selector("#state[data-state=verified]")
    page.wait_for_selector("dialog", state="detached")
    assert journal(sample, "sign")[0]["comment"] == "smear of good quality"
    assert not verify_journal(sample).problems
    page.locator(".tiles").focus()
    page.keyboard.press("Home")
    before = page.evaluate("wbcpipeReview.review.cells.now")
    page.keyboard.press("e")
    assert page.evaluate("wbcpipeReview.review.cells.now") == before
    assert "Amend it" in page.locator(".notices").inner_text()
    page.click("#sign")
    page.get_by_role("button", name="Amend").click()
    page.fill("dialog textarea", "the first cell is an eosinophil")
    page.click("dialog .primary")
    page.wait_for_selector("#state[data-state=preliminary]")
    page.locator(".tiles").focus()
    page.keyboard.press("e")
    saved(page)
    page.click("#sign")
    page.get_by_role("button", name="Sign", exact=True).click()
    page.wait_for_selector("#state[data-state=corrected]")
    page.click("#sign")
    page.get_by_role("button", name="Withdraw").click()
    page.fill("dialog textarea", "wrong patient")
    page.click("dialog .primary")
    page.wait_for_selector("#state[data-state=preliminary]")
    assert [len(journal(sample, action)) for action in ("sign", "amend", "unsign")] == [2, 1, 1]


@pytest.mark.parametrize("name", ["S-evil.1", "a.b_c-d"])
def test_names_and_texts_never_become_script(
    make_sample: MakeSample, open_review: OpenReview, name: str
) -> None:
    make_sample(12, name)
    page = open_review(reader="<script>alert(1)</script>")
    alerts: list[str] = []
    page.on("dialog", lambda dialog: alerts.append(dialog.message))
    page.evaluate("wbcpipeReview.commands.comment(0, '<img src=x onerror=alert(1)>')")
    page.evaluate("wbcpipeReview.gallery.moveToRow(0)")
    saved(page)
    other = page.context.new_page()  # whose refused script is no fault of the page
    other.goto(page.url)
    other.evaluate(
        "const s = document.createElement('script'); s.textContent = 'hacked = 1'; "
        "document.body.append(s)"
    )
    assert other.evaluate("typeof hacked") == "undefined"
    assert "<script>" in page.locator(".side").first.inner_text()
    assert alerts == []
