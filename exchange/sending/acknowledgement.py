"""The answer to a message: segment MSA of an acknowledgement of HL7 v2."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from wbcpipe.samples.records import Record

__all__ = ["AckCode", "Answer", "parse_acknowledgement"]

_MAX_TEXT = 400


class AckCode(StrEnum):
    """Table 0008: accepted; error in the message.

    Rejected for another reason, such as a system that is not ready.
    """

    ACCEPTED = "AA"
    ERROR = "AE"
    REJECTED = "AR"


class Answer(Record):
    """The answer to one message, as it is kept.

    Attributes:
        control_id: of the message.
        code: see `AckCode`; a file in a drop folder counts as accepted.
        text: what the laboratory system said.
        received: UTC time, ISO 8601.
        attempts: number of times that the message was sent, as far as this process knows.
    """

    remedy: ClassVar[str] = "move the file away; the message is sent once more"

    control_id: str
    code: AckCode
    text: str = ""
    received: str
    attempts: int = 1


def parse_acknowledgement(content: bytes, control_id: str) -> tuple[AckCode, str]:
    """Return code and text of an acknowledgement.

    Args:
        content: the message, without its frame.
        control_id: of the message that was sent.

    Raises:
        ValueError: it is none, or answers another message.
    """
    text = content.decode("utf-8", "replace")
    lines = [line for line in text.replace("\n", "\r").split("\r") if line]
    if not lines or not lines[0].startswith("MSH") or len(lines[0]) < 5:
        raise ValueError(f"the answer {_short(text)!r} is no HL7 message")
    separator = lines[0][3]
    segments = [line.split(separator) for line in lines]
    answers = [fields for fields in segments if fields[0] == "MSA"]
    if len(answers) != 1 or len(answers[0]) < 3:
        raise ValueError(f"the answer {_short(text)!r} has no segment MSA")
    code, answered, *rest = answers[0][1:]
    if answered != control_id:
        raise ValueError(f"the answer is to the message {_short(answered)!r}, not to {control_id}")
    if code not in {known.value for known in AckCode}:
        raise ValueError(f"the answer has the code {_short(code)!r}; AA, AE and AR are known")
    errors = [separator.join(fields[1:]) for fields in segments if fields[0] == "ERR"]
    return AckCode(code), _printable(" ".join(part for part in [*rest[:1], *errors] if part))[
        :_MAX_TEXT
    ]


def _short(text: str) -> str:
    return _printable(text)[:60]


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text).strip()
