"""For any deliveries: the live state equals the fold of the log equals what the words of the design promise."""

import itertools
from collections.abc import Iterator
from contextlib import suppress
from uuid import uuid4

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from eventstore.fold.folding import fold
from eventstore.log.events import Event
from providers.provider import UnidentifiedError, UnparsableError
from tests.conftest import Cluster
from tests.support import NOON, encoded, loopz_headers, reference_model
from tests.support.generated_deliveries import (
    MOMENTS,
    PROVIDERS,
    WILD_BODIES,
    card,
    logs,
    misfiled_logs,
    of_tenant,
    to_event,
    to_log,
    wild_deliveries,
)
from tests.support.live_fold import PROJECTIONS, Live, at_work, folded
from tests.support.reference_model import Sent


@pytest.fixture(scope="module")
def live(cluster: Cluster) -> Iterator[Live]:
    with at_work(Live, cluster) as found:
        yield found


@settings(max_examples=250)
@given(logs() | misfiled_logs())
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
@given(deliveries=logs() | misfiled_logs(), chunk=st.integers(1, 5))
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
        recorded = [event.recorded_at for event in log]
        for name, projection in PROJECTIONS.items():
            promised = reference_model.expect(name, sent, recorded)
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
