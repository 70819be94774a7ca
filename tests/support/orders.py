"""Other orders in which deliveries may arrive."""

import random
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from tests.support import reference_model
from tests.support.reference_model import Change, Sent


def said(sent: Sent) -> Change | None:
    """What a delivery says; None if that cannot be read."""
    try:
        read = reference_model.read_fitbank if sent.provider == "fitbank" else None
        return (read or reference_model.read_loopz)(sent)
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return None


def another_order(deliveries: Sequence[Sent], chance: random.Random) -> list[Sent]:
    """The same deliveries, those of one thing only exchanged where the provider's times say which was first."""
    streams: dict[str, list[tuple[Change | None, Sent]]] = defaultdict(list)
    for sent in deliveries:
        change = said(sent)
        streams[change.stream if change else ""].append((change, sent))
    queues: list[list[Sent]] = []
    for known in streams.values():
        queue: list[Sent] = []
        stretch: list[tuple[datetime, Sent]] = []
        for change, sent in known:
            if change is not None and (time := change.until or change.time) is not None:
                stretch.append((time, sent))
                continue
            queue += [*_exchanged(stretch, chance), sent]
            stretch = []
        queues.append(queue + _exchanged(stretch, chance))
    mixed: list[Sent] = []
    while queues := [queue for queue in queues if queue]:
        mixed.append(chance.choice(queues).pop(0))
    return mixed


def _exchanged(stretch: Sequence[tuple[datetime, Sent]], chance: random.Random) -> list[Sent]:
    """In any order; those of one time stay in theirs."""
    same: dict[datetime, list[Sent]] = defaultdict(list)
    for time, sent in stretch:
        same[time].append(sent)
    times = [time for time, _ in stretch]
    chance.shuffle(times)
    return [same[time].pop(0) for time in times]
