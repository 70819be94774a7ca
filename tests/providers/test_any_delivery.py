"""Whatever comes is recognised or refused, and means the same however it is written."""

import operator
import re
from decimal import Decimal

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from eventstore.fold.refiling import find_stream
from eventstore.log.streams import LONGEST_NAME, stream_name, stream_part
from providers import fitbank, loopz, loopz_bodies
from providers.facts import TransactionFact
from providers.provider import Provider, UndecodableError, UnidentifiedError, UnparsableError
from tests.support import encoded, loopz_headers
from tests.support.reading import PURCHASE, on_log, read

# A provider's name and three parts, with their slashes.
LONGEST_STREAM = 20 + 3 * LONGEST_NAME

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=20)

HEADER = st.none() | ANY_TEXT | st.sampled_from(["m-1", "a/b", "x" * 201])

TOPIC = st.sampled_from(sorted(loopz.TOPICS)) | HEADER

MERCHANT = st.just("m-1") | HEADER

FIELDS = sorted(
    {
        *fitbank._Body.__struct_fields__,
        *loopz_bodies.GiftCard.__struct_fields__,
        *loopz_bodies.Transaction.__struct_fields__,
        *loopz_bodies.Location.__struct_fields__,
        *loopz_bodies.Money.__struct_fields__,
    }
)

LEAF = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    ANY_TEXT,
    st.datetimes().map(str),
    st.sampled_from(
        [*fitbank.KINDS, 10**400, 2**63, 1e300, "1e999999999", "NaN", "9" * 30, "x" * 300]
    ),
)

JSON = st.recursive(
    LEAF,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(FIELDS) | ANY_TEXT, inner, max_size=4)
    ),
    max_leaves=6,
)

ID = st.integers() | st.text(min_size=1) | LEAF

OBJECT = st.builds(
    operator.or_,
    st.fixed_dictionaries({}, optional={"id": ID, "TransactionIdentifier": ID}),
    st.dictionaries(st.sampled_from(FIELDS), LEAF | JSON, max_size=4),
)

STATUS = st.builds(
    operator.or_,
    OBJECT,
    st.fixed_dictionaries({"Method": st.sampled_from(sorted(fitbank.KINDS)), "BusinessUnitId": ID}),
)

BODY = st.one_of(
    st.binary(max_size=60),
    JSON.map(encoded),
    OBJECT.map(encoded),
    STATUS.map(encoded),
    # Not quite JSON: cut short, or a byte changed.
    st.tuples(OBJECT.map(encoded), st.integers(0, 200)).map(lambda t: t[0][: t[1]]),
    st.tuples(OBJECT.map(encoded), st.integers(0, 200), st.binary(max_size=2)).map(
        lambda t: t[0][: t[1]] + t[2] + t[0][t[1] + len(t[2]) :]
    ),
)


@settings(max_examples=1000)
@given(st.sampled_from(["loopz", "fitbank"]), TOPIC, MERCHANT, HEADER, BODY)
def test_whatever_comes_is_recognised_or_refused_and_read_or_put_aside(
    providers: dict[str, Provider],
    name: str,
    topic: str | None,
    merchant: str | None,
    program: str | None,
    body: bytes,
) -> None:
    """What recognise() lets through can be stored, and decode() finds nothing unparsable in it.

    Both are of one mind about what thing it is: what is recognised today is never refiled.
    """
    provider = providers[name]
    headers = CIMultiDict(loopz_headers(topic, merchant))
    if program is not None:
        headers["X-LOOPZ-PROGRAM-ID"] = program
    try:
        recognised = provider.recognise(headers, body)
    except UnidentifiedError:
        return
    except UnparsableError as error:
        offset = error.facts["offset"]
        assert isinstance(offset, int)
        assert 0 <= offset <= len(body)
        return
    for value in (recognised.topic, recognised.merchant_id, recognised.program_id or "-"):
        assert b"\0" not in value.encode()
        assert 0 < len(value) <= LONGEST_NAME
    assert re.fullmatch(r"[A-Za-z0-9_.%-]+(/[A-Za-z0-9_.%~-]+){3}", recognised.stream)
    assert len(recognised.stream) <= LONGEST_STREAM
    if recognised.topic in provider.topics:
        event = on_log(provider, recognised, body)
        assert find_stream({name: provider}, event) == recognised.stream
        try:
            fact = provider.decode(event)
        except (UndecodableError, msgspec.ValidationError):
            return
        assert isinstance(fact, provider.topics[recognised.topic])
        assert recognised.stream.endswith("/" + stream_part(fact.id))


