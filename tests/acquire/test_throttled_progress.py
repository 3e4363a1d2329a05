"""Messages of a long phase come every few seconds, not at each step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wbcpipe.acquire.throttled_progress import ThrottledProgress

if TYPE_CHECKING:
    import pytest


def test_messages_are_passed_on_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, messages = [100.0], list[str]()
    monkeypatch.setattr("wbcpipe.acquire.throttled_progress.time.monotonic", lambda: now_s[0])
    progress = ThrottledProgress(messages.append, every_s=5.0)
    for second in range(13):
        now_s[0] = 100.0 + second
        progress(f"point {second}")
    assert messages == ["point 5", "point 10"]
