"""The outbox and its delivery.

Nothing lost, nothing sent twice to one that answered, faults told.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hl7
import pytest
from hl7.mllp import start_hl7_server

from wbcpipe.errors import DeliveryError
from wbcpipe.exchange.sending.acknowledgement import AckCode, parse_acknowledgement
from wbcpipe.exchange.sending.deliver import MAX_REJECTIONS, deliver
from wbcpipe.exchange.sending.mllp import MllpConnection, NoAnswerError
from wbcpipe.exchange.sending.outbox import LastResult, Outbox
from wbcpipe.laboratory.destinations import Destination, SendRules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wbcpipe.exchange.message.model import ResultMessage

RULES = SendRules(first_delay_s=0.01, max_delay_s=0.02)
ROOT = Path(__file__).parents[3]


class Listener:
    """An MLLP listener of python-hl7 in a thread; ``script`` says how it answers, one word for each
    message.
    """

    def __init__(self, script: list[str]) -> None:
        self.script = script
        self.received: list[Any] = []
        self.loop = asyncio.new_event_loop()
        self.server = self.loop.run_until_complete(
            start_hl7_server(self.serve, "127.0.0.1", 0, encoding="utf-8")
        )
        self.port = self.server.sockets[0].getsockname()[1]
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    async def serve(self, reader: Any, writer: Any) -> None:
        try:
            while True:
                message = await reader.readmessage()
                identifier = str(message.segment("MSH")[10])
                self.received.append(identifier)
                how = self.script.pop(0) if self.script else "AA"
                if how == "close":
                    break
                if how == "silent":
                    continue
                if how == "nonsense":
                    writer.writeblock(b"hello")
                else:
                    answered, code = ("0" * 20, "AA") if how == "other" else (identifier, how)
                    writer.writemessage(
                        hl7.parse(
                            f"MSH|^~\\&|LIS||||1||ACK|1|P|2.5.1\rMSA|{code}|{answered}|text\r"
                        )
                    )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def stop(self) -> None:
        def end() -> None:
            self.server.close()
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.call_later(0.05, self.loop.stop)

        self.loop.call_soon_threadsafe(end)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def listen() -> Iterator[Callable[..., Listener]]:
    running: list[Listener] = []

    def start(*script: str) -> Listener:
        running.append(Listener(list(script)))
        return running[-1]

    yield start
    for listener in running:
        listener.stop()


def text_of(message: ResultMessage) -> bytes:
    return f"MSH|^~\\&|wbcpipe||LIS||1||ORU^R01^ORU_R01|{message.control_id}|P|2.5.1\r".encode()


@pytest.fixture
def outbox(tmp_path: Path, make_message: Callable[..., ResultMessage]) -> Outbox:
    """Return an outbox in which three messages wait."""
    found = Outbox(tmp_path / "outbox" / "lis")
    for number in range(3):
        message = make_message({"NEU": 50 + number})
        with found.held_for_writing():
            assert found.put(message, text_of(message), ".hl7")
    return found


def to(listener: Listener, timeout_s: float = 0.3) -> Destination:
    return Destination(
        name="lis", format="oru", host="127.0.0.1", port=listener.port, timeout_s=timeout_s
    )


def test_messages_are_sent_once_and_in_order(
    outbox: Outbox, listen: Callable[..., Listener]
) -> None:
    listener = listen()
    expected = [message.control_id for message in outbox.waiting()]
    assert deliver([(to(listener), outbox)], RULES)
    assert deliver([(to(listener), outbox)], RULES)
    assert listener.received == expected
    assert (outbox.state().waiting, outbox.state().delivered) == (0, 3)
    assert [answer.code for answer in outbox.answers()] == [AckCode.ACCEPTED] * 3
    assert outbox.answers()[0].text == "text"


@pytest.mark.parametrize("fault", ["close", "silent", "nonsense", "other", "AR", "ZZ"])
def test_a_message_without_a_valid_answer_is_sent_again(
    outbox: Outbox, listen: Callable[..., Listener], fault: str
) -> None:
    listener = listen("AA", fault)
    said: list[str] = []
    first, second, third = (message.control_id for message in outbox.waiting())
    assert not deliver([(to(listener), outbox)], RULES, say=said.append)
    assert outbox.state().waiting == 2
    assert second in said[0]
    assert deliver([(to(listener), outbox)], RULES, until="empty")
    assert listener.received == [first, second, second, third]
    events = [
        json.loads(line)["event"] for line in (outbox.folder / "log.jsonl").read_text().splitlines()
    ]
    assert events == ["answered", "not_answered", "answered", "answered"]


def test_a_message_with_an_error_is_put_aside_and_can_be_sent_again(
    outbox: Outbox, listen: Callable[..., Listener]
) -> None:
    listener = listen("AE")
    first = outbox.waiting()[0].control_id
    assert deliver([(to(listener), outbox)], RULES)
    assert (outbox.state().delivered, outbox.state().refused) == (2, 1)
    assert outbox.send_again() == 1
    assert deliver([(to(listener), outbox)], RULES)
    assert listener.received[-1] == first
    assert (outbox.state().delivered, outbox.state().refused) == (3, 0)


def test_a_message_rejected_for_ever_lets_the_others_pass(
    outbox: Outbox, listen: Callable[..., Listener]
) -> None:
    listener = listen(*["AR"] * MAX_REJECTIONS)
    assert deliver([(to(listener), outbox)], RULES, until="empty")
    assert (outbox.state().delivered, outbox.state().refused) == (2, 1)
    assert len(listener.received) == MAX_REJECTIONS + 2


def test_pauses_double_up_to_a_limit(outbox: Outbox, listen: Callable[..., Listener]) -> None:
    listener = listen("close", "close", "close")
    said: list[str] = []
    rules = SendRules(first_delay_s=0.01, max_delay_s=0.02)
    assert deliver([(to(listener), outbox)], rules, until="empty", say=said.append)
    assert [line.split("next attempt in ")[1] for line in said] == ["0.01 s", "0.02 s", "0.02 s"]


def test_a_dead_destination_keeps_its_messages_and_stops_no_other(
    outbox: Outbox, tmp_path: Path, make_message: Callable[..., ResultMessage]
) -> None:
    dead = Destination(name="lis", format="oru", host="127.0.0.1", port=9, timeout_s=0.2)
    folder = tmp_path / "drop"
    folder.mkdir()
    alive, other = (
        Destination(name="drop", format="oru", folder=str(folder)),
        Outbox(tmp_path / "outbox" / "drop"),
    )
    message = make_message()
    with other.held_for_writing():
        other.put(message, text_of(message), ".hl7")
    assert not deliver([(dead, outbox), (alive, other)], RULES)
    assert (outbox.state().waiting, other.state().delivered) == (3, 1)
    assert (folder / f"{message.control_id}.hl7").read_bytes() == text_of(message)


def test_a_drop_folder_that_is_not_there_is_not_created(outbox: Outbox, tmp_path: Path) -> None:
    gone = Destination(name="lis", format="oru", folder=str(tmp_path / "share"))
    said: list[str] = []
    assert not deliver([(gone, outbox)], RULES, say=said.append)
    assert "the drop folder is not there" in said[0]
    assert not (tmp_path / "share").exists()


def test_a_crash_after_the_answer_sends_nothing_again(
    outbox: Outbox, listen: Callable[..., Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = listen()

    def crash(*_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("wbcpipe.exchange.sending.outbox.rename", crash)
        with pytest.raises(RuntimeError):
            deliver([(to(listener), outbox)], RULES)
    first = listener.received[0]
    assert (outbox.state().waiting, len(list((outbox.folder / "waiting").iterdir()))) == (2, 3)
    assert deliver([(to(listener), Outbox(outbox.folder))], RULES)
    assert listener.received.count(first) == 1
    assert outbox.state().delivered == 3


def test_the_same_result_is_put_once(
    outbox: Outbox, make_message: Callable[..., ResultMessage]
) -> None:
    message = make_message({"NEU": 50})
    with outbox.held_for_writing():
        assert not outbox.put(message, text_of(message), ".hl7")
    assert outbox.state().waiting == 3


def test_a_crash_while_a_message_is_put_keeps_one(
    tmp_path: Path, make_message: Callable[..., ResultMessage], monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox, message = Outbox(tmp_path / "lis"), make_message()

    def crash(*_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(LastResult, "write", crash)
        with outbox.held_for_writing(), pytest.raises(RuntimeError):
            outbox.put(message, text_of(message), ".hl7")
    assert outbox.last_result("S1") is None
    with outbox.held_for_writing():
        assert not outbox.put(message, text_of(message), ".hl7")
    last = outbox.last_result("S1")
    assert last is not None
    assert last.control_id == message.control_id
    assert outbox.state().waiting == 1


def test_two_senders_do_not_share_an_outbox(
    outbox: Outbox, listen: Callable[..., Listener]
) -> None:
    with (
        outbox.held_for_sending(),
        pytest.raises(DeliveryError, match="another process uses this outbox"),
    ):
        deliver([(to(listen()), outbox)], RULES)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "no HL7 message"),
        (b"hello", "no HL7 message"),
        (b"MSH|^~\\&|LIS", "no segment MSA"),
        (b"MSH|^~\\&|LIS\rMSA|AA", "no segment MSA"),
        (b"MSH|^~\\&|LIS\rMSA|AA|2", "not to 1"),
        (b"MSH|^~\\&|LIS\rMSA|OK|1", "code 'OK'"),
        (b"MSH|^~\\&|LIS\rMSA|AA|1\rMSA|AA|1", "no segment MSA"),
    ],
    ids=range(7),
)
def test_wrong_acknowledgements(answer: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_acknowledgement(answer, "1")


def test_the_text_of_an_error_is_kept() -> None:
    answer = b"MSH#^~\\&#LIS\nMSA#AE#1#bad unit\nERR##OBX^1#102\n"
    assert parse_acknowledgement(answer, "1") == (AckCode.ERROR, "bad unit #OBX^1#102")


def test_an_answer_without_end_is_cut(listen: Callable[..., Listener]) -> None:
    listener = listen("silent")
    late = pytest.raises(NoAnswerError, match=r"within 0\.2 s")
    with MllpConnection("127.0.0.1", listener.port, 0.2) as connection, late:
        connection.exchange(b"MSH|^~\\&|wbcpipe||LIS||1||ORU^R01^ORU_R01|1|P|2.5.1\r")


# Starts four processes and kills them: 10 s.
def test_both_sides_killed() -> None:
    script = [sys.executable, str(ROOT / "benchmarks" / "outbox_faults.py")]
    done = subprocess.run(
        [*script, "--messages", "120", "--kills", "1", "--limit-s", "60"],
        capture_output=True,
        text=True,
        cwd=ROOT.parent,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert (result["accepted_exactly_once"], result["waiting"], result["in_order"]) == (
        120,
        0,
        True,
    )
