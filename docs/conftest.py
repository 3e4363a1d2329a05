"""Run the code blocks of the pages, and list them: ``pytest docs``; see `page_blocks`.

The summary lists the executed and the skipped blocks of each page, with the reason of each skip.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))
from page_blocks import PAGES, is_block, page_line, shared_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

pytest_collect_file = PAGES.pytest()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Note which items are blocks, so that the summary counts them."""
    for item in items:
        example = getattr(item, "example", None)
        if example is not None and is_block(example):
            item.user_properties.append(("block", page_line(example)))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Remove the shared samples when the last worker has ended."""
    if hasattr(session.config, "workerinput") or "DOCS_SAMPLES" in os.environ:
        return
    workers = session.config.pluginmanager.get_plugin("dsession")
    if workers is not None:
        os.environ["PYTEST_XDIST_TESTRUNUID"] = workers.nodemanager.testrunuid
    shutil.rmtree(shared_folder(), ignore_errors=True)


def _blocks(reports: list[pytest.TestReport]) -> Iterator[tuple[str, str]]:
    """Yield (page:line, reason of the skip or empty) of the blocks of some reports."""
    for report in reports:
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        for kind, text in report.user_properties:
            if kind == "block":
                yield str(text), why.removeprefix("Skipped: ")
            elif kind == "skipped block":
                block, _, reason = str(text).partition(" ")
                yield block, reason


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the executed and skipped blocks of each page."""
    stats = terminalreporter.stats
    found = list(_blocks([*stats.get("passed", []), *stats.get("skipped", [])]))
    if not found:
        return
    pages: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for block, why in found:
        pages[block.rpartition(":")[0]][bool(why)] += 1
    ran, left_out = (sum(counts[column] for counts in pages.values()) for column in (0, 1))
    terminalreporter.section(f"code blocks: {ran} executed, {left_out} skipped")
    for page, counts in sorted(pages.items()):
        terminalreporter.write_line(f"{page}: {counts[0]} executed, {counts[1]} skipped")
    for block, why in sorted(found):
        if why:
            terminalreporter.write_line(f"  skipped {block}: {why}")
