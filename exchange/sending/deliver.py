"""Send what waits.

In order, each message until it is answered, with growing pauses while a destination is down.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from wbcpipe.errors import StorageError, WbcpipeError
from wbcpipe.exchange.sending.acknowledgement import AckCode, parse_acknowledgement
from wbcpipe.exchange.sending.mllp import MllpConnection, NoAnswerError
from wbcpipe.system.files import write_atomic
from wbcpipe.system.progress import log_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wbcpipe.exchange.sending.outbox import Outbox, Waiting
    from wbcpipe.laboratory.destinations import Destination, SendRules

__all__ = ["Until", "deliver"]

#: ``tried``: each destination once, up to its first failure; ``empty``: until nothing waits;
#: ``stopped``: for ever.
Until: TypeAlias = Literal["tried", "empty", "stopped"]
#: Times that a message is rejected (AR) before it is put aside for a person.
MAX_REJECTIONS: Final = 10
_POLL_S: Final = 0.5


@dataclass
class _Sender:
    """One destination: its outbox, its connection and its pause."""

    destination: Destination
    outbox: Outbox
    rules: SendRules
    connection: MllpConnection | None = None
    delay_s: float = 0.0
    next_s: float = 0.0
    attempts: dict[str, int] = field(default_factory=dict)
    rejections: dict[str, int] = field(default_factory=dict)

    def send_all(self, say: Callable[[str], None]) -> bool:
        """Send what waits, up to the first failure; return whether nothing waits."""
        for message in self.outbox.waiting():
            reason = self._send(message)
            if reason:
                self.delay_s = min(
                    max(2 * self.delay_s, self.rules.first_delay_s), self.rules.max_delay_s
                )
                self.next_s = time.monotonic() + self.delay_s
                attempts = self.attempts[message.control_id]
                self.outbox.log(
                    "not_answered", control_id=message.control_id, reason=reason, attempts=attempts
                )
                say(
                    f"{self.destination.name}: {message.control_id}: {reason}; next attempt in "
                    f"{self.delay_s:g} s"
                )
                return False
            self.delay_s = 0.0
        return True

    def _send(self, message: Waiting) -> str:
        """Send one message; return why it still waits, empty if it does not."""
        identifier = message.control_id
        self.attempts[identifier] = self.attempts.get(identifier, 0) + 1
        content = message.path.read_bytes()
        try:
            code, text = self._answer(message, content)
        except (NoAnswerError, ValueError, WbcpipeError) as error:
            self.close()
            return str(error)
        if code is AckCode.REJECTED:
            self.rejections[identifier] = self.rejections.get(identifier, 0) + 1
            if self.rejections[identifier] < MAX_REJECTIONS:
                return f"rejected (AR): {text or 'no reason given'}"
        self.outbox.settle(message, code, text, self.attempts[identifier])
        return ""

    def _answer(self, message: Waiting, content: bytes) -> tuple[AckCode, str]:
        target = self.destination
        if target.folder is not None:
            return AckCode.ACCEPTED, _drop(Path(target.folder), message, content)
        if self.connection is None:
            self.connection = MllpConnection(target.host or "", target.port or 0, target.timeout_s)
        return parse_acknowledgement(self.connection.exchange(content), message.control_id)

    def close(self) -> None:
        """Close the connection."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def _drop(folder: Path, message: Waiting, content: bytes) -> str:
    """Write a message into a drop folder under its control id; return where it is."""
    if not folder.is_dir():
        raise StorageError(f"{folder}: the drop folder is not there; create it, or mount the share")
    target = folder / f"{message.control_id}{message.path.suffix}"
    with write_atomic(target) as handle:
        handle.write(content)
    return f"written to {target.name}"


def deliver(
    outboxes: Sequence[tuple[Destination, Outbox]],
    rules: SendRules,
    *,
    until: Until = "tried",
    say: Callable[[str], None] = log_line,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Send what waits; return whether nothing waits any more.

    A destination that does not answer is tried again after a pause that doubles; the others go on
    meanwhile. Messages to one destination keep their order: a correction never arrives before what
    it corrects.

    Args:
        outboxes: of each destination.
        rules: pauses.
        until: when to end.
        say: called with each failure, as a line for people.
        sleep: waits.

    Raises:
        DeliveryError: another process sends from one of the outboxes.
        DiskFullError: no space left for an answer; its message still waits.
    """
    senders = [_Sender(destination, outbox, rules) for destination, outbox in outboxes]
    try:
        while True:
            empty = True
            for sender in senders:
                if time.monotonic() < sender.next_s:
                    empty = False
                    continue
                with sender.outbox.held_for_sending():
                    empty = sender.send_all(say) and empty
            if until == "tried" or (empty and until == "empty"):
                return empty
            now_s = time.monotonic()
            ready = [sender.next_s - now_s for sender in senders if sender.next_s > now_s]
            sleep(max(0.01, min([_POLL_S, *ready])))
    finally:
        for sender in senders:
            sender.close()
