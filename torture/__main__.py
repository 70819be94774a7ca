"""The command `python -m torture`."""

import argparse
import asyncio
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.harness.command import EXIT_INTERRUPTED, until_stopped
from eventstore.limits import MIB
from torture.crowd_watch import CrowdOutcome
from torture.run import Outcome, Plan, torture
from torture.timings import Latencies

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
        crowd=given.crowd,
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
    add(
        "--crowd",
        type=_share,
        nargs="?",
        const=1.0,
        default=0.0,
        metavar="SHARE",
        help="amid a crowd of strangers; a smaller one than a full one (1.0) against limits that are smaller too",
    )
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


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 1:
        message = f"not a share above 0, up to 1: {text}"
        raise argparse.ArgumentTypeError(message)
    return share


def _print(outcome: Outcome, out: Console) -> None:
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
    _print_table(rows.items(), out)
    if outcome.crowd is not None:
        _print_table(_rows_of(outcome.crowd), out)
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


def _print_table(rows: Iterable[tuple[str, str]], out: Console) -> None:
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in rows:
        table.add_row(name, value)
    out.print(table)


def _rows_of(crowd: CrowdOutcome) -> Iterator[tuple[str, str]]:
    yield "deliveries before the crowd came", _told(crowd.before)
    seconds = f"{crowd.undisturbed_seconds:.0f} s"
    yield f"amid it, in the {seconds} without a kill", _told(crowd.undisturbed)
    for way, each in crowd.undisturbed_by_way.items():
        yield f"  {way}", _told(each)
    yield "from a kill until all had come back", _told(crowd.disturbed)
    for role, memory in crowd.memory.items():
        before, since = memory.before // MIB, memory.since // MIB
        yield f"memory: {role}", f"{before} MiB before, {since} MiB at most since"
    if crowd.waiting_share is not None:
        yield "the workers waited for a processor", f"{crowd.waiting_share:.0%} of their time"
    kept = "there" if crowd.rejection_kept else "gone"
    yield "the rejection of a verified sender", kept
    for name, counts in crowd.attacks.items():
        yield f"  {name}", ", ".join(f"{key}: {count:,}" for key, count in counts.items())


def _told(each: Latencies) -> str:
    others = "".join(f", {status}: {count:,}" for status, count in each.others.items())
    times = f"{each.p50 * 1000:.0f}, {each.p99 * 1000:.0f}, {each.longest * 1000:.0f} ms"
    return f"{each.count:,}: median, p99, longest {times}{others}"


def _others(outcome: Outcome) -> int:
    shown = {"lost", "doubled", "hole"}
    return sum(count for kind, count in outcome.violations.items() if kind not in shown)


if __name__ == "__main__":
    sys.exit(main())
