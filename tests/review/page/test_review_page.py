"""Review in a real browser: keys, choice, drag, filters, undo and redo over a reload."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Page

    from wbcpipe.samples.sample import Sample

    MakeSample = Callable[..., Sample]
    OpenReview = Callable[..., Page]

NOW = "() => wbcpipeReview.review.cells.now"
CURSOR = "() => wbcpipeReview.gallery.selection.cursor"
ROW = "() => wbcpipeReview.gallery.active"
CHOSEN = "() => [...wbcpipeReview.gallery.selection.chosen]"
ROWS = "() => wbcpipeReview.gallery.layout.rows"
SHOWN = "() => wbcpipeReview.view.shown"


def saved(page: Page) -> None:
    """Wait until every edit is in the journal and the differential is the server's."""
    page.wait_for_function(
        "() => !wbcpipeReview.journal.unsaved && !wbcpipeReview.review.estimated"
    )


def journal(sample: Sample, action: str = "assign") -> list[dict[str, Any]]:
    path = sample.path / "review" / "journal.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [entry for entry in map(json.loads, lines) if entry["action"] == action]


def shown_percent(page: Page, name: str) -> float:
    return float(
        page.locator(f".differential tr[data-answer={name}] .now").inner_text().strip("●↑↓ ")
    )


def shown_total(page: Page) -> int:
    return int(page.locator(".total").inner_text().split()[0])


def now_of(page: Page, name: str) -> int:
    return sum(one == name for one in page.evaluate(NOW))


@pytest.fixture
def sample(make_sample: MakeSample) -> Sample:
    return make_sample(60)


@pytest.fixture
def page(sample: Sample, open_review: OpenReview) -> Page:
    assert sample.exists()
    return open_review()


def test_a_key_assigns_the_cell_and_moves_on(page: Page, sample: Sample) -> None:
    row, before, total = page.evaluate(ROW), now_of(page, "EOS"), shown_total(page)
    page.keyboard.press("e")
    saved(page)
    assert page.evaluate(NOW)[row] == "EOS"
    assert page.evaluate(CURSOR) == 1
    assert shown_percent(page, "EOS") == round(100 * (before + 1) / total, 1)
    (entry,) = journal(sample)
    assert (entry["reader"], entry["via"]) == ("anna", "key")
    assert [(change["from"], change["to"]) for change in entry["cells"]] == [("NEU", "EOS")]


def test_the_numbers_take_the_most_likely_classes(page: Page) -> None:
    row = page.evaluate(ROW)
    third = page.evaluate(
        f"wbcpipeReview.review.classes[wbcpipeReview.review.cells.order3[{row}][2]]"
    )
    page.keyboard.press("3")
    saved(page)
    assert page.evaluate(NOW)[row] == third


def test_not_a_class_of_cell(page: Page) -> None:
    total = shown_total(page)
    for key in ("u", "x", "a"):
        page.keyboard.press(key)
    saved(page)
    assert shown_total(page) == total - 3
    for name in ("not_classed", "artefact"):
        assert page.locator(f".others li[data-answer={name}] > .n").inner_text().startswith("1")


def test_extra_classes_of_the_laboratory(page: Page) -> None:
    total = shown_total(page)
    page.keyboard.press("s")
    page.keyboard.press("t")
    saved(page)
    smudges = page.locator(".others li[data-answer=SMUDGE]")
    assert smudges.locator("> .n").inner_text() == f"1 · {100 / (total - 1):.1f} per 100 WBC"
    assert smudges.locator("button").get_attribute("title") == "smudge cell"
    assert shown_total(page) == total - 1
    assert shown_percent(page, "BLAST") == round(100 / (total - 1), 1)
    page.keyboard.press("?")
    assert "smudge cell" in page.locator("dialog").inner_text()


def test_arrows_home_end_and_pages_move_the_cursor(page: Page) -> None:
    columns = page.evaluate("wbcpipeReview.gallery.layout.columns")
    last = len(page.evaluate(ROWS)) - 1
    places = []
    for key in (
        "ArrowRight",
        "ArrowDown",
        "ArrowLeft",
        "ArrowUp",
        "End",
        "ArrowRight",
        "PageUp",
        "Home",
        "PageDown",
    ):
        page.keyboard.press(key)
        places.append(page.evaluate(CURSOR))
    length = page.evaluate("wbcpipeReview.gallery.pageLength")
    assert places[:8] == [1, 1 + columns, columns, 0, last, last, last - length, 0]
    assert places[8] == length
    active = page.locator(".tiles").get_attribute("aria-activedescendant")
    assert page.locator(f"#{active}").get_attribute("class") == "tile cursor" or active is not None


