"""Providers: bytes become facts, and whatever comes, only our own errors.

A case is a file `deliveries/<provider>/<case>.http`, a request head, a blank line and the exact body, with what is
expected of it beside it in `<case>.json`:

    {"refused": error}                          recognise() refuses it
    {"recognised": {...}, "fact": {...}}        it is read as this fact, or its topic is handled by nobody: null
    {"recognised": {...}, "undecodable": error} it goes on record, then into quarantine
"""

import json
import operator
import re
from collections.abc import Mapping
from datetime import UTC
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from multidict import CIMultiDict

from eventstore.errors import SettingsError
from eventstore.log.events import Event
from eventstore.log.streams import LONGEST_NAME, stream_name, stream_part
from providers import fitbank, load_providers, loopz, settings_types
from providers.facts import Fact, Phase, TransactionFact
from providers.provider import (
    Provider,
    Recognised,
    UndecodableError,
    UnidentifiedError,
    UnparsableError,
)
from runtime.settings import load_settings
from tests.support import NOON, ROOT, encoded, loopz_headers

DELIVERIES = ROOT / "tests" / "deliveries"
CASES = sorted(DELIVERIES.glob("*/*.http"))

# Deeper than any parser goes.
DEEP = 100_000

# A provider's name and three parts, with their slashes.
LONGEST_STREAM = 20 + 3 * LONGEST_NAME

PURCHASE = "UpdatePurchaseClosedLoopStatusMongo"


def configured(
    directory: Path, toml: str = "", environ: Mapping[str, str] | None = None
) -> dict[str, Provider]:
    """The providers, set up as an operator would."""
    file = directory / "loopledger.toml"
    file.write_text(toml, "utf-8")
    found = load_settings({"LOOPLEDGER_CONFIG": str(file), **(environ or {})}, settings_types())
    return load_providers(found.providers)


@pytest.fixture(scope="session")
def providers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Provider]:
    """The providers as the cases expect them: one business unit of FitBank is known."""
    return configured(
        tmp_path_factory.mktemp("providers"),
        '[fitbank.business_units.66]\ncurrency = "BRL"\ntime_zone = "America/Sao_Paulo"\n',
    )


def read(provider: Provider, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """What becomes of a delivery, in the form of an expectation."""
    try:
        recognised = provider.recognise(headers, body)
    except (UnparsableError, UnidentifiedError) as error:
        return {"refused": told(error)}
    found = {"recognised": msgspec.structs.asdict(recognised)}
    if recognised.subscription_id is None:
        del found["recognised"]["subscription_id"]
    if recognised.topic not in provider.topics:
        return {**found, "fact": None}
    try:
        return {**found, "fact": shown(provider.decode(on_log(provider, recognised, body)))}
    except (UndecodableError, msgspec.ValidationError) as error:
        return {**found, "undecodable": told(error)}


def on_log(provider: Provider, recognised: Recognised, body: bytes) -> Event:
    """The delivery as it stands in the log."""
    topic, merchant_id, program_id, stream, _ = msgspec.structs.astuple(recognised)
    return Event(
        1, UUID(int=1), provider.name, topic, merchant_id, program_id, stream, NOON, NOON, body
    )


def told(error: Exception) -> str:
    """An error by its class and its text."""
    return f"{type(error).__name__}: {error}"


def shown(fact: Fact) -> dict[str, Any]:
    """A fact by its type and the fields that are set, less those that come from its event."""
    values = {
        field.name: value
        for field in msgspec.structs.fields(fact)
        if field.name not in {"provider", "merchant_id", "program_id", "received_at"}
        and (value := getattr(fact, field.name)) is not field.default
    }
    return {type(fact).__name__: msgspec.to_builtins(values)}


def delivery(case: Path) -> tuple[CIMultiDict[str], bytes]:
    """The headers and the body of a case."""
    head, body = case.read_bytes().split(b"\n\n", 1)
    request, *lines = head.decode("utf-8", "surrogateescape").split("\n")
    assert request == f"POST /webhooks/{case.parent.name} HTTP/1.1"
    fields = (line.partition(":") for line in lines)
    return CIMultiDict((name, value.strip(" ")) for name, _, value in fields), body


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.name}/{case.stem}")
def test_a_delivery_is_read_as_expected(case: Path, providers: dict[str, Provider]) -> None:
    expected = json.loads(case.with_suffix(".json").read_bytes())
    assert read(providers[case.parent.name], *delivery(case)) == expected


def test_every_delivery_has_an_expectation_and_the_other_way_round() -> None:
    expectations = sorted(DELIVERIES.glob("*/*.json"))
    assert [case.with_suffix(".json") for case in CASES] == expectations


