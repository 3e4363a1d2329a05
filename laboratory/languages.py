"""The words of a result in the languages of `laboratory/words`."""

from __future__ import annotations

import functools
import tomllib
from importlib.resources import files
from typing import Final, Literal, get_args

from wbcpipe.samples.records import Part

__all__ = ["LANGUAGES", "Language", "Words", "words"]

Language = Literal["en", "de", "ar"]
LANGUAGES: Final[tuple[Language, ...]] = get_args(Language)


class Words(Part):
    """The words of one language.

    Attributes:
        panel: name of the differential.
        wbc: white cells.
        counted, unidentified_percent: figures of reflex rules.
        preliminary: note on a result that nobody signed.
        other_lab_file: note on a result that was signed under another version of the laboratory's
            file.
        classes: class to its name.
        actions: action of a reflex rule to its text.
    """

    panel: str
    wbc: str
    counted: str
    unidentified_percent: str
    preliminary: str
    other_lab_file: str
    classes: dict[str, str]
    actions: dict[str, str]


@functools.cache
def words(language: Language) -> Words:
    """Return the words of a language."""
    text = (
        files("wbcpipe.laboratory")
        .joinpath("words", f"{language}.toml")
        .read_text(encoding="utf-8")
    )
    return Words.model_validate(tomllib.loads(text))
