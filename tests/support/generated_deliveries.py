"""Deliveries that Hypothesis makes up: what collides, comes late, repeats, or cannot be read or held."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from hypothesis import strategies as st
from msgspec import UNSET
from multidict import CIMultiDict

from eventstore.log.events import Event, NewEvent
from providers import load_providers
from providers.provider import UnparsableError
from tests.support import NOON, encoded, loopz_headers, on_record
from tests.support.reference_model import Json, Sent

PROVIDERS = load_providers({})


def some_of(fields: Mapping[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Json]:
    """Any of these fields, each given or left out."""
    absent = st.just(UNSET)
    return st.fixed_dictionaries({name: absent | value for name, value in fields.items()}).map(
        lambda drawn: {name: value for name, value in drawn.items() if value is not UNSET}
    )


# Few ids and few times: what may collide, does.
MOMENTS = tuple(NOON + timedelta(seconds=n) for n in range(5))

IDS = st.sampled_from([*["x-1"] * 6, "x/2", 3, "3"])

TIMES = st.one_of(
    st.sampled_from(MOMENTS).map(datetime.isoformat),
    st.sampled_from(["2026-01-01T09:00:02.000000-03:00", "2026-01-01T12:00:03Z"]),
    st.sampled_from(["2026-01-01T12:00:01", "2026-01-01T12:00:02.50"]),
    st.none(),
)

LOOPZ_TIMES = TIMES | st.just(int(MOMENTS[2].timestamp()))

AMOUNTS = st.sampled_from([0, 150, 2000, "2000", None])

MONEY = AMOUNTS | some_of(
    {"amount": AMOUNTS, "currencyCode": st.sampled_from(["USD", "EUR", None])}
)

TEXTS = st.sampled_from(["a", "b", "", 12345678, None])

FIELDS: Mapping[str, Mapping[str, st.SearchStrategy[Any]]] = {
    "gift-card": {"type": TEXTS, "status": TEXTS, "balance": MONEY, "code": TEXTS, "gan": TEXTS},
    "transaction": {
        "type": st.sampled_from(["TOPUP", "REDEEM", None]),
        "status": st.sampled_from(["PENDING", "COMPLETED", "VOIDED", "odd", 7, None]),
        "amount": MONEY,
        "tip": MONEY,
        "gift_card_id": TEXTS,
        "location_id": TEXTS,
    },
    "location": {"name": TEXTS, "status": TEXTS, "type": TEXTS, "external_id": TEXTS},
}

TWINS = {
    "created_on": ("created_on", "createdOn", "created_at", "createdAt"),
    "updated_on": ("updated_on", "updatedOn", "updated_at", "updatedAt"),
    "deleted_on": ("deleted_on", "deletedOn", "deleted_at", "deletedAt"),
    "gift_card_id": ("gift_card_id", "giftCardId"),
    "location_id": ("location_id", "locationId"),
    "external_id": ("external_id", "externalId"),
}

WRAPPERS = {
    "gift-card": ("gift_card", "giftCard"),
    "transaction": ("transaction",),
    "location": ("location",),
}

UNDECODABLE = st.sampled_from(
    [
        {"id": True},
        {"id": None},
        {"updated_on": "yesterday"},
        {"status": ["ACTIVE"]},
        {"balance": "lots", "amount": "lots", "name": {}},
    ]
)

LOOPZ_TOPICS = {
    kind: [f"{kind}.{what}" for what in (*whats, "suspended")]
    for kind, whats in {
        "gift-card": ("created", "updated", "updated", "deleted"),
        "transaction": ("created", "updated", "updated", "deleted"),
        "location": ("created", "updated"),
    }.items()
}

FITBANK_TOPICS = st.sampled_from([*PROVIDERS["fitbank"].topics, "UpdateRefundStatusMongo"])

TENANTS = st.sampled_from([*["0"] * 7, "1"])

PROGRAMS = st.sampled_from(["p-1", "p-1", "p-2", None])

MOSTLY = st.sampled_from([True] * 15 + [False])


@st.composite
def loopz_deliveries(draw: st.DrawFn, kind: str) -> Sent:
    """A snapshot of a card, a transaction or a location: whole or in part, bare or wrapped."""
    topic = draw(st.sampled_from(LOOPZ_TOPICS[kind]))
    optional = {
        **FIELDS[kind],
        **dict.fromkeys(("created_on", "updated_on", "deleted_on"), LOOPZ_TIMES),
    }
    body: Any = {"id": draw(IDS)} | draw(some_of(optional))
    if not draw(MOSTLY):
        body |= draw(UNDECODABLE)
    body = {draw(st.sampled_from(TWINS.get(name, (name,)))): body[name] for name in body}
    if draw(st.booleans()):
        body = {draw(st.sampled_from(WRAPPERS[kind])): body}
    if not draw(MOSTLY):
        body = encoded(body)[:-1]
    received_at = draw(st.sampled_from(MOMENTS))
    return Sent("loopz", topic, draw(TENANTS), draw(PROGRAMS), body, received_at)


@st.composite
def fitbank_deliveries(draw: st.DrawFn) -> Sent:
    """A change of status, with numbers and strings for one another."""
    fields = {
        "TransactionIdentifier": IDS,
        "Identifier": IDS,
        "Status": st.sampled_from(
            ["Created", "Created", "CanBePreAuthorized", "Authorized", "Canceled", 8]
        ),
        "Date": TIMES,
        "TotalValue": st.sampled_from(["20.00", 20, 20.0, "0.125", None]),
    }
    body = draw(some_of(fields))
    if not draw(MOSTLY):
        body |= draw(st.sampled_from([{"TotalValue": "free"}, {"Date": "yesterday"}]))
    received_at = draw(st.sampled_from(MOMENTS))
    return Sent("fitbank", draw(FITBANK_TOPICS), draw(TENANTS), None, body, received_at)


@st.composite
def logs(draw: st.DrawFn) -> list[Sent]:
    """Deliveries of one kind of thing, or of several, in any order, some of them again and again."""
    kinds = [fitbank_deliveries(), *map(loopz_deliveries, LOOPZ_TOPICS)]
    source = draw(st.sampled_from([*kinds, st.one_of(kinds)]))
    deliveries = draw(st.lists(source, min_size=2, max_size=8))
    order = st.lists(st.integers(0, len(deliveries) - 1), min_size=4, max_size=16)
    return [deliveries[index] for index in draw(order)]


# Where an older decoder may have filed a delivery: it read no id, or that of another thing, tenant or kind.
FILED = [
    *("0/gift-card/~none", "0/gift-card/x-1", "0/transaction/x-1", "0/location/x%2F2"),
    *("0/transaction/~none", "1/gift-card/x-1", "1/transaction/3", "0/UpdateRefund/3"),
]


@st.composite
def misfiled_logs(draw: st.DrawFn) -> list[Sent]:
    """The same, of which an older decoder filed some elsewhere: then of the same delivery some may be, and some not."""
    return [
        sent if draw(st.booleans()) else sent._replace(filed_under=draw(st.sampled_from(FILED)))
        for sent in draw(logs())
    ]


def of_tenant(sent: Sent, number: int) -> Sent:
    """Send the same for a tenant that no other example has; FitBank writes its tenant as it likes."""
    merchant_id = f"{number}{sent.merchant_id}"
    if sent.provider == "fitbank" and not isinstance(sent.body, bytes):
        unit: object = int(merchant_id) if number % 2 else merchant_id
        sent = sent._replace(body={"Method": sent.topic, "BusinessUnitId": unit} | sent.body)
    filed_under = None if sent.filed_under is None else f"{number}{sent.filed_under}"
    return sent._replace(merchant_id=merchant_id, filed_under=filed_under)


def to_event(sent: Sent) -> NewEvent:
    """Put a delivery as the server would; what it would refuse goes to a card's stream all the same."""
    body = encoded(sent.body)
    headers = loopz_headers(sent.topic, sent.merchant_id) | {
        "X-LOOPZ-PROGRAM-ID": sent.program_id or ""
    }
    try:
        stream = PROVIDERS[sent.provider].recognise(CIMultiDict(headers), body).stream
    except UnparsableError:
        stream = f"{sent.provider}/{sent.merchant_id}/gift-card/x-1"
    merchant_id = sent.merchant_id
    if sent.filed_under is not None:
        stream = f"{sent.provider}/{sent.filed_under}"
        if sent.provider == "fitbank":
            # The decoder reads the tenant, too.
            merchant_id = sent.filed_under.split("/")[0]
    return NewEvent(
        event_id=uuid4(),
        provider=sent.provider,
        topic=sent.topic,
        merchant_id=merchant_id,
        program_id=sent.program_id,
        stream=stream,
        received_at=sent.received_at,
        headers=b"",
        body=body,
    )


