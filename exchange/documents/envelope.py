"""What a document says about its receiver, and the error of one that is refused."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator

from wbcpipe.errors import DocumentError, MissingPackageError
from wbcpipe.samples.records import Part
from wbcpipe.samples.review.texts import check_text

__all__ = ["Envelope", "missing_extra", "refuse"]

HeaderText = Annotated[str, AfterValidator(lambda text: check_text(text, max_length=64))]


class Envelope(Part):
    """Sender and receiver.

    Attributes:
        sending_facility: name of the laboratory.
        receiving_application, receiving_facility: of the laboratory system.
        processing: ``P`` production, ``T`` training, ``D`` debugging (table 0103).
        patient_authority: who assigned the patient's identifier.
    """

    sending_facility: HeaderText = ""
    receiving_application: HeaderText = ""
    receiving_facility: HeaderText = ""
    processing: Literal["P", "T", "D"] = "P"
    patient_authority: HeaderText = ""


def refuse(line: int, place: str, reason: str) -> DocumentError:
    """Return the error for a document: its line, the place in it and the reason."""
    return DocumentError(f"line {line}, {place}: {' '.join(reason.split())}.")


def missing_extra(package: str) -> MissingPackageError:
    """Return the error for a library that is not installed."""
    return MissingPackageError(
        f"documents for a laboratory system need the package {package}, which is not installed; "
        f"run `pip install 'wbcpipe[lis]'`."
    )
