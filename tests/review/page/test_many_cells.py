"""A sample of 10,000 cells: a window of live tiles, whatever their number."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Page

    from wbcpipe.samples.sample import Sample


def test_only_a_window_of_tiles_is_live(
    make_sample: Callable[..., Sample], open_review: Callable[..., Page]
) -> None:
    number = 10_000
    make_sample(number)
    page = open_review()
    live = "document.querySelectorAll('.tile').length"
    assert page.evaluate("wbcpipeReview.gallery.layout.length") == number
    assert page.evaluate(live) < 100
    for key in ("End", "PageUp", "Home", "PageDown", ",", ","):
        page.keyboard.press(key)
        assert page.evaluate(live) < 100
        cursor = page.evaluate("wbcpipeReview.gallery.selection.cursor")
        tile = page.locator(".tile.cursor")
        assert tile.get_attribute("data-position") == str(cursor)
        box, frame = tile.bounding_box(), page.locator(".scroller").bounding_box()
        assert box is not None
        assert frame is not None
        assert (
            frame["y"]
            <= box["y"] + 1
            < box["y"] + box["height"]
            <= frame["y"] + frame["height"] + 1
        )
    page.wait_for_function(
        "() => !document.querySelector('.tile.loading:not([hidden])')", timeout=20_000
    )
    row = page.evaluate("wbcpipeReview.gallery.active")
    page.keyboard.press("b")
    page.wait_for_function(
        "() => !wbcpipeReview.journal.unsaved && !wbcpipeReview.review.estimated"
    )
    assert page.evaluate("wbcpipeReview.review.cells.now")[row] == "BAS"
    page.keyboard.press("Control+a")
    page.keyboard.press("m")
    page.wait_for_function(
        "() => !wbcpipeReview.journal.unsaved && !wbcpipeReview.review.estimated"
    )
    page.keyboard.press("Control+z")
    page.wait_for_function(
        "() => !wbcpipeReview.journal.unsaved && !wbcpipeReview.review.estimated"
    )
