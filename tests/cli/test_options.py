"""Options that several commands share."""

from __future__ import annotations

from datetime import datetime

import pytest

from wbcpipe.cli.options import deadline_time


@pytest.mark.parametrize("text", ["", "soon", "90", "25:00", "12:60", "0m", "1h 30m", "-5m"])
def test_a_bad_deadline_says_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match=r"such as 90m|give 00:00 to 23:59"):
        deadline_time(text, datetime(2026, 1, 1))
