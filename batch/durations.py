"""Durations and sizes for people."""

from __future__ import annotations

__all__ = ["format_bytes", "format_seconds"]


def format_seconds(seconds: float) -> str:
    """Return a duration in the units that matter.

    >>> format_seconds(45.2), format_seconds(330), format_seconds(27000)
    ('45 s', '6 min', '7 h 30 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def format_bytes(number: float) -> str:
    """Return a size in GB, or in MB below one.

    >>> format_bytes(33_554_432), format_bytes(2_400_000_000)
    ('34 MB', '2.4 GB')
    """
    return f"{number / 1e9:.3g} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"
