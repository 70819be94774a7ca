"""How soon a delivery is answered, and how soon it shows: `python -m benchmarks.lag`.

Deliveries of both providers go to a `loopledger serve` at a stated rate, each at its moment, whatever became of those
before it; how long an answer took counts from that moment (and so holds up to 1 ms of this program's own timer). Of
some, it is measured how long after the 200 the projected state is there: `GET /v1/<kind>/{id}?at_least=<position>`
answered with 200.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

from benchmarks.harness import servers
from benchmarks.harness.api import HeadCheck
from benchmarks.harness.command import fail, parser_of, run, scratch
from benchmarks.harness.postgres import start_postgres
from benchmarks.harness.progress import show_progress
from benchmarks.harness.report import this_machine
from benchmarks.harness.signer import Signer
from benchmarks.lag.client import Client
from benchmarks.lag.report import Report, times_of, write
from simulation.deliveries import deliveries


async def measure(given: argparse.Namespace) -> Report:
    """Start a Loopledger, send, and see that all is on record. Raises BenchmarkError if something was refused."""
    signer = Signer()
    made = list(deliveries(given.seed, max(1, round(given.rate * given.seconds))))
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(scratch())
        machine = this_machine(directory)
        show_progress("starting loopledger")
        postgres = await start_postgres(stack, directory / "data")
        server = await servers.start_loopledger(stack, postgres, directory, signer, given.workers)
        check = HeadCheck(server.url, 0)
        await check.settle()
        show_progress(f"sending {len(made):,} deliveries at {given.rate:,.0f}/s")
        client = Client(server.url, signer)
        stack.push_async_callback(client.close)
        cpu = time.process_time()
        try:
            took = await client.send_all(made, given.rate)
        except ExceptionGroup as errors:
            fail(f"not every request was answered with 200: {errors.exceptions[0]!r}")
        cpu = time.process_time() - cpu
        await check.settle(acknowledged=len(made))
    return Report(
        machine=machine,
        load_after=os.getloadavg(),
        rate=given.rate,
        seconds=given.seconds,
        workers=given.workers,
        verification=True,
        deliveries_per_second=len(made) / took,
        client_cpu=cpu / took,
        answered=times_of(client.answered),
        visible=times_of(client.visible),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; gives back its exit code: 1 if a check failed."""
    parser = parser_of("lag", __doc__)
    add = parser.add_argument
    add("--rate", type=float, default=2000, help="deliveries per second (2000)")
    add("--seconds", type=float, default=10, help="(10)")
    add("--workers", type=int, default=1, help="processes of Loopledger that take deliveries (1)")
    add("--seed", type=int, default=1, help="of the simulation (1)")
    given = parser.parse_args(arguments)
    if min(given.rate, given.seconds, given.workers) <= 0:
        parser.error("rate, seconds and workers must be more than 0")
    return run(measure(given), write, given)


if __name__ == "__main__":
    sys.exit(main())
