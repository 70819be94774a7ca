"""wrk, the load generator: as many connections as asked for, each sending its next request once it has an answer.

A closed loop: a server that stalls is sent less meanwhile, so the latencies are those of a server that is kept busy,
not those at a stated rate (benchmarks.lag measures these).
"""

import asyncio
import math
import shutil
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import msgspec

from benchmarks.harness.command import fail
from benchmarks.harness.signer import Signer
from simulation.deliveries import Delivery, Rates, deliveries

# How long an answer may take before wrk counts it as lost, and how long wrk may take over its time.
RESPONSE_SECONDS = 30
SPARE_SECONDS = 60.0

SCRIPT = Path(__file__).with_name("wrk.lua")

MISSING = (
    "wrk, which sends the load, is not installed: apt-get install wrk (Debian, Ubuntu), brew install wrk (macOS), "
    "or build it from github.com/wg/wrk"
)

TOPIC_HEADER = "X-LOOPZ-WEBHOOK-TOPIC"
UPDATED = "gift-card.updated"

# More than any run asks for: the simulation makes them one by one.
ENDLESS = 2**62


class Load(msgspec.Struct, frozen=True):
    """What wrk saw. `refused` are answers other than 200, `broken` are connections and requests without an answer."""

    answers: int
    refused: int
    broken: int
    seconds: float
    p50_ms: float
    p99_ms: float


def installed() -> bool:
    """Whether wrk is there."""
    return shutil.which("wrk") is not None


def whole_seconds(seconds: float) -> int:
    """How long wrk will run: it counts in whole seconds."""
    return max(1, math.ceil(seconds))


def gift_card_updates(seed: int, count: int) -> Iterator[Delivery]:
    """Updates of gift cards as a busy Loopz would send them; another seed gives other cards."""
    stream = deliveries(seed, ENDLESS, Rates(fitbank=0))
    return islice((each for each in stream if each.headers[TOPIC_HEADER] == UPDATED), count)


def write_requests(file: Path, made: Iterable[Delivery], signer: Signer) -> None:
    """Write whole HTTP requests, each after a line with its length: what the script of wrk reads."""
    with file.open("wb") as out:
        for delivery in made:
            headers = {
                "Host": "127.0.0.1",
                "Content-Length": str(len(delivery.body)),
                **signer.headers(delivery),
            }
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            request = f"POST {delivery.path} HTTP/1.1\r\n{lines}\r\n".encode() + delivery.body
            out.write(b"%d\n%b" % (len(request), request))


def write_gets(file: Path, targets: Iterable[str]) -> None:
    """Write whole GET requests in the same way."""
    with file.open("wb") as out:
        for target in targets:
            request = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
            out.write(b"%d\n%b" % (len(request), request))


async def load(
    url: str, requests: Path, *, connections: int, seconds: float, rest_ms: int = 0
) -> Load:
    """Send the requests of a file for some seconds. Raises BenchmarkError if any was not answered with 200.

    `rest_ms`: each connection rests so long before its next request.
    """
    process = await asyncio.create_subprocess_exec(
        "wrk",
        *("--threads", "1", "--connections", str(connections)),
        *("--duration", f"{whole_seconds(seconds)}s", "--timeout", f"{RESPONSE_SECONDS}s"),
        *("--script", str(SCRIPT), url, "--", str(requests), *([str(rest_ms)] if rest_ms else [])),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(whole_seconds(seconds) + SPARE_SECONDS):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        found = msgspec.json.decode(output.rsplit(b"\n", 2)[-2], type=Load)
    except (msgspec.DecodeError, IndexError):
        fail(f"wrk did not report: {output.decode(errors='replace')}")
    if found.refused or found.broken or not found.answers:
        fail(f"of the requests to {url} not all were answered with 200: {found}")
    return found
