"""For any deliveries: the live state equals the fold of the log equals what the words of the design promise."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import uuid4

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from multidict import CIMultiDict

from eventstore.fold.folding import fold
from eventstore.fold.projection import Projection
from eventstore.fold.projector import Projector
from eventstore.fold.registry import Registry
from eventstore.fold.status import GenerationStatus
from eventstore.limits import Limits
from eventstore.log.events import Event, NewEvent
from eventstore.postgres.database import Database
from eventstore.query.history import history
from projections import load_projections
from projections.gift_cards import GiftCard, evolve
from providers import load_providers
from providers.facts import GiftCardFact
from providers.provider import UnidentifiedError, UnparsableError
from tests.conftest import Cluster
from tests.support import encoded, loopz_headers, on_record, reference_model
from tests.support.log import Log
from tests.support.reference_model import Json, Sent

T = TypeVar("T")

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PROVIDERS = load_providers({})
PROJECTIONS = load_projections()
PURCHASE = "UpdatePurchaseClosedLoopStatusMongo"


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


def of_tenant(sent: Sent, number: int) -> Sent:
    """Send the same for a tenant that no other example has; FitBank writes its tenant as it likes."""
    merchant_id = f"{number}{sent.merchant_id}"
    if sent.provider == "fitbank" and not isinstance(sent.body, bytes):
        unit: object = int(merchant_id) if number % 2 else merchant_id
        sent = sent._replace(body={"Method": sent.topic, "BusinessUnitId": unit} | sent.body)
    return sent._replace(merchant_id=merchant_id)


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
    return NewEvent(
        event_id=uuid4(),
        provider=sent.provider,
        topic=sent.topic,
        merchant_id=sent.merchant_id,
        program_id=sent.program_id,
        stream=stream,
        received_at=sent.received_at,
        headers=b"",
        body=body,
    )


def to_log(deliveries: Sequence[Sent]) -> list[Event]:
    """The same deliveries on record, without a database."""
    return [on_record(to_event(s), n, s.received_at) for n, s in enumerate(deliveries, 1)]


@dataclass
class Folded:
    """The states of a projection, and what became of each position."""

    states: Mapping[str, Json]
    ignored: set[int]
    quarantined: set[int]


def folded(
    projection: Projection[Any], log: Sequence[Event], refused: set[int] | None = None
) -> Folded:
    """Fold a log, but for the positions that the database refused."""
    states: dict[str, msgspec.Struct] = {}
    found = Folded({}, set(), set())
    for event in log:
        before = states.get(event.stream)
        one = fold(projection, PROVIDERS, before, event)
        verdict, state = one.verdict, one.state
        if verdict == "ignored":
            found.ignored.add(event.position)
        elif verdict == "quarantined" or event.position in (refused or ()):
            found.quarantined.add(event.position)
        else:
            states[event.stream] = state
    found.states = {stream: msgspec.structs.asdict(state) for stream, state in states.items()}
    return found


class Live:
    """A log and its projectors at work, in a loop that stands still between examples."""

    def __init__(self, runner: asyncio.Runner, database: Database) -> None:
        # Small folds, so that an example is spread over several, and states that have to be read again.
        limits = Limits(poll_seconds=0.05, fold_events=3, fold_streams=1)
        self.run = runner.run
        self.numbers = itertools.count(1)
        self.database = database
        self.log = Log(database, limits)
        self.registry = Registry(database)
        self.projectors = [
            Projector(
                projection,
                sources=PROVIDERS,
                database=database,
                reader=self.log.reader,
                head=self.log.head,
                registry=self.registry,
                limits=limits,
            )
            for projection in PROJECTIONS.values()
        ]
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to append and to fold."""
        await self.log.start()
        for projector in self.projectors:
            await projector.set_up()
            self._tasks.append(asyncio.create_task(projector.run()))

    async def stop(self) -> None:
        """Stop both."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.log.stop()

    async def append(self, events: Sequence[NewEvent], chunk: int) -> list[Event]:
        """Append, `chunk` at once; give back what is on record of it, once every projector has folded it."""
        positions: list[int] = []
        for first in range(0, len(events), chunk):
            batch = events[first : first + chunk]
            appended = await asyncio.gather(*map(self.log.appender.append, batch))
            positions += [one.position for one in appended]
        for name in PROJECTIONS:
            await self.registry.wait_for(name, positions[-1], timeout=10)
        log = (await self.log.reader.read_slice(positions[0] - 1, len(events), None)).events
        assert [event.position for event in log] == positions
        assert [event.event_id for event in log] == [event.event_id for event in events]
        return log

    async def states(self, name: str, log: Sequence[Event]) -> dict[str, Json]:
        """The states of these events' streams, as anyone with SQL sees them."""
        streams = list({event.stream for event in log})
        rows = await self.database.fetch(
            f"SELECT * FROM {name} WHERE stream = ANY($1)",  # noqa: S608 - a name of ours
            streams,
        )
        found = {row["stream"]: dict(row) for row in rows}
        for state in found.values():
            del state["stream"], state["position"]
        return found

    async def quarantined(self, name: str, log: Sequence[Event]) -> set[int]:
        """Which of these events a projection holds in quarantine."""
        rows = await self.database.fetch(
            "SELECT position FROM quarantine WHERE projection = $1 AND position = ANY($2)",
            name,
            [event.position for event in log],
        )
        return {row["position"] for row in rows}

    async def statuses(self) -> dict[str, GenerationStatus]:
        """Where every projection stands: complete, and at the head."""
        found = await self.registry.statuses()
        statuses = {name: each.live for name, each in found.items()}
        for one in statuses.values():
            assert one.folded + one.ignored + one.quarantined == one.checkpoint == one.head
        return statuses


