"""Files that a user names: what they may be and how large, checked before anything is allocated.

Every reader of a file that is given on the command line begins here, so that a folder, an endless
device, a picture that declares a terabyte or JSON that is nested too deep ends in one line of
words.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import psutil

from wbcpipe.system.file_kinds import kind_of_special
from wbcpipe.system.files import parse_json

if TYPE_CHECKING:
    from pathlib import Path

    from wbcpipe.errors import WbcpipeError

__all__ = ["MAX_DECODED_BYTES", "MAX_IMAGE_PIXELS", "MAX_TEXT_BYTES", "UserFile", "printable"]

#: Pixels of one image: more than the largest field of view of a microscope's camera (61
#: megapixels).
MAX_IMAGE_PIXELS: Final = 2**26
#: Bytes of all images of one file, decoded; they are held in memory together.
MAX_DECODED_BYTES: Final = 8 * 2**30
#: Bytes of a file of settings.
MAX_TEXT_BYTES: Final = 4 * 2**20
#: Stand in Python for bytes of a name that are not UTF-8 (U+DC80 to U+DCFF), or for half of a
#: character.
_SURROGATES: Final = re.compile("[\ud800-\udfff]")
#: What may have no end when it is read.
_ENDLESS: Final = {"a device", "a pipe"}


def printable(text: str) -> str:
    r"""Return text that every file and terminal takes: bytes of a file name that are not UTF-8
    become ``\xNN``.

    >>> printable("caf\udce9.png")
    'caf\\xe9.png'
    """
    return _SURROGATES.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


@dataclass(frozen=True)
class UserFile:
    """A file that a user named.

    Attributes:
        path: the file.
        what: it should be, with its article, such as ``a recipe``.
        error: raised where it is not.
    """

    path: Path
    what: str
    error: type[WbcpipeError]

    @property
    def name(self) -> str:
        """Its path, as it can be printed."""
        return printable(str(self.path))

    def refuse(self, reason: str) -> WbcpipeError:
        """Return the error for a reason, which says what to do."""
        return self.error(f"{self.name}: {' '.join(printable(reason).split())}")

    def size(self) -> int:
        """Return the bytes of the file.

        Raises:
            WbcpipeError: ``error``, if it is not there or is not a regular file.
        """
        try:
            found = self.path.stat()
        except FileNotFoundError as error:
            raise self.refuse(f"there is no such file; give the path of {self.what}.") from error
        except (OSError, ValueError) as error:  # such as a name that is too long, or one with a NUL
            raise self.refuse(
                f"cannot be read ({_reason(error)}); give the path of {self.what}."
            ) from error
        if kind := kind_of_special(self.path):
            endless = ", which may have no end" if kind in _ENDLESS else ""
            raise self.refuse(
                f"this is {kind}{endless}; give the path of {self.what}, a regular file."
            )
        return found.st_size

    def read(self, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
        """Return the content of the file, of at most ``max_bytes``.

        Raises:
            WbcpipeError: ``error``, if it is not a regular file, cannot be read or is longer.
        """
        size = self.size()
        try:
            with self.path.open("rb") as handle:
                content = (
                    b"" if size > max_bytes else handle.read(max_bytes + 1)
                )  # it may have grown
        except OSError as error:
            raise self.refuse(
                f"cannot be read ({_reason(error)}); if another program has it open, close it "
                f"there."
            ) from error
        if max(size, len(content)) > max_bytes:
            raise self.refuse(
                f"{max(size, len(content)) / 1e6:.1f} MB; {self.what} has at most "
                f"{max_bytes / 1e6:.1f} MB."
            )
        return content

    def read_text(self, max_bytes: int = MAX_TEXT_BYTES) -> str:
        """Return the content as text in UTF-8, with or without a byte-order mark.

        Errors as for `read`.
        """
        try:
            return self.read(max_bytes).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise self.refuse(
                f"not text in UTF-8 (byte {error.start}); save it as UTF-8."
            ) from error

    def read_json(self) -> Any:
        """Return the content of a JSON file.

        Errors as for `read`, also where it is no JSON or nested too deep.
        """
        return self._parse("JSON", parse_json)

    def read_toml(self) -> dict[str, Any]:
        """Return the content of a TOML file; errors as for `read_json`."""
        content: dict[str, Any] = self._parse("TOML", tomllib.loads)
        return content

    def _parse(self, language: str, loads: Any) -> Any:
        text = self.read_text()
        try:
            return loads(text)
        except RecursionError as error:
            raise self.refuse(f"{language} nested too deep to be {self.what}.") from error
        except ValueError as error:
            raise self.refuse(f"not readable as {language} ({error}).") from error

    def check_pixels(self, height: int, width: int) -> None:
        """Raise ``error`` for an image of no or of too many pixels.

        Call it before the image is decoded.
        """
        if height < 1 or width < 1:
            raise self.refuse(
                f"{width} x {height} pixels: an image without a pixel; replace or leave out the "
                f"file."
            )
        if height * width > MAX_IMAGE_PIXELS:
            raise self.refuse(
                f"{width} x {height} pixels are {height * width / 1e6:.0f} megapixels; at most "
                f"{MAX_IMAGE_PIXELS / 1e6:.0f} are allowed: cut the image into fields of view."
            )

    def check_decoded_bytes(self, count: int) -> None:
        """Raise ``error`` for content that takes too much memory; call it before it is decoded."""
        if count > MAX_DECODED_BYTES:
            raise self.refuse(
                f"declares {count / 1e9:.4g} GB of images; a file may hold "
                f"{MAX_DECODED_BYTES / 1e9:.1f} GB: split it."
            )
        available = psutil.virtual_memory().available
        if count > available:
            raise self.refuse(
                f"declares {count / 1e9:.1f} GB of images, and {available / 1e9:.1f} GB of memory "
                f"are free: split the file, or close other programs."
            )


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
