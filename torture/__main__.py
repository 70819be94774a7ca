"""The command `python -m torture`."""

import argparse
import asyncio
import os
import secrets
import sys
from collections.abc import Callable

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.harness.command import EXIT_INTERRUPTED, until_stopped
from torture.run import Outcome, Plan, torture

EXIT_BROKEN = 1


def main() -> int:
    """Run the command; gives back its exit code. 0: every promise was kept; 1: not; 130: interrupted."""
    given = _parser().parse_args()
    seed = secrets.randbelow(2**32) if given.seed is None else given.seed
    plan = Plan(
        kills=given.kills,
        seed=seed,
        workers=given.workers,
        senders=given.senders,
        keep=given.keep,
        database_url=os.environ.get("LOOPLEDGER_TEST_DATABASE_URL"),
    )
    out = Console(highlight=False, markup=False, soft_wrap=True)
    err = Console(highlight=False, markup=False, soft_wrap=True, stderr=True)
    err.print(f"{plan.kills:,} kills under {plan.senders} senders; --seed {seed} repeats them")
    try:
        outcome = asyncio.run(until_stopped(torture(plan, err.print)))
    except asyncio.CancelledError:
        return EXIT_INTERRUPTED
    if given.json:
        out.file.write(msgspec.json.encode(outcome).decode() + "\n")
    else:
        _print(outcome, out)
    return 0 if outcome.passed else EXIT_BROKEN


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m torture",
        description=__doc__,
        epilog="LOOPLEDGER_TEST_DATABASE_URL: in a new database on that server, instead of an embedded Postgres.",
    )
    add = parser.add_argument
    add("--kills", type=_at_least(1), default=100, metavar="N", help="how many (%(default)s)")
    add("--seed", type=int, metavar="N", help="the same seed, the same kills (default: random)")
    add(
        "--workers",
        type=_at_least(2),
        default=3,
        metavar="N",
        help="HTTP processes, one of which appends (%(default)s)",
    )
    add("--senders", type=_at_least(1), default=16, metavar="N", help="at once (%(default)s)")
    add("--keep", action="store_true", help="keep the data and the server's logs in any case")
    add("--json", action="store_true", help="print the outcome as one JSON object")
    return parser


def _at_least(least: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            message = f"not a whole number from {least} on: {text}"
            raise argparse.ArgumentTypeError(message)
        return int(text)

    return count


def _print(outcome: Outcome, out: Console) -> None:
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    rows = {
        "seed": str(outcome.seed),
        "kills": f"{outcome.kills:,}",
        **_indented(outcome.kills_by_kind),
        "starts of the server": f"{outcome.starts:,}",
        "  of which failed": f"{sum(outcome.failed_starts.values()):,}",
        "sent attempts": f"{outcome.attempts:,}",
        **_indented(outcome.answers),
        "acknowledged": f"{outcome.acknowledged:,}",
        "on record": f"{outcome.on_record:,}",
        "lost": f"{outcome.lost:,}",
        "doubled": f"{outcome.doubled:,}",
        "holes": f"{outcome.holes:,}",
        "other violations": f"{_others(outcome):,}",
        "repeated after a lost answer": f"{outcome.repeated_after_a_lost_answer:,}",
        "longest time without a 200": f"{outcome.longest_time_without_a_200:.1f} s",
        "the whole run": f"{outcome.seconds:.0f} s",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    out.print(table)
    for reason, count in outcome.failed_starts.items():
        out.print(f"{count:,} starts failed: {reason}")
    for said, count in outcome.logged.items():
        out.print(f"{count:,} times in the server's log: {said}")
    for violation in outcome.first_violations:
        out.print(f"{violation.kind}: {violation.facts}")
    if outcome.kept is not None:
        out.print(f"the data and the server's logs are kept in {outcome.kept}")


def _indented(counts: dict[str, int]) -> dict[str, str]:
    return {f"  {name}": f"{count:,}" for name, count in counts.items()}


def _others(outcome: Outcome) -> int:
    shown = {"lost", "doubled", "hole"}
    return sum(count for kind, count in outcome.violations.items() if kind not in shown)


if __name__ == "__main__":
    sys.exit(main())
