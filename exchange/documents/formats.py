"""The formats of a document, and the check that each document says what the result says."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from wbcpipe.errors import DocumentError

if TYPE_CHECKING:
    from wbcpipe.exchange.documents.envelope import Envelope
    from wbcpipe.exchange.message.model import ResultMessage

__all__ = ["SUFFIXES", "DocumentFormat", "read_document", "write_document"]


class DocumentFormat(StrEnum):
    """FHIR R4B bundle, HL7 v2.5.1 ``ORU^R01``, or ``OUL^R22`` as an analyser sends it (IHE LAW)."""

    FHIR = "fhir"
    ORU = "oru"
    OUL = "oul"


SUFFIXES: Final = {
    DocumentFormat.FHIR: ".json",
    DocumentFormat.ORU: ".hl7",
    DocumentFormat.OUL: ".hl7",
}


def write_document(message: ResultMessage, envelope: Envelope, kind: DocumentFormat) -> bytes:
    """Return the document of a result, after it was read back to the same figures.

    Raises:
        DocumentError: it does not read back to the same result.
        ConfigError: the library for the format is not installed.
    """
    from wbcpipe.exchange.documents.fhir_write import write_fhir
    from wbcpipe.exchange.documents.hl7_read import is_read_back
    from wbcpipe.exchange.documents.hl7_write import write_hl7

    if kind is DocumentFormat.FHIR:
        content = write_fhir(message, envelope)
    else:
        content = write_hl7(message, envelope, "oru" if kind is DocumentFormat.ORU else "oul")
        if is_read_back(content, message, envelope):
            return content
    if read_document(content)[0] != message:
        raise DocumentError(
            f"the {kind} document of {message.sample} reads back to another result; it is not sent."
        )
    return content


def read_document(content: bytes) -> tuple[ResultMessage, Envelope]:
    """Read a document of any of the formats.

    Raises:
        DocumentError: it is not one that `write_document` writes; the text names the line and the
            reason.
        ConfigError: the library for the format is not installed.
    """
    from wbcpipe.exchange.documents.fhir_read import read_fhir
    from wbcpipe.exchange.documents.hl7_read import read_hl7

    return read_hl7(content) if content.startswith(b"MSH") else read_fhir(content)