def _every_topic() -> set[str]:
    return {f"{name} {topic}" for name, provider in PROVIDERS.items() for topic in provider.topics}


@pytest.fixture(scope="module")
def live(cluster: Cluster) -> Iterator[Live]:
    with asyncio.Runner() as runner:
        databases = cluster.database()
        database = Database(runner.run(databases.__aenter__()), pool_connections=5)
        runner.run(database.open())
        found = Live(runner, database)
        runner.run(found.start())
        yield found
        runner.run(found.stop())
        runner.run(database.close())
        runner.run(databases.__aexit__(None, None, None))


def card(topic: str, received_at: datetime = NOON, **body: object) -> Sent:
    return Sent("loopz", f"gift-card.{topic}", "0", "p-1", {"id": "x-1", **body}, received_at)


@settings(max_examples=250)
@given(logs())
def test_the_fold_of_the_log_is_what_the_words_promise(deliveries: list[Sent]) -> None:
    sent = [of_tenant(delivery, 1) for delivery in deliveries]
    log = to_log(sent)
    for name, projection in PROJECTIONS.items():
        promised = reference_model.expect(name, sent)
        pure = folded(projection, log)
        assert pure.states == promised.states
        assert pure.ignored == {index + 1 for index in promised.ignored}
        assert pure.quarantined == {index + 1 for index in promised.quarantined}


@settings(max_examples=120)
@given(deliveries=logs(), chunk=st.integers(1, 5))
@example([card("updated", updated_on=MOMENTS[3].isoformat()), card("deleted")], 2)
def test_the_live_state_is_the_fold_of_the_log_is_what_the_words_promise(
    live: Live, deliveries: list[Sent], chunk: int
) -> None:
    number = next(live.numbers)
    sent = [of_tenant(delivery, number) for delivery in deliveries]

    async def check() -> None:
        before = await live.statuses()
        log = await live.append([to_event(delivery) for delivery in sent], chunk)
        after = await live.statuses()
        first = log[0].position
        for name, projection in PROJECTIONS.items():
            promised = reference_model.expect(name, sent)
            pure = folded(projection, log)
            assert pure.states == promised.states
            assert await live.states(name, log) == promised.states
            assert pure.quarantined == {first + index for index in promised.quarantined}
            assert await live.quarantined(name, log) == pure.quarantined
            ignored = after[name].ignored - before[name].ignored
            quarantined = after[name].quarantined - before[name].quarantined
            assert ignored == len(promised.ignored) == len(pure.ignored)
            assert quarantined == len(promised.quarantined)

    live.run(check())


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


@settings(max_examples=60)
@given(deliveries=st.lists(wild_deliveries(), min_size=1, max_size=10))
def test_what_postgres_cannot_hold_is_quarantined_and_the_rest_is_folded(
    live: Live, deliveries: list[Sent]
) -> None:
    number = next(live.numbers)
    events = [to_event(of_tenant(delivery, number)) for delivery in deliveries]

    async def check() -> None:
        log = await live.append(events, len(events))
        await live.statuses()
        for name, projection in PROJECTIONS.items():
            refused = await live.quarantined(name, log)
            pure = folded(projection, log, refused)
            assert pure.quarantined == refused
            assert await live.states(name, log) == pure.states

    live.run(check())


