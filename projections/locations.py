"""Locations as they are now. Loopz sends no deletion of one; INACTIVE is a status like any other."""

from msgspec import UNSET

from eventstore.fold.projection import Place, Projection, Timeline
from projections.fast_merging import FastMerger
from projections.tracked import EFFECTIVE_AT, Tracked
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


_MERGER = FastMerger(Location)
_NAME, _STATUS, _TYPE, _EXTERNAL_ID = _MERGER.masks


def evolve(state: Location | None, fact: LocationFact, at: Place) -> Location:
    """The newest snapshot wins."""
    old, missing = state or _NOTHING, 0
    if (name := fact.name) is UNSET:
        missing, name = missing | _NAME, old.name
    if (status := fact.status) is UNSET:
        missing, status = missing | _STATUS, old.status
    if (type_ := fact.type) is UNSET:
        missing, type_ = missing | _TYPE, old.type
    if (external_id := fact.external_id) is UNSET:
        missing, external_id = missing | _EXTERNAL_ID, old.external_id
    fields = _MERGER.in_order(old, fact, missing, at)
    if fields is None:
        return _MERGER.merge(state, fact, at)
    after = Location(*fields, name, status, type_, external_id)
    if fact.updated_at is None and status == old.status and _MERGER.is_repeat(old, after):
        return _MERGER.merge(state, fact, at)
    return after


PROJECTION = Projection(
    name="locations",
    version=1,
    handles=frozenset({LocationFact}),
    state=Location,
    key="id",
    tombstone="deleted_at",
    evolve=evolve,
    judge=_MERGER.judge,
    indexes=("id", "merchant_id", "program_id", "provider", "type", "status", "external_id"),
    tenant="merchant_id",
    references=("external_id",),
    names=("name",),
    effective_at=EFFECTIVE_AT,
    timeline=Timeline(columns=("status",), placement=_MERGER.placement),
)