def test_shift_control_and_select_all_choose_cells(page: Page, sample: Sample) -> None:
    rows = page.evaluate(ROWS)
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    assert page.evaluate(CHOSEN) == rows[:3]
    page.locator(".tile >> nth=4").click(modifiers=["Control"])
    assert set(page.evaluate(CHOSEN)) == {
        *rows[:3],
        int(page.locator(".tile >> nth=4").get_attribute("data-row") or -1),
    }
    page.mouse.move(5, 5)
    page.keyboard.press("Escape")
    assert page.evaluate(CHOSEN) == []
    page.keyboard.press("Control+a")
    neutrophils = now_of(page, "NEU")
    assert len(page.evaluate(CHOSEN)) == neutrophils
    assert page.locator("#choice").inner_text() == f"{neutrophils} cells chosen"
    page.keyboard.press("l")
    saved(page)
    assert now_of(page, "NEU") == 0
    assert len(journal(sample)[-1]["cells"]) == neutrophils


def test_a_drag_does_what_the_key_does(page: Page, sample: Sample) -> None:
    row = page.evaluate(ROW)
    page.drag_and_drop(".tile.cursor", ".differential tr[data-answer=MO]")
    saved(page)
    assert page.evaluate(NOW)[row] == "MO"
    assert journal(sample)[-1]["via"] == "drag"


def test_a_key_acts_on_the_cell_under_the_mouse(page: Page) -> None:
    tile = page.locator(".tile >> nth=7")
    row = int(tile.get_attribute("data-row") or -1)
    tile.hover()
    page.keyboard.press("b")
    saved(page)
    assert page.evaluate(NOW)[row] == "BAS"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(ROW) == page.evaluate(ROWS)[page.evaluate(CURSOR)]


def test_undo_and_redo_many_steps_over_a_reload(page: Page) -> None:
    first = page.evaluate(NOW)
    for key in ("e", "l", "m"):
        page.keyboard.press(key)
    saved(page)
    last = page.evaluate(NOW)
    assert first != last
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.evaluate(NOW) == last
    for _ in range(3):
        page.keyboard.press("Control+z")
        saved(page)
    assert page.evaluate(NOW) == first
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.evaluate(NOW) == first
    page.keyboard.press("Control+Shift+z")
    page.keyboard.press("Control+y")
    page.click("#redo")
    page.wait_for_function("() => !wbcpipeReview.review.redo.length")
    saved(page)
    assert page.evaluate(NOW) == last
    assert page.locator("#redo").is_disabled()


def test_fast_keys_are_all_written_in_their_order(page: Page, sample: Sample) -> None:
    keys = "elmbn" * 8
    rows = page.evaluate(ROWS)
    page.keyboard.type(keys)
    saved(page)
    classes = {"e": "EOS", "l": "LYM", "m": "MO", "b": "BAS", "n": "NEU"}
    names = page.evaluate("wbcpipeReview.review.cells.key")
    written = [change for entry in journal(sample) for change in entry["cells"]]
    assert [(change["cell"], change["to"]) for change in written] == [
        (names[row], classes[key]) for row, key in zip(rows, keys, strict=False)
    ]


def test_a_cell_stays_in_its_place_until_it_is_sorted_again(page: Page) -> None:
    row = page.evaluate(ROW)
    page.keyboard.press("e")
    saved(page)
    assert page.evaluate(ROWS)[0] == row
    page.keyboard.press("F2")
    section = "wbcpipeReview.gallery.layout.sections.find((one) => one.name === 'EOS')"
    first, length = page.evaluate(f"[{section}.first, {section}.length]")
    assert row in page.evaluate(ROWS)[first : first + length]


def test_sorts_and_filters(page: Page) -> None:
    page.locator(".order input[type=checkbox]").uncheck()
    for sort, column in (
        ("disagreement", "disagreement"),
        ("size", "area_um2"),
        ("doubt", "doubt"),
    ):
        page.select_option("select[name=sort]", sort)
        values = page.evaluate(
            f"wbcpipeReview.gallery.layout.rows.map((row) => "
            f"wbcpipeReview.review.cells.{column}[row])"
        )
        assert values == sorted(values, reverse=True), sort
    page.select_option("select[name=sort]", "field")
    fields = page.evaluate(
        "wbcpipeReview.gallery.layout.rows.map((row) => wbcpipeReview.review.cells.field[row])"
    )
    assert fields == sorted(fields)
    page.select_option("select[name=flag]", label="doublet")
    assert page.evaluate(ROWS) == [16, 33, 50]
    page.select_option("select[name=flag]", "-1")
    page.locator(".tiles").focus()
    page.keyboard.press("e")
    saved(page)
    page.select_option("select[name=work]", "changed")
    assert len(page.evaluate(ROWS)) == 1
    page.select_option("select[name=work]", "all")
    page.click(".differential tr[data-answer=LYM] button")
    assert len(page.evaluate(ROWS)) == now_of(page, "LYM")
    page.click(".differential tr[data-answer=LYM] button")
    assert len(page.evaluate(ROWS)) == 60


def test_sort_by_similarity_to_the_chosen_cells(page: Page) -> None:
    rows = page.evaluate(ROWS)[:2]
    page.keyboard.press("Shift+ArrowRight")
    page.select_option("select[name=sort]", "similar")
    page.wait_for_function("() => wbcpipeReview.gallery.options.sort === 'similar'")
    assert set(page.evaluate(ROWS)[:2]) == set(rows)


