"""A laboratory system for tests: an MLLP listener written with python-hl7, with faults.

    python mllp_listener.py PORT ACCEPTED FAULTS SEED

Each message that is new is noted in the file ACCEPTED and flushed before it is acknowledged; a
message that is known already is acknowledged again and noted as a duplicate. FAULTS is the share of
answers that are wrong: a delay, an answer to another message, a broken connection before or after
the message is noted, a rejection, or nonsense.
"""

import asyncio
import os
import random
import sys
from pathlib import Path
from typing import Any

import hl7
from hl7.mllp import start_hl7_server

PORT, ACCEPTED, FAULTS, SEED = (
    int(sys.argv[1]),
    Path(sys.argv[2]),
    float(sys.argv[3]),
    int(sys.argv[4]),
)
CHANCE = random.Random(SEED)
KINDS = ("delay", "before", "other", "reject", "nonsense", "after")


def note(kind: str, identifier: str) -> None:
    with ACCEPTED.open("ab") as handle:
        handle.write(f"{kind} {identifier}\n".encode())
        handle.flush()
        os.fsync(handle.fileno())


async def serve(reader: Any, writer: Any) -> None:
    known = (
        {line.split()[1] for line in ACCEPTED.read_text().splitlines()}
        if ACCEPTED.exists()
        else set()
    )
    try:
        while not writer.is_closing():
            message = await reader.readmessage()
            identifier = str(message.segment("MSH")[10])
            fault = (
                CHANCE.choice(["delay", "before", "other", "reject", "nonsense", "after"])
                if CHANCE.random() < FAULTS
                else ""
            )
            if fault == "before":
                break
            if fault == "reject":
                writer.writemessage(hl7.parse(answer("AR", identifier)))
                await writer.drain()
                continue
            known |= (
                {line.split()[1] for line in ACCEPTED.read_text().splitlines()}
                if ACCEPTED.exists()
                else set()
            )
            note("duplicate" if identifier in known else "accepted", identifier)
            known.add(identifier)
            if fault == "after":
                break
            if fault == "delay":
                await asyncio.sleep(0.6)
            if fault == "nonsense":
                writer.writeblock(b"hello")
            else:
                writer.writemessage(
                    hl7.parse(answer("AA", "0" * 20 if fault == "other" else identifier))
                )
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def answer(code: str, identifier: str) -> str:
    return f"MSH|^~\\&|LIS||wbcpipe||20261130||ACK|1|P|2.5.1\rMSA|{code}|{identifier}|busy\r"


async def main() -> None:
    server = await start_hl7_server(serve, "127.0.0.1", PORT, encoding="utf-8", limit=2**20)
    async with server:
        await server.serve_forever()


asyncio.run(main())
