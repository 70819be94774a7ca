"""CPU seconds that a checkout's code takes for some events: `python timing.py EVENTS`, with its root as PYTHONPATH.

EVENTS is a file of events by name, as MessagePack. For each name it prints the seconds of decoding and of folding.
"""

import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from eventstore.fold.folding import Accumulator
from eventstore.fold.projection import Projection
from eventstore.log.events import Event
from projections import load_projections
from providers import load_providers

PASSES = 5


def main() -> None:
    """Print the least of some passes."""
    given = msgspec.msgpack.decode(Path(sys.argv[1]).read_bytes(), type=dict[str, list[Event]])
    providers = load_providers({})
    found = {}
    for name, events in given.items():
        fact = providers[events[0].provider].topics[events[0].topic]
        projection = next(each for each in load_projections().values() if fact in each.handles)

        def decode(events: list[Event] = events) -> None:
            for event in events:
                providers[event.provider].decode(event)

        def fold(events: list[Event] = events, projection: Projection[Any] = projection) -> None:
            accumulator = Accumulator(projection, providers)
            accumulator.fold(events)
            if accumulator.quarantined:
                raise ValueError(accumulator.last_error)

        found[name] = {"decode": seconds(decode), "fold": seconds(fold)}
    sys.stdout.write(json.dumps(found))


def seconds(work: Callable[[], None]) -> float:
    """CPU seconds of the best pass: what else the machine does only ever adds."""
    least = float("inf")
    for _ in range(PASSES):
        gc.collect()
        gc.freeze()
        start = time.process_time()
        work()
        least = min(least, time.process_time() - start)
    return least


if __name__ == "__main__":
    main()
