"""What readers of the API do to deliveries: how long these take alone, and beside readers of each kind.

`python -m benchmarks.reads --against ../before`: first that checkout, then this one, in turns, in one run.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from http import HTTPStatus
from pathlib import Path

from benchmarks.harness.server_process import ROOT, LoopledgerProcess

EVENTS = 1_000
PAUSE_SECONDS = 0.005

# How many readers ask for what, one question after the other.
READERS = {
    "alone": (0, ""),
    "4 histories of 1,000 events": (4, "/v1/locations/l-1/history?limit=1000"),
    "4 lists of 1,000 events": (4, "/v1/events?limit=1000"),
    "16 for one location": (16, "/v1/locations/l-1"),
    "4 for /metrics": (4, "/metrics"),
}


def delivery(number: int) -> bytes:
    """One of the deliveries of a location."""
    body = b'{"id": "l-1", "name": "%d", "status": "%b"}' % (
        number,
        b"ACTIVE" if number % 2 else b"INACTIVE",
    )
    lines = (
        "POST /webhooks/loopz HTTP/1.1",
        "Host: localhost",
        "X-LOOPZ-WEBHOOK-TOPIC: location.updated",
        "X-LOOPZ-MERCHANT-ID: m-1",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join([*lines, "", ""]).encode() + body


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, port: int) -> "Client":
        """Open one."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def send(self, request: bytes) -> int:
        """Send a request; gives back its status."""
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await self._reader.readexactly(size)
        return int(head[9:12])


async def read(port: int, path: str, end: float) -> int:
    """Ask again and again; gives back how often there was an answer."""
    client, answered = await Client.connect(port), 0
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    while time.monotonic() < end:
        answered += await client.send(request) == HTTPStatus.OK
    return answered


async def deliver(port: int, end: float) -> list[float]:
    """Deliver one after the other; gives back how long each took, in seconds, shortest first."""
    client, durations = await Client.connect(port), list[float]()
    while time.monotonic() < end:
        start = time.perf_counter()
        await client.send(delivery(len(durations)))
        durations.append(time.perf_counter() - start)
        await asyncio.sleep(PAUSE_SECONDS)
    return sorted(durations)


async def fill(port: int) -> None:
    """Put one long history on record."""
    clients = [await Client.connect(port) for _ in range(20)]
    for first in range(0, EVENTS, len(clients)):
        await asyncio.gather(*(each.send(delivery(first + n)) for n, each in enumerate(clients)))
    client = await Client.connect(port)
    await client.send(
        f"GET /v1/locations/l-1?at_least={EVENTS} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    )


async def measure(port: int, seconds: float, name: str) -> str:
    """Deliver beside some readers."""
    count, path = READERS[name]
    end = time.monotonic() + seconds
    reading = [asyncio.create_task(read(port, path, end)) for _ in range(count)]
    durations = await deliver(port, end)
    answered = await asyncio.gather(*reading)
    p50, p99 = (durations[int(len(durations) * share)] * 1000 for share in (0.5, 0.99))
    return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms; {sum(answered) / seconds:.0f} reads a second"


def main() -> None:
    """Measure each checkout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="another checkout, measured first")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    checkouts = [*([given.against.resolve()] if given.against else []), ROOT]
    for checkout in checkouts * given.rounds:
        with tempfile.TemporaryDirectory(prefix="ll-", dir="/tmp") as name:
            directory = Path(name)
            directory.chmod(0o711)
            server = LoopledgerProcess(directory / "data", directory / "log", checkout=checkout)
            try:
                server.wait_until_ready()
                asyncio.run(fill(server.port))
                for readers in READERS:
                    found = asyncio.run(measure(server.port, given.seconds, readers))
                    sys.stdout.write(f"{checkout.name}: {readers}: {found}\n")
                    sys.stdout.flush()
            finally:
                server.stop()


if __name__ == "__main__":
    main()