def test_every_topic_of_every_provider_has_a_delivery(providers: dict[str, Provider]) -> None:
    expected = [
        (case.parent.name, json.loads(case.with_suffix(".json").read_bytes())) for case in CASES
    ]
    read_as = {
        (name, outcome["recognised"]["topic"], *outcome["fact"])
        for name, outcome in expected
        if outcome.get("fact")
    }
    assert read_as == {
        (name, topic, fact.__name__)
        for name, provider in providers.items()
        for topic, fact in provider.topics.items()
    }


def loopz_fact(providers: Mapping[str, Provider], topic: str, body: object) -> Any:  # noqa: ANN401 - any fact
    """What Loopz says by this."""
    recognised = providers["loopz"].recognise(CIMultiDict(loopz_headers(topic)), encoded(body))
    return providers["loopz"].decode(on_log(providers["loopz"], recognised, encoded(body)))


def fitbank_fact(providers: Mapping[str, Provider], **fields: object) -> TransactionFact:
    """What FitBank says by these fields, and those that it must have."""
    given_fields = {"Method": PURCHASE, "BusinessUnitId": 66, "TransactionIdentifier": "TRA1TRA"}
    body = encoded(given_fields | fields)
    recognised = providers["fitbank"].recognise({}, body)
    fact = providers["fitbank"].decode(on_log(providers["fitbank"], recognised, body))
    assert isinstance(fact, TransactionFact)
    return fact


def test_a_fact_takes_from_its_event_whose_it_is_and_when_it_came(
    providers: dict[str, Provider],
) -> None:
    fact = loopz_fact(providers, "location.updated", {"id": "l-1"})
    assert (fact.provider, fact.merchant_id, fact.program_id) == ("loopz", "m-1", "p-1")
    assert fact.received_at == NOON


@pytest.mark.parametrize(
    ("statuses", "phase"),
    [
        ("CREATED PENDING", "created"),
        ("AUTHORIZED", "authorized"),
        ("APPROVED COMPLETE COMPLETED SETTLED SUCCESS SUCCEEDED completed", "settled"),
        ("CANCELED CANCELLED VOIDED", "canceled"),
        ("DECLINED ERROR FAILED", "failed"),
        ("REVIEWED 1", "unknown"),
    ],
)
def test_a_status_of_loopz_is_a_phase(
    providers: dict[str, Provider], statuses: str, phase: Phase
) -> None:
    for status in statuses.split():
        fact = loopz_fact(providers, "transaction.updated", {"id": "t-1", "status": status})
        assert (fact.status, fact.phase) == (status, phase)


@pytest.mark.parametrize(
    ("types", "kind"),
    [
        ("TOPUP TOP_UP topup", "topup"),
        ("REDEEM REDEEMED REDEMPTION", "redeem"),
        ("REFUND", "refund"),
    ],
)
def test_a_type_of_loopz_is_a_kind(providers: dict[str, Provider], types: str, kind: str) -> None:
    for type_ in types.split():
        fact = loopz_fact(providers, "transaction.updated", {"id": "t-1", "type": type_})
        assert (fact.method, fact.kind) == (type_, kind)


def test_personal_data_stays_in_the_log(providers: dict[str, Provider]) -> None:
    person = {"recipient_name": "Alex Example", "recipient_email": "alex@example.com"}
    card = loopz_fact(providers, "gift-card.updated", {"id": "g-1", **person})
    payer = {"UserName": "Alex Example", "UserAccountKey": "alex@example.com"}
    payment = fitbank_fact(providers, **payer, MerchantName="Alex Example")
    assert b"lex" not in msgspec.json.encode([card, payment])


@pytest.mark.parametrize(
    "body",
    [
        b'{"id": "g-1", "code": ["HUSH"]}',
        b'{"id": "g-1", "balance": "HUSH"}',
        b'{"id": "g-1", "updated_on": "HUSH"}',
        b'{"id": ["HUSH"]}',
        b'{"code": "HUSH',
        b'{"code": HUSH}',
        b'"HUSH"',
    ],
)
def test_an_error_never_repeats_what_was_sent(providers: dict[str, Provider], body: bytes) -> None:
    found = read(providers["loopz"], CIMultiDict(loopz_headers("gift-card.updated")), body)
    assert {"refused", "undecodable"} & set(found)
    assert "HUSH" not in str(found)


# The settings of FitBank.


@pytest.mark.parametrize(
    ("toml", "environ"),
    [
        ("[fitbank]\ncash_methods_swapped = true\n", {}),
        ("", {"LOOPLEDGER_FITBANK_CASH_METHODS_SWAPPED": "true"}),
    ],
    ids=["file", "environment"],
)
def test_a_setting_swaps_the_methods_of_deposit_and_withdrawal(
    tmp_path: Path, toml: str, environ: dict[str, str]
) -> None:
    swapped = configured(tmp_path, toml, environ)
    kinds = {method: fitbank_fact(swapped, Method=method).kind for method in fitbank.KINDS}
    assert kinds == {
        PURCHASE: "purchase",
        "UpdateDepositClosedLoopStatusMongo": "deposit",
        "UpdateWithdrawalClosedLoopStatusMongo": "withdrawal",
    }


