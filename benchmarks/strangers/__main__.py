"""What a flood of wrong secrets does to correct deliveries from the same address, to the disk, and to the record.

`python -m benchmarks.strangers --against ../before`: first that checkout, then this one, in one run.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.harness.server_process import ROOT, LoopledgerProcess

SECRET = "a-token-of-some-length"  # noqa: S105 - made up
SETTINGS = {
    "STRANGERS_TOKEN": SECRET,
    "LOOPLEDGER_LOOPZ_VERIFICATION": json.dumps(
        {"tokens": {"secrets": [{"env": "STRANGERS_TOKEN"}]}, "merchant_ids": ["m-1"]}
    ),
}
BODY = b'{"id": "l-1"}'
STRANGERS = 4
STRANGER_BYTES = 60_000
PAUSE_SECONDS = 0.005


class Sender:
    """A connection that is opened again when the server closes it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; gives back status and body, or 0 if the connection was closed."""
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = self._streams
            writer.write(request)
            await writer.drain()
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            return int(head[9:12]), await reader.readexactly(size)
        except (OSError, asyncio.IncompleteReadError):
            self._streams = None
            return 0, b""


def delivery(token: str, body: bytes, merchant: str = "m-1") -> bytes:
    """A delivery with a token."""
    lines = [
        *("POST /webhooks/loopz HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}"),
        *("X-LOOPZ-WEBHOOK-TOPIC: location.updated", f"X-LOOPZ-MERCHANT-ID: {merchant}"),
        *(f"Content-Length: {len(body)}", "", ""),
    ]
    return "\r\n".join(lines).encode() + body


async def deliver(port: int, seconds: float) -> tuple[list[float], Counter[int]]:
    """Deliver one after the other; gives back how long each took, in seconds, and how it was answered."""
    sender, durations, statuses = Sender(port), list[float](), Counter[int]()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        start = time.perf_counter()
        status, _ = await sender.send(delivery(SECRET, BODY))
        durations.append(time.perf_counter() - start)
        statuses[status] += 1
        await asyncio.sleep(PAUSE_SECONDS)
    return durations, statuses


async def flood(port: int, seconds: float, name: int) -> None:
    """Send wrong tokens with large bodies, no two alike."""
    sender, number = Sender(port), 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        number += 1
        await sender.send(delivery("wrong", b"%d %d " % (name, number) + b"x" * STRANGER_BYTES))


async def measure(port: int, data: Path, seconds: float) -> str:
    """One rejection of a verified sender, deliveries alone, then beside a flood."""
    sender = Sender(port)
    await sender.send(delivery(SECRET, BODY, merchant="m-2"))
    await asyncio.sleep(1.5)
    alone, _ = await deliver(port, seconds)
    size = megabytes(data)
    floods = asyncio.gather(*(flood(port, seconds, name) for name in range(STRANGERS)))
    beside, statuses = await deliver(port, seconds)
    await floods
    await asyncio.sleep(1.5)
    _, listed = await sender.send(
        b"GET /v1/rejections?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )
    items: list[dict[str, Any]] = json.loads(listed)["items"]
    is_there = any(item["id"] == 1 for item in items)
    quiet, loud = p99(alone), p99(beside)
    return (
        f"p99 {quiet:.0f} -> {loud:.0f} ms: {loud / quiet:.1f} times; answered {dict(statuses)}; "
        f"rejections {len(items)}, the verified one {'there' if is_there else 'gone'}; "
        f"data {size:.0f} -> {megabytes(data):.0f} MB\n"
    )


def p99(durations: list[float]) -> float:
    """In milliseconds."""
    return sorted(durations)[int(len(durations) * 0.99)] * 1000


def megabytes(data: Path) -> float:
    """The size of a data directory without its write-ahead log."""
    total = 0
    for file in data.rglob("*"):
        with contextlib.suppress(OSError):
            total += 0 if "pg_wal" in file.parts or not file.is_file() else file.stat().st_size
    return total / 1e6


def main() -> None:
    """Measure each checkout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="another checkout, measured first")
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    for checkout in [*([given.against.resolve()] if given.against else []), ROOT]:
        with tempfile.TemporaryDirectory(prefix="ll-", dir="/tmp") as name:
            directory = Path(name)
            directory.chmod(0o711)
            server = LoopledgerProcess(
                directory / "data", directory / "log", environ=SETTINGS, checkout=checkout
            )
            try:
                server.wait_until_ready()
                found = asyncio.run(measure(server.port, directory / "data", given.seconds))
            finally:
                server.stop()
            sys.stdout.write(f"{checkout.name}: {found}")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
