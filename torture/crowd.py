"""The crowd: strangers who do all at once that could take room, time or a place on record from a known sender.

`python -m torture.crowd` is a process of its own, so that what it computes delays no sender. It goes on through kills
of the server until its input ends, and then prints what it did and how it was answered, as one JSON object.
"""

import argparse
import asyncio
import os
import random
import resource
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import msgspec
import uvloop

# Where loopz sends from in torture: half of the crowd has the same address.
SHARED_ADDRESS = "127.0.0.1"

# A stranger that lost its connection comes again after so many seconds.
REST_SECONDS = (0.02, 0.5)
# Seconds between two bytes of a body that drips.
DRIP_SECONDS = 0.2
# Seconds for which a stranger that waits stays, if nobody closes its connection.
STAY_SECONDS = 60.0

NICENESS = 5

MIB = 1024 * 1024
LARGE_BYTES = 60_000
# Of a head: one that is larger than any limit, and one that stays below.
ENDLESS_LINES, LINE_BYTES = 120, 8_000
UNFINISHED_BYTES = 15_000
PIPELINED = 2_000
SMALL_BUFFER = 4_096
# 1-byte chunks that are written at once.
CHUNKS = 1_000

# What nobody of the crowd is ever told: that its body is wanted, or that its delivery is on record.
CONTINUED, ACCEPTED = "100", "200"

LOOPZ_LINES = (
    "Host: localhost",
    "X-LOOPZ-WEBHOOK-TOPIC: location.updated",
    "X-LOOPZ-MERCHANT-ID: m-1",
    "X-Hub-Signature-256: sha256=" + "0" * 64,
)
MALFORMED = (
    b"POST http://a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    b"GET /v1/events HTTP/1.1\r\nHost: localhost:8o\r\n\r\n",
    b"POST /webhooks/loopz HTTP/1.1\r\nHost: [::1\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /webhooks/loopz HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    b"POST /webhooks/loopz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    b"POST /webhooks/loopz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /webhooks/%ff%00/%zz HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"\x00" * 100 + b"\r\n\r\n",
)