def to_log(deliveries: Sequence[Sent]) -> list[Event]:
    """The same deliveries on record, without a database."""
    return [on_record(to_event(s), n, s.received_at) for n, s in enumerate(deliveries, 1)]


def _every_topic() -> set[str]:
    return {f"{name} {topic}" for name, provider in PROVIDERS.items() for topic in provider.topics}


def card(topic: str, received_at: datetime = NOON, **body: object) -> Sent:
    return Sent("loopz", f"gift-card.{topic}", "0", "p-1", {"id": "x-1", **body}, received_at)


# Anything a provider may write into a known field, and that Postgres may refuse to hold.
WILD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(st.characters(), max_size=5),
    st.sampled_from(["\0", "\ud800", "NaN", "1e400", "9999-12-31T23:59:59-03:00", "0001-01-01"]),
    st.lists(st.none(), max_size=1),
)

WILD_NAMES = st.sampled_from(
    [
        *("id", "status", "type", "name", "code", "currency", "tip", "updated_on", "createdAt"),
        *("Identifier", "Status", "Date", "TotalValue", "location", "gift_card", "transaction"),
    ]
)

WILD_BODIES = st.dictionaries(
    WILD_NAMES | st.text(max_size=3), WILD | st.dictionaries(WILD_NAMES, WILD, max_size=2)
)


@st.composite
def wild_deliveries(draw: st.DrawFn) -> Sent:
    """A delivery of a known topic whose body may hold anything."""
    provider, topic = draw(st.sampled_from(sorted(_every_topic()))).split()
    fields = {
        "id": IDS,
        "Identifier": IDS,
        "balance": WILD,
        "amount": st.fixed_dictionaries({"amount": WILD}),
    }
    body = draw(some_of(fields)) | draw(WILD_BODIES)
    return Sent(provider, topic, "0", None, body, NOON)