@given(st.one_of(st.binary(), st.text().map(str.encode), WILD_BODIES.map(encoded)))
@example(b'{"a":' * 100_000)
@example(b"[" * 100_000)
@example(b'{"id": ' + b"1" * 10_000 + b"}")
@example(b'{"id": "x-1", "balance": "1e999999999"}')
@example(b'{"Identifier": "x-1", "TotalValue": "1e999999999"}')
def test_any_bytes_are_recognised_or_refused_and_folding_them_never_raises(body: bytes) -> None:
    for name, provider in PROVIDERS.items():
        with suppress(UnparsableError, UnidentifiedError):
            provider.recognise(CIMultiDict(loopz_headers("gift-card.updated")), body)
        for topic, projection in itertools.product(provider.topics, PROJECTIONS.values()):
            event = Event(1, uuid4(), name, topic, "m-1", None, "s", NOON, NOON, body)
            assert fold(projection, PROVIDERS, None, event).verdict in {
                "applied",
                "ignored",
                "quarantined",
            }


def times_of_facts() -> st.SearchStrategy[dict[str, Any]]:
    """A fact's times; a deletion may give its own, or none."""
    some = st.sampled_from(MOMENTS)
    update = some_of({"updated_at": some})
    deletion = some_of({"updated_at": some, "deleted_at": some}).map(
        lambda times: {"deleted": True, **times}
    )
    return st.tuples(some, update | deletion).map(
        lambda drawn: {"received_at": drawn[0]} | drawn[1]
    )


def card_fact(**values: Any) -> GiftCardFact:  # noqa: ANN401 - whatever a fact holds
    """What an event says of the one card."""
    common = {"provider": "loopz", "merchant_id": "m-1", "program_id": "p-1", "id": "x-1"}
    return GiftCardFact(**(common | {"received_at": NOON} | values))


@st.composite
def facts(draw: st.DrawFn) -> GiftCardFact:
    """What an event may say of a card: each field given, null or left out."""
    fields = some_of(
        {
            "status": st.sampled_from(["ACTIVE", "INACTIVE", None]),
            "balance": st.sampled_from([0, 1, None]),
            "created_at": st.sampled_from([*MOMENTS, None]),
            "program_id": PROGRAMS,
        }
    )
    return card_fact(**draw(fields), **draw(times_of_facts()))


def state_after(given_facts: Sequence[GiftCardFact]) -> GiftCard | None:
    state = None
    for fact in given_facts:
        state = evolve(state, fact)
    return state


def own_time(fact: GiftCardFact) -> datetime | None:
    """The provider's own time of the change: of a deletion, when it was deleted."""
    return max((time for time in (fact.updated_at, fact.deleted_at) if time), default=None)


@given(st.lists(facts(), max_size=6), facts())
def test_folding_a_fact_twice_is_folding_it_once(
    before: list[GiftCardFact], fact: GiftCardFact
) -> None:
    once = state_after([*before, fact])
    assert evolve(once, fact) == once


@given(st.lists(facts(), min_size=1, max_size=6), facts())
def test_a_fact_older_than_one_that_was_folded_gives_back_the_very_state(
    before: list[GiftCardFact], fact: GiftCardFact
) -> None:
    state = None
    newest = None
    for one in [*before, fact]:
        after = evolve(state, one)
        time = own_time(one)
        if time and newest and time < newest:
            assert after is state
        elif time and (newest is None or time > newest) and (state and not state.deleted_at):
            assert after is not state
        # A fact that was itself stale, such as an update before a tombstone, makes nothing newer.
        if time and after is not state:
            newest = max(time, newest or time)
        state = after


@st.composite
def whole_facts(draw: st.DrawFn) -> list[GiftCardFact]:
    """Facts that give every field, each at a time of its own, in any order."""
    said = []
    for n, time in enumerate(draw(st.permutations(MOMENTS))):
        fields = dict.fromkeys(("type", "status", "currency", "code", "gan"), str(n))
        times: dict[str, object] = {"created_at": NOON, "updated_at": time}
        if deleted := draw(st.booleans()):
            # The snapshot of a deletion may carry an older time, or none.
            earlier = [None, *(moment for moment in MOMENTS if moment <= time)]
            times |= {"updated_at": draw(st.sampled_from(earlier)), "deleted_at": time}
        said.append(card_fact(balance=n, deleted=deleted, **fields, **times))
    return said


