"""The deliveries that two busy providers would send: seeded, unlimited and pure.

A *life* is an iterator over the deliveries of one gift card (with its transactions), one location or
one payment. Many lives are open at once; one of them is drawn at random and takes its next step.
Between provider and receiver is a network, which repeats some deliveries and reorders others.

There is no clock and no global randomness: the same arguments give the same bytes.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice

import msgspec

from simulation import fitbank, loopz
from simulation.world import Delivery, Life, Rates, World

__all__ = ["Delivery", "Rates", "deliveries"]

START = datetime(2025, 1, 6, 8, 0, tzinfo=UTC)


def deliveries(
    seed: int,
    count: int,
    rates: Rates = Rates(),  # noqa: B008 (frozen)
    *,
    merchants: int = 3,
    open_lives: int = 200,
    start: datetime = START,
) -> Iterator[Delivery]:
    """Generate exactly `count` deliveries; memory grows with `open_lives` only, not with `count`.

    Another seed gives other things: no two runs share a gift card or payment, though they share
    the merchants ("m-1", "m-2", ...). `merchants` is also the number of FitBank's business units.
    """
    world = World(seed, rates, start)
    network = _Network(world)
    from_loopz, from_fitbank = (
        _interleave(world, map(network.carry, provider.lives(world, merchants)), open_lives)
        for provider in (loopz, fitbank)
    )
    for _ in range(count):
        yield next(from_fitbank if world.chance(rates.fitbank) else from_loopz)


def _interleave(world: World, lives: Iterator[Life], at_once: int) -> Iterator[Delivery]:
    """Run many lives at once: each delivery is the next one of a life drawn at random."""
    running = list(islice(lives, at_once))
    while True:
        drawn = world.below(at_once)
        delivery = next(running[drawn], None)
        if delivery is None:
            running[drawn] = next(lives)
        else:
            yield delivery


class _Network:
    """The network between a provider and the server: it reorders some deliveries and repeats others."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._late_owed = 0.0

    def carry(self, life: Life) -> Life:
        """Yield the deliveries of a life as they arrive."""
        return self._repeat(self._reorder(life))

    def _reorder(self, life: Life) -> Life:
        """Hold a delivery that is to be late until the next one of its thing has gone by.

        Whether one follows is not known beforehand: what was held in vain stays owed, so that the
        share of late deliveries comes out as stated whatever the lives are like.
        """
        share = self._world.rates.late
        held: dict[str, Delivery] = {}
        for delivery in life:
            self._late_owed += share
            if delivery.thing in held:
                yield delivery
                yield msgspec.structs.replace(held.pop(delivery.thing), note="late")
            elif self._late_owed >= 1:
                self._late_owed -= 1
                held[delivery.thing] = delivery
            else:
                yield delivery
        self._late_owed += len(held)
        yield from held.values()

    def _repeat(self, life: Life) -> Life:
        share = self._world.rates.duplicate
        for delivery in life:
            yield delivery
            if self._world.chance(share):
                yield msgspec.structs.replace(delivery, note="duplicate")