def test_business_units_may_come_from_the_environment(tmp_path: Path) -> None:
    units = '{"66": {"currency": "BRL"}, "67": {"time_zone": "America/New_York"}}'
    found = configured(tmp_path, "", {"LOOPLEDGER_FITBANK_BUSINESS_UNITS": units})
    here = fitbank_fact(found, Date="2026-07-01T12:00:00")
    there = fitbank_fact(found, Date="2026-07-01T12:00:00", BusinessUnitId=67)
    nowhere = fitbank_fact(found, Date="2026-07-01T12:00:00", BusinessUnitId=68)
    assert (here.currency, there.currency, nowhere.currency) == ("BRL", None, UNSET)
    hours = [fact.updated_at.hour for fact in (here, there, nowhere) if fact.updated_at]
    assert hours == [12, 16, 12]


@pytest.mark.parametrize("zone", ["America/Atlantis", "", "../etc/passwd", "/etc/localtime"])
def test_a_time_zone_that_does_not_exist_stops_the_start(tmp_path: Path, zone: str) -> None:
    with pytest.raises(SettingsError, match=r"fitbank\.business_units\.66\.time_zone"):
        configured(tmp_path, f'[fitbank.business_units.66]\ntime_zone = "{zone}"\n')


@pytest.mark.parametrize(
    "toml",
    [
        "[fitbank]\ncash_method_swapped = true\n",
        "[fitbank.business_units.66]\ncurency = 'BRL'\n",
        "[loopz]\nanything = 1\n",
    ],
)
def test_a_setting_that_does_not_exist_stops_the_start(tmp_path: Path, toml: str) -> None:
    with pytest.raises(SettingsError):
        configured(tmp_path, toml)


def test_times_before_and_after_the_clocks_go_back_keep_their_order(tmp_path: Path) -> None:
    found = configured(tmp_path, '[fitbank.business_units.66]\ntime_zone = "America/New_York"\n')
    summer = fitbank_fact(found, Date="2026-11-01T01:50:00-04:00").updated_at
    winter = fitbank_fact(found, Date="2026-11-01T01:10:00-05:00").updated_at
    assert summer is not None
    assert winter is not None
    assert summer < winter
    assert {summer.tzinfo, winter.tzinfo} == {UTC}


# Whatever comes.


@pytest.mark.parametrize(
    "body",
    [
        b"[" * DEEP,
        b'{"id":' * DEEP,
        b'{"gift_card":' * DEEP,
        b'{"Method":' + b"[" * DEEP + b"]" * DEEP + b"}",
        b'{"id":' + b"[" * DEEP + b"]" * DEEP + b"}",
        b'{"unread":' + b"[" * DEEP + b"]" * DEEP + b"}",
        b'{"unread":"\\ud800","id":' + b"[" * DEEP + b"]" * DEEP + b"}",
    ],
    ids=lambda body: body[:24].decode(),
)
@pytest.mark.parametrize("name", ["loopz", "fitbank"])
def test_a_body_nested_too_deeply_is_refused(
    providers: dict[str, Provider], name: str, body: bytes
) -> None:
    headers = CIMultiDict(loopz_headers("gift-card.updated"))
    with pytest.raises(UnparsableError, match=r"nested too deeply \(byte 0\)"):
        providers[name].recognise(headers, body)


@pytest.mark.parametrize("start", [b'{"gift_card":', b'{"a":"\\ud800","gift_card":'])
def test_a_body_nested_almost_too_deeply_raises_nothing_unknown(
    providers: dict[str, Provider], start: bytes
) -> None:
    headers = CIMultiDict(loopz_headers("gift-card.updated"))
    for depth in range(300, 1100, 20):
        read(providers["loopz"], headers, start * depth + b"{}" + b"}" * depth)


ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
HEADER = st.none() | ANY_TEXT | st.sampled_from(["m-1", "a/b", "x" * 201])
TOPIC = st.sampled_from(sorted(loopz.TOPICS)) | HEADER
MERCHANT = st.just("m-1") | HEADER
FIELDS = sorted(
    {
        *fitbank._Body.__struct_fields__,
        *loopz._GiftCard.__struct_fields__,
        *loopz._Transaction.__struct_fields__,
        *loopz._Location.__struct_fields__,
        *loopz._Money.__struct_fields__,
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
    """What recognise() lets through can be stored, and decode() finds nothing unparsable in it."""
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
    texts = [str(amount), f'"{amount}"', f"{amount}0", f'"{amount.normalize():e}"']
    bodies = [body % (PURCHASE.encode(), text.encode()) for text in texts]
    provider = providers["fitbank"]
    recognised = provider.recognise({}, bodies[0])
    facts = [provider.decode(on_log(provider, recognised, body)) for body in bodies]
    assert [str(fact.amount) for fact in facts if isinstance(fact, TransactionFact)] == [
        str(amount)
    ] * 4
