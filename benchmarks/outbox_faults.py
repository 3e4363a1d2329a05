"""Send messages while the listener and the sender are killed, and count what arrived.

    python benchmarks/outbox_faults.py --messages 500 --kills 20

The listener (tests/exchange/sending/mllp_listener.py, written with python-hl7) delays answers,
breaks connections, rejects, and answers another message, each by chance. Both processes are killed
with SIGKILL and started again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LISTENER = ROOT / "tests" / "exchange" / "sending" / "mllp_listener.py"
LAB = """version = "1"
[send]
first_delay_s = 0.05
max_delay_s = 0.3
[[destination]]
name = "lis"
format = "oru"
host = "127.0.0.1"
port = {port}
timeout_s = 0.4
"""


def end(running: dict[str, subprocess.Popen[bytes]]) -> None:
    """End the processes."""
    for process in running.values():
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fill(folder: Path, messages: int) -> list[str]:
    """Put small messages into the outbox; return their control ids in order."""
    from wbcpipe.exchange.message.codes import ResultState
    from wbcpipe.exchange.message.model import ModelVersion, ResultMessage
    from wbcpipe.exchange.sending.outbox import Outbox
    from wbcpipe.samples.order_record import OrderRecord

    outbox, identifiers = Outbox(folder), []
    for number in range(messages):
        message = ResultMessage(
            sample=f"S{number}",
            order=OrderRecord(),
            state=ResultState.CANCELLED,
            reason="fault test",
            created="2026-11-30T06:00:00+00:00",
            observed="2026-11-30T06:00:00+00:00",
            panel_name="differential",
            analyser=ModelVersion(software="0", model="none"),
            loinc_version="2.78",
        )
        header = f"MSH|^~\\&|wbcpipe||LIS||20261130||ORU^R01^ORU_R01|{message.control_id}|P|2.5.1"
        text = f"{header}\rPID|1||P{number}\r"
        with outbox.held_for_writing():
            outbox.put(message, text.encode(), ".hl7")
        identifiers.append(message.control_id)
    return identifiers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=500)
    parser.add_argument("--kills", type=int, default=20, help="of each of the two processes")
    parser.add_argument("--faults", type=float, default=0.1, help="share of wrong answers")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit-s", type=float, default=900.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), options)
    print(json.dumps(result, indent=2))
    return 0 if result["ok"] else 1


def run(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    chance, port = random.Random(options.seed), free_port()
    accepted, outbox = folder / "accepted.txt", folder / "data" / "outbox" / "lis"
    (folder / "data").mkdir()
    (folder / "data" / "lab.toml").write_text(LAB.format(port=port))
    identifiers = fill(outbox, options.messages)
    commands = {
        "listener": [sys.executable, str(LISTENER), str(port), str(accepted), str(options.faults)],
        "sender": [
            sys.executable,
            "-m",
            "wbcpipe",
            "send",
            "--watch",
            "--data",
            str(folder / "data"),
        ],
    }
    running: dict[str, subprocess.Popen[bytes]] = {}
    kills: Counter[str] = Counter()
    start = time.monotonic()
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(end, running)
        for name in commands:
            running[name] = begin(commands[name], name, chance)
        while time.monotonic() - start < options.limit_s:
            time.sleep(chance.uniform(0.05, 0.2))
            waiting = len(list((outbox / "waiting").glob("*.hl7")))
            if not waiting:
                break
            # A kill for each share of the messages that has arrived, so that all kills fall into
            # the work.
            share = options.messages / (options.kills + 1)
            for name in commands:
                if (
                    kills[name] < options.kills
                    and options.messages - waiting >= share * (kills[name] + 1) * 0.95
                ):
                    running[name].kill()
                    running[name].wait()
                    kills[name] += 1
                    running[name] = begin(commands[name], name, chance)
    wall_s = time.monotonic() - start
    noted = [line.split() for line in accepted.read_text().splitlines()]
    first = [identifier for kind, identifier in noted if kind == "accepted"]
    answers = Counter(
        json.loads(path.read_text())["code"] for path in (outbox / "answers").glob("*.json")
    )
    waiting = len(list((outbox / "waiting").glob("*.hl7")))
    return {
        "messages": options.messages,
        "accepted_exactly_once": sum(count == 1 for count in Counter(first).values()),
        "in_order": first == identifiers,
        "sent_again_after_no_answer": len(noted) - len(first),
        "answers": dict(answers),
        "waiting": waiting,
        "kills": dict(kills),
        "wall_s": round(wall_s, 1),
        "ok": sorted(first) == sorted(identifiers)
        and waiting == 0
        and answers == {"AA": options.messages}
        and set(kills.values()) == ({options.kills} if options.kills else set()),
    }


def begin(command: list[str], name: str, chance: random.Random) -> subprocess.Popen[bytes]:
    seed = [str(chance.randrange(10**6))] if name == "listener" else []
    return subprocess.Popen(
        [*command, *seed], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT.parent
    )


if __name__ == "__main__":
    sys.exit(main())
