"""The first difference between a document and what the writer makes of the same result."""

from __future__ import annotations

from itertools import zip_longest

from wbcpipe.exchange.documents.envelope import refuse

__all__ = ["refuse_differences"]


def refuse_differences(got: bytes, expected: bytes, separator: bytes) -> None:
    """Compare two documents line by line.

    Args:
        got: the document that was read.
        expected: as the writer writes the same result.
        separator: of lines.

    Raises:
        DocumentError: they differ; the text names the line and the first difference in it.
    """
    if got == expected:
        return
    lines = zip_longest(got.split(separator), expected.split(separator), fillvalue=b"")
    for number, (one, other) in enumerate(lines, 1):
        if one != other:
            start = next(
                (k for k, pair in enumerate(zip_longest(one, other)) if pair[0] != pair[1]), 0
            )
            shown = [
                text[max(0, start - 10) : start + 30].decode(errors="replace")
                for text in (one, other)
            ]
            raise refuse(
                number, f"column {start + 1}", f"{shown[0]!r}, where {shown[1]!r} is expected"
            )
