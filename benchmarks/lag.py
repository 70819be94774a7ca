"""How soon a delivery is answered, and how soon it shows: `python -m benchmarks.lag`.

Deliveries of both providers go to a `loopledger serve` at a stated rate, each at its moment, whatever became of those
before it; how long an answer took counts from that moment (and so holds up to 1 ms of this program's own timer). Of
some, it is measured how long after the 200 the projected state is there: `GET /v1/<kind>/{id}?at_least=<position>`
answered with 200.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

import aiohttp
import msgspec

from benchmarks import processes, servers
from benchmarks.processes import fail, scratch
from benchmarks.report import (
    Machine,
    number,
    parser_of,
    percentile,
    show_progress,
    tell,
    this_machine,
    write_lines,
    write_table,
)
from benchmarks.standing import Ledger
from benchmarks.traffic import Signer
from simulation.deliveries import Delivery, deliveries

CONNECTIONS = 256
ANSWER_SECONDS = 30.0

# States that are asked for, a second: few, so that asking does not become the load.
SAMPLES_PER_SECOND = 100


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """How long something took."""

    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `client_cpu` is the share of one CPU that this program took: near 1, it measured itself."""

    machine: Machine
    load_after: tuple[float, float, float]
    rate: float
    seconds: float
    workers: int
    verification: bool
    deliveries_per_second: float
    client_cpu: float
    answered: Times
    visible: Times


class _Answer(msgspec.Struct):
    position: int


_decode = msgspec.json.Decoder(_Answer).decode


class Client:
    """Sends deliveries to a Loopledger, and keeps how long things took, in seconds."""

    def __init__(self, url: str, signer: Signer) -> None:
        self._url = url
        self._signer = signer
        self._posts = _session()
        self._gets = _session()
        self.answered: list[float] = []
        self.visible: list[float] = []

    async def close(self) -> None:
        """Close the connections."""
        await self._posts.close()
        await self._gets.close()

    async def send_all(self, made: Sequence[Delivery], rate: float) -> float:
        """Send each delivery at its moment; gives back how long it took until the last was answered."""
        ready = [(each, self._signer.headers(each)) for each in made]
        sample = max(1, round(rate / SAMPLES_PER_SECOND))
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for index, (delivery, headers) in enumerate(ready):
                due = began + index / rate
                if (early := due - time.perf_counter()) > 0:
                    await asyncio.sleep(early)
                group.create_task(self._send(delivery, headers, due, sampled=index % sample == 0))
        return time.perf_counter() - began

    async def _send(
        self, delivery: Delivery, headers: dict[str, str], due: float, *, sampled: bool
    ) -> None:
        url = self._url + delivery.path
        async with self._posts.post(url, data=delivery.body, headers=headers) as answer:
            body = await answer.read()
            acknowledged = time.perf_counter()
            _check(answer, body)
        self.answered.append(acknowledged - due)
        if sampled:
            async with self._gets.get(
                self._url + _state(delivery, _decode(body).position)
            ) as answer:
                _check(answer, await answer.read())
            self.visible.append(time.perf_counter() - acknowledged)


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=CONNECTIONS),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
    )


def _check(answer: aiohttp.ClientResponse, body: bytes) -> None:
    if answer.status != HTTPStatus.OK:
        fail(f"{answer.method} {answer.url} was answered {answer.status}: {body!r}")


def _state(delivery: Delivery, position: int) -> str:
    """Where the state of what a delivery is about is, once it has seen that position."""
    _, merchant, kind, id_ = delivery.thing.split("/")
    return f"/v1/{kind}s/{quote(id_)}?at_least={position}&merchant_id={merchant}"


def _times(seconds: Sequence[float]) -> Times:
    return Times(
        count=len(seconds),
        p50_ms=percentile(seconds, 0.50) * 1000,
        p99_ms=percentile(seconds, 0.99) * 1000,
        max_ms=max(seconds, default=0.0) * 1000,
    )


async def measure(given: argparse.Namespace, directory: Path) -> Report:
    """Start a Loopledger, send, and see that all is on record. Raises BenchmarkError if something was refused."""
    machine = this_machine(directory)
    signer = Signer()
    made = list(deliveries(given.seed, max(1, round(given.rate * given.seconds))))
    async with AsyncExitStack() as stack:
        show_progress("starting loopledger")
        postgres = await servers.start_postgres(stack, directory / "data")
        server = await servers.start_loopledger(stack, postgres, directory, signer, given.workers)
        ledger = Ledger(server.url, 0)
        await ledger.settle()
        show_progress(f"sending {len(made):,} deliveries at {given.rate:,.0f}/s")
        client = Client(server.url, signer)
        stack.push_async_callback(client.close)
        cpu = time.process_time()
        try:
            took = await client.send_all(made, given.rate)
        except ExceptionGroup as errors:
            fail(f"not every request was answered with 200: {errors.exceptions[0]!r}")
        cpu = time.process_time() - cpu
        await ledger.settle(acknowledged=len(made))
    return Report(
        machine=machine,
        load_after=os.getloadavg(),
        rate=given.rate,
        seconds=given.seconds,
        workers=given.workers,
        verification=servers.verifies("loopz"),
        deliveries_per_second=len(made) / took,
        client_cpu=cpu / took,
        answered=_times(client.answered),
        visible=_times(client.visible),
    )


def write(report: Report) -> None:
    """Write the report for people."""
    write_table(
        f"{report.rate:,.0f} deliveries/s for {report.seconds:g} s",
        ("", "count", "p50 ms", "p99 ms", "max ms"),
        [
            (
                name,
                f"{times.count:,}",
                number(times.p50_ms, ",.1f"),
                number(times.p99_ms, ",.1f"),
                number(times.max_ms, ",.1f"),
            )
            for name, times in (
                ("from its moment to the 200", report.answered),
                ("from the 200 to the state", report.visible),
            )
        ],
    )
    machine = report.machine
    write_lines(
        f"{machine.system}, {machine.cpus} CPUs, Python {machine.python}, data on {machine.file_system}; "
        f"load {machine.load[0]:.1f} before, {report.load_after[0]:.1f} after",
        f"loopledger: {report.workers} worker(s), signatures {'verified' if report.verification else 'NOT verified'}; "
        "fsync on",
        f"achieved {report.deliveries_per_second:,.0f} deliveries/s; this client took {report.client_cpu:.0%} of a CPU",
    )


async def benchmark(given: argparse.Namespace) -> int:
    """Measure and report."""
    with scratch() as directory:
        report = await measure(given, directory)
    tell(report, write, as_json=given.json)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; gives back its exit code: 1 if a check failed."""
    parser = parser_of("lag", __doc__)
    add = parser.add_argument
    add("--rate", type=float, default=2000, help="deliveries per second (2000)")
    add("--seconds", type=float, default=10, help="(10)")
    add("--workers", type=int, default=1, help="processes of Loopledger that take deliveries (1)")
    add("--seed", type=int, default=1, help="of the simulation (1)")
    add("--json", action="store_true", help="print only the report, as one JSON object")
    given = parser.parse_args(arguments)
    if min(given.rate, given.seconds, given.workers) <= 0:
        parser.error("rate, seconds and workers must be more than 0")
    return processes.run(benchmark(given))


if __name__ == "__main__":
    sys.exit(main())
