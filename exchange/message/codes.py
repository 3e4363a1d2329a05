"""Closed tables: states, units, flags and codes that a document may hold; anything else is refused.

The libraries that write and read the documents accept any text for these.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from wbcpipe.laboratory.loinc import PANEL_TERM, WBC_TERM
from wbcpipe.samples.order_record import Sex

__all__ = [
    "LOCAL",
    "LOINC",
    "PANEL",
    "SEXES",
    "STATES",
    "UNIT_NAMES",
    "WBC",
    "AbnormalFlag",
    "Code",
    "ResultState",
    "StateCodes",
    "System",
    "Unit",
]


class System(StrEnum):
    """Coding systems, as HL7 v2 names them (table 0396; those that begin with 99 are local)."""

    LOINC = "LN"
    LOCAL = "99WBC"


LOINC: Final = System.LOINC
LOCAL: Final = System.LOCAL


class Code(NamedTuple):
    """A code, its text and its coding system."""

    code: str
    display: str
    system: System = System.LOINC


PANEL: Final = Code(*PANEL_TERM)
WBC: Final = Code(*WBC_TERM)


class ResultState(StrEnum):
    """The state of a result.

    ``amended`` is signed again with the same figures, ``corrected`` with others; ``cancelled``
    takes back what was never final, ``withdrawn`` what was.
    """

    PRELIMINARY = "preliminary"
    FINAL = "final"
    CORRECTED = "corrected"
    AMENDED = "amended"
    CANCELLED = "cancelled"
    WITHDRAWN = "withdrawn"

    @property
    def has_values(self) -> bool:
        """Whether a document of this state holds figures."""
        return self not in (ResultState.CANCELLED, ResultState.WITHDRAWN)

    @property
    def signed(self) -> bool:
        """Whether a person vouches for the figures."""
        return self in (ResultState.FINAL, ResultState.CORRECTED, ResultState.AMENDED)


class StateCodes(NamedTuple):
    """A state in the documents.

    Attributes:
        fhir: status of DiagnosticReport and Observation.
        obx_11: table 0085.
        obr_25: table 0123.
    """

    fhir: str
    obx_11: str
    obr_25: str


STATES: Final[dict[ResultState, StateCodes]] = {
    ResultState.PRELIMINARY: StateCodes("preliminary", "P", "P"),
    ResultState.FINAL: StateCodes("final", "F", "F"),
    ResultState.CORRECTED: StateCodes("corrected", "C", "C"),
    ResultState.AMENDED: StateCodes("amended", "C", "C"),
    ResultState.CANCELLED: StateCodes("cancelled", "X", "X"),
    ResultState.WITHDRAWN: StateCodes("entered-in-error", "W", "X"),
}


class Unit(StrEnum):
    """Units, in UCUM."""

    PERCENT = "%"
    PER_UL = "10*3/uL"
    PER_100_WBC = "/100{WBCs}"


#: Units in words, for people.
UNIT_NAMES: Final[dict[Unit, str]] = {
    Unit.PERCENT: "percent",
    Unit.PER_UL: "thousand per microliter",
    Unit.PER_100_WBC: "per 100 white cells",
}


class AbnormalFlag(StrEnum):
    """Flags that table 0078 of HL7 v2 and v3-ObservationInterpretation of FHIR share."""

    NORMAL = "N"
    LOW = "L"
    HIGH = "H"
    CRITICAL_LOW = "LL"
    CRITICAL_HIGH = "HH"


#: Table 0001 of HL7 v2.
SEXES: Final[dict[Sex, str]] = {Sex.FEMALE: "F", Sex.MALE: "M", Sex.OTHER: "O", Sex.UNKNOWN: "U"}
