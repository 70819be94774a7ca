"""How fast a projection is rebuilt, beside what else one could do: `python -m benchmarks.rebuild`.

A log is put on record once, in the data directory of a `loopledger serve` with its own Postgres. Then, round after
round, on the same server:

  limit            COPY of every event to this program, which drops it: what reading costs
  sql              one INSERT ... SELECT DISTINCT ON by hand (rebuild.sql), then the live table's indexes
  loopledger       POST /v1/projections/{name}/rebuild, from `started_at` until it follows the log; timelines,
                   postings and indexes included, the diff with the live generation not; then it is discarded
  no timelines     the same, of a copy of Loopledger whose projections keep none, nor postings: so does the query
  eventsourcing    the eventsourcing library's ProjectionRunner, with the same evolve function, on fewer events

Rates are events of the whole log a second, whichever of them a projection is about. Reported is the median of the
rounds; a ratio is the median of those within each round. What each makes is compared: a rebuild with the live fold by
Loopledger itself (its diff must be empty), the query's rows with the live ones by a hash over all columns, those of the
library with the query's over as many events. The query is what one writes who knows that every body is whole and none
comes twice: it would be wrong about bodies that leave something out, about a repeat (`position`), and about a payment
whose first delivery comes late (`created_at`). Loopledger's bodies may be like that; those made here are not.

`--against CHECKOUT` adds the rebuilds of another checkout of this project, such as the commit before a change, run with
the virtual environment in its `.venv` if there is one: of the same log, in the same rounds, in a database of its own.

Before the first round the live projections fold the whole log: how fast, counted from the server's start, is told too.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

import structlog

from benchmarks.harness.command import checkout, parser_of, run, scratch
from benchmarks.harness.progress import show_progress
from benchmarks.rebuild.comparison import RebuildComparison
from benchmarks.rebuild.events import Plan
from benchmarks.rebuild.report import Growth, Report, write, write_growth

SIZES = (200_000, 2_000_000, 10_000_000)
# Events to a card, and to a transaction, unless told.
EVENTS_TO_A_THING = 20


async def measure(given: argparse.Namespace, events: int) -> Report:
    """Measure with a log of this size."""
    plan = Plan(
        events=events,
        cards=given.cards or events // EVENTS_TO_A_THING,
        transactions=given.transactions or events // EVENTS_TO_A_THING,
    )
    with scratch() as directory:
        comparison = RebuildComparison(
            plan,
            directory,
            rounds=given.rounds,
            library_events=given.library_events,
            against=given.against,
        )
        return await comparison.run()


async def measure_growth(given: argparse.Namespace) -> Growth:
    """Measure with a log of each size."""
    reports = []
    for events in given.sizes:
        show_progress(f"a log of {events:,} events")
        reports.append(await measure(given, events))
    return Growth(sizes=reports)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; gives back its exit code: 1 if a check failed."""
    parser = parser_of("rebuild", __doc__)
    things = f"1 to {EVENTS_TO_A_THING} events"
    add = parser.add_argument
    add("--events", type=int, default=2_000_000, metavar="N", help="on record (2000000)")
    add("--cards", type=int, metavar="N", help=f"that they are about ({things})")
    add("--transactions", type=int, metavar="N", help=f"that they are about ({things})")
    add("--rounds", type=int, default=3, metavar="N", help="(3)")
    add("--library-events", type=int, default=20_000, metavar="N", help="0: without it (20000)")
    add("--growth", action="store_true", help="measure logs of several sizes")
    add("--sizes", type=_numbers, default=SIZES, metavar="N,...", help="(200000,2000000,10000000)")
    add("--against", type=checkout, metavar="CHECKOUT", help="also measure another Loopledger")
    given = parser.parse_args(arguments)
    if min(given.events, given.rounds, *given.sizes) <= 0 or given.library_events < 0:
        parser.error("events, rounds and sizes must be more than 0")
    # Standard output is for the report.
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    if given.growth:
        return run(measure_growth(given), write_growth, given)
    return run(measure(given, given.events), write, given)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
