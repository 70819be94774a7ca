"""Lists of what Loopledger keeps besides states and events: quarantine, rejections, generations."""

import msgspec

from eventstore.fold.columns import columns_of
from eventstore.fold.quarantine import QuarantinedEvent
from eventstore.fold.status import GenerationStatus, Status
from eventstore.log.streams import stream_part
from eventstore.query.filters import recorded_filters
from eventstore.query.listing import Filter, Key, Listing
from eventstore.query.row_json import Field
from eventstore.rejections import Rejection


def fields_of(described: type[msgspec.Struct], **expressions: str) -> dict[str, Field]:
    """The fields of the Struct that describes a row: columns of their names, but for those that have `expressions`."""
    return {
        name: Field(name, expressions.get(name, name), sql_type, nullable)
        for name, sql_type, nullable, *_ in columns_of(described)
    }


# Its statement is given the name of a projection.
QUARANTINE = Listing(
    name="quarantine",
    query="list_quarantine",
    fields=fields_of(QuarantinedEvent, position="q.position", stream="q.stream", error="q.error"),
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
    fields=fields_of(Rejection),
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
    fields=fields_of(GenerationStatus),
    filters={
        "name": Filter(str, "name = {0}", "Only of this projection."),
        "status": Filter(Status, "status = {0}", "Only with this status."),
    },
    sorts={"name": (Key("name", "text"), Key("generation", "bigint"))},
    merchant=None,
)
