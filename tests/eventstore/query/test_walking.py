"""A list that is walked page by page while events are folded has what did not move exactly once."""

import itertools
from collections import Counter
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore.log.events import NewEvent
from eventstore.query.events import EventLists
from eventstore.query.filters import states_listing
from eventstore.query.listing import ListReader, Question
from eventstore.query.visibility import Visibility
from projections.gift_cards import PROJECTION
from tests.conftest import Cluster
from tests.support import new_event
from tests.support.live_fold import Live, at_work

LISTING = states_listing(PROJECTION)

# Ids, with the minutes and the balance of a first delivery. Many are equal.
CARDS = st.dictionaries(
    st.sampled_from("abcdefghij"),
    st.tuples(st.integers(0, 3), st.none() | st.integers(0, 3)),
    min_size=2,
)
# Between two pages: which cards change, are deleted or are new, and to what.
CHANGES = st.lists(
    st.lists(
        st.tuples(st.sampled_from("abcdefghijklm"), st.booleans(), st.integers(0, 4)), max_size=3
    ),
    max_size=6,
)


@pytest.fixture(scope="module")
def live(cluster: Cluster) -> Iterator[Live]:
    with at_work(Live, cluster) as found:
        yield found


def delivery(merchant: str, id_: str, minute: int, balance: int | None, *, gone: bool) -> NewEvent:
    body = {"id": id_, "updated_on": f"2026-01-01T00:{minute:02}:00Z", "balance": balance}
    if gone:
        body = {"id": id_, "deleted_on": f"2026-01-01T00:{minute:02}:00Z"}
    topic = "gift-card.deleted" if gone else "gift-card.updated"
    return new_event(topic, body, merchant=merchant)


@settings(max_examples=25)
@given(CARDS, CHANGES, st.sampled_from(LISTING.sort_words), st.integers(1, 4))
def test_what_did_not_move_is_on_exactly_one_page(
    live: Live,
    cards: dict[str, tuple[int, int | None]],
    changes: list[list[tuple[str, bool, int]]],
    sort: str,
    limit: int,
) -> None:
    merchant = f"m-{next(live.numbers)}"
    first = [delivery(merchant, id_, *card, gone=False) for id_, card in cards.items()]
    live.run(live.append(first, 3))
    reader, minutes = ListReader(live.database), itertools.count(5)
    question = Question(
        filters={"merchant_id": merchant, "deleted": "any"}, sort=sort, fields=("id",)
    )
    seen, moved = Counter[str](), set[str]()
    cursor: str | None = None
    for step in itertools.chain(changes, itertools.repeat([])):
        page = live.run(reader.page(LISTING, question, Visibility(), limit=limit, cursor=cursor))
        seen.update(msgspec.json.decode(item)["id"] for item in page.items)
        if page.next is None:
            break
        cursor = page.next
        if step:
            events = [
                delivery(merchant, id_, next(minutes), balance, gone=gone)
                for id_, gone, balance in step
            ]
            moved |= {id_ for id_, _, _ in step}
            live.run(live.append(events, 2))
    # What changed did not move in the order of ids, and what is new may have come too late.
    still = set(cards) if sort.endswith("id") else set(cards) - moved
    assert {id_: seen[id_] for id_ in still} == dict.fromkeys(still, 1)
    assert set(seen) <= set(cards) | moved


@settings(max_examples=15)
@given(st.lists(st.sampled_from("ab"), min_size=1, max_size=12), st.integers(1, 5), st.booleans())
def test_events_that_come_while_the_log_is_walked_change_nothing_of_what_was_there(
    live: Live,
    merchants: list[str],
    limit: int,
    newest_first: bool,  # noqa: FBT001 - drawn
) -> None:
    prefix = f"e-{next(live.numbers)}"
    log = live.run(
        live.append(
            [delivery(f"{prefix}{m}", f"{n}", 1, n, gone=False) for n, m in enumerate(merchants)], 3
        )
    )
    wanted = [event.position for event in log if event.merchant_id == f"{prefix}a"]
    question = Question(
        filters={"merchant_id": f"{prefix}a"},
        sort="-position" if newest_first else "position",
        fields=("position",),
    )
    found, cursor = list[int](), None
    while True:
        page = live.run(
            EventLists(live.database).page(question, Visibility(), limit=limit, cursor=cursor)
        )
        found += [msgspec.json.decode(item)["position"] for item in page.items]
        if page.next is None:
            break
        cursor = page.next
        live.run(live.append([delivery(f"{prefix}b", "x", 2, 1, gone=False)], 1))
    assert found == (wanted[::-1] if newest_first else wanted)