def test_a_modality_shows_as_long_as_its_key_is_held(page: Page) -> None:
    assert page.evaluate(SHOWN) == "colour"
    page.wait_for_function("() => !document.querySelector('.tile.loading:not([hidden])')")
    pixels = "document.querySelector('.tile canvas').toDataURL()"
    page.evaluate(f"window.colour = {pixels}")
    page.keyboard.down("7")
    assert page.evaluate(SHOWN) == "fluorescence"
    assert page.evaluate(f"{pixels} !== colour")
    page.keyboard.up("7")
    assert page.evaluate(SHOWN) == "colour"
    assert page.evaluate(f"{pixels} === colour")
    page.keyboard.press("0")
    page.wait_for_function(f"() => {pixels} !== colour")
    page.keyboard.press("0")
    assert page.evaluate(f"{pixels} === colour")


def test_contrast_is_set_and_reset(page: Page) -> None:
    page.click(".popover:has-text('Brightness') summary")
    page.get_by_label("Contrast in per cent").fill("180")
    assert "contrast(1.8)" in page.evaluate(
        "getComputedStyle(document.querySelector('.tile canvas')).filter"
    )
    page.get_by_role("button", name="Reset").click()
    assert (
        page.evaluate("getComputedStyle(document.querySelector('.tile canvas')).filter") == "none"
    )


def test_each_head_says_what_it_calls_the_cell(page: Page) -> None:
    split = page.evaluate(
        "wbcpipeReview.gallery.layout.rows.findIndex((row) => new "
        "Set(wbcpipeReview.review.cells.heads[row]).size > 1)"
    )
    page.evaluate(f"wbcpipeReview.gallery.moveTo({split})")
    calls = page.locator(".card:not([hidden]) .head-call").all_inner_texts()
    heads = page.evaluate(
        "wbcpipeReview.review.cells.heads[wbcpipeReview.gallery.active].map((c) => "
        "wbcpipeReview.review.classes[c])"
    )
    assert calls == heads
    assert "The heads disagree" in page.locator(".card:not([hidden]) .says").inner_text()


def test_two_cells_and_two_classes_side_by_side(page: Page) -> None:
    held = page.evaluate(ROW)
    page.keyboard.press("=")
    page.keyboard.press("ArrowRight")
    cards = page.locator(".card:visible")
    assert cards.count() == 2
    assert page.evaluate("wbcpipeReview.inspector.held.row") == held
    page.keyboard.press("=")
    page.evaluate(f"wbcpipeReview.pin({page.evaluate(ROW)})")
    assert page.locator(".card:visible").count() == 1
    page.click(".menu summary")
    page.click("#two")
    classes = page.evaluate("wbcpipeReview.galleries.map((one) => one.options.classes[0])")
    assert len(set(classes)) == 2
    before = page.evaluate("wbcpipeReview.galleries[1].active")
    page.locator("#gallery-2 .tiles").focus()
    page.mouse.move(5, 5)
    page.keyboard.press("b")
    saved(page)
    assert page.evaluate(NOW)[before] == "BAS"


def test_who_looked_is_written_and_not_only_who_changed(page: Page, sample: Sample) -> None:
    names = page.evaluate("wbcpipeReview.review.cells.key")
    rows = page.evaluate(ROWS)[:2]
    page.keyboard.press(" ")
    page.keyboard.press(" ")
    page.wait_for_timeout(100)
    page.evaluate("wbcpipeReview.commands.writeLooks()")
    saved(page)
    looked = [cell for entry in journal(sample, "look") for cell in entry["cells"]]
    assert looked == [names[row] for row in rows]
    assert page.locator("#progress").inner_text() == "2 of 60 looked at"


def test_comments_on_cell_and_sample(page: Page, sample: Sample) -> None:
    page.keyboard.press("/")
    page.fill("dialog textarea", "<img src=x onerror=alert(1)> toxic granules")
    page.click("dialog .primary")
    saved(page)
    assert "toxic granules" in page.locator(".notes .comment").inner_text()
    page.click(".menu summary")
    page.click("#sample-comment")
    page.fill("dialog textarea", "smear too thick")
    page.click("dialog .primary")
    saved(page)
    texts = {entry["text"]: entry["cell"] for entry in journal(sample, "comment")}
    assert texts["smear too thick"] is None
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.locator(".notes .comment").inner_text().startswith("“<img src=x")
    assert page.locator(".notes img").count() == 0


def test_a_lost_answer_is_sent_again_and_written_once(page: Page, sample: Sample) -> None:
    lost: list[Any] = []

    def lose(route: Any) -> None:
        if not lost and route.request.method == "POST":
            lost.append(route.fetch())  # the server writes it
            route.abort()
        else:
            route.continue_()

    page.route("**/entries*", lose)
    page.keyboard.press("e")
    page.wait_for_selector("#saved[data-state=bad]")
    page.wait_for_selector("#saved[data-state=saved]")
    saved(page)
    assert len(journal(sample)) == 1
    assert now_of(page, "EOS") == sum(one == "EOS" for one in page.evaluate(NOW))
    page.keyboard.press("l")
    saved(page)
    assert len(journal(sample)) == 2
