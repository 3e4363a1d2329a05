"""The pages with the keyboard alone, for a screen reader, at 200 % zoom, and checked by axe in both
themes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Browser, Page

    from wbcpipe.samples.sample import Sample

    MakeSample = Callable[..., Sample]
    OpenReview = Callable[..., Page]


WCAG = ("wcag2a", "wcag2aa", "wcag21aa", "best-practice")


def violations(page: Page, only: tuple[str, ...] = WCAG) -> list[tuple[str, Any]]:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="pip install 'wbcpipe[browser]'"
    )
    found = axe.Axe().run(page, options={"runOnly": list(only)})
    return [
        (one["id"], [node["html"][:200] for node in one["nodes"]])
        for one in found.response["violations"]
    ]


# A theme changes colours alone.
@pytest.mark.parametrize(
    ("scheme", "only"), [("dark", WCAG), ("light", ("color-contrast",))], ids=["dark", "light"]
)
def test_axe_finds_nothing(
    make_sample: MakeSample, open_review: OpenReview, scheme: str, only: tuple[str, ...]
) -> None:
    make_sample(40)
    page = open_review(color_scheme=scheme)
    page.keyboard.press("e")
    page.keyboard.press("=")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => !document.querySelector('.tile.loading:not([hidden])')")
    assert violations(page, only) == []
    for opener, selector in (
        ("#show-keys", "dialog"),
        ("#sign", "dialog .checks"),
        (".menu summary", ".menu[open]"),
    ):
        page.click(opener)
        page.wait_for_selector(selector, state="attached")
        assert violations(page, only) == []
        page.keyboard.press("Escape")


def test_axe_finds_nothing_on_the_worklist(
    make_sample: MakeSample, site: Any, browser: Browser
) -> None:
    make_sample(12)
    context = site.login(browser, "anna")
    page = context.new_page()
    page.goto(site.url)
    page.wait_for_selector("#samples tbody tr")
    assert violations(page) == []
    page.fill("#find", site.samples[-1])
    assert page.locator("#samples tbody tr").count() == 1
    page.click("#samples tbody a")
    page.wait_for_selector("body[data-ready]")
    context.close()


def test_a_screen_reader_hears_place_class_confidence_and_field(
    make_sample: MakeSample, open_review: OpenReview
) -> None:
    make_sample(40)
    page = open_review()
    box = page.get_by_role("listbox", name="Cells")
    assert box.get_attribute("aria-multiselectable") == "true"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    active = page.locator(f"#{box.get_attribute('aria-activedescendant')}")
    row = page.evaluate("wbcpipeReview.gallery.active")
    confidence, field = page.evaluate(
        f"[wbcpipeReview.review.cells.confidence[{row}].toFixed(2), "
        f"wbcpipeReview.review.cells.field[{row}]]"
    )
    assert (
        active.get_attribute("aria-label")
        == f"cell 3 of 40, neutrophil, {confidence}, field {field}"
    )
    assert (active.get_attribute("aria-posinset"), active.get_attribute("aria-setsize")) == (
        "3",
        "40",
    )
    page.keyboard.press("l")
    assert page.locator("#announcements").inner_text() == "lymphocyte"


def test_the_tab_key_reaches_every_part_and_dialogs_give_the_focus_back(
    make_sample: MakeSample, open_review: OpenReview
) -> None:
    make_sample(20)
    page = open_review()
    page.evaluate("document.activeElement.blur()")
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"undo", "show-keys", "sign", "tiles"} <= {*seen, "undo"}
    assert "class-name" in seen
    page.locator(".tiles").focus()
    page.keyboard.press("?")
    page.wait_for_selector("dialog")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    assert page.evaluate("document.activeElement.className").startswith("tiles")


def test_at_200_percent_nothing_is_cut_off(
    make_sample: MakeSample, open_review: OpenReview
) -> None:
    make_sample(30)
    page = open_review(viewport={"width": 640, "height": 400}, device_scale_factor=2)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("e")
    page.wait_for_function("() => !wbcpipeReview.journal.unsaved")
    page.click("#sign")
    assert page.evaluate(
        "document.querySelector('dialog').getBoundingClientRect().right <= innerWidth"
    )


def test_the_theme_is_the_readers_and_set_before_the_first_paint(
    make_sample: MakeSample, open_review: OpenReview
) -> None:
    make_sample(12)
    page = open_review(color_scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.click(".menu summary")
    page.click("#theme")
    dark = page.evaluate(ground)
    assert dark != light
    page.reload(wait_until="commit")
    page.wait_for_selector(".top")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate(ground) == dark
