"""LOINC codes of the differential, without a method, and their check digit.

This material contains content from LOINC (http://loinc.org). LOINC is copyright Regenstrief
Institute, Inc. and the Logical Observation Identifiers Names and Codes (LOINC) Committee and is
available at no cost under the license at http://loinc.org/license. LOINC is a registered United
States trademark of Regenstrief Institute, Inc.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

__all__ = [
    "CLASS_TERMS",
    "LOINC_VERSION",
    "PANEL_TERM",
    "WBC_TERM",
    "ClassTerms",
    "Term",
    "check_loinc",
]

#: Release of LOINC whose display texts are used.
LOINC_VERSION: Final = "2.78"
_CODE: Final = re.compile(r"([1-9][0-9]{0,6})-([0-9])")


class Term(NamedTuple):
    """A LOINC code and its long common name."""

    code: str
    display: str


class ClassTerms(NamedTuple):
    """The terms of one class: its share of the white cells, and its concentration."""

    percent: Term
    absolute: Term


PANEL_TERM: Final = Term("69738-3", "Differential panel, method unspecified - Blood")
WBC_TERM: Final = Term("26464-8", "Leukocytes [#/volume] in Blood")
#: Class of the shipped models to its terms. Neutrophils include band forms, which have a code of
#: their own (26508-2).
CLASS_TERMS: Final[dict[str, ClassTerms]] = {
    "NEU": ClassTerms(
        Term("26511-6", "Neutrophils/100 leukocytes in Blood"),
        Term("26499-4", "Neutrophils [#/volume] in Blood"),
    ),
    "LYM": ClassTerms(
        Term("26478-8", "Lymphocytes/100 leukocytes in Blood"),
        Term("26474-7", "Lymphocytes [#/volume] in Blood"),
    ),
    "MO": ClassTerms(
        Term("26485-3", "Monocytes/100 leukocytes in Blood"),
        Term("26484-6", "Monocytes [#/volume] in Blood"),
    ),
    "EOS": ClassTerms(
        Term("26450-7", "Eosinophils/100 leukocytes in Blood"),
        Term("26449-9", "Eosinophils [#/volume] in Blood"),
    ),
    "BAS": ClassTerms(
        Term("30180-4", "Basophils/100 leukocytes in Blood"),
        Term("26444-0", "Basophils [#/volume] in Blood"),
    ),
}


def check_loinc(code: str) -> str:
    """Return a LOINC code whose check digit is right (modulus 10; LOINC Users' Guide, "Check
    digit").

    Raises:
        ValueError: it has another form, or another check digit; the text says which would fit.

    >>> check_loinc("26511-6")
    '26511-6'
    """
    found = _CODE.fullmatch(code)
    if found is None:
        raise ValueError(
            "no LOINC code: digits, a dash and a check digit are needed, such as 26511-6"
        )
    backwards = found[1][::-1]
    doubled = str(2 * int(backwards[::2][::-1]))
    digit = -sum(int(figure) for figure in backwards[1::2] + doubled) % 10
    if str(digit) != found[2]:
        raise ValueError(
            f"the check digit of the LOINC code is wrong: {found[1]}-{digit} would be right"
        )
    return code
