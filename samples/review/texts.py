"""Texts that people type.

Which characters and how many are kept in a journal and shown to others.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Final

from pydantic import AfterValidator

__all__ = ["MAX_COMMENT", "MAX_NAME", "ClassText", "CommentText", "ReaderText", "check_text"]

MAX_NAME: Final = 64
MAX_COMMENT: Final = 4000
#: Characters that reorder text or break lines without being seen, and halves of characters.
_REFUSED: Final = re.compile(
    "[\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def check_text(text: str, *, max_length: int, empty: bool = True, lines: bool = False) -> str:
    r"""Return a text in Unicode's composed form (NFC), if it may be kept.

    Args:
        text: that a person or a file gave.
        max_length: characters that are allowed.
        empty: an empty text is allowed.
        lines: line breaks are allowed.

    Raises:
        ValueError: too long, empty, with blanks at an end, or with characters that control a
            terminal, reorder text or are half of a pair.

    >>> check_text("Jose\u0301", max_length=8)
    'José'
    """
    if len(text) > max_length:
        raise ValueError(f"{len(text)} characters; at most {max_length} are allowed")
    found = unicodedata.normalize("NFC", text)
    if not found and not empty:
        raise ValueError("empty; a text is needed")
    if found != found.strip():
        raise ValueError("blanks at the beginning or the end; leave them out")
    plain = found.replace("\n", "") if lines else found
    for character in plain:
        if unicodedata.category(character) == "Cc" or _REFUSED.match(character):
            raise ValueError(f"the character U+{ord(character):04X} is not allowed")
    if len(found) > max_length:
        raise ValueError(f"{len(found)} characters; at most {max_length} are allowed")
    return found


def _reader(text: str) -> str:
    return check_text(text, max_length=MAX_NAME, empty=False)


def _class(text: str) -> str:
    return check_text(text, max_length=MAX_NAME)


def _comment(text: str) -> str:
    return check_text(text, max_length=MAX_COMMENT, lines=True)


#: The name of a person.
ReaderText = Annotated[str, AfterValidator(_reader)]
#: The name of a class; empty for none.
ClassText = Annotated[str, AfterValidator(_class)]
#: A comment or a reason, which may have several lines.
CommentText = Annotated[str, AfterValidator(_comment)]
