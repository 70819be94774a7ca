"""Locations as they are now. Loopz sends no deletion of one; INACTIVE is a status like any other."""

from eventstore.projection import Projection
from projections.merging import Tracked, merge
from providers.facts import LocationFact


class Location(Tracked, frozen=True):
    """The state of one location."""

    name: str | None = None
    status: str | None = None
    type: str | None = None
    external_id: str | None = None


def evolve(state: Location | None, fact: LocationFact) -> Location:
    """The newest snapshot wins."""
    return merge(state, fact, Location)


PROJECTION = Projection(
    name="locations",
    version=1,
    handles=frozenset({LocationFact}),
    state=Location,
    evolve=evolve,
    indexes=("id", "merchant_id", "status"),
)
