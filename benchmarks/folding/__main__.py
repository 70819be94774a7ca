"""What decoding and folding cost beside another checkout: `python -m benchmarks.folding --against ../before`.

Both take turns, each round in processes of their own; a ratio is of the CPU time of one event, best pass of all rounds.
Events are those of the benchmark of rebuilds, the simulation's, and these again with fields that nobody declared.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import msgspec

from benchmarks.harness.command import checkout
from benchmarks.harness.report import write_table
from benchmarks.harness.server_process import ROOT
from benchmarks.rebuild.events import Plan, lines
from eventstore.log.events import Event
from providers import load_providers
from providers.facts import GiftCardFact, TransactionFact
from simulation.deliveries import START, deliveries
from simulation.world import encode

SCRIPT = Path(__file__).with_name("timing.py")
FACTS = {"cards": GiftCardFact, "transactions": TransactionFact}

# What a real body may have besides, of every kind of JSON.
UNDECLARED = {
    "object": "record",
    "is_active": True,
    "expires_on": None,
    "recipient": {"name": "Zoë Specimen", "phone": "+1 555 0100", "address": {"city": "Example"}},
    "message": "Happy birthday, Max!",
    "tags": ["gift", "online"],
    "history_count": 12,
    "program": {"id": "p-1", "name": "Example Cards"},
}


def simulated(count: int) -> Iterator[Event]:
    """The simulation's deliveries, as they would be on record."""
    providers = load_providers({})
    for position, each in enumerate(deliveries(1, count), 1):
        name = each.path.rpartition("/")[2]
        there = providers[name].recognise(each.headers, each.body)
        at = START + timedelta(seconds=10 * position)
        yield Event(
            position, UUID(int=position), name, there.topic, there.merchant_id, there.program_id,
            there.stream, at, at, each.body,
        )  # fmt: skip


def rebuilt(count: int) -> Iterator[Event]:
    """The events that rebuilds are measured with."""
    plan = Plan(events=count, cards=count // 15, transactions=count // 5)
    for line in lines(plan):
        position, id_, received, recorded, topic, provider, merchant, program, stream, _, body = (
            line.rstrip("\n").split("\t")
        )
        yield Event(
            int(position), UUID(id_), provider, topic, merchant, None if program == r"\N" else program,
            stream, datetime.fromisoformat(received), datetime.fromisoformat(recorded), body.encode(),
        )  # fmt: skip


def with_more(events: Iterable[Event]) -> Iterator[Event]:
    """Loopz's events, with fields that nobody declared."""
    for event in events:
        body = msgspec.json.decode(event.body)
        if event.provider == "loopz" and len(body) > 1:
            yield msgspec.structs.replace(event, body=encode({**body, **UNDECLARED}))


def measured(
    events: dict[str, list[Event]], places: Sequence[Path], rounds: int
) -> dict[tuple[Path, str, str], float]:
    """CPU seconds of the best pass in each checkout."""
    best: dict[tuple[Path, str, str], float] = {}
    with tempfile.NamedTemporaryFile() as file:
        file.write(msgspec.msgpack.encode(events))
        file.flush()
        for place in [*places] * rounds:
            environ = {**os.environ, "PYTHONPATH": str(place)}
            command = [sys.executable, str(SCRIPT), file.name]
            printed = subprocess.check_output(command, cwd=place, env=environ)  # noqa: S603 - our own script
            for name, found in json.loads(printed).items():
                for what, seconds in found.items():
                    key = place, name, what
                    best[key] = min(best.get(key, seconds), seconds)
    return best


def main() -> None:
    """Measure, and write a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=checkout, required=True, help="another checkout")
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    providers, events = load_providers({}), dict[str, list[Event]]()
    simulation = list(simulated(given.events))
    for kind, made in {
        "rebuilt": list(rebuilt(given.events)),
        "simulated": simulation,
        "undeclared": list(with_more(simulation)),
    }.items():
        for name, fact in FACTS.items():
            events[f"{kind} {name}"] = [
                each for each in made if providers[each.provider].topics[each.topic] is fact
            ]
    best = measured(events, (given.against, ROOT), given.rounds)
    rows = []
    for name, each in events.items():
        for what in ("decode", "fold"):
            was, now = (best[place, name, what] for place in (given.against, ROOT))
            times = (f"{seconds / len(each) * 1e6:.2f}" for seconds in (was, now))
            rows.append((name, what, *times, f"{now / was:.2f}"))
    write_table("CPU us per event", ("events", "", "against", "now", "ratio"), rows, left=2)


if __name__ == "__main__":
    main()
