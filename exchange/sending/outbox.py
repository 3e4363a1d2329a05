"""Messages that wait, and the answers to those that were sent.

Files below ``<data root>/outbox/<destination>``.

    waiting/00000007_<control id>.hl7   messages in the order in which they are sent
    answers/<control id>.json           the answer; with it, the message is never sent again
    delivered/, refused/                messages that the laboratory system accepted or refused
    samples/<sample>.json               the last result of a sample: number, state and figures
    log.jsonl                           each attempt

A message is in the outbox when its file is flushed and renamed. It leaves `waiting` after its
answer is flushed, so a crash at any moment loses nothing; between an answer and its flush, a crash
makes the message go out once more, under the same control id.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field

from wbcpipe.errors import DeliveryError
from wbcpipe.exchange.message.codes import ResultState
from wbcpipe.exchange.sending.acknowledgement import AckCode, Answer
from wbcpipe.samples.records import Record, json_digest
from wbcpipe.system.files import append_event, make_folder, rename, write_atomic
from wbcpipe.system.locks import exclusive_lock
from wbcpipe.system.storage import patiently

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from wbcpipe.exchange.message.model import ResultMessage

__all__ = ["LastResult", "Outbox", "OutboxState", "Waiting", "figures_digest", "outbox_folder"]

_NAME: Final = re.compile(r"([0-9]{8})_([0-9A-F]{20})(\.hl7|\.json)")
_WAIT_S: Final = 20.0


class LastResult(Record):
    """The last result of a sample that was put into the outbox.

    Attributes:
        sequence: its number.
        control_id: of its message.
        state: of the result.
        figures_sha256: of its figures; see `figures_digest`.
    """

    sequence: Annotated[int, Field(ge=1)]
    control_id: str
    state: ResultState
    figures_sha256: str


@dataclass(frozen=True)
class Waiting:
    """A message that waits: its file, and its control id."""

    path: Path
    control_id: str


@dataclass(frozen=True)
class OutboxState:
    """How many messages wait, were accepted, and were refused."""

    waiting: int
    delivered: int
    refused: int


def outbox_folder(root: Path) -> Path:
    """Return the folder of all outboxes below the data root."""
    return root / "outbox"


def figures_digest(message: ResultMessage) -> str:
    """Return the SHA-256 of a result's figures: equal for results that a reader could not tell
    apart.
    """
    content = message.model_dump(
        mode="json", include={"classes", "counted", "unidentified", "extra", "wbc"}
    )
    return json_digest(content)


class Outbox:
    """The messages to one destination.

    Args:
        folder: ``<data root>/outbox/<destination>``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, message: ResultMessage, content: bytes, suffix: str) -> bool:
        """Put a message into the outbox; return whether it is new.

        Call it while `held_for_writing`, so that two processes give no number twice.

        Args:
            message: the result.
            content: its document.
            suffix: of the file.

        Raises:
            DiskFullError: no space left; nothing was put.
            StorageError: the storage refuses the file.
        """
        identifier = message.control_id
        new = not self._find(identifier)
        if new:
            number = 1 + max((int(found[1]) for found in self._names()), default=0)
            path = self._waiting / f"{number:08d}_{identifier}{suffix}"
            make_folder(path.parent)
            with write_atomic(path) as handle:
                handle.write(content)
        make_folder(self._sample_path(message.sample).parent)
        LastResult(
            sequence=message.sequence,
            control_id=identifier,
            state=message.state,
            figures_sha256=figures_digest(message),
        ).write(self._sample_path(message.sample))
        return new

    def last_result(self, sample: str) -> LastResult | None:
        """Return the last result of a sample; ``None`` if there was none.

        Raises:
            SampleStateError: its file is damaged.
        """
        return LastResult.read_if_present(self._sample_path(sample))

    def waiting(self) -> list[Waiting]:
        """Return the messages that wait, in their order.

        Those with an answer leave the folder first.

        For the sender alone, see `held_for_sending`: others count with `state`.

        Raises:
            SampleStateError: the file of an answer is damaged.
        """
        found = []
        for path in sorted(self._waiting.iterdir()) if self._waiting.is_dir() else ():
            name = _NAME.fullmatch(path.name)
            if name is None:
                continue
            answer = Answer.read_if_present(self._answer_path(name[2]))
            if answer is not None:
                self._move(path, answer)
            else:
                found.append(Waiting(path, name[2]))
        return found

    def settle(self, message: Waiting, code: AckCode, text: str, attempts: int) -> None:
        """Keep the answer to a message, then take the message out of those that wait.

        Raises:
            DiskFullError: no space left; the message still waits.
            StorageError: the storage refuses the file.
        """
        answer = Answer(
            control_id=message.control_id, code=code, text=text, received=_now(), attempts=attempts
        )
        make_folder(self._answer_path("").parent)
        answer.write(self._answer_path(message.control_id))
        self.log(
            "answered", control_id=message.control_id, code=code.value, text=text, attempts=attempts
        )
        self._move(message.path, answer)

    def send_again(self) -> int:
        """Let the refused messages wait again; return their number. Each keeps its control id.

        Raises:
            StorageError: the storage refuses a file.
        """
        refused = self.folder / "refused"
        paths = sorted(refused.iterdir()) if refused.is_dir() else []
        make_folder(self._waiting)
        for path in paths:
            if name := _NAME.fullmatch(path.name):
                answer = self._answer_path(name[2])
                patiently(answer, lambda answer=answer: answer.unlink(missing_ok=True))  # type: ignore[misc]
                rename(path, self._waiting / path.name)
        return len(paths)

    def state(self) -> OutboxState:
        """Count the messages; nothing is moved, so that a sender may work meanwhile."""
        waiting = sum(
            not self._answer_path(found[2]).exists()
            for path in self._in("waiting")
            if (found := _NAME.fullmatch(path.name))
        )
        counts = [sum(1 for _ in self._in(name)) for name in ("delivered", "refused")]
        return OutboxState(waiting, *counts)

    def answers(self) -> list[Answer]:
        """Return all answers that are kept, in the order of their time.

        Raises:
            SampleStateError: a file is damaged.
        """
        folder = self._answer_path("").parent
        found = [Answer.read(path) for path in folder.glob("*.json")] if folder.is_dir() else []
        return sorted(found, key=lambda answer: answer.received)

    def log(self, event: str, **details: object) -> None:
        """Append an event to the log."""
        append_event(self.folder / "log.jsonl", event, **details)

    @contextlib.contextmanager
    def held_for_writing(self) -> Iterator[None]:
        """Hold the outbox while a message is built and put into it.

        Raises:
            DeliveryError: another process holds it for too long.
        """
        with self._lock("put", _WAIT_S):
            yield

    @contextlib.contextmanager
    def held_for_sending(self) -> Iterator[None]:
        """Hold the outbox as its only sender.

        Raises:
            DeliveryError: another process sends from it.
        """
        with self._lock("send", 0.0):
            yield

    @contextlib.contextmanager
    def _lock(self, name: str, wait_s: float) -> Iterator[None]:
        make_folder(self.folder)
        path = self.folder / f".{name}.lock"

        def busy(holder: str) -> DeliveryError:
            return DeliveryError(
                f"{self.folder}: another process uses this outbox ({holder}); it sends what waits."
            )

        with exclusive_lock(path, path.with_suffix(".holder"), name, busy, wait_s=wait_s):
            yield

    @property
    def _waiting(self) -> Path:
        return self.folder / "waiting"

    def _answer_path(self, identifier: str) -> Path:
        return self.folder / "answers" / f"{identifier}.json"

    def _sample_path(self, sample: str) -> Path:
        return self.folder / "samples" / f"{sample}.json"

    def _in(self, name: str) -> Iterator[Path]:
        folder = self.folder / name
        yield from (
            path
            for path in (folder.iterdir() if folder.is_dir() else ())
            if _NAME.fullmatch(path.name)
        )

    def _names(self) -> Iterator[re.Match[str]]:
        for name in ("waiting", "delivered", "refused"):
            for path in self._in(name):
                if found := _NAME.fullmatch(path.name):
                    yield found

    def _find(self, identifier: str) -> bool:
        return any(found[2] == identifier for found in self._names())

    def _move(self, path: Path, answer: Answer) -> None:
        target = (
            self.folder
            / ("delivered" if answer.code is AckCode.ACCEPTED else "refused")
            / path.name
        )
        make_folder(target.parent)
        rename(path, target)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
