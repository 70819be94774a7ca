"""How fast questions are answered, beside a bare handler that sends the same bytes: `python -m benchmarks.query`.

A log is put on record by COPY and folded by a `loopledger serve`. Then, while gift card updates are delivered at a
stated rate, wrk asks

  card           one card by its id, another one each time
  page           the first 50 cards of a merchant that are not deleted
  sorted page    the 50 of them with the highest balances
  history        the 100 events of a card
  deep history   100 events from the middle of a history of 10,000

of Loopledger and of a bare aiohttp handler that sends the bytes of one of its answers, one after the other, round after
round. Reported is the median of the rounds; a ratio is the median of the ratios within each round, since what else the
machine does changes between rounds. `CPU http` is the processor time of the processes that answer, `CPU all` of all
processes of the server, with Postgres. What deliveries take while nobody asks is taken off the former; for what
Postgres takes of an answer, ask without deliveries: `--ingest 0`.

In the end 200 live streams follow the events of one merchant and topic, while all others come in: how long after its
200 an event is there, on each of them. Then all cards are read as CSV.

`--data DIRECTORY` keeps the log and the states there, or takes those that an earlier run with the same sizes has left.
`--against CHECKOUT` adds the Loopledger of another checkout of this project, which must have the same schema: it
answers from the same database, while this one takes the deliveries and folds.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.command import checkout, parser_of, run, scratch
from benchmarks.ingest import wrk
from benchmarks.query.comparison import QueryComparison
from benchmarks.query.report import Report, write

EXIT_NO_WRK = 2


async def measure(given: argparse.Namespace) -> Report:
    """Measure as the options say."""
    with scratch() as directory:
        return await QueryComparison(given, directory).run()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; gives back its exit code: 1 if a check failed, 2 if wrk is missing."""
    parser = parser_of("query", __doc__)
    add = parser.add_argument
    add("--events", type=int, default=5_000_000, metavar="N", help="on record (5000000)")
    add("--cards", type=int, default=1_000_000, metavar="N", help="that they are about (1000000)")
    add("--long", type=int, default=10_000, metavar="N", help="events of the long history (10000)")
    add("--data", type=Path, metavar="DIRECTORY", help="keep the data there, and use what is there")
    add("--seconds", type=float, default=5, help="of each load, rounded up to whole ones (5)")
    add("--connections", type=int, nargs="+", default=[1, 64], metavar="N")
    add("--rounds", type=int, default=3, help="(3)")
    add("--workers", type=int, default=1, help="processes of Loopledger that answer (1)")
    add("--ingest", type=int, default=1_000, metavar="N", help="deliveries a second (1000)")
    add("--streams", type=int, default=200, metavar="N", help="live streams, 0 for none (200)")
    add("--only", nargs="+", metavar="QUESTION", help="ask only these (all)")
    add("--against", type=checkout, metavar="CHECKOUT", help="also measure another Loopledger")
    given = parser.parse_args(arguments)
    if min(given.events, given.seconds, given.rounds, given.workers, *given.connections) <= 0:
        parser.error("events, seconds, rounds, workers and connections must be more than 0")
    if not wrk.installed():
        sys.stderr.write(f"benchmark: {wrk.MISSING}\n")
        return EXIT_NO_WRK
    return run(measure(given), write, given)


if __name__ == "__main__":
    sys.exit(main())
