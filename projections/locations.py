"""Locations as they are now. Loopz sends no deletion of one; INACTIVE is a status like any other."""

from msgspec import UNSET

from eventstore.fold.projection import Projection
from projections.tracked import Tracked, tracked
from providers.facts import LocationFact


class Location(Tracked, frozen=True):
    """The state of one location: `name`, `status` and `type` in the provider's words.

    `external_id` is the merchant's own id for it.
    """

    name: str | None = None
    status: str | None = None
    type: str | None = None
    external_id: str | None = None


# What is known before the first fact.
_NOTHING = Location("", "", None, "")


def evolve(state: Location | None, fact: LocationFact) -> Location:
    """The newest snapshot wins."""
    old = state or _NOTHING
    fields = tracked(old, fact)
    if fields is None:
        return old
    return Location(
        *fields,
        old.name if fact.name is UNSET else fact.name,
        old.status if fact.status is UNSET else fact.status,
        old.type if fact.type is UNSET else fact.type,
        old.external_id if fact.external_id is UNSET else fact.external_id,
    )


PROJECTION = Projection(
    name="locations",
    version=1,
    handles=frozenset({LocationFact}),
    state=Location,
    key="id",
    tombstone="deleted_at",
    evolve=evolve,
    indexes=("id", "merchant_id", "status"),
    tenant="merchant_id",
)