class Stranger(msgspec.Struct, frozen=True):
    """One of the crowd: the server's port, its own address, its source of chance, and what it counts."""

    port: int
    address: str
    chance: random.Random
    tally: Counter[str]

    async def connect(
        self, receive_bytes: int | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection; with `receive_bytes` one that takes hardly more than so many bytes unread."""
        client = socket.socket()
        try:
            client.settimeout(0)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if receive_bytes is not None:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            client.bind((self.address, 0))
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", self.port))
            limit = 2**16 if receive_bytes is None else 1
            return await asyncio.open_connection(sock=client, limit=limit)
        except BaseException:
            client.close()
            raise


Behaviour = Callable[[Stranger, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Attack(msgspec.Struct, frozen=True, kw_only=True):
    """What `count` strangers do on one connection each, again and again; `per_worker`: so many for each worker."""

    behaviour: Behaviour
    count: int
    per_worker: bool = False
    # Whether the sender's address may be theirs.
    shared: bool = True
    rests: bool = True
    receive_bytes: int | None = None


def head(*lines: str, path: str = "/webhooks/loopz") -> bytes:
    """The head of a delivery with a well-formed signature that is wrong."""
    return "\r\n".join([f"POST {path} HTTP/1.1", *LOOPZ_LINES, *lines, "", ""]).encode()


async def announce(
    stranger: Stranger, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Announce a body, and send nothing of it."""
    writer.write(head(f"Content-Length: {MIB}"))
    await _wait(stranger, reader)


async def forge(
    stranger: Stranger, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Send small deliveries with a wrong signature, as fast as they are answered."""
    while True:
        body = b'{"id": "%d"}' % stranger.chance.getrandbits(64)
        writer.write(head(f"Content-Length: {len(body)}") + body)
        await _answer(stranger, reader)


async def forge_large(
    stranger: Stranger, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Send large ones."""
    while True:
        body = stranger.chance.randbytes(64) + b"x" * LARGE_BYTES
        writer.write(head(f"Content-Length: {len(body)}") + body)
        await _answer(stranger, reader)


async def begin_heads(
    stranger: Stranger, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Send a head without end: larger than any limit, or just not complete."""
    writer.write(b"POST /webhooks/loopz HTTP/1.1\r\n")
    if stranger.chance.random() < 0.5:  # noqa: PLR2004 - half of them
        for _ in range(ENDLESS_LINES):
            writer.write(b"X-%d: %b\r\n" % (stranger.chance.getrandbits(32), b"x" * LINE_BYTES))
            await writer.drain()
    else:
        writer.write(b"X: y\r\n" * (UNFINISHED_BYTES // 120) + b"X: " + b"x" * 5_000)
    await _wait(stranger, reader)


async def never_read(
    stranger: Stranger, _: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Ask one question after the other, and read no response."""
    question = b"GET /v1/rejections HTTP/1.1\r\nHost: localhost\r\n\r\n"
    while not writer.is_closing():
        writer.write(question * PIPELINED)
        stranger.tally["sent"] += PIPELINED
        await writer.drain()


async def drip(
    stranger: Stranger, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Send a body byte by byte."""
    writer.write(head("Content-Length: 100000"))
    dripping = asyncio.create_task(_drip(writer))
    try:
        await _wait(stranger, reader)
    finally:
        dripping.cancel()


async def _drip(writer: asyncio.StreamWriter) -> None:
    while not writer.is_closing():
        writer.write(b" ")
        await asyncio.sleep(DRIP_SECONDS)


async def chunk(
    stranger: Stranger, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Send a body in chunks of one byte, without end."""
    writer.write(head("Transfer-Encoding: chunked"))
    answered = asyncio.create_task(_answer(stranger, reader))
    try:
        while not answered.done():
            writer.write(b"1\r\n{\r\n" * CHUNKS)
            await writer.drain()
            await asyncio.sleep(0)
    finally:
        answered.cancel()
        with suppress(OSError, EOFError, asyncio.CancelledError):
            await answered


async def send_malformed(
    stranger: Stranger, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Send what is no HTTP, or nearly."""
    writer.write(stranger.chance.choice(MALFORMED))
    await _answer(stranger, reader)


async def idle(stranger: Stranger, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Send nothing."""
    await _wait(stranger, reader)


async def connect_and_close(
    stranger: Stranger, _: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Close the connection at once, now and then in the middle of a request."""
    if stranger.chance.random() < 0.5:  # noqa: PLR2004 - half of them
        writer.write(head("Content-Length: 20") + b'{"id"')
    stranger.tally["sent"] += 1


async def expect(
    stranger: Stranger, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Ask from an address that is not allowed, with a wrong token, whether a body is wanted."""
    lines = ("Authorization: Bearer wrong", "Expect: 100-continue", f"Content-Length: {MIB}")
    writer.write(head(*lines, path="/webhooks/fitbank"))
    await _answer(stranger, reader)


# A crowd of full size.
ATTACKS: dict[str, Attack] = {
    "bodies that do not come": Attack(behaviour=announce, count=200),
    "wrong secrets": Attack(behaviour=forge, count=4),
    "wrong secrets, 60 kB each": Attack(behaviour=forge_large, count=4),
    "heads without end": Attack(behaviour=begin_heads, count=500),
    "responses never read": Attack(behaviour=never_read, count=110, receive_bytes=SMALL_BUFFER),
    "bodies byte by byte": Attack(behaviour=drip, count=100),
    "chunks without end": Attack(behaviour=chunk, count=4),
    "malformed": Attack(behaviour=send_malformed, count=8),
    "idle": Attack(behaviour=idle, count=1_000, per_worker=True),
    "come and gone": Attack(behaviour=connect_and_close, count=4, rests=False),
    "100-continue": Attack(behaviour=expect, count=8, shared=False),
}


async def _answer(stranger: Stranger, reader: asyncio.StreamReader) -> None:
    """Read one response, and count it by its status."""
    found = await reader.readuntil(b"\r\n\r\n")
    status = found[9:12].decode("ascii", "replace")
    stranger.tally[status] += 1
    size = found.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    await reader.readexactly(int(size or 0))
    if b"connection: close" in found.lower() or status == CONTINUED:
        raise EOFError


async def _wait(stranger: Stranger, reader: asyncio.StreamReader) -> None:
    """Stay until the connection is closed; count what is said first."""
    with suppress(TimeoutError):
        async with asyncio.timeout(STAY_SECONDS):
            await _answer(stranger, reader)


async def _repeat(stranger: Stranger, attack: Attack) -> None:
    """Do the same again and again, until cancelled."""
    while True:
        try:
            reader, writer = await stranger.connect(attack.receive_bytes)
        except OSError:
            stranger.tally["not connected"] += 1
            await asyncio.sleep(REST_SECONDS[0])
        else:
            stranger.tally["connections"] += 1
            try:
                await attack.behaviour(stranger, reader, writer)
            except (OSError, EOFError, asyncio.LimitOverrunError):
                stranger.tally["ended"] += 1
            finally:
                writer.transport.abort()
        await asyncio.sleep(stranger.chance.uniform(*REST_SECONDS) if attack.rests else 0)


async def gather(
    port: int, attacks: Mapping[str, Attack], *, workers: int, share: float, seed: int
) -> dict[str, Counter[str]]:
    """Send the crowd, and count until the input ends: what each attack did, and how it was answered."""
    chance = random.Random(f"crowd {seed}")  # noqa: S311 (seeded on purpose)
    tallies = {name: Counter[str]() for name in attacks}
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    async with asyncio.TaskGroup() as group:
        strangers = []
        for name, attack in attacks.items():
            for _ in range(number_of(attack, workers, share)):
                address = _address(chance, shared=attack.shared)
                stranger = Stranger(
                    port,
                    address,
                    random.Random(chance.getrandbits(64)),  # noqa: S311 (as above)
                    tallies[name],
                )
                strangers.append(group.create_task(_repeat(stranger, attack)))
        await reader.read()
        for task in strangers:
            task.cancel()
    return tallies


def number_of(attack: Attack, workers: int, share: float) -> int:
    """How many of a crowd of this share do it."""
    return max(1, round(attack.count * (workers if attack.per_worker else 1) * share))


def _address(chance: random.Random, *, shared: bool) -> str:
    if shared and chance.random() < 0.5:  # noqa: PLR2004 - half of them
        return SHARED_ADDRESS
    return f"127.{chance.randint(1, 9)}.{chance.randint(0, 255)}.{chance.randint(1, 254)}"


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m torture.crowd", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--share", type=float, default=1.0, help="how much of a full crowd")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=ATTACKS, default=[*ATTACKS], metavar="ATTACK")
    given = parser.parse_args()
    # Strangers have machines of their own: what they compute is to take little from the server's.
    os.nice(NICENESS)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        tallies = runner.run(
            gather(
                given.port,
                {name: ATTACKS[name] for name in given.only},
                workers=given.workers,
                share=given.share,
                seed=given.seed,
            )
        )
    sys.stdout.buffer.write(msgspec.json.encode(tallies) + b"\n")


if __name__ == "__main__":
    main()
