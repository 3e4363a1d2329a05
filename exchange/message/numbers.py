"""Numbers of documents: decimal figures that every writer and reader takes alike."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final

__all__ = ["decimal_text", "parse_count", "parse_decimal", "rounded"]

#: No sign, exponent, blank or comma: what is no plain figure is refused.
_DECIMAL: Final = re.compile(r"(0|[1-9][0-9]{0,6})(\.[0-9]{1,6})?")
_COUNT: Final = re.compile(r"0|[1-9][0-9]{0,8}")


def rounded(value: float, decimals: int) -> Decimal:
    """Return a figure with a fixed number of decimals.

    >>> rounded(60.0, 1), rounded(5.25, 1)
    (Decimal('60.0'), Decimal('5.2'))
    """
    return Decimal(repr(value)).quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_EVEN)


def decimal_text(value: Decimal) -> str:
    """Return the text of a figure, which `parse_decimal` turns into the same figure.

    Raises:
        ValueError: it is negative, not finite or too long.
    """
    text = f"{value:f}"
    if not _DECIMAL.fullmatch(text):
        raise ValueError(
            f"{value} cannot be sent; figures from 0 to 9999999 with at most 6 decimals can"
        )
    return text


def parse_decimal(text: str) -> Decimal:
    """Return the figure of a text.

    Raises:
        ValueError: it is no plain figure.

    >>> parse_decimal("41.50")
    Decimal('41.50')
    """
    if not _DECIMAL.fullmatch(text):
        raise ValueError(
            f"{text[:40]!r} is not a figure; digits and one point are allowed, such as 41.5"
        )
    return Decimal(text)


def parse_count(text: str) -> int:
    """Return the whole number of a text.

    Raises:
        ValueError: it is none.
    """
    if not _COUNT.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a count; digits alone are allowed")
    return int(text)
