"""Lists of what Loopledger keeps besides states and events: quarantine, rejections, generations."""

from eventstore.fold.status import Status
from eventstore.log.streams import stream_part
from eventstore.query.filters import recorded_filters
from eventstore.query.listing import Filter, Key, Listing
from eventstore.query.row_json import Field

_TIME = "timestamp with time zone"


def _by_name(*fields: Field) -> dict[str, Field]:
    return {field.name: field for field in fields}


# Its statement is given the name of a projection.
QUARANTINE = Listing(
    name="quarantine",
    query="list_quarantine",
    fields=_by_name(
        Field("position", "q.position", "bigint"),
        Field("stream", "q.stream", "text"),
        Field("topic", "e.topic", "text"),
        Field("error", "q.error", "text"),
        Field("quarantined_at", "q.quarantined_at", _TIME),
    ),
    filters={
        "stream": Filter(str, "q.stream = {0}", "Only of this thing, by the name of its stream."),
        "merchant_id": Filter(
            str,
            "split_part(q.stream, '/', 2) = {0}",
            "Only of this merchant.",
            prepare=lambda merchant: [stream_part(merchant)],
        ),
        **recorded_filters("the event was recorded", "q.position"),
    },
    sorts={"position": (Key("q.position", "bigint"),)},
    merchant="split_part(q.stream, '/', 2)",
    merchant_value=stream_part,
)

REJECTIONS = Listing(
    name="rejections",
    query="list_rejections",
    fields=_by_name(
        Field("id", "id", "bigint"),
        Field("provider", "provider", "text"),
        Field("cause", "cause", "text"),
        Field("problem", "problem", "text"),
        Field("address", "address", "text"),
        Field("size", "size", "bigint"),
        Field("first_at", "first_at", _TIME),
        Field("last_at", "last_at", _TIME),
        Field("count", "count", "bigint"),
        Field("retried_at", "retried_at", _TIME, nullable=True),
        Field("position", "position", "bigint", nullable=True),
        Field("verified", "verified", "boolean"),
    ),
    filters={
        "provider": Filter(str, "provider = {0}", "Only what was sent for this provider."),
        "cause": Filter(str, "cause = {0}", "Only with this cause."),
        "verified": Filter(bool, "verified = {0}", "Only of verified senders, or of strangers."),
    },
    sorts={"id": (Key("id", "bigint"),)},
    default_sort="-id",
    merchant=None,
)

# Its statement is given the fingerprints of the code of this process, as JSON.
GENERATIONS = Listing(
    name="generations",
    query="list_generations",
    fields=_by_name(
        Field("name", "name", "text"),
        Field("generation", "generation", "integer"),
        Field("status", "status", "text"),
        Field("version", "version", "integer"),
        Field("checkpoint", "checkpoint", "bigint"),
        Field("head", "head", "bigint"),
        Field("lag", "lag", "bigint"),
        Field("stuck", "stuck", "boolean"),
        Field("stale", "stale", "boolean"),
        Field("folded", "folded", "bigint"),
        Field("ignored", "ignored", "bigint"),
        Field("quarantined", "quarantined", "bigint"),
        Field("error", "error", "text", nullable=True),
        Field("created_at", "created_at", _TIME),
        Field("updated_at", "updated_at", _TIME),
        Field("retired_at", "retired_at", _TIME, nullable=True),
    ),
    filters={
        "name": Filter(str, "name = {0}", "Only of this projection."),
        "status": Filter(Status, "status = {0}", "Only with this status."),
    },
    sorts={"name": (Key("name", "text"), Key("generation", "bigint"))},
    merchant=None,
)
