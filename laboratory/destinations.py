"""Where results are sent: tables ``[send]`` and ``[[destination]]`` of the laboratory's file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from wbcpipe.samples.records import Part
from wbcpipe.samples.review.texts import check_text

__all__ = ["Destination", "SendRules"]

HeaderText = Annotated[str, AfterValidator(lambda text: check_text(text, max_length=64))]


class SendRules(Part):
    """What may be sent, and how often it is tried.

    Attributes:
        unsigned: results that nobody signed are sent too, as preliminary.
        first_delay_s, max_delay_s: between two attempts: the first, doubled each time, up to the
            second.
    """

    unsigned: bool = False
    first_delay_s: Annotated[float, Field(gt=0, le=3600)] = 2.0
    max_delay_s: Annotated[float, Field(gt=0, le=86400)] = 300.0

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if self.first_delay_s > self.max_delay_s:
            raise ValueError(
                f"first_delay_s {self.first_delay_s:g} is above max_delay_s {self.max_delay_s:g}"
            )
        return self


class Destination(Part):
    """One receiver: a folder, or a host that speaks MLLP.

    Attributes:
        name: of the receiver.
        format: ``fhir`` (into a folder), ``oru`` or ``oul``.
        folder: absolute path of a drop folder.
        host, port: of an MLLP listener.
        timeout_s: time to wait for a connection, and for the acknowledgement.
        receiving_application, receiving_facility: MSH-5 and MSH-6.
        processing: MSH-11: production, training or debugging.
        patient_authority: who assigned the patient's identifier.
    """

    name: Annotated[str, StringConstraints(pattern="^[a-z0-9][a-z0-9_-]{0,31}$")]
    format: Literal["fhir", "oru", "oul"]
    folder: Annotated[str, StringConstraints(min_length=1, max_length=400)] | None = None
    host: (
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9.:-]{0,252}$")] | None
    ) = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 20.0
    receiving_application: HeaderText = ""
    receiving_facility: HeaderText = ""
    processing: Literal["P", "T", "D"] = "P"
    patient_authority: HeaderText = ""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.folder is None) == (self.host is None):
            raise ValueError("a destination needs a folder, or host and port")
        if (self.host is None) != (self.port is None):
            raise ValueError("host and port belong together")
        if self.folder is not None and not Path(self.folder).is_absolute():
            raise ValueError(
                f"folder {self.folder!r} is not absolute; write the whole path, such as /srv/lis/in"
            )
        if self.host and self.format == "fhir":
            raise ValueError("format 'fhir' goes into a folder; MLLP carries 'oru' or 'oul'")
        return self
