"""What a signature rests on.

The checks before it, and what the differential depends on besides cells and journal.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from wbcpipe.samples.records import Part
from wbcpipe.samples.review.texts import ClassText, CommentText

__all__ = ["EntryId", "LabReference", "ReferenceUsed", "SignBasis", "SignCheck"]

EntryId = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
"""A SHA-256, as entries have it for their name."""


class SignCheck(Part):
    """One check before signing.

    Attributes:
        name: of the check.
        passed: its result.
        hard: a failure forbids to sign.
        text: the result with its figures, for people.
    """

    name: Annotated[str, StringConstraints(pattern="^[a-z][a-z0-9_]{0,39}$")]
    passed: bool
    hard: bool
    text: CommentText = ""


class LabReference(Part):
    """The laboratory's file in force: its ``version`` and the SHA-256 of its content."""

    version: ClassText
    sha256: EntryId


class ReferenceUsed(Part):
    """Reference intervals as `report` uses them: class to lowest and highest normal percentage, and
    their source.
    """

    percent: dict[str, tuple[float, float]]
    source: str


class SignBasis(Part):
    """Everything besides the cells and the journal on which a signed differential depends.

    Attributes:
        cells_sha256: of the cell table and the machine's classes.
        reference: the reference intervals.
        wbc_1e9_per_l: the white-cell concentration.
        extra_classes: name of each extra class to whether it is no white cell, and so is counted
            per 100 of them.
        lab: the laboratory's file; ``None`` without one.
        software: version of wbcpipe.
        created: time of the document, UTC in ISO 8601.
    """

    cells_sha256: EntryId
    reference: ReferenceUsed
    wbc_1e9_per_l: float | None = None
    extra_classes: dict[str, bool] = Field(default_factory=dict)
    lab: LabReference | None = None
    software: str = ""
    created: str
