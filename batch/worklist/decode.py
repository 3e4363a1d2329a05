"""The bytes of a worklist as text, whatever program saved them."""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, Final

from wbcpipe.errors import WorklistError
from wbcpipe.system.user_files import UserFile

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MAX_BYTES", "decode", "read_bytes"]

#: A worklist of some thousand slides takes less than a tenth of it.
MAX_BYTES: Final = 2 * 2**20
_SAVE_AS_CSV: Final = (
    "open it in the program that made it and save it as CSV: in Excel 'CSV UTF-8 (Comma "
    "delimited)', in LibreOffice 'Text CSV', in Numbers 'Export to CSV'"
)
#: First bytes of files that are no text.
_FORMATS: Final = {
    b"PK\x03\x04": "a spreadsheet file (.xlsx, .ods or .numbers)",
    b"\xd0\xcf\x11\xe0": "a spreadsheet file (.xls)",
    b"%PDF": "a PDF file",
    b"{\\rtf": "a text document (.rtf)",
    b"<": "an HTML or XML file",
}
#: Control characters but tab and line feed, and halves of surrogate pairs.
_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
#: The longest first: the mark of UTF-16 is the beginning of that of UTF-32.
_MARKS: Final = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


def read_bytes(path: Path) -> bytes:
    """Read a worklist file; it is never written to.

    Raises:
        WorklistError: there is no such file, it cannot be read, or it is longer than 2 MB.
    """
    return UserFile(path, "a worklist (CSV)", WorklistError).read(MAX_BYTES)


def decode(content: bytes) -> str:
    r"""Return the text of a worklist, with ``\n`` at the end of each line.

    UTF-8, with or without a byte-order mark; UTF-16 and UTF-32; else Windows-1252.

    Raises:
        ValueError: it is no text; the error says what it is and what to do.

    >>> decode("sample;slot\r\n".encode("utf-16"))
    'sample;slot\n'
    """
    for start, name in _FORMATS.items():
        if content.startswith(start):
            raise ValueError(f"this is {name}, not CSV; {_SAVE_AS_CSV}.")
    text = _text(content)
    # A file that was copied in text mode has its line ends twice.
    text = text.replace("\r\r\n", "\n").replace("\r\n", "\n").replace("\r", "\n")
    if found := _CONTROL.search(text):
        what = "a NUL byte" if found[0] == "\0" else f"the control character U+{ord(found[0]):04X}"
        line = text.count("\n", 0, found.start()) + 1
        raise ValueError(
            f"line {line} has {what}: the file is damaged or is no text; {_SAVE_AS_CSV}."
        )
    return text


def _text(content: bytes) -> str:
    for mark, encoding in _MARKS.items():
        if content.startswith(mark):
            return _strict(content[len(mark) :], encoding)
    if encoding := _utf16_without_mark(content):
        return _strict(content, encoding)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return _strict(content, "cp1252")


def _strict(content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"line {line} has bytes that are not {encoding.upper()} text; save the file as 'CSV "
            f"UTF-8'."
        ) from error


def _utf16_without_mark(content: bytes) -> str:
    """Return the encoding if every second byte is nearly always NUL, as in UTF-16 text of western
    languages.
    """
    if len(content) < 4 or len(content) % 2:
        return ""
    half = len(content) // 2
    for offset, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        if content[offset::2].count(0) > 0.9 * half and content[1 - offset :: 2].count(0) == 0:
            return encoding
    return ""
