"""How many deliveries are taken a second, beside what else one could do: `python -m benchmarks.ingest`.

wrk sends signed `gift-card.updated` deliveries to

  limit          a bare aiohttp handler that reads the body and answers 200
  loopledger     `loopledger serve`: verifies, records, projects
  insert         the bare handler with one INSERT a request, through a pool of 20 connections
  eventsourcing  the bare handler with the recorder of the eventsourcing library, in 20 threads

one after the other, round after round, each with a Postgres of its own and fsync on. Reported is the median of the
rounds; a ratio is the median of the ratios within each round, since what else the machine does changes between rounds.
`CPU http` is the processor time of the processes that take deliveries, `CPU all` of all processes of the server, with
Postgres. Each load begins with fresh gift cards, the same for all. Loopledger projects while it is measured; before the
next server's turn it may catch up (`folded after`), so that it takes no time from the others. Every other round goes
through the servers in reverse.

After each of its turns Loopledger's head must have moved by the number of 200s that wrk saw (and by at most one more
for each connection, in flight when the load ended), and every projection must account for every event.

`--events-on-record N` adds a second Loopledger, `full`, whose log holds N events before it starts. They are written by
SQL, and its projections are told that they have seen them: their checkpoints are set to N, with all of them ignored.
Otherwise it would be folding them while it is measured.

`--against CHECKOUT` adds the Loopledger of another checkout of this project, such as the commit before a change, run
with the virtual environment in its `.venv` if there is one: the same loads, in the same rounds.
"""

import argparse
import sys
from collections.abc import Sequence

from benchmarks.harness.command import checkout, parser_of, run, scratch
from benchmarks.ingest import wrk
from benchmarks.ingest.comparison import SERVERS, IngestComparison
from benchmarks.ingest.report import Report, write

EXIT_NO_WRK = 2


async def measure(given: argparse.Namespace) -> Report:
    """Measure as the options say."""
    with scratch() as directory:
        return await IngestComparison(given, directory).run()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; gives back its exit code: 1 if a check failed, 2 if wrk is missing."""
    parser = parser_of("ingest", __doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=5, help="of each load, rounded up to whole ones (5)")
    add("--connections", type=int, nargs="+", default=[1, 16, 64, 256], metavar="N")
    add("--rounds", type=int, default=3, help="(3)")
    add("--workers", type=int, default=1, help="processes of Loopledger that take deliveries (1)")
    add("--servers", nargs="+", default=list(SERVERS), choices=SERVERS, help="(all)")
    add("--events-on-record", type=int, default=0, metavar="N", help="also measure a log with N")
    add("--against", type=checkout, metavar="CHECKOUT", help="also measure another Loopledger")
    add("--appenders", type=int, default=0, metavar="N", help="workers that append (its default)")
    add("--apart", action="store_true", help="also measure one of which every worker appends")
    given = parser.parse_args(arguments)
    if min(given.seconds, given.rounds, given.workers, *given.connections) <= 0:
        parser.error("seconds, rounds, workers and connections must be more than 0")
    if not wrk.installed():
        sys.stderr.write(f"benchmark: {wrk.MISSING}\n")
        return EXIT_NO_WRK
    return run(measure(given), write, given)


if __name__ == "__main__":
    sys.exit(main())