@given(whole_facts())
def test_facts_of_distinct_times_that_give_every_field_converge_in_any_order(
    said: list[GiftCardFact],
) -> None:
    in_order = sorted(said, key=lambda fact: own_time(fact) or NOON)
    assert state_after(said) == state_after(in_order) == state_after(in_order[-1:])


@given(st.lists(facts(), min_size=1, max_size=6), facts())
def test_only_a_fact_after_the_tombstone_brings_a_card_back(
    before: list[GiftCardFact], fact: GiftCardFact
) -> None:
    state = state_after(before)
    assert state is not None
    if state.deleted_at is None or fact.deleted:
        return
    tombstone = max(state.deleted_at, state.updated_at or state.deleted_at)
    after = evolve(state, fact)
    if fact.updated_at is not None and fact.updated_at > tombstone:
        assert after.deleted_at is None
    else:
        assert after is state


CARD_TIMES: Mapping[str, Callable[[datetime], Json]] = {
    "only deleted_on": lambda time: {"deleted_on": time.isoformat()},
    "deleted_on after updated_on": lambda time: {
        "deleted_on": time.isoformat(),
        "updated_on": MOMENTS[0].isoformat(),
    },
}


@pytest.mark.parametrize("times", CARD_TIMES.values(), ids=CARD_TIMES)
def test_a_deletion_that_arrives_after_a_newer_update_is_stale(
    times: Callable[[datetime], Json],
) -> None:
    update = card("updated", updated_on=MOMENTS[3].isoformat())
    deletion = card("deleted", **times(MOMENTS[2]))
    states = folded(PROJECTIONS["gift_cards"], to_log([update, deletion])).states
    assert states["loopz/0/gift-card/x-1"]["deleted_at"] is None


def test_a_deletion_counts_from_when_it_says_it_deleted_not_from_the_last_update_before() -> None:
    update = card("updated", updated_on=MOMENTS[2].isoformat())
    deletion = card("deleted", **CARD_TIMES["deleted_on after updated_on"](MOMENTS[4]))
    states = folded(PROJECTIONS["gift_cards"], to_log([update, deletion])).states
    assert states["loopz/0/gift-card/x-1"]["deleted_at"] == MOMENTS[4]


def test_a_payment_created_without_a_date_keeps_the_date_it_was_created_at() -> None:
    body = {"Method": PURCHASE, "BusinessUnitId": 0, "Identifier": "x-1", "Status": "Created"}
    dated = body | {"Date": MOMENTS[1].isoformat()}
    log = to_log([Sent("fitbank", PURCHASE, "0", None, one, NOON) for one in (dated, body)])
    (state,) = folded(PROJECTIONS["transactions"], log).states.values()
    assert state["created_at"] == MOMENTS[1]


@settings(max_examples=150)
@given(logs())
def test_the_changes_of_a_history_add_up_to_the_state_and_its_duplicates_are_the_repeats(
    deliveries: list[Sent],
) -> None:
    log = to_log([of_tenant(delivery, 1) for delivery in deliveries])

    async def check() -> None:
        for projection in PROJECTIONS.values():
            states = folded(projection, log).states
            for stream in {event.stream for event in log}:
                indexes = [n for n, event in enumerate(log) if event.stream == stream]
                steps = history(projection, PROVIDERS, _each(log[n] for n in indexes), {})
                repeats = reference_model.verdicts(deliveries[n] for n in indexes)
                state: Json = dict.fromkeys(projection.state.__struct_fields__)
                applied = False
                for repeated in repeats:
                    step = await anext(steps)
                    assert {name: state[name] for name in step.changes} == {
                        name: change.before for name, change in step.changes.items()
                    }
                    state |= {name: change.after for name, change in step.changes.items()}
                    judged = step.verdict not in {"ignored", "quarantined"}
                    assert (step.verdict == "duplicate") == (judged and repeated)
                    assert (step.error is not None) == (step.verdict == "quarantined")
                    applied = applied or judged
                assert await anext(steps, None) is None
                assert states.get(stream) == (state if applied else None)

    _run(check())


async def _each(events: Iterator[Event]) -> Any:  # noqa: ANN401 - an async iterator of them
    for event in events:
        yield event


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner() as runner:
        return runner.run(coroutine)
