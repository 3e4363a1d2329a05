"""The field around a cell, the map of the slide, and the cell-location test, on fields of the
virtual scope.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Page

    from wbcpipe.samples.sample import Sample


def test_the_field_shows_neighbours_and_the_map_and_goes_back_to_the_same_place(
    slide: Sample, open_review: Callable[..., Page]
) -> None:
    assert slide.exists()
    page = open_review()
    page.keyboard.press("ArrowRight")
    row, cursor = page.evaluate(
        "[wbcpipeReview.gallery.active, wbcpipeReview.gallery.selection.cursor]"
    )
    page.keyboard.press("Enter")
    page.wait_for_selector(".outline.here")
    page.wait_for_function("() => document.querySelector('.picture img').naturalWidth > 0")
    field = page.evaluate(f"wbcpipeReview.review.cells.field[{row}]")
    same = page.evaluate(
        f"wbcpipeReview.review.cells.field.filter((one) => one === {field}).length"
    )
    assert page.locator(".outline").count() == same
    assert page.locator(".outline.here").get_attribute("data-row") == str(row)
    assert page.locator(".map .field").count() == 2
    assert page.locator(".map .cells circle").count() == page.evaluate("wbcpipeReview.review.size")
    page.keyboard.press("7")
    page.wait_for_function(
        "() => document.querySelector('.picture img').src.includes('modality=fluorescence')"
    )
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    after = page.evaluate("[wbcpipeReview.gallery.active, wbcpipeReview.gallery.selection.cursor]")
    assert after == [row, cursor]
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("wbcpipeReview.gallery.selection.cursor") == cursor - 1
    page.keyboard.press("Enter")
    page.wait_for_selector(".outline.here")
    page.click(".map .field:not(.here)")
    page.wait_for_function(
        f"() => !document.querySelector('.picture img').src.includes('/fields/{field}.webp')"
    )
    page.wait_for_selector(
        ".outline.here", state="detached"
    )  # the outlines are those of the other field
    page.wait_for_selector(".outline")
    other = int(page.locator(".outline").first.get_attribute("data-row") or -1)
    page.locator(".outline").first.click(force=True)
    assert page.evaluate("wbcpipeReview.gallery.active") == other


def test_missed_cells_are_marked_and_the_share_that_was_found_is_told(
    slide: Sample, open_review: Callable[..., Page]
) -> None:
    page = open_review()
    page.click(".menu summary")
    page.click("#location-test")
    page.wait_for_selector(".marking polygon")
    box = page.locator(".marking").bounding_box()
    assert box is not None
    page.locator(".marking").click(position={"x": 3, "y": 3})
    page.locator(".marking").click(position={"x": box["width"] - 3, "y": 3})
    page.locator(".marking").click(position={"x": box["width"] - 3, "y": 3})  # takes it back
    assert page.locator(".missed").count() == 1
    page.get_by_role("button", name="Next field").click()
    page.wait_for_selector(".marking polygon")
    page.get_by_role("button", name="Finish").click()
    page.wait_for_selector(".location-test .figures")
    lines = (slide.path / "review" / "journal.jsonl").read_text().splitlines()
    marks = [entry for entry in map(json.loads, lines) if entry["action"] == "location_mark"]
    assert len(marks) == 1
    assert (marks[0]["y_px"] < 10, marks[0]["x_px"] < 10) == (True, True)
    assert "1 missed" in page.locator(".location-test").inner_text()
