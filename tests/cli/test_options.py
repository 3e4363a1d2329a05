"""Options that several commands share."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from wbcpipe.cli.options import deadline_time


@pytest.mark.parametrize("text", ["", "soon", "90", "25:00", "12:60", "0m", "1h 30m", "-5m"])
def test_a_bad_deadline_says_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match=r"such as 90m|give 00:00 to 23:59"):
        deadline_time(text, datetime(2026, 1, 1))


local_times = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1))


@given(
    local_times,
    st.integers(0, 999),
    st.integers(0, 9999),
    st.integers(0, 99_999),
    st.integers(1, 7),
)
def test_a_span_is_counted_from_now(
    now: datetime, hours: int, minutes: int, seconds: int, named: int
) -> None:
    parts = {"h": hours * (named & 1), "m": minutes * (named >> 1 & 1), "s": seconds * (named >> 2)}
    text = "".join(f"{number}{unit}" for unit, number in parts.items() if number)
    assume(text)
    length = timedelta(hours=parts["h"], minutes=parts["m"], seconds=parts["s"])
    assert deadline_time(text, now) == now + length


@given(local_times, st.integers(0, 23), st.integers(0, 59))
def test_a_time_of_day_is_the_next_one(now: datetime, hour: int, minute: int) -> None:
    at = deadline_time(f"{hour}:{minute:02}", now)
    assert (at.hour, at.minute, at.second, at.microsecond) == (hour, minute, 0, 0)
    assert timedelta(0) < at - now <= timedelta(days=1)


@given(st.text(max_size=12))
def test_any_other_text_is_refused_in_words(text: str) -> None:
    now = datetime(2026, 11, 22, 22, 0)
    try:
        at = deadline_time(text, now)
    except ValueError:
        with pytest.raises(ValueError, match=r"such as|give 00:00 to 23:59"):
            deadline_time(text, now)
    else:
        assert at > now