PART = st.one_of(
    st.none(),
    ANY_TEXT,
    st.text("/~%.2Fa", max_size=4),
    st.sampled_from(["none", "~none", "%7Enone", "é" * 67, "a" * 200, "a" * 201, "a" * 202]),
)

PLACE = st.tuples(PART, PART, PART)


@given(PLACE, PLACE)
@example((None, "a", "b"), ("~none", "a", "b"))
@example(("a/b", "c", "d"), ("a", "b/c", "d"))
@example(("a", "b", "x" * 201), ("a", "b", stream_part("x" * 201)))
def test_two_things_never_share_a_stream(
    one: tuple[str | None, str, str | None], other: tuple[str | None, str, str | None]
) -> None:
    streams = [stream_name("loopz", *place) for place in (one, other)]
    assert (streams[0] == streams[1]) == (one == other)
    assert all(s.isascii() and s.count("/") == 3 and len(s) <= LONGEST_STREAM for s in streams)


CARD = {
    "id": "g-1",
    "balance": {"amount": 1, "currencyCode": "USD"},
    "status": "ACTIVE",
    "gan": "6000000000000001",
    "updated_on": "2026-01-01T00:00:00Z",
}


@given(st.permutations(list(CARD.items())), st.sampled_from(["gift_card", "giftCard"]))
def test_neither_the_order_of_keys_nor_a_wrapper_changes_anything(
    providers: dict[str, Provider], items: list[tuple[str, object]], wrapper: str
) -> None:
    headers = CIMultiDict(loopz_headers("gift-card.updated"))
    expected = read(providers["loopz"], headers, encoded(CARD))
    assert read(providers["loopz"], headers, encoded(dict(items))) == expected
    assert read(providers["loopz"], headers, encoded({wrapper: dict(items)})) == expected


@given(st.integers(-(10**30), 10**30), st.integers(0, 10**6))
def test_a_number_and_its_digits_are_the_same_id(
    providers: dict[str, Provider], id_: int, unit: int
) -> None:
    numbers = {"Method": PURCHASE, "BusinessUnitId": unit, "TransactionIdentifier": id_}
    texts = numbers | {"BusinessUnitId": str(unit), "TransactionIdentifier": str(id_)}
    provider = providers["fitbank"]
    assert read(provider, {}, encoded(numbers)) == read(provider, {}, encoded(texts))


@given(st.decimals(-(10**15), 10**15, places=2))
def test_an_amount_is_the_same_as_a_number_and_as_a_text(
    providers: dict[str, Provider], amount: Decimal
) -> None:
    body = b'{"Method":"%b","BusinessUnitId":66,"Identifier":"i","TotalValue":%b}'
    texts = [str(amount), f'"{amount}"', f"{amount}0", f"{amount.normalize():e}"]
    bodies = [body % (PURCHASE.encode(), text.encode()) for text in texts]
    provider = providers["fitbank"]
    recognised = provider.recognise({}, bodies[0])
    facts = [provider.decode(on_log(provider, recognised, body)) for body in bodies]
    assert [str(fact.amount) for fact in facts if isinstance(fact, TransactionFact)] == [
        str(amount)
    ] * 4


@given(st.dictionaries(ANY_TEXT, LEAF, max_size=4))
@example({"new\nline": 1, 'a "quote"': {}})
def test_what_is_read_does_not_depend_on_what_was_read_before(
    providers: dict[str, Provider], unknown: dict[str, object]
) -> None:
    headers = CIMultiDict(loopz_headers("gift-card.updated"))
    first, second = (
        read(providers["loopz"], headers, encoded({**unknown, "id": "g-1"})) for _ in range(2)
    )
    assert first == second
